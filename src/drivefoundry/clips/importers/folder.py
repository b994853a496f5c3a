"""What a folder of recordings holds, and its drives, clips or scenes; a damaged one does not stop the others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from drivefoundry.clips.importers.drives import comma2k19, ros2, udacity, udacity_telemetry
from drivefoundry.clips.importers.drives.pieces import pieces
from drivefoundry.clips.importers.traffic import commonroad, scenarionet, womd
from drivefoundry.clips.importers.traffic.recording import none_of, same_places, scenes_of
from drivefoundry.compute import pmap
from drivefoundry.progress import warn
from drivefoundry.roadmap import load_map
from drivefoundry.types import Scene, require
from drivefoundry_car.log import Drive, clock, cut, read_drive, write_drive

T = TypeVar("T")
Kind = Literal["mcap", "udacity", "udacity_telemetry", "comma2k19", "scenes"]
SIGHTLESS: dict[str, tuple[Callable[[Path], list[Path]], Callable[[Path], list[Drive]]]] = {
    "comma2k19": (comma2k19.segments, lambda segment: [comma2k19.read(segment)]),
    "udacity_telemetry": (udacity_telemetry.tables, udacity_telemetry.read),
}
"""Kinds of drives without pictures, how to list their recordings and how to read one: rules can be run on them, models
cannot learn to see from them."""
CAMERA = "*.mcap drives (own or ROS 2), or labels.csv with center_* frames (Udacity)"
"""Drives with pictures, as errors name them."""
HOW = "docs/real-data.md shows how to write a drive"
DRIVES = f"{CAMERA}, tables of angle, torque and speed (Udacity), comma2k19 segments"
SCENES = "CommonRoad *.xml, Waymo Open Motion *.json (both also .gz), or ScenarioNet sd_*.pkl"
READERS = {"CommonRoad": commonroad, "WOMD": womd, "ScenarioNet": scenarionet}
"""Formats of recorded traffic: `fits(path)` knows a file, `read(path)` gives its Recording."""
SUFFIXES = (".xml", ".json", ".pkl")
"""Suffixes of recorded traffic, in any case and also with .gz."""
SHORTEST_S = 1.0
"""Stretches of a drive between gaps that are shorter than this hold nothing to learn from, s."""
DEEP = 3
"""Levels of folders in which files of recorded traffic are looked for."""
MAPS = "maps"
"""Subfolder beside own drives that holds their road maps, one `<map id>.safetensors` each."""


def kind_of(path: Path | str) -> Kind:
    """Say what a folder holds: "mcap" (own drives and ROS 2 recordings), "udacity" (camera), "udacity_telemetry",
    "comma2k19", or "scenes" (files of recorded traffic, see READERS). One MCAP file or table will do as well.

    ValueError in one line for anything else.
    """
    path = Path(path)
    require(path.exists(), f"{path}: no such folder; give the path of a folder of recordings")
    if path.is_file():
        if kind := _kind_of_file(path):
            return kind
        raise ValueError(f"{path}: a file; give the folder that holds the recordings")
    if udacity.fits(path):
        return "udacity"
    if scene_files(path):
        return "scenes"
    if drive_files(path):
        return "mcap"
    if comma2k19.segments(path):
        return "comma2k19"
    if udacity_telemetry.tables(path):
        return "udacity_telemetry"
    require(
        not [*path.glob("*.db3"), *path.glob("*/*.db3")],
        f"{path}: a ROS 2 bag in SQLite; convert it to MCAP with `ros2 bag convert`",
    )
    raise ValueError(f"{path}: no recordings that can be imported ({_holds(path)}); wanted {DRIVES}, {SCENES}")


def _kind_of_file(path: Path) -> Kind | None:
    if path.suffix == ".mcap":
        return "mcap"
    if format_of(path):
        return "scenes"
    return "udacity_telemetry" if path.suffix == ".csv" and udacity_telemetry.tables(path) else None


def _holds(path: Path) -> str:
    found = sorted(p.name for p in path.iterdir())
    return f"it holds {', '.join(found[:3])}{' ...' if len(found) > 3 else ''}" if found else "it is empty"


def wanted(path: Path | str, what: Literal["drives", "scenes"]) -> Kind:
    """Say what a folder holds where it can give camera drives, or scenes of recorded traffic; ValueError where not."""
    path = Path(path)
    try:
        kind = kind_of(path)
    except ValueError as error:
        if what == "scenes" or not path.is_dir() or not str(error).startswith(f"{path}: no recordings"):
            raise
        raise ValueError(f"{path}: no camera drives ({_holds(path)}); wanted {CAMERA}; {HOW}") from None
    if what == "drives":
        require(kind != "scenes", f"{path}: recorded traffic has no camera drives; import it as scenes (--scenes)")
        require(
            kind not in SIGHTLESS,
            f"{path}: {kind} logs have no pictures to learn from, only rules run on them; wanted {CAMERA}; {HOW}",
        )
    else:
        require(
            kind == "scenes",
            f"{path}: a folder of {kind} drives; scenes come from {', '.join(READERS)} files (or from labelled clips)",
        )
    return kind


def format_of(file: Path) -> str | None:
    """File in, its name among READERS out; None for a file that is no recorded traffic."""
    return next((name for name, reader in READERS.items() if reader.fits(file)), None)


def scene_files(path: Path) -> list[Path]:
    """The files of recorded traffic of a folder and the folders in it, DEEP levels; or the one file that is given."""
    if path.is_file():
        return [path] if format_of(path) else []
    return sorted(p for p in _files(path) if format_of(p))


def _files(path: Path) -> list[Path]:
    return [p for level in range(DEEP) for p in path.glob("*/" * level + "*") if p.is_file()]


def _strangers(path: Path) -> dict[str, str]:
    """Files that are named as recorded traffic is and are none, and why; not the indices of ScenarioNet's sets."""
    named = [p for p in _files(path) if p.name.lower().removesuffix(".gz").endswith(SUFFIXES)]
    return {
        p.relative_to(path).as_posix(): f"no {', '.join(READERS)} file; remove it, or write it in one of these formats"
        for p in sorted(named)
        if not format_of(p) and not p.name.startswith("dataset_")
    }


def drive_files(path: Path) -> list[Path]:
    """The MCAP files of a folder, of its subfolder `drives`, and of ROS 2 bags (folders with metadata.yaml) in it; or
    the one file that is given."""
    if path.is_file():
        return [path]
    bags = [p.parent for p in path.glob("*/metadata.yaml") if p.parent.name != "drives"]
    return sorted(p for folder in (path, path / "drives", *bags) for p in folder.glob("*.mcap"))


def read_file(file: Path, *, video: bool = True) -> Drive:
    """Read one MCAP file, an own drive or a ROS 2 recording. ValueError in one line where it is damaged or neither."""
    return ros2.read(file, video=video) if ros2.fits(file) else read_drive(file, video=video)


def drives_in(path: Path | str, *, video: bool = True, left_out: Callable[[str], object] = warn) -> Iterator[Drive]:
    """Read the drives of a folder of any kind, or of one file, one after the other, without pictures if those are not
    wanted.

    A damaged recording among several is left out, and left_out told why in one line. ValueError for recorded traffic,
    which names no car that drives, for a file that is damaged itself, and for a folder that has no sound drive.
    """
    path = Path(path)
    kind = kind_of(path)
    require(kind != "scenes", f"{path}: recorded traffic is no drive; import it as scenes (--scenes)")
    for _, drives in sound(path, _readers(path, kind, video), left_out):
        yield from drives


def _readers(path: Path, kind: Kind, video: bool) -> list[tuple[Path, Callable[[], list[Drive]]]]:
    """The recordings of a folder by path, and what reads each."""
    if kind == "mcap":
        return [(f, lambda f=f: [read_file(f, video=video)]) for f in drive_files(path)]
    if kind == "udacity":
        return [
            (path / run.name, lambda run=run: [udacity.drive_of(run, video=video)]) for run in udacity.runs_of(path)
        ]
    items, read = SIGHTLESS[kind]
    return [(item, lambda item=item: read(item)) for item in items(path)]


def sound(
    path: Path, items: Sequence[tuple[Path, Callable[[], T]]], left_out: Callable[[str], object]
) -> Iterator[tuple[Path, T]]:
    """Do what each item asks for, and yield what the sound ones give; left_out gets each of the others, in one line.

    ValueError where the path is that item itself, or no item is sound.
    """
    bad: list[str] = []
    for item, read in items:
        try:
            found = read()
        except ConnectionError:  # a store that cannot be reached is no fault of one of its clips
            raise
        except (ValueError, OSError) as error:
            said = str(error) if isinstance(error, ValueError) else error.strerror or str(error)
            why = said if said.startswith(str(item)) else f"{item}: {said}"
            if path == item:
                raise ValueError(why) from error
            bad.append(why)
            if len(bad) < len(items):
                left_out(f"left out: {why}")
            continue
        yield item, found
    if bad and len(bad) == len(items):
        raise ValueError(f"{path}: none of its {len(items)} recordings can be read; the first: {bad[0]}")


def clips_in(
    path: Path | str,
    out: Path | str,
    *,
    seconds: float = 20.0,
    on_clip: Callable[[Path], None] | None = None,
    maps: Collection[str] | None = None,
    left_out: Callable[[str], object] = warn,
) -> list[Path]:
    """Cut a folder of drives, or one file, into MCAP clips of about `seconds` in `out`; their paths in order of time.

    No clip reaches over a gap in its drive. maps: ids of the road maps that are there; a drive on any other becomes one
    without a map. A damaged drive among several is left out, and left_out told why in one line. ValueError for a folder
    of scenarios (those have no camera: take `scenes_in`) and where no drive is sound.
    """
    path, out = Path(path), Path(out)
    kind = wanted(path, "drives")
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    done = on_clip or (lambda _: None)
    if kind == "udacity":
        for run in udacity.runs_of(path):
            written += udacity.write_clips(run, out, seconds=seconds, on_clip=on_clip)
        return written
    names: set[str] = set()
    for file, (drive,) in sound(path, _readers(path, kind, True), left_out):
        if maps is not None and drive.meta.get("map", "") not in maps:
            drive = replace(drive, meta={k: v for k, v in drive.meta.items() if k != "map"})
        stem = file.stem if file.stem not in names else f"{file.parent.name}-{file.stem}"
        names.add(stem)
        for k, (t0, t1) in enumerate(_spans(drive.t, seconds)):
            clip = out / f"{stem}-{k:03d}.mcap"
            write_drive(clip, cut(drive, t0, t1))
            written.append(clip)
            done(clip)
    return written


def _spans(t: np.ndarray, seconds: float) -> Iterator[tuple[float, float]]:
    """Spans of clips; of a drive with gaps, those of each stretch that lasts a second at least."""
    runs = clock.runs(t)
    for a, b in runs:
        if len(runs) == 1 or t[b - 1] - t[a] >= SHORTEST_S:
            yield from pieces(float(t[a]), float(t[b - 1]), seconds)


def maps_in(path: Path | str, left_out: Callable[[str], object] = warn) -> dict[str, bytes]:
    """The road maps beside a folder of own drives: map id -> bytes of `roadmap.save_map`.

    A damaged one among several is left out, and left_out told why in one line. ValueError where none is sound.
    """
    path = Path(path)
    folder = (path if path.is_dir() else path.parent) / MAPS
    files = sorted(folder.glob("*.safetensors"))

    def read(file: Path) -> tuple[str, bytes]:
        data = file.read_bytes()
        return load_map(data).id, data

    return dict(found for _, found in sound(folder, [(f, lambda f=f: read(f)) for f in files], left_out))


def scenes_in(
    path: Path | str, *, egos: int = 4, on_file: Callable[[Path], None] | None = None
) -> tuple[list[Scene], dict[str, str]]:
    """Folder (or one file) of recorded traffic in, Scenes out, and for each file that gave none the reason.

    Each file gives up to `egos` scenes (see `recording.scenes_of`); files are read side by side, and a bad one does not
    stop the others. Recordings whose maps have lanes in common get one place. ValueError where no such file is there.
    """
    path = Path(path)
    if not path.is_file():
        wanted(path, "scenes")
    files = scene_files(path)
    require(len(files) > 0, f"{path}: no file of recorded traffic; {', '.join(READERS)} can be read")
    done = None if on_file is None else lambda i, _: on_file(files[i])
    found = pmap(_read_scenes, [(f, egos) for f in files], "processes" if len(files) > 1 else "serial", on_done=done)
    named: dict[int, str] = {}
    scenes: list[Scene] = []
    for group, (some, _, _) in zip(same_places([marks for _, _, marks in found]), found, strict=True):
        scenes += [replace(s, place=named.setdefault(group, s.place)) for s in some]
    names = [f.relative_to(path).as_posix() if f != path else f.name for f in files]
    refused = {name: why for name, (_, why, _) in zip(names, found, strict=True) if why}
    return scenes, refused | (_strangers(path) if path.is_dir() else {})


def _read_scenes(task: tuple[Path, int]) -> tuple[list[Scene], str, frozenset[tuple[int, int]]]:
    """Scenes, else why there are none, and the marks of the place."""
    path, egos = task
    kind = format_of(path)
    assert kind is not None, "only files of a known format are read"
    try:
        recording = READERS[kind].read(path)
        scenes = scenes_of(recording, egos=egos)
    except ValueError as error:
        return [], str(error).removeprefix(f"{path}: "), frozenset()
    return scenes, "" if scenes else none_of(recording), recording.marks


def fingerprint(path: Path | str) -> str:
    """Hash the names and bytes of all files of a folder, or of one file and its maps: what an import hangs on."""
    path, digest = Path(path), hashlib.sha256()
    files = path.rglob("*") if path.is_dir() else [path, *(path.parent / MAPS).glob("*.safetensors")]
    top = path if path.is_dir() else path.parent
    for file in sorted(p for p in files if p.is_file()):
        with file.open("rb") as handle:
            digest.update(
                f"{file.relative_to(top).as_posix()} {hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()

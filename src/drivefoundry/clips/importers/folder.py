"""Identify a folder of recordings and read its drives, clips or scenes; a damaged recording does not stop the
others."""

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
"""Kinds of drives without pictures, how to list their recordings and how to read one. Rules run on them, but models
cannot be trained on them."""
CAMERA = "*.mcap drives (own or ROS 2), or labels.csv with center_* frames (Udacity)"
"""Drives with pictures, as named in errors."""
HOW = "docs/real-data.md shows how to write a drive"
DRIVES = f"{CAMERA}, tables of angle, torque and speed (Udacity), comma2k19 segments"
SCENES = "CommonRoad *.xml, Waymo Open Motion *.json (both also .gz), or ScenarioNet sd_*.pkl"
READERS = {"CommonRoad": commonroad, "WOMD": womd, "ScenarioNet": scenarionet}
"""Formats of recorded traffic: `fits(path)` recognises a file, `read(path)` returns its Recording."""
SUFFIXES = (".xml", ".json", ".pkl")
"""Suffixes of recorded traffic, case-insensitive, optionally with .gz."""
SHORTEST_S = 1.0
"""Shorter stretches between gaps are too short to label, s."""
DEEP = 3
"""Folder levels searched for files of recorded traffic."""
MAPS = "maps"
"""Subfolder beside own drives that holds their road maps, one `<map id>.safetensors` each."""


def kind_of(path: Path | str) -> Kind:
    """Identify what a folder holds: "mcap" (Drives and ROS 2 recordings), "udacity" (camera), "udacity_telemetry",
    "comma2k19", or "scenes" (files of recorded traffic, see READERS). A single MCAP file or table is accepted as well.

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
    raise ValueError(f"{path}: no recordings that can be imported ({_holds(path)}); expected {DRIVES}, {SCENES}")


def _kind_of_file(path: Path) -> Kind | None:
    if path.suffix == ".mcap":
        return "mcap"
    if format_of(path):
        return "scenes"
    return "udacity_telemetry" if path.suffix == ".csv" and udacity_telemetry.tables(path) else None


def _holds(path: Path) -> str:
    found = sorted(p.name for p in path.iterdir())
    return f"it holds {', '.join(found[:3])}{' ...' if len(found) > 3 else ''}" if found else "it is empty"


def kind_for(path: Path | str, what: Literal["drives", "scenes"]) -> Kind:
    """Identify a folder that must hold camera drives, or recorded traffic; ValueError if it does not."""
    path = Path(path)
    try:
        kind = kind_of(path)
    except ValueError as error:
        if what == "scenes" or not path.is_dir() or not str(error).startswith(f"{path}: no recordings"):
            raise
        raise ValueError(f"{path}: no camera drives ({_holds(path)}); expected {CAMERA}; {HOW}") from None
    if what == "drives":
        require(kind != "scenes", f"{path}: recorded traffic has no camera drives; import it as scenes (--scenes)")
        require(
            kind not in SIGHTLESS,
            f"{path}: {kind} logs have no pictures to train on, only rules run on them; expected {CAMERA}; {HOW}",
        )
    else:
        require(
            kind == "scenes",
            f"{path}: a folder of {kind} drives; scenes come from {', '.join(READERS)} files (or from labelled clips)",
        )
    return kind


def format_of(file: Path) -> str | None:
    """Name of a file's format among READERS; None if it is not recorded traffic."""
    return next((name for name, reader in READERS.items() if reader.fits(file)), None)


def scene_files(path: Path) -> list[Path]:
    """The files of recorded traffic in a folder, down to DEEP levels; or the one given file."""
    if path.is_file():
        return [path] if format_of(path) else []
    return sorted(p for p in _files(path) if format_of(p))


def _files(path: Path) -> list[Path]:
    return [p for level in range(DEEP) for p in path.glob("*/" * level + "*") if p.is_file()]


def _strangers(path: Path) -> dict[str, str]:
    """Files named like recorded traffic that are not, and why; without the index files of ScenarioNet's sets."""
    named = [p for p in _files(path) if p.name.lower().removesuffix(".gz").endswith(SUFFIXES)]
    return {
        p.relative_to(
            path
        ).as_posix(): f"not a {', '.join(READERS)} file; remove it, or write it in one of these formats"
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
    """Read one MCAP file, a Drive or a ROS 2 recording. ValueError in one line if it is damaged or neither."""
    return ros2.read(file, video=video) if ros2.fits(file) else read_drive(file, video=video)


def drives_in(path: Path | str, *, video: bool = True, left_out: Callable[[str], object] = warn) -> Iterator[Drive]:
    """Read the drives of a folder of any kind, or of one file, one after the other, optionally without pictures.

    A damaged recording among several is skipped, and left_out receives the reason in one line. ValueError for recorded
    traffic, which has no recording car, for a single damaged file, and for a folder without a readable drive.
    """
    path = Path(path)
    kind = kind_of(path)
    require(kind != "scenes", f"{path}: recorded traffic is not a drive; import it as scenes (--scenes)")
    for _, drives in sound(path, _readers(path, kind, video), left_out):
        yield from drives


def _readers(path: Path, kind: Kind, video: bool) -> list[tuple[Path, Callable[[], list[Drive]]]]:
    """The recordings of a folder by path, with a function that reads each."""
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
    """Read each item and yield the readable ones; left_out receives one line about each of the others.

    ValueError if the path is the damaged item itself, or no item is readable.
    """
    bad: list[str] = []
    for item, read in items:
        try:
            found = read()
        except ConnectionError:  # an unreachable store is not a clip's fault
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

    No clip spans a gap in its drive. maps: ids of the available road maps; a drive on any other is treated as one
    without a map. A damaged drive among several is skipped, and left_out receives the reason in one line. ValueError
    for a folder of scenarios (no camera: use `scenes_in`) and if no drive is readable.
    """
    path, out = Path(path), Path(out)
    kind = kind_for(path, "drives")
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
    """Spans of clips, within each gapless stretch of at least a second."""
    runs = clock.runs(t)
    for a, b in runs:
        if len(runs) == 1 or t[b - 1] - t[a] >= SHORTEST_S:
            yield from pieces(float(t[a]), float(t[b - 1]), seconds)


def maps_in(path: Path | str, left_out: Callable[[str], object] = warn) -> dict[str, bytes]:
    """The road maps beside a folder of own drives: map id -> bytes of `roadmap.save_map`.

    A damaged one among several is skipped, and left_out receives the reason in one line. ValueError if none is
    readable.
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
    """Read a folder, or one file, of recorded traffic as Scenes; also return the reason for each file that gave none.

    Each file gives up to `egos` scenes (see `recording.scenes_of`). Files are read in parallel, and a bad one does not
    stop the others. Recordings whose maps share lanes get one place. ValueError if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        kind_for(path, "scenes")
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


def load_scenes(path: Path | str, *, egos: int = 4) -> list[Scene]:
    """Scenes of a folder, or one file, of recorded traffic, up to `egos` of each file.

    Files that give none are named in a warning. ValueError if no file gives one.
    """
    scenes, refused = scenes_in(path, egos=egos)
    why = "; ".join(f"{file}: {reason}" for file, reason in list(refused.items())[:3])
    require(len(scenes) > 0, f"{path}: contains no scene ({why})")
    if refused:
        warn(f"{path}: {len(refused)} files gave no scene ({why}{'; ...' if len(refused) > 3 else ''})")
    return scenes


def _read_scenes(task: tuple[Path, int]) -> tuple[list[Scene], str, frozenset[tuple[int, int]]]:
    """Scenes, or why there are none, and the landmarks of the place."""
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
    """Hash the names and bytes of all files of a folder, or of one file and its maps: all that an import depends on."""
    path, digest = Path(path), hashlib.sha256()
    files = path.rglob("*") if path.is_dir() else [path, *(path.parent / MAPS).glob("*.safetensors")]
    top = path if path.is_dir() else path.parent
    for file in sorted(p for p in files if p.is_file()):
        with file.open("rb") as handle:
            digest.update(
                f"{file.relative_to(top).as_posix()} {hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()

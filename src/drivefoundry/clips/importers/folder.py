"""A folder in; what it holds, and its clip files or Scenes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from drivefoundry.clips.importers import comma2k19, commonroad, scenarionet, udacity, udacity_telemetry, womd
from drivefoundry.clips.importers.pieces import pieces
from drivefoundry.clips.importers.recording import none_of, same_places, scenes_of
from drivefoundry.compute import pmap
from drivefoundry.roadmap import load_map
from drivefoundry.types import Scene, require
from drivefoundry_car.log import Drive, cut, read_drive, write_drive

Kind = Literal["mcap", "udacity", "udacity_telemetry", "comma2k19", "scenes"]
SIGHTLESS = {"comma2k19": comma2k19.drives, "udacity_telemetry": udacity_telemetry.drives}
"""Kinds of drives without pictures: rules can be run on them, models cannot learn to see from them."""
READERS = {"CommonRoad": commonroad, "WOMD": womd, "ScenarioNet": scenarionet}
"""Formats of recorded traffic: `fits(path)` knows a file, `read(path)` gives its Recording."""
DEEP = 3
"""Levels of folders in which files of recorded traffic are looked for."""
MAPS = "maps"
"""Subfolder beside own drives that holds their road maps, one `<map id>.npz` each."""


def kind_of(path: Path | str) -> Kind:
    """Folder in, what it holds out: "mcap" (our own drives), "udacity" (camera), "udacity_telemetry", "comma2k19", or
    "scenes" (files of recorded traffic, see READERS). ValueError in one line for anything else."""
    path = Path(path)
    require(path.exists(), f"{path}: no such folder; give the path of a folder of recordings")
    require(path.is_dir(), f"{path}: a file; give the folder that holds the recordings")
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
    found = sorted(p.name for p in path.iterdir())
    holds = f"it holds {', '.join(found[:3])}{' ...' if len(found) > 3 else ''}" if found else "it is empty"
    raise ValueError(
        f"{path}: no recordings that can be imported ({holds}); wanted *.mcap drives, labels.csv with center_* frames "
        "or tables of angle, torque and speed (Udacity), comma2k19 segments, CommonRoad *.xml, Waymo Open Motion "
        "*.json (both also .gz), or ScenarioNet sd_*.pkl"
    )


def wanted(path: Path | str, what: Literal["drives", "scenes"]) -> Kind:
    """Folder in, its kind out where it can give camera drives or scenes of recorded traffic; ValueError where not."""
    kind = kind_of(path)
    if what == "drives":
        require(kind != "scenes", f"{path}: recorded traffic has no camera drives; import it as scenes (--scenes)")
        require(kind not in SIGHTLESS, f"{path}: {kind} logs have no pictures to learn from; only rules run on them")
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
    found = [p for level in range(DEEP) for p in path.glob("*/" * level + "*")]
    return sorted(p for p in found if p.is_file() and format_of(p))


def drive_files(path: Path) -> list[Path]:
    """The MCAP files of a folder, or of its subfolder `drives`."""
    return sorted(p for folder in (path, path / "drives") for p in folder.glob("*.mcap"))


def drives_in(path: Path | str, *, video: bool = True) -> Iterator[Drive]:
    """A folder of drives of any kind, or one MCAP file, in; its Drives, one after the other, out, without pictures if
    those are not wanted. ValueError for recorded traffic, which names no car that drives, and for damaged files."""
    path = Path(path)
    if path.is_file() and path.suffix == ".mcap":
        yield read_drive(path, video=video)
        return
    kind = kind_of(path)
    require(kind != "scenes", f"{path}: recorded traffic is no drive; import it as scenes (--scenes)")
    if kind in SIGHTLESS:
        yield from SIGHTLESS[kind](path)
    elif kind == "udacity":
        yield from (udacity.drive_of(run, video=video) for run in udacity.runs_of(path))
    else:
        yield from (read_drive(file, video=video) for file in drive_files(path))


def clips_in(
    path: Path | str, out: Path | str, *, seconds: float = 20.0, on_clip: Callable[[Path], None] | None = None
) -> list[Path]:
    """Folder of drives in, MCAP clip files of about `seconds` written into `out`, in order of time; their paths out.

    Raises ValueError for a folder of scenarios (those have no camera: take `scenes_in`) and for a damaged drive.
    """
    path, out = Path(path), Path(out)
    kind = wanted(path, "drives")
    out.mkdir(parents=True, exist_ok=True)
    if kind == "udacity":
        return udacity.write_clips(path, out, seconds=seconds, on_clip=on_clip)
    written = []
    for file in drive_files(path):
        drive = read_drive(file)
        for k, (t0, t1) in enumerate(pieces(float(drive.t[0]), float(drive.t[-1]), seconds)):
            clip = out / f"{file.stem}-{k:03d}.mcap"
            write_drive(clip, cut(drive, t0, t1))
            written.append(clip)
            if on_clip:
                on_clip(clip)
    return written


def maps_in(path: Path | str) -> dict[str, bytes]:
    """Folder of own drives in, the road maps beside them out: map id -> bytes of `roadmap.save_map`."""
    out = {}
    for file in sorted((Path(path) / MAPS).glob("*.npz")):
        data = file.read_bytes()
        try:
            out[load_map(data).id] = data
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    return out


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
    return scenes, {name: why for name, (_, why, _) in zip(names, found, strict=True) if why}


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
    """Folder in, hash over the names and bytes of all its files out: what an import hangs on."""
    digest = hashlib.sha256()
    for file in sorted(p for p in Path(path).rglob("*") if p.is_file()):
        with file.open("rb") as handle:
            digest.update(
                f"{file.relative_to(path).as_posix()} {hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()

"""A folder in; what it holds, and its clip files or Scenes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from drivefoundry.clips.importers import commonroad, udacity
from drivefoundry.clips.importers.pieces import pieces
from drivefoundry.roadmap import load_map
from drivefoundry.types import Scene, require
from drivefoundry_car.log import cut, read_drive, write_drive

Kind = Literal["mcap", "udacity", "commonroad"]
MAPS = "maps"
"""Subfolder beside own drives that holds their road maps, one `<map id>.npz` each."""


def kind_of(path: Path | str) -> Kind:
    """Folder in, what it holds out: "mcap" (our own drives), "udacity" or "commonroad". ValueError in one line for
    anything else."""
    path = Path(path)
    require(path.exists(), f"{path}: no such folder; give the path of a folder of recordings")
    require(path.is_dir(), f"{path}: a file; give the folder that holds the recordings")
    if udacity.fits(path):
        return "udacity"
    if commonroad.files_in(path):
        return "commonroad"
    if drives_in(path):
        return "mcap"
    found = sorted(p.name for p in path.iterdir())
    holds = f"it holds {', '.join(found[:3])}{' ...' if len(found) > 3 else ''}" if found else "it is empty"
    raise ValueError(
        f"{path}: no recordings that can be imported ({holds}); wanted *.mcap drives, labels.csv with center_* frames "
        "(Udacity), or CommonRoad *.xml / *.xml.gz"
    )


def wanted(path: Path | str, what: Literal["drives", "scenes"]) -> Kind:
    """Folder in, its kind out where it can give camera drives or scenes of recorded traffic; ValueError where not."""
    kind = kind_of(path)
    if what == "drives":
        require(
            kind != "commonroad",
            f"{path}: CommonRoad scenarios have no camera drives; import them as scenes (--scenes)",
        )
    else:
        require(
            kind == "commonroad",
            f"{path}: a folder of {kind} drives; scenes come from CommonRoad files (or from labelled clips)",
        )
    return kind


def drives_in(path: Path) -> list[Path]:
    """The MCAP files of a folder, or of its subfolder `drives`."""
    return sorted(p for folder in (path, path / "drives") for p in folder.glob("*.mcap"))


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
    for file in drives_in(path):
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
    """Folder of recorded traffic in, Scenes out, and for each file that gave none the reason. See
    `commonroad.scenes_of`."""
    wanted(path, "scenes")
    return commonroad.scenes_in(Path(path), egos=egos, on_file=on_file)


def fingerprint(path: Path | str) -> str:
    """Folder in, hash over the names and bytes of all its files out: what an import hangs on."""
    digest = hashlib.sha256()
    for file in sorted(p for p in Path(path).rglob("*") if p.is_file()):
        with file.open("rb") as handle:
            digest.update(
                f"{file.relative_to(path).as_posix()} {hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()

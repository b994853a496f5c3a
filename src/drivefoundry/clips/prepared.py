"""Turn a clip file into a checked row of the clip store, and store its video: landing without the table.

Imports no lance, so that a checker process starts fast and stays small.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from av.error import FFmpegError

from drivefoundry.clips.objects import ObjectStore
from drivefoundry.clips.row import pack
from drivefoundry_car import log
from drivefoundry_car.log import Drive

NAMED = ("vehicle", "drive", "source", "place", "campaign", "trigger", "map", "release")
"""Keys of a drive's meta that are table columns, for filtering."""
_DAMAGE = (AssertionError, ArithmeticError, AttributeError, EOFError, FFmpegError, LookupError, MemoryError,
           RecursionError, TypeError)  # fmt: skip
"""Errors that readers and muxers raise, in addition to ValueError, on values that no recorder writes."""
_BEGINNING = 4096
"""Leading bytes of a packet that decide whether it can be muxed: they include parameter sets and headers."""


@dataclass(frozen=True)
class Prepared:
    """One clip, read and checked, with its video in the object store: ready to become a row."""

    row: dict[str, Any]

    @property
    def id(self) -> str:
        return self.row["id"]


class WrongHash(ValueError):
    """The file's hash differs from the promised one."""


class WrongVehicle(ValueError):
    """The drive belongs to another vehicle than promised."""


def check(path: Path, sha256: str, vehicle: str) -> None:
    """Check that `prepare` will accept a clip file; raises its ValueError if not."""
    _read(path, sha256, vehicle, _BEGINNING)


def prepare(path: Path, objects: ObjectStore, sha256: str | None = None, vehicle: str | None = None) -> Prepared:
    """Check a clip file, store its video in objects and build its row.

    WrongHash or WrongVehicle, both ValueErrors, if hash or vehicle differ from the promised ones; ValueError of one
    line if it is not a drive or its video is invalid; OSError if the objects cannot be stored. Nothing of a refused
    clip is stored.
    """
    found, drive, mp4, others = _read(path, sha256, vehicle)
    video = "" if mp4 is None else objects.put(mp4)
    texts, signals = pack(drive, {name: objects.put(data) for name, data in others.items()})
    row: dict[str, Any] = {name: drive.meta.get(name, "") for name in NAMED}
    row |= {
        "id": found,
        "landed": datetime.now(UTC),
        "t0": float(drive.t[0]),
        "duration": float(drive.t[-1] - drive.t[0]),
        "bytes": path.stat().st_size,
        "frames": 0 if drive.video is None else len(drive.video.t),
        "video": video,
        "meta": texts,
        "signals": signals,
    }
    return Prepared(row)


def _read(
    path: Path, sha256: str | None, vehicle: str | None, most: int | None = None
) -> tuple[str, Drive, bytes | None, dict[str, bytes]]:
    """The file's hash, its drive with videos as H.264, its video as MP4 (if any) and its other cameras', with at most
    `most` bytes of each packet."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None and found != sha256:
        raise WrongHash("the bytes do not have the promised SHA-256; send the file again")
    try:
        drive = log.read_drive(path)
        owner = drive.meta.get("vehicle", "")
        if vehicle is not None and owner != vehicle:
            raise WrongVehicle(f"the clip is from vehicle '{owner}', the token from '{vehicle}'")
        others = {name: log.as_h264(v) for name, v in drive.others.items()}
        drive = replace(drive, video=None if drive.video is None else log.as_h264(drive.video), others=others)
        mp4 = None if drive.video is None else _mp4(drive.video, most)
        return found, drive, mp4, {name: _mp4(v, most) for name, v in others.items()}
    except _DAMAGE as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{path}: damaged MCAP ({why}); copy or record it again") from error


def _mp4(video: log.Video, most: int | None) -> bytes:
    return log.to_mp4(replace(video, packets=[packet[:most] for packet in video.packets]))

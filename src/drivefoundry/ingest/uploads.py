"""Pieces of files in, whole files with verified hash out: the state behind the tus protocol, on disk.

An upload's id follows from vehicle, hash and length, so creating it again finds what has come already: a car that lost
its memory, or the answer to its last request, just begins anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

STALE_S = 7 * 24 * 3600.0
"""Unfinished uploads that nothing was added to for this long are deleted at the next start."""


@dataclass(frozen=True)
class Upload:
    """One file on its way: SHA-256 that it must have, length in bytes, and the vehicle it belongs to."""

    id: str
    vehicle: str
    sha256: str
    length: int


class Uploads:
    """The folder of unfinished uploads. Not for concurrent writes to one upload: the app locks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for info in folder.glob("*.json"):
            if time.time() - max(info.stat().st_mtime, _mtime(info.with_suffix(".part"))) > STALE_S:
                self._delete(info.stem)

    def create(self, vehicle: str, sha256: str, length: int) -> Upload:
        """The upload of this file by this vehicle, new or as far as it has come."""
        name = hashlib.sha256(json.dumps([vehicle, sha256, length]).encode()).hexdigest()[:32]
        upload = Upload(name, vehicle, sha256, length)
        info = self.folder / f"{name}.json"
        if not info.exists():
            aside = info.with_suffix(".new")
            aside.write_text(json.dumps(asdict(upload)))
            os.replace(aside, info)
        return upload

    def get(self, name: str) -> Upload | None:
        """An unfinished upload by its id."""
        if not (name.isalnum() and len(name) == 32):
            return None
        try:
            return Upload(**json.loads((self.folder / f"{name}.json").read_text()))
        except FileNotFoundError:
            return None

    def part(self, upload: Upload) -> Path:
        """Where the bytes that have come lie."""
        return self.folder / f"{upload.id}.part"

    def offset(self, upload: Upload) -> int:
        """Bytes that have come."""
        try:
            return self.part(upload).stat().st_size
        except FileNotFoundError:
            return 0

    def verified(self, upload: Upload) -> bool:
        """Whether the bytes have the promised hash; if not, they are thrown away, so that the upload begins anew."""
        if hashlib.sha256(self.part(upload).read_bytes()).hexdigest() == upload.sha256:
            return True
        self.part(upload).unlink()
        return False

    def forget(self, upload: Upload) -> None:
        """Drop an upload that has landed or is refused."""
        self._delete(upload.id)

    def _delete(self, name: str) -> None:
        (self.folder / f"{name}.part").unlink(missing_ok=True)
        (self.folder / f"{name}.json").unlink(missing_ok=True)


def _mtime(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0

"""Pieces of files in, whole files out: the state behind the tus protocol, on disk.

An upload's id follows from vehicle, hash and length, so creating it again finds what has come already: a car that lost
its memory, or the answer to its last request, just begins anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

STALE_S = 7 * 24 * 3600.0
"""Unfinished uploads that nothing was added to for this long are deleted."""
SWEEP_S = 3600.0
"""Time between two looks for them."""
MOST = 256
"""Unfinished uploads that one vehicle may have."""


@dataclass(frozen=True)
class Upload:
    """One file on its way: SHA-256 that it must have, length in bytes, and the vehicle it belongs to."""

    id: str
    vehicle: str
    sha256: str
    length: int


class Uploads:
    """The folder of unfinished uploads. For one thread, and one request at a time that adds to an upload."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._all: dict[str, Upload] = {}
        for info in folder.glob("*.json"):
            try:
                self._all[info.stem] = Upload(**json.loads(info.read_text()))
            except (ValueError, TypeError):  # a power cut can empty a file; its car begins anew
                info.unlink()
        for file in folder.iterdir():
            if file.stem not in self._all or file.suffix == ".new":
                file.unlink()
        self._count = Counter(upload.vehicle for upload in self._all.values())
        self._swept = 0.0
        self._sweep()

    def __len__(self) -> int:
        return len(self._all)

    def create(self, vehicle: str, sha256: str, length: int) -> Upload | None:
        """The upload of this file by this vehicle, new or as far as it has come; None where it has too many."""
        self._sweep()
        name = self.name(vehicle, sha256, length)
        if name in self._all:
            return self._all[name]
        if self._count[vehicle] >= MOST:
            return None
        upload = Upload(name, vehicle, sha256, length)
        aside = self.folder / f"{name}.new"
        aside.write_text(json.dumps(asdict(upload)))
        os.replace(aside, self.folder / f"{name}.json")
        self._all[name] = upload
        self._count[vehicle] += 1
        return upload

    @staticmethod
    def name(vehicle: str, sha256: str, length: int) -> str:
        """The id of an upload."""
        return hashlib.sha256(json.dumps([vehicle, sha256, length]).encode()).hexdigest()[:32]

    def get(self, name: str, vehicle: str) -> Upload | None:
        """An unfinished upload of this vehicle by its id."""
        upload = self._all.get(name)
        return upload if upload is not None and upload.vehicle == vehicle else None

    def part(self, upload: Upload) -> Path:
        """Where the bytes that have come lie."""
        return self.folder / f"{upload.id}.part"

    def offset(self, upload: Upload) -> int:
        """Bytes that have come."""
        try:
            return self.part(upload).stat().st_size
        except FileNotFoundError:
            return 0

    def restart(self, upload: Upload) -> None:
        """Throw away the bytes that have come: the upload begins anew."""
        self.part(upload).unlink(missing_ok=True)

    def forget(self, upload: Upload) -> None:
        """Drop an upload that has landed or is refused."""
        self.part(upload).unlink(missing_ok=True)
        (self.folder / f"{upload.id}.json").unlink(missing_ok=True)
        if self._all.pop(upload.id, None) is not None:
            self._count[upload.vehicle] -= 1

    def _sweep(self) -> None:
        """Forget what is stale."""
        if time.monotonic() < self._swept:
            return
        self._swept = time.monotonic() + SWEEP_S
        for upload in list(self._all.values()):
            info, part = self.folder / f"{upload.id}.json", self.part(upload)
            last = max(info.stat().st_mtime, part.stat().st_mtime if part.exists() else 0.0)
            if time.time() - last > STALE_S:
                self.forget(upload)

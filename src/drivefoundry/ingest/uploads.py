"""Pieces of files in, whole files out: the state behind the tus protocol, on disk.

An upload's id follows from vehicle, hash and length, so creating it again finds what has come already: a car that lost
its memory, or the answer to its last request, just begins anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

STALE_S = 7 * 24 * 3600.0
"""Unfinished uploads that nothing was added to for this long are deleted."""
SWEEP_S = 3600.0
"""Time between two looks for them."""
MOST = 256
"""Unfinished uploads that one vehicle may have."""
SILENT_S = 3600.0
"""Where a vehicle has too many, those that nothing was added to for this long make room."""
_NAMED = re.compile(r"([0-9a-f]{32})\.(json|part|new)")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upload:
    """One file on its way: SHA-256 that it must have, length in bytes, and the vehicle it belongs to."""

    id: str
    vehicle: str
    sha256: str
    length: int


class Uploads:
    """The folder of unfinished uploads. For one thread, and one request at a time that adds to an upload."""

    def __init__(self, folder: Path, unfinished: int = 4 << 30) -> None:
        """unfinished: most bytes that the uploads of one vehicle may come to."""
        self.folder, self._most = folder, unfinished
        folder.mkdir(parents=True, exist_ok=True)
        self._all: dict[str, Upload] = {}
        for entry in sorted(folder.iterdir()):
            if _NAMED.fullmatch(entry.name) and not entry.is_file():
                self._set_aside(entry)
            elif _NAMED.fullmatch(entry.name) and entry.suffix == ".json":
                self._read(entry)
        for entry in list(folder.iterdir()):  # what has another name is somebody else's
            if _NAMED.fullmatch(entry.name) and (entry.stem not in self._all or entry.suffix == ".new"):
                entry.unlink()
        self._count = Counter(upload.vehicle for upload in self._all.values())
        self._bytes: Counter[str] = Counter()
        for upload in self._all.values():
            self._bytes[upload.vehicle] += upload.length
        self._swept = 0.0
        self._sweep()

    def _read(self, info: Path) -> None:
        try:
            upload = Upload(**json.loads(info.read_text()))
            if info.stem == upload.id == self.name(upload.vehicle, upload.sha256, upload.length):
                self._all[info.stem] = upload
        except OSError as error:
            _log.error("%s: cannot be read (%s)", info, error.strerror)
            self._set_aside(info)
        except (ValueError, TypeError):  # a power cut can empty a file; its car begins anew
            pass

    def _set_aside(self, entry: Path) -> None:
        """Keep what is not as it was written, out of the way."""
        aside = self.folder / "aside"
        aside.mkdir(exist_ok=True)
        kept = aside / f"{entry.name}.{time.time_ns()}"
        os.replace(entry, kept)
        _log.error("%s: not a file that the service can use; it is now %s", entry, kept)

    def __len__(self) -> int:
        return len(self._all)

    def create(self, vehicle: str, sha256: str, length: int, held: Collection[str] = ()) -> Upload | None:
        """The upload of this file by this vehicle, new or as far as it has come; None where it has too many, or too
        many bytes of them. held: ids of those that are not to make room."""
        self._sweep()
        name = self.name(vehicle, sha256, length)
        if name in self._all:
            return self._all[name]
        if not self._room(vehicle, length):
            self._sweep_silent(vehicle, held)
            if not self._room(vehicle, length):
                return None
        upload = Upload(name, vehicle, sha256, length)
        aside = self.folder / f"{name}.new"
        aside.write_text(json.dumps(asdict(upload)))
        os.replace(aside, self.folder / f"{name}.json")
        self._all[name] = upload
        self._count[vehicle] += 1
        self._bytes[vehicle] += length
        return upload

    def _room(self, vehicle: str, length: int) -> bool:
        return self._count[vehicle] < MOST and self._bytes[vehicle] + length <= self._most

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
        part = self.part(upload)
        try:
            found = part.stat()
            if stat.S_ISREG(found.st_mode):
                return found.st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            _log.error("%s: %s", part, error.strerror)
        self._set_aside(part)
        return 0

    def size(self, name: str) -> int | None:
        """Bytes that have come of an upload by its id; None where there is no such upload."""
        return self.offset(self._all[name]) if name in self._all else None

    def lose(self, upload: Upload) -> None:
        """Set aside bytes that have come and cannot be read any more: the upload begins anew."""
        self._set_aside(self.part(upload))

    def restart(self, upload: Upload) -> None:
        """Throw away the bytes that have come: the upload begins anew."""
        self.part(upload).unlink(missing_ok=True)

    def forget(self, upload: Upload) -> None:
        """Drop an upload that has landed or is refused."""
        self.part(upload).unlink(missing_ok=True)
        (self.folder / f"{upload.id}.json").unlink(missing_ok=True)
        if self._all.pop(upload.id, None) is not None:
            self._count[upload.vehicle] -= 1
            self._bytes[upload.vehicle] -= upload.length
            if not self._count[upload.vehicle]:
                del self._count[upload.vehicle], self._bytes[upload.vehicle]

    def _sweep(self) -> None:
        """Forget what is stale."""
        if time.monotonic() < self._swept:
            return
        self._swept = time.monotonic() + SWEEP_S
        for upload in list(self._all.values()):
            if time.time() - self._last(upload) > STALE_S:
                self.forget(upload)

    def _sweep_silent(self, vehicle: str, held: Collection[str]) -> None:
        for upload in list(self._all.values()):
            old = upload.vehicle == vehicle and time.time() - self._last(upload) > SILENT_S
            if old and upload.id not in held:
                self.forget(upload)

    def _last(self, upload: Upload) -> float:
        """When something was added: s since 1970."""
        files = (self.folder / f"{upload.id}.json", self.part(upload))
        return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)

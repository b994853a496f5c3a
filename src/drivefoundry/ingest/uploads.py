"""Unfinished uploads on disk: the state behind the tus protocol.

An upload's id derives from vehicle, hash and length, so creating it again finds what has already arrived: a car that
lost its memory, or the response to its last request, simply starts again.
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
"""Unfinished uploads are deleted after this long without new bytes, s."""
SWEEP_S = 3600.0
"""Interval between sweeps for them, s."""
MOST = 256
"""Most unfinished uploads per vehicle."""
SILENT_S = 3600.0
"""If a vehicle has too many, those silent for this long are dropped, s."""
_NAMED = re.compile(r"([0-9a-f]{32})\.(json|part|new)")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upload:
    """One upload: promised SHA-256, length in bytes, and vehicle."""

    id: str
    vehicle: str
    sha256: str
    length: int


class Uploads:
    """The folder of unfinished uploads. For one thread, and one appending request per upload."""

    def __init__(self, folder: Path, unfinished: int = 4 << 30) -> None:
        """unfinished: most bytes of one vehicle's uploads."""
        self.folder, self._most = folder, unfinished
        folder.mkdir(parents=True, exist_ok=True)
        self._all: dict[str, Upload] = {}
        for entry in sorted(folder.iterdir()):
            if _NAMED.fullmatch(entry.name) and not entry.is_file():
                self._set_aside(entry)
            elif _NAMED.fullmatch(entry.name) and entry.suffix == ".json":
                self._read(entry)
        for entry in list(folder.iterdir()):  # leave files with other names alone
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
        except (ValueError, TypeError):  # a power cut can empty a file; its car starts again
            pass

    def _set_aside(self, entry: Path) -> None:
        """Move a damaged entry out of the way, keeping it."""
        aside = self.folder / "aside"
        aside.mkdir(exist_ok=True)
        kept = aside / f"{entry.name}.{time.time_ns()}"
        os.replace(entry, kept)
        _log.error("%s: unusable file; moved to %s", entry, kept)

    def __len__(self) -> int:
        return len(self._all)

    def create(self, vehicle: str, sha256: str, length: int, held: Collection[str] = ()) -> Upload | None:
        """Create or resume a vehicle's upload of this file; None if the vehicle has too many uploads or bytes in
        progress. held: ids of uploads that must not be dropped to make room."""
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
        """Id of an upload."""
        return hashlib.sha256(json.dumps([vehicle, sha256, length]).encode()).hexdigest()[:32]

    def get(self, name: str, vehicle: str) -> Upload | None:
        """The vehicle's unfinished upload with this id, if any."""
        upload = self._all.get(name)
        return upload if upload is not None and upload.vehicle == vehicle else None

    def part(self, upload: Upload) -> Path:
        """Path of the received bytes."""
        return self.folder / f"{upload.id}.part"

    def offset(self, upload: Upload) -> int:
        """Number of bytes received."""
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
        """Bytes received of an upload, None if there is no such upload."""
        return self.offset(self._all[name]) if name in self._all else None

    def lose(self, upload: Upload) -> None:
        """Set aside received bytes that have become unreadable: the upload starts again."""
        self._set_aside(self.part(upload))

    def restart(self, upload: Upload) -> None:
        """Discard the received bytes: the upload starts again."""
        self.part(upload).unlink(missing_ok=True)

    def forget(self, upload: Upload) -> None:
        """Remove an upload that has landed or was refused."""
        self.part(upload).unlink(missing_ok=True)
        (self.folder / f"{upload.id}.json").unlink(missing_ok=True)
        if self._all.pop(upload.id, None) is not None:
            self._count[upload.vehicle] -= 1
            self._bytes[upload.vehicle] -= upload.length
            if not self._count[upload.vehicle]:
                del self._count[upload.vehicle], self._bytes[upload.vehicle]

    def _sweep(self) -> None:
        """Remove stale uploads."""
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
        """Time of the last append, s since 1970."""
        files = (self.folder / f"{upload.id}.json", self.part(upload))
        return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)

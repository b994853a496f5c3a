"""Cache of files of recorded traffic that were read before, so that showing one scene reads one file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drivefoundry.sources import code_hash
from drivefoundry_car.durable import write_text

Row = dict[str, Any]


@dataclass
class Known:
    """Rows of the files of one folder, in the user's cache directory. An entry is valid while its file's size and
    modification time are unchanged."""

    file: Path
    entries: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, what: Path, rows_of: Callable[[Path], Any]) -> Known:
        """Load the cache of a folder or a file, as written by the same code of `rows_of`; empty if the cache cannot be
        read."""
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        digest = hashlib.sha256(f"{what.resolve()} {code_hash(rows_of)}".encode()).hexdigest()
        known = cls(home / "drivefoundry" / "scenes" / f"{digest[:32]}.json")
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(known.file.read_text())
            known.entries = told if isinstance(told, dict) else {}
        return known

    def rows(self, file: Path) -> tuple[list[Row], str] | None:
        """A file's rows, or why it gave none; None if it is new or has changed."""
        told = self.entries.get(str(file.resolve()))
        if not isinstance(told, dict) or told.get("stamp") != _stamp(file):
            return None
        return told["rows"], told["why"]

    def add(self, read: Iterable[tuple[Path, tuple[list[Row], str]]]) -> None:
        """Cache what was read; a cache that cannot be written is skipped."""
        for file, (rows, why) in read:
            self.entries[str(file.resolve())] = {"stamp": _stamp(file), "rows": rows, "why": why}
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.file, json.dumps(self.entries))


def _stamp(file: Path) -> list[int]:
    there = file.stat()
    return [there.st_size, there.st_mtime_ns]

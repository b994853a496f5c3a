"""Files in, files that outlive a power cut out: what is told to somebody else must be on the disk first."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def sync(path: Path) -> None:
    """A file's bytes, or the names in a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def rename(file: Path, name: Path) -> None:
    """A file that is on the disk gets its name there, in place of what had it; both on one file system."""
    os.replace(file, name)
    sync(name.parent)


def write_json(file: Path, value: object, durable: bool = True) -> None:
    """Value in, file out, whole or not at all, readable by its owner only; if durable, it outlives a power cut."""
    aside = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}.part")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        json.dump(value, out)
        out.flush()
        if durable:
            os.fsync(out.fileno())
    os.replace(aside, file)
    if durable:
        sync(file.parent)


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write; it takes the path's place, synced to disk, when the block ends well."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)

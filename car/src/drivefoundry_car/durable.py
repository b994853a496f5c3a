"""Files that outlive a power cut: what others are told about must be on the disk first."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What a full disk says."""


def sync(path: Path) -> None:
    """Flush a file's bytes, or the names in a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def rename(file: Path, name: Path) -> None:
    """Give a file that is on the disk its name, in place of what had it; both on one file system."""
    os.replace(file, name)
    sync(name.parent)


@contextmanager
def replacing(file: Path, durable: bool = True, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `file` when the block ends: whole or not at all, readable by its owner
    only unless mode says otherwise (less the umask). If durable, it outlives a power cut.

    It is written beside `file` and removed if anything fails. It is locked meanwhile, so that `sweep` can tell it from
    what a kill has left behind.
    """
    aside = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with _locked(aside, mode) as out:
            yield out
            out.flush()
            if durable:
                os.fsync(out.fileno())
            os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)
    if durable:
        sync(file.parent)


PUBLIC = 0o666
"""Mode of files that others may read, less the umask."""


def write_json(file: Path, value: object, durable: bool = True) -> None:
    """Write a value as JSON, as `replacing` does."""
    text = json.dumps(value)
    with replacing(file, durable) as out:
        out.write(text.encode())


def sweep(folder: Path, name: str = "*") -> int:
    """Remove what kills have left behind of files of this name (a glob pattern) that were being replaced; how many.

    What another thread or process is writing stays.
    """
    count = 0
    for part in folder.glob(f".{name}.*.part"):
        with suppress(FileNotFoundError, BlockingIOError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
            count += 1
    return count


def _locked(path: Path, mode: int) -> BinaryIO:
    """A new file, open and locked."""
    while True:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # else `sweep` came between opening and locking
            return file
        file.close()

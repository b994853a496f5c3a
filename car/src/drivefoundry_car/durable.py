"""Durable writes: files survive a power cut before anyone learns of them."""

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
"""errno values of a full disk."""


def sync(path: Path) -> None:
    """Flush a file's bytes, or the names in a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def rename(file: Path, name: Path) -> None:
    """Durably rename a synced file, replacing any file of that name; both on one file system."""
    os.replace(file, name)
    sync(name.parent)


@contextmanager
def replacing(file: Path, durable: bool = True, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Open a file that atomically replaces `file` when the block ends, readable by its owner only unless mode says
    otherwise (minus the umask). If durable, it survives a power cut.

    It is written beside `file`, removed if anything fails, and locked meanwhile, so that `sweep` can tell it from the
    remains of a crash.
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
"""Mode of files that others may read, minus the umask."""


def write_json(file: Path, value: object, durable: bool = True) -> None:
    """Write a value as JSON, atomically, see `replacing`."""
    write_text(file, json.dumps(value), durable, mode=0o600)


def write_text(file: Path, text: str, durable: bool = False, mode: int = PUBLIC) -> None:
    """Write a text, atomically, see `replacing`; by default others may read it, and a power cut may lose it."""
    with replacing(file, durable, mode) as out:
        out.write(text.encode())


def sweep(folder: Path, name: str = "*") -> int:
    """Remove temporary files that crashes left for files of this name (a glob pattern); return how many.

    Files that another thread or process is writing stay.
    """
    count = 0
    for part in folder.glob(f".{name}.*.part"):
        with suppress(FileNotFoundError, BlockingIOError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
            count += 1
    return count


def _locked(path: Path, mode: int) -> BinaryIO:
    """Create, open and lock a file."""
    while True:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # otherwise `sweep` removed it before the lock
            return file
        file.close()

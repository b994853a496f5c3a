"""What lies on the disk: the files of a folder and their hashes, and what a full disk says."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path


def files(folder: Path) -> list[Path]:
    """All files and links below a folder, sorted."""
    return sorted(p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())


def content(kind: str, folder: Path) -> str:
    """Hash over kind, relative names and bytes; empty directories do not count."""
    digest = hashlib.sha256(kind.encode())
    for path in files(folder):
        if path.is_symlink():
            to = os.readlink(path)
            inside = not os.path.isabs(to) and path.resolve().is_relative_to(folder.resolve())
            assert inside, f"{path}: a link in an artefact stays inside it, this one goes to {to}"
            inner = f"-> {to}"
        else:
            with path.open("rb") as handle:
                inner = hashlib.file_digest(handle, "sha256").hexdigest()
        digest.update(f"\n{path.relative_to(folder).as_posix()}\0{inner}".encode())
    return digest.hexdigest()


def stamp(folder: Path, files: Sequence[Path]) -> str:
    """Hash over names, sizes, times and inodes: as long as it holds, nobody has written to these files."""
    stats = [(p.relative_to(folder).as_posix(), p.lstat()) for p in files]
    told = [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in stats]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def is_full(error: BaseException) -> bool:
    """Whether a full disk is behind an error: libraries with engines of their own pass the system's words on, but not
    its number; or stumble over the first error and raise another."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if any(words in str(error) for words in ("No space left on device", "database or disk is full")):
        return True
    return error.__context__ is not None and is_full(error.__context__)


def full(what: str, root: Path) -> OSError:
    """The error that tells a user of a full disk."""
    return OSError(
        errno.ENOSPC, f"disk full while making {what}; free some space and run again, finished work is kept", str(root)
    )

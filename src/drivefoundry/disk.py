"""Files on disk: hashes and stamps of folders, a run's database, and recognising a full disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
import urllib.parse
from collections.abc import Sequence
from pathlib import Path


def files(folder: Path) -> list[Path]:
    """All files and links below a folder, sorted."""
    return sorted(p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())


def content(kind: str, folder: Path) -> str:
    """Hash of kind, relative names and bytes; empty directories do not count."""
    digest = hashlib.sha256(kind.encode())
    for path in files(folder):
        if path.is_symlink():
            to = os.readlink(path)
            inside = not os.path.isabs(to) and path.resolve().is_relative_to(folder.resolve())
            assert inside, f"{path}: links in an artefact must stay inside it, this one points to {to}"
            inner = f"-> {to}"
        else:
            with path.open("rb") as handle:
                inner = hashlib.file_digest(handle, "sha256").hexdigest()
        digest.update(f"\n{path.relative_to(folder).as_posix()}\0{inner}".encode())
    return digest.hexdigest()


def stamp(folder: Path, files: Sequence[Path]) -> str:
    """Hash of names, sizes, times and inodes: while it is unchanged, nobody has written to these files."""
    stats = [(p.relative_to(folder).as_posix(), p.lstat()) for p in files]
    signature = [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in stats]
    return hashlib.sha256(json.dumps(signature).encode()).hexdigest()


def is_full(error: BaseException) -> bool:
    """Whether an error was caused by a full disk: libraries with their own I/O pass on the system's message but not its
    number, or fail on the first error and raise another one."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if any(words in str(error) for words in ("No space left on device", "database or disk is full")):
        return True
    return error.__context__ is not None and is_full(error.__context__)


def full(what: str, root: Path) -> OSError:
    """The error that reports a full disk to the user."""
    return OSError(
        errno.ENOSPC, f"disk full while making {what}; free some space and run again, finished work is kept", str(root)
    )


def database(file: Path, columns: str) -> sqlite3.Connection:
    """Open a ledger's database, which must have these columns, for reading. If not even the index of its write-ahead
    log can be created (another user's run), it is read as of its last checkpoint."""
    quoted = urllib.parse.quote(str(file.resolve()))
    for mode in ("mode=rw", "mode=ro&immutable=1"):
        db = sqlite3.connect(f"file:{quoted}?{mode}", uri=True, timeout=30, isolation_level=None)
        try:
            db.execute("PRAGMA query_only=ON")
            db.execute(f"SELECT count(*) FROM (SELECT {columns} FROM builds LIMIT 1)").fetchone()
            return db
        except sqlite3.OperationalError as error:
            db.close()
            if "immutable" in mode:
                raise ValueError(f"{file}: cannot be read ({error})") from error
        except sqlite3.DatabaseError as error:
            db.close()
            raise ValueError(f"{file}: not a ledger ({error}); give another directory") from error
    raise AssertionError("the second mode returns or raises")


def is_foreign(path: Path, known: set[str]) -> bool:
    """Whether a folder that is to become a run directory holds this path from somebody else: a run replaces everything
    that has the name of one of its parts."""
    if path.name in ("artefacts", "work") and path.is_dir():
        return any(path.iterdir())
    return path.name == "report.html" or (path.name not in known and path.suffix != ".html")

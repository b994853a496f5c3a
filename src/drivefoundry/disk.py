"""Files on the disk: hashes and stamps of folders, a run's database, and how a full disk shows."""

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


def database(file: Path, columns: str) -> sqlite3.Connection:
    """Open a ledger's database, which must have these columns, for reading. Where not even its write-ahead log's index
    can be made (another user's run), it is read as it was last checkpointed."""
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
    """Whether a folder that is to become a run directory holds this of somebody else's: a run replaces what has the
    names of its own parts."""
    if path.name in ("artefacts", "work") and path.is_dir():
        return any(path.iterdir())
    return path.name == "report.html" or (path.name not in known and path.suffix != ".html")

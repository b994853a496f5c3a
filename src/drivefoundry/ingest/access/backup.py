"""Backup of the vehicle table, renewed after every important change, and its restore.

Three files: vehicles.db; vehicles.backup, a full copy, replaced atomically; vehicles.revoked, one line per revocation,
durable before the table changes. A restore never undoes what an operator ended: revocations are reapplied from their
own file, and unused one-time codes are dropped.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

from drivefoundry_car.durable import sync

EVERY_S = 1.0
"""Longest delay before a renewed secret is in the backup, s; operators' changes are backed up at once."""
_log = logging.getLogger(__name__)


class Backup:
    """The backup of one table. Threads and processes may share it: under a lock, the newest copy wins."""

    def __init__(self, file: Path) -> None:
        self.file, self.copy = file, copy_of(file)
        self.trouble = ""
        """Why the last change is not backed up, '' if it is."""
        self._due, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def now(self) -> None:
        """Copy the table. A failure is logged and kept as `trouble`, since the change itself succeeded."""
        aside = self.copy.with_name(f".{self.copy.name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            with os.fdopen(os.open(self.file.with_name(".vehicles.lock"), os.O_RDWR | os.O_CREAT, 0o600)) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                os.close(os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
                with closing(sqlite3.connect(self.file)) as table, closing(sqlite3.connect(aside)) as copy:
                    table.backup(copy)
                    copy.execute("PRAGMA journal_mode=DELETE")  # one self-contained file
                fault = fault_of(aside)
                if fault:
                    raise sqlite3.DatabaseError(fault)
                sync(aside)
                os.replace(aside, self.copy)
                sync(self.copy.parent)
            self.trouble = ""
        except (OSError, sqlite3.Error) as error:
            self.trouble = "the vehicles cannot be backed up"
            _log.error("%s: %s (%s)", self.file, self.trouble, error)
        finally:
            aside.unlink(missing_ok=True)

    def soon(self) -> None:
        """Copy the table within EVERY_S, in a thread."""
        self._due.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="backup", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write any pending copy."""
        self._stop.set()
        if self._thread is not None:
            self._due.set()
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._due.wait()
            self._due.clear()
            self.now()
            self._stop.wait(EVERY_S)
        if self._due.is_set():
            self.now()


def copy_of(file: Path) -> Path:
    """Path of a table's backup."""
    return file.with_suffix(".backup")


def note_revoked(file: Path, name: str, life: int) -> None:
    """Durably record that a vehicle's tokens from before this life are revoked."""
    listed = file.with_suffix(".revoked")
    with os.fdopen(os.open(listed, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as out:
        out.write(json.dumps([name, life]) + "\n")
        out.flush()
        os.fsync(out.fileno())
    sync(listed.parent)


def fault_of(file: Path, keyed: bool = False) -> str:
    """What is wrong with a vehicle table, '' if it is readable throughout. keyed: it must contain its signing key."""
    if not file.is_file():
        return "is missing"
    if not file.stat().st_size:  # do not open it: SQLite would discard the log beside it
        return "is empty"
    try:
        with closing(sqlite3.connect(file, timeout=30.0)) as db:
            found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                return f"is damaged ({' '.join(str(found).split())})"
            db.execute("SELECT name, life, refresh FROM vehicles LIMIT 1").fetchall()
            return "has lost its key" if keyed and not db.execute("SELECT id FROM secret").fetchall() else ""
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            return ""
        return f"is damaged ({error})"
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the message may contain damaged text
        return f"is damaged ({error})"


def lost(file: Path) -> str:
    """Why the table must be restored: it is damaged and its backup is not. '' if it need not or cannot be."""
    return fault_of(file, keyed(file)) if copy_of(file).exists() else ""


def keyed(file: Path) -> bool:
    """Whether a table's backup contains the key that signs tokens."""
    return copy_of(file).is_file() and not fault_of(copy_of(file), True)


def restore(file: Path) -> str:
    """Restore a damaged, emptied or missing table from its backup; return what was wrong, '' if nothing was.

    Only for the process that holds the service's folder. The damaged files are kept beside it. ValueError if the backup
    is damaged as well.
    """
    why = lost(file)
    if why:
        _put_back(file, why)
    if file.exists() and file.stat().st_size:
        _revoke_again(file)
    return why


def _put_back(file: Path, why: str) -> None:
    copy = copy_of(file)
    fault = fault_of(copy)
    if fault:
        raise ValueError(f"{file} {why}, and its backup {copy.name} {fault}; restore an older copy of either")
    at = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for part in (file, *(file.with_name(f"{file.name}{end}") for end in ("-wal", "-shm"))):
        if part.exists():
            os.replace(part, _free(part.with_name(f"{part.name}.damaged-{at}")))
    aside = file.with_name(f".{file.name}.{os.getpid()}.part")
    aside.unlink(missing_ok=True)
    os.close(os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
    with closing(sqlite3.connect(copy)) as kept, closing(sqlite3.connect(aside)) as db:
        kept.backup(db)
        with db:
            db.execute("UPDATE vehicles SET code = NULL, code_until = NULL")
    sync(aside)
    os.replace(aside, file)
    sync(file.parent)
    _log.error("%s %s: restored from %s; unused one-time codes are void; invite those vehicles again",
               file, why, copy.name)  # fmt: skip


def _revoke_again(file: Path) -> None:
    """Apply the revocations that a restored table does not contain."""
    try:
        with closing(sqlite3.connect(file, timeout=30.0)) as db, db:
            for name, life in _revoked(file):
                db.execute(
                    "INSERT INTO vehicles (name, scopes, life, revoked) VALUES (?, 'status', ?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET life = excluded.life, revoked = excluded.revoked, code = NULL, "
                    "refresh = NULL, before = NULL WHERE vehicles.life < excluded.life",
                    (name, life, time.time()),
                )
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{file}: cannot store the vehicles ({error}); name another folder") from error


def _free(name: Path) -> Path:
    """The name, or a similar one that is not taken."""
    found, i = name, 1
    while found.exists():
        found, i = name.with_name(f"{name.name}-{i}"), i + 1
    return found


def _revoked(file: Path) -> list[tuple[str, int]]:
    listed = file.with_suffix(".revoked")
    out = []
    for line in listed.read_text().splitlines() if listed.exists() else []:
        try:
            name, life = json.loads(line)
        except (ValueError, TypeError):  # last line before a power cut: that revocation was not acknowledged yet
            continue
        if isinstance(name, str) and isinstance(life, int):
            out.append((name, life))
    return out

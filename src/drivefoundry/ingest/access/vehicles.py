"""Vehicles that may upload: enrolment codes, refresh secrets, revocations and daily bytes, in SQLite.

Codes and secrets are stored as hashes only. Several processes may share the file: the service sees an operator's change
on the command line with the next request.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from drivefoundry.ingest.access.backup import Backup, fault_of, keyed, lost, note_revoked
from drivefoundry.ingest.access.tokens import SCOPES

CODE_S = 24 * 3600.0
"""Validity of a one-time enrolment code, s."""
LOOK_S = 10.0
"""Interval between integrity checks of the table, s."""
_NO_CODE = "the code is unknown, used or too old; ask the operator for a new one"
_NO_REFRESH = "the refresh secret is unknown, replaced or revoked; enrol the vehicle again"
_SPEND = "INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes"
_NAME = re.compile(r"[\w.:@-]{1,64}", re.ASCII)
_TABLES = """
CREATE TABLE IF NOT EXISTS vehicles (
  name TEXT PRIMARY KEY, scopes TEXT NOT NULL, life INTEGER NOT NULL DEFAULT 0, code TEXT, code_until REAL,
  refresh TEXT, before TEXT, enrolled REAL, revoked REAL);
CREATE INDEX IF NOT EXISTS by_code ON vehicles (code);
CREATE INDEX IF NOT EXISTS by_refresh ON vehicles (refresh);
CREATE INDEX IF NOT EXISTS by_before ON vehicles (before);
CREATE TABLE IF NOT EXISTS spent (
  vehicle TEXT NOT NULL, day TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (vehicle, day));
CREATE TABLE IF NOT EXISTS booked (
  upload TEXT PRIMARY KEY, vehicle TEXT NOT NULL, day TEXT NOT NULL, began INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS secret (id INTEGER PRIMARY KEY CHECK (id = 0), value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Vehicle:
    """One row. life: how often it was revoked; enrolled, revoked: s since 1970 or None."""

    name: str
    scopes: tuple[str, ...]
    life: int
    enrolled: float | None
    revoked: float | None


class Vehicles:
    """The table of vehicles in one file. Threads may share it. clock: s since 1970."""

    def __init__(self, file: Path | str, clock: Callable[[], float] = time.time) -> None:
        self.file, self._clock, self._lock = Path(file), clock, threading.Lock()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        why = lost(self.file)
        if why:
            raise ValueError(f"{self.file} {why}; start the service again: it restores the backup beside it")
        self.backup = Backup(self.file)
        self._healthy, self._looked = "", float("-inf")
        os.close(os.open(self.file, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its side files the same permissions
        try:
            self._inode = self.file.stat().st_ino
            self._db, self._book = self._opened("FULL"), self._opened("NORMAL")
            self._db.executescript(_TABLES)
            self._do("DELETE FROM spent WHERE day < ?", self._day(-7))
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.file}: cannot store the vehicles ({error}); name another folder") from error

    def close(self) -> None:
        self.backup.close()
        self._db.close()
        self._book.close()

    def secret(self) -> str:
        """The key that signs this service's tokens, created on first use."""
        if self._do("INSERT OR IGNORE INTO secret VALUES (0, ?) RETURNING id", secrets.token_hex(32)):
            self.backup.now()
        return self._do("SELECT value FROM secret")[0][0]

    def trouble(self) -> str:
        """What is wrong with the table or its backup, '' if nothing; checks at most every LOOK_S."""
        with self._lock:
            if time.monotonic() >= self._looked:
                self._looked = time.monotonic() + LOOK_S
                fault = fault_of(self.file, keyed(self.file))
                if not fault and self.file.stat().st_ino != self._inode:
                    fault = "was replaced"
                self._healthy = f"the table of vehicles {fault}; restart the service to restore it" if fault else ""
        return self._healthy or self.backup.trouble

    def suspect(self) -> None:
        """Make `trouble` check again, after a failed read."""
        self._looked = float("-inf")

    def invite(self, name: str, scopes: Sequence[str] = SCOPES) -> str:
        """Create a one-time enrolment code for a vehicle, which may have been revoked; earlier codes become invalid."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"vehicle '{name}': must be 1 to 64 letters, digits or . : @ _ -")
        unknown = sorted(set(scopes) - set(SCOPES))
        if unknown or not scopes:
            raise ValueError(f"scopes: {' and '.join(SCOPES)} are known, not '{' '.join(unknown)}'")
        code = secrets.token_urlsafe(24)
        while code.startswith("-"):  # a command line would take it for an option
            code = secrets.token_urlsafe(24)
        self._do(
            "INSERT INTO vehicles (name, scopes, code, code_until) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE "
            "SET scopes = excluded.scopes, code = excluded.code, code_until = excluded.code_until",
            name, " ".join(scopes), _hash(code), self._clock() + CODE_S,
        )  # fmt: skip
        self.backup.now()
        return code

    def coded(self, code: str) -> str:
        """Return the vehicle that a one-time code enrols. ValueError if the code is refused."""
        rows = self._do("SELECT name FROM vehicles WHERE code = ? AND code_until >= ?", _hash(code), self._clock())
        if not rows:
            raise ValueError(_NO_CODE)
        return rows[0][0]

    def enrol(self, code: str) -> tuple[Vehicle, str]:
        """Exchange a one-time code for its vehicle and a refresh secret; earlier secrets become invalid. ValueError if
        refused."""
        refresh = secrets.token_urlsafe(32)
        rows = self._do(
            "UPDATE vehicles SET code = NULL, refresh = ?, before = NULL, enrolled = ?, revoked = NULL "
            "WHERE code = ? AND code_until >= ? RETURNING name",
            _hash(refresh), self._clock(), _hash(code), self._clock(),
        )  # fmt: skip
        if not rows:
            raise ValueError(_NO_CODE)
        self.backup.now()
        return self._named(rows[0][0]), refresh

    def refreshed(self, refresh: str) -> str:
        """Return the vehicle that a refresh secret belongs to. ValueError if it is refused."""
        old = _hash(refresh)
        rows = self._do("SELECT name FROM vehicles WHERE refresh = ? OR before = ?", old, old)
        if not rows:
            raise ValueError(_NO_REFRESH)
        return rows[0][0]

    def rotate(self, refresh: str) -> tuple[Vehicle, str]:
        """Exchange a refresh secret for its vehicle and the next secret. ValueError if it is refused.

        The previous secret stays valid until the new one is used, because the response that carried the new one may be
        lost.
        """
        new, old = secrets.token_urlsafe(32), _hash(refresh)
        rows = self._do(
            "UPDATE vehicles SET refresh = ?, before = ? WHERE refresh = ? OR before = ? RETURNING name",
            _hash(new), old, old, old,
        )  # fmt: skip
        if not rows:
            raise ValueError(_NO_REFRESH)
        self.backup.soon()
        return self._named(rows[0][0]), new

    def revoke(self, name: str) -> None:
        """Invalidate all tokens, secrets and codes of a vehicle at once; it may be invited again."""
        if not self._do("SELECT name FROM vehicles WHERE name = ?", name):
            raise ValueError(f"vehicle '{name}': not enrolled here; `drivefoundry ingest vehicles` lists them")
        note_revoked(self.file, name, self.life(name) + 1)
        self._do(
            "UPDATE vehicles SET life = life + 1, code = NULL, refresh = NULL, before = NULL, revoked = ? "
            "WHERE name = ?",
            self._clock(), name,
        )  # fmt: skip
        self.backup.now()

    def life(self, name: str) -> int:
        """Number of times a vehicle was revoked; tokens issued before the last one are invalid."""
        rows = self._do("SELECT life FROM vehicles WHERE name = ?", name)
        return rows[0][0] if rows else 0

    def all(self) -> list[Vehicle]:
        """All vehicles, sorted by name."""
        return [self._named(name) for (name,) in self._do("SELECT name FROM vehicles ORDER BY name")]

    def spent(self, name: str, booked: bool = True) -> int:
        """Bytes received from a vehicle today (UTC); with booked, also those reserved by requests in progress."""
        rows = self._do("SELECT bytes FROM spent WHERE vehicle = ? AND day = ?", name, self._day())
        found = rows[0][0] if rows else 0
        if not booked:
            sql = "SELECT coalesce(sum(bytes), 0) FROM booked WHERE vehicle = ? AND day = ?"
            found -= self._do(sql, name, self._day())[0][0]
        return found

    def spend(self, name: str, count: int) -> None:
        """Count bytes received from a vehicle. Survives a crash; a power cut may lose the last seconds."""
        with self._lock:
            self._book.execute(_SPEND, (name, self._day(), count))

    def book(self, name: str, upload: str, began: int, requested: int, most: int) -> int:
        """Count up to `requested` bytes of a vehicle's daily quota `most` as sent before they arrive; return how many.

        began: bytes of the upload that are already here. One reservation per upload, until it is settled.
        """
        with self._lock, self._booking() as db:
            spent = db.execute("SELECT bytes FROM spent WHERE vehicle = ? AND day = ?", (name, self._day())).fetchone()
            granted = max(0, min(requested, most - (spent[0] if spent else 0)))
            if granted:
                db.execute(_SPEND, (name, self._day(), granted))
                booking = (upload, name, self._day(), began, granted)
                db.execute("INSERT OR REPLACE INTO booked VALUES (?, ?, ?, ?, ?)", booking)
            return granted

    def settle(self, upload: str, came: int) -> None:
        """Release the part of an upload's reservation that did not arrive."""
        with self._lock, self._booking() as db:
            sql = "DELETE FROM booked WHERE upload = ? RETURNING vehicle, day, bytes"
            for vehicle, day, granted in db.execute(sql, (upload,)).fetchall():
                sql = "UPDATE spent SET bytes = max(0, bytes - ?) WHERE vehicle = ? AND day = ?"
                db.execute(sql, (max(0, granted - came), vehicle, day))

    def settle_all(self, size_of: Callable[[str], int | None]) -> None:
        """Settle the reservations of a service that was killed. size_of: received bytes of an upload, or None if it no
        longer exists, in which case the whole reservation counts as sent."""
        with self._lock:
            booked = self._book.execute("SELECT upload, began, bytes FROM booked").fetchall()
        for upload, began, granted in booked:
            size = size_of(upload)
            self.settle(upload, granted if size is None else max(0, size - began))

    def tomorrow_in(self) -> int:
        """Seconds until the next day (UTC) begins."""
        return 24 * 3600 - int(self._clock()) % (24 * 3600)

    def _opened(self, synchronous: str) -> sqlite3.Connection:
        db = sqlite3.connect(self.file, timeout=30.0, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={synchronous}")
        return db

    @contextmanager
    def _booking(self) -> Iterator[sqlite3.Connection]:
        """An exclusive transaction."""
        self._book.execute("BEGIN IMMEDIATE")
        try:
            yield self._book
        except BaseException:
            self._book.execute("ROLLBACK")
            raise
        self._book.execute("COMMIT")

    def _day(self, later: int = 0) -> str:
        return f"{datetime.fromtimestamp(self._clock(), UTC) + timedelta(days=later):%Y-%m-%d}"

    def _named(self, name: str) -> Vehicle:
        columns = "scopes, life, enrolled, revoked"
        scopes, life, enrolled, revoked = self._do(f"SELECT {columns} FROM vehicles WHERE name = ?", name)[0]
        return Vehicle(name, tuple(scopes.split()), life, enrolled, revoked)

    def _do(self, sql: str, *values: object) -> list[tuple]:
        with self._lock, closing(self._db.execute(sql, values)) as cursor:
            return cursor.fetchall()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

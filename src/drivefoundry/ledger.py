"""Ledger of artefacts: what was made from what, built once, and never visible half-made.

A build is identified by its key = hash(kind, content ids of the parents, recipe, code); an artefact by its id =
hash(kind, names and bytes of its files). A child depends on the ids of its parents, so a parent rebuilt with the same
content does not affect its children (early cutoff: Mokhov et al., "Build Systems a la Carte", ICFP 2018).

Bytes are verified where they matter. Each artefact has a stamp (size, times and inode of its files): while it is
unchanged, the artefact counts as intact; once it changes, every byte is hashed again, and a damaged artefact is
rebuilt. Before a child is built, each parent is hashed once per process, whatever its stamp, unless this process made
it.

Under the root:  artefacts/<kind>-<id12>/   finished artefacts only
                 work/<kind>-<key12>/       builds in progress or killed
                 ledger.db                  one row per build (sqlite, write-ahead log)
                 lock                       held while this process builds
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from drivefoundry import disk, progress
from drivefoundry.settings import canonical

_SCHEMA = """
CREATE TABLE IF NOT EXISTS builds (
  key TEXT PRIMARY KEY, id TEXT NOT NULL, kind TEXT NOT NULL, parents TEXT NOT NULL, recipe TEXT NOT NULL,
  code TEXT NOT NULL, info TEXT NOT NULL,
  seconds REAL NOT NULL, cpu_seconds REAL NOT NULL,
  bytes INTEGER NOT NULL, files INTEGER NOT NULL,
  finished REAL NOT NULL,
  stamp TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS builds_by_id ON builds (id);
"""
_COLUMNS = "key, id, kind, parents, recipe, info, seconds, cpu_seconds, bytes, finished"


@dataclass(frozen=True)
class Artefact:
    """One finished directory of files and its origin."""

    id: str
    """Content hash of kind, file names and bytes."""
    key: str
    """Hash of kind, parents, recipe and code."""
    kind: str
    path: Path
    parents: tuple[str, ...]
    """Ids of its parents."""
    info: dict[str, Any]
    """Figures that the build reports. Children read files, never this: it is not part of the id."""
    made: bool
    """True if this call built it, False if it existed."""
    seconds: float
    cpu_seconds: float
    """CPU time of this process and its finished children, s."""
    bytes: int
    finished: float
    """Unix time."""
    recipe: Any = None
    """The recipe as plain values."""


class Ledger:
    """The record of one run directory. Reading takes no lock; the first `make` takes it, until `close`."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"{self.root}: is a file; give a run directory (--out)")
        known = {"artefacts", "work", "ledger.db", "ledger.db-wal", "ledger.db-shm", "lock", "scenes", "run.json",
                 "progress.json", "engine", "releases"}  # fmt: skip
        if self.root.is_dir() and not (self.root / "ledger.db").exists():
            strangers = sorted(p.name for p in self.root.iterdir() if disk.is_foreign(p, known))
            if strangers:
                raise ValueError(
                    f"{self.root}: holds {strangers[0]!r} but no ledger.db; give an empty or new directory (--out)"
                )
        if (self.root / "ledger.db").is_dir():
            raise self._damaged("a folder")
        (self.root / "artefacts").mkdir(parents=True, exist_ok=True)
        (self.root / "work").mkdir(exist_ok=True)
        self._lock: IO[str] | None = None
        self._verified: dict[str, str] = {}  # id -> stamp, of artefacts whose bytes this process has hashed
        self._reading = False
        self._db = sqlite3.connect(self.root / "ledger.db", timeout=30, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            if "stamp" not in {column for _, column, *_ in self._db.execute("PRAGMA table_info(builds)")}:
                self._db.execute("ALTER TABLE builds ADD COLUMN stamp TEXT NOT NULL DEFAULT ''")
        except sqlite3.DatabaseError as error:
            self._db.close()
            if disk.is_full(error):
                raise disk.full("the ledger", self.root) from error
            raise ValueError(
                f"{self.root / 'ledger.db'}: not a ledger ({error}); give another directory (--out)"
            ) from error

    @classmethod
    def reading(cls, root: Path | str, *, may_be_absent: bool = False) -> Ledger:
        """Open the record of a run for reading only: nothing is created or locked, even while another process builds.
        If there is no run, ValueError, or an empty record if it `may_be_absent`."""
        ledger = cls.__new__(cls)
        ledger.root, ledger._lock, ledger._reading = Path(root), None, True
        file = ledger.root / "ledger.db"
        if file.is_file():
            ledger._db = disk.database(file, _COLUMNS)
        elif may_be_absent:
            ledger._db = sqlite3.connect(":memory:", isolation_level=None)
            ledger._db.executescript(_SCHEMA)
        else:
            raise ValueError(f"{root}: no run is here; give the directory of one (drivefoundry run --out)")
        return ledger

    def claim(self) -> None:
        """Take the lock, until `close`. ValueError if another process is building here."""
        self._take_lock()

    def make(
        self,
        kind: str,
        recipe: Any,
        parents: Sequence[Artefact],
        code: str | Sequence[str],
        build: Callable[[Path], dict[str, Any] | None],
    ) -> Artefact:
        """The finished artefact of kind, recipe and parents; `build(dir)` runs only if there is none yet.

        recipe: a dataclass or mapping of plain values.
        code: a hash of the code that builds it, such as `sources.code_hash(build)`.
        build fills `dir` and may return a JSON-able dict as the artefact's info. A killed build gets the same `dir`
        again with everything it left, so that it can continue from its checkpoints; one that cannot calls `fresh(dir)`
        first. On success, names that begin with "." or end in ".tmp" are dropped: checkpoints and partial files belong
        there.
        Raises whatever build raises (then only the invisible `dir` is left), OSError(ENOSPC) if the disk is full, and
        ValueError if another process is building in the same root, if a parent's bytes have changed since it was made
        (the next run rebuilds it), or if ledger.db itself is damaged.
        """
        assert kind.isidentifier(), f"kind {kind!r}: a plain word"
        assert not self._reading, "a record that is opened for reading makes nothing"
        self._take_lock()
        row = _asked(kind, recipe, parents, code)
        key = row["key"]
        work = self.root / "work" / f"{kind}-{key[:12]}"
        start, cpu = time.monotonic(), progress.cpu_seconds()
        try:
            found = self._known(key, work)
            if found is not None:
                return found
            for parent in parents:
                self._verify(parent)
            work.mkdir(exist_ok=True)
            info = build(work)
            row |= {
                "info": canonical(info or {}),
                "seconds": time.monotonic() - start,
                "cpu_seconds": progress.cpu_seconds() - cpu,
            }
            self._publish(row, work)
        except (OSError, RuntimeError, sqlite3.Error) as error:
            if disk.is_full(error):
                raise disk.full(kind, self.root) from error
            raise
        made = self._by_key(key)
        assert made is not None
        return replace(made, made=True)

    def find(self, kind: str, recipe: Any, parents: Sequence[Artefact], code: str | Sequence[str]) -> Artefact | None:
        """What `make` would find for the same arguments, or None; takes no lock and builds nothing."""
        found = self._by_key(_asked(kind, recipe, parents, code)["key"])
        return found if found is not None and found.path.is_dir() else None

    def history(self) -> list[Artefact]:
        """All finished builds whose files exist, oldest first."""
        rows = self._sql(f"SELECT {_COLUMNS} FROM builds ORDER BY finished, rowid")
        return [a for a in map(self._artefact, rows) if a.path.is_dir()]

    def damaged(self) -> list[Artefact]:
        """Finished artefacts whose files no longer match their id; reads every byte."""
        return [a for a in self.history() if disk.content(a.kind, a.path) != a.id]

    def lineage(self, id: str) -> list[Artefact]:
        """An artefact, by its id or at least the first 6 digits of it, and all its ancestors, parents before children.

        ValueError if no artefact or several match.
        """
        newest = {a.id: a for a in self.history()}
        starts = [i for i in newest if i.startswith(id)]
        if len(id) < 6 or len(starts) != 1:
            raise ValueError(
                f"{id!r}: {len(starts)} artefacts match; give 12 digits of one (`drivefoundry ls` lists them)"
            )
        out: dict[str, Artefact] = {}

        def visit(i: str) -> None:
            if i in newest and i not in out:
                for parent in newest[i].parents:
                    visit(parent)
                out[i] = newest[i]

        visit(starts[0])
        return list(out.values())

    def gc(self, keep: Iterable[Artefact]) -> int:
        """Delete everything but these artefacts and their ancestors, including remains of killed builds; returns the
        freed bytes."""
        self._take_lock()
        keep = list(keep)
        kept, garbage = self._kept(keep), self.garbage(keep)
        for artefact in self.history():
            if artefact.id not in kept:
                self._sql("DELETE FROM builds WHERE id = ?", (artefact.id,))
        for folder in garbage:
            shutil.rmtree(folder)
        return sum(garbage.values())

    def garbage(self, keep: Iterable[Artefact]) -> dict[Path, int]:
        """Directory -> bytes of all that `gc` would remove for the same artefacts; removes nothing, takes no lock."""
        kept = self._kept(keep)
        needed = {_folder(a.kind, a.id) for a in self.history() if a.id in kept}
        found = [d for d in (self.root / "artefacts").iterdir() if d.name not in needed]
        return {d: sum(f.lstat().st_size for f in disk.files(d)) for d in [*found, *(self.root / "work").iterdir()]}

    def _kept(self, keep: Iterable[Artefact]) -> set[str]:
        return {a.id for one in keep for a in self.lineage(one.id)}

    def close(self) -> None:
        """Release the database and the lock."""
        self._db.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        handle = open(self.root / "lock", "a+")  # noqa: SIM115  held until close
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            owner = handle.read().strip() or "?"
            handle.close()
            raise ValueError(
                f"{self.root}: process {owner} is running here; wait for it, or give another directory (--out)"
            ) from None
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        self._lock = handle

    def _known(self, key: str, work: Path) -> Artefact | None:
        """The artefact of this key if its files are intact; completes a publication interrupted before the rename."""
        found = self._by_key(key)
        if found is None:
            return None
        if found.path.is_dir():
            count, stamp = self._sql("SELECT files, stamp FROM builds WHERE key = ?", (key,))[0]
            files = disk.files(found.path)
            if len(files) == count and sum(f.lstat().st_size for f in files) == found.bytes:
                now = disk.stamp(found.path, files)
                if now == stamp or self._is_whole(found, now):
                    return found
            progress.say(f"{found.path}: has changed since it was made; rebuilding it")
        elif work.is_dir() and disk.content(found.kind, work) == found.id:
            os.replace(work, found.path)
            return found
        self._forget(found)
        return None

    def _verify(self, parent: Artefact) -> None:
        """Hash a parent, once per process. ValueError, and the parent is forgotten, if its bytes have changed."""
        stamp = disk.stamp(parent.path, disk.files(parent.path))
        if self._verified.get(parent.id) != stamp and not self._is_whole(parent, stamp):
            self._forget(parent)
            raise ValueError(f"{parent.path}: was damaged after it was made; run again to rebuild it")

    def _is_whole(self, artefact: Artefact, stamp: str) -> bool:
        """Whether an artefact's bytes match its id. If so, stores its stamp, which was taken before reading them."""
        if disk.content(artefact.kind, artefact.path) != artefact.id:
            return False
        self._sql("UPDATE builds SET stamp = ? WHERE id = ?", (stamp, artefact.id))
        self._verified[artefact.id] = stamp
        return True

    def _forget(self, artefact: Artefact) -> None:
        """Move an artefact that somebody changed out of sight."""
        if artefact.path.exists():
            shutil.rmtree(artefact.path)
        self._sql("DELETE FROM builds WHERE id = ?", (artefact.id,))

    def _publish(self, row: dict[str, Any], work: Path) -> None:
        """Record, then rename. A crash in between leaves a row without files, which `_known` repairs."""
        for scrap in [*work.rglob(".*"), *work.rglob("*.tmp")]:
            if scrap.is_dir():
                shutil.rmtree(scrap)
            else:
                scrap.unlink(missing_ok=True)
        files = disk.files(work)
        row["stamp"] = disk.stamp(work, files)
        row["id"] = disk.content(row["kind"], work)
        row |= {"bytes": sum(f.lstat().st_size for f in files), "files": len(files), "finished": time.time()}
        target = self.root / "artefacts" / _folder(row["kind"], row["id"])
        known = target.exists() and disk.content(row["kind"], target) == row["id"]  # the same content from another key
        if known:
            row["stamp"] = disk.stamp(target, disk.files(target))
        os.sync()  # bytes before the record: a power cut must not leave a record of empty files
        names = ", ".join(row)
        self._sql(f"INSERT OR REPLACE INTO builds ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
        if known:
            shutil.rmtree(work)
        else:
            if target.exists():
                shutil.rmtree(target)
            os.replace(work, target)
        self._verified[row["id"]] = row["stamp"]

    def _by_key(self, key: str) -> Artefact | None:
        rows = self._sql(f"SELECT {_COLUMNS} FROM builds WHERE key = ?", (key,))
        return self._artefact(rows[0]) if rows else None

    def _sql(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query. ValueError if the database is damaged; a full disk stays an sqlite3.Error."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            if disk.is_full(error):
                raise
            raise self._damaged(error) from error

    def _damaged(self, why: object) -> ValueError:
        file = self.root / "ledger.db"
        return ValueError(f"{file}: damaged ({why}); restore a backup, or give another directory (--out)")

    def _artefact(self, row: tuple[Any, ...]) -> Artefact:
        """A row's artefact. ValueError if a column holds an invalid value."""
        key, id, kind, *texts, seconds, cpu, size, finished = row
        named = all(isinstance(word, str) and word.isidentifier() for word in (f"_{id}", kind))
        try:
            parents, recipe, info = map(json.loads, texts)
            plain = isinstance(parents, list) and all(isinstance(i, str) for i in parents) and isinstance(info, dict)
        except (TypeError, ValueError, RecursionError):
            plain = False
        if not (named and plain and all(isinstance(n, (int, float)) for n in (seconds, cpu, size, finished))):
            raise self._damaged(f"the row of build {str(key)[:12]!r}")
        path = self.root / "artefacts" / _folder(kind, id)
        return Artefact(id, key, kind, path, tuple(parents), info, False, seconds, cpu, size, finished, recipe)


def fresh(path: Path) -> Path:
    """Empty a directory, for builds that cannot continue from what a killed one left; returns it."""
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return path


def _asked(kind: str, recipe: Any, parents: Sequence[Artefact], code: str | Sequence[str]) -> dict[str, Any]:
    """Columns of a build's row that determine its key, which is their hash."""
    parent_ids = [p.id for p in parents]
    recipe_json = canonical(recipe)
    code = code if isinstance(code, str) else canonical(list(code))
    key = _sha(canonical({"kind": kind, "parents": parent_ids, "recipe": recipe_json, "code": code}).encode())
    return {"key": key, "kind": kind, "parents": json.dumps(parent_ids), "recipe": recipe_json, "code": code}


def _folder(kind: str, id: str) -> str:
    return f"{kind}-{id[:12]}"


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

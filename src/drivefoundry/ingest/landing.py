"""Uploaded files in, clips in the store out: checked one by one before they are acknowledged, landed in batches.

A file that is acknowledged lies in the landing folder until its row is in the table, so that a kill loses nothing: the
next start takes it up again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from drivefoundry.clips.prepared import Prepared, prepare
from drivefoundry.clips.store import ClipStore
from drivefoundry_car.durable import sync

BATCH, EVERY_S = 128, 2.0
"""Rows are appended once so many wait, or after this time: each append is a version of the table."""
QUIET_S, LONGEST_S = 1.0, 30.0
"""Rows that are yet to be made wait until no clip has come for so long, or some has waited for so long."""
MOST = 1000
"""So many clips may wait; then nothing more is taken until some have landed."""
Check = Callable[[Path, str, str], Prepared | None]
"""A file, its promised hash and its vehicle in; its row out, or None where it is to be made later."""
Prepare = Callable[[Path, str], Prepared]
"""A checked file and its hash in, its row out."""
_log = logging.getLogger(__name__)


class Landing:
    """The landing folder of one store, and the thread that empties it."""

    def __init__(self, store: ClipStore, folder: Path, check: Check | None = None, make: Prepare | None = None) -> None:
        self.store, self.folder = store, folder
        self._check: Check = check or (lambda path, sha, vehicle: prepare(path, store.objects, sha, vehicle))
        self._make: Prepare = make or (lambda path, sha: prepare(path, store.objects, sha))
        self._makes_later, self._last_came, self._first_waits = make is not None, 0.0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self._lock, self._landing = threading.Lock(), threading.Lock()
        self._waiting: dict[str, tuple[str, Prepared | None]] = {}  # by hash: vehicle and, if it is made, row
        rows = store.rows(["id", "vehicle"]).to_pydict()
        self._landed: dict[str, str] = dict(zip(rows["id"], rows["vehicle"], strict=True))
        self._acknowledged: dict[str, None] = {}
        self.trouble = ""
        """Why clips do not get into the table at present."""
        self._wake, self._stop = threading.Event(), threading.Event()
        for file in sorted(folder.glob("*.mcap")):  # acknowledged before the last stop, not yet in the table
            row = self._made(file.stem)
            if row is not None:
                self._waiting[file.stem] = row.row["vehicle"], row
        self._thread = threading.Thread(target=self._run, name="landing", daemon=True)
        self._thread.start()

    def has(self, sha: str, vehicle: str) -> bool:
        """Whether this clip of this vehicle is here for good; if so, it counts as acknowledged."""
        with self._lock:
            owner = self._waiting[sha][0] if sha in self._waiting else self._landed.get(sha)
            if owner != vehicle:
                return False
            self._acknowledged[sha] = None
            return True

    def take(self, part: Path, sha: str, vehicle: str) -> None:
        """A whole upload in; on return it is durable and may be acknowledged.

        Errors: see `prepared.prepare`; OSError as well if the file cannot be kept, or too many wait already.
        """
        if len(self._waiting) >= MOST:
            raise OSError(f"{MOST} clips wait for the store")
        self._last_came = time.monotonic()
        row = self._check(part, sha, vehicle)
        sync(part)
        with self._lock:
            self._acknowledged[sha] = None
            if sha in self._landed:  # by another upload, meanwhile
                part.unlink()
                return
            os.replace(part, self.folder / f"{sha}.mcap")
            self._first_waits = self._first_waits if self._waiting else time.monotonic()
            self._waiting[sha] = vehicle, row
            if len(self._waiting) >= BATCH:
                self._wake.set()
        sync(self.folder)

    def flush(self) -> list[str]:
        """Land all that waits; returns the ids of the clips acknowledged since the start, in that order."""
        with self._landing:
            with self._lock:
                waiting = list(self._waiting.items())
            for i in range(0, len(waiting), BATCH):
                rows = {sha: row or self._made(sha) for sha, (_, row) in waiting[i : i + BATCH]}
                self._append({sha: row for sha, row in rows.items() if row is not None})
        with self._lock:
            return list(self._acknowledged)

    def _append(self, rows: dict[str, Prepared]) -> None:
        """Rows in the table, for good; then their files are gone."""
        self.store.append(list(rows.values()))
        self.store.sync()
        with self._lock:
            for sha in rows:
                self._landed[sha] = self._waiting.pop(sha)[0]
        for sha in rows:
            (self.folder / f"{sha}.mcap").unlink(missing_ok=True)

    def counts(self) -> dict[str, int]:
        """How many clips are in the table and how many wait."""
        with self._lock:
            return {"landed": len(self._landed), "waiting": len(self._waiting)}

    def close(self) -> None:
        """Stop the thread and land what waits."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self.flush()

    def _made(self, sha: str) -> Prepared | None:
        """The row of a clip that waits. What the disk has damaged since it came is kept apart and told."""
        file = self.folder / f"{sha}.mcap"
        try:
            return self._make(file, sha)
        except ValueError as error:
            aside = self.folder / "damaged"
            aside.mkdir(exist_ok=True)
            os.replace(file, aside / file.name)
            _log.error("an acknowledged clip is damaged, its file is now in %s: %s", aside, error)
            with self._lock:
                self._waiting.pop(sha, None)
            return None

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(EVERY_S)
            self._wake.clear()
            if self._makes_later and not self._quiet():
                continue
            try:
                self.flush()
                self.trouble = ""
            except OSError as error:  # a full disk: what waits stays in the folder and is tried again
                self.trouble = f"clips wait for the store: {' '.join(str(error).split())}"
                _log.warning(self.trouble)

    def _quiet(self) -> bool:
        """Whether now is the time to make rows: while cars wait for their clips to be checked, that comes first."""
        now = time.monotonic()
        return now - self._last_came > QUIET_S or now - self._first_waits > LONGEST_S or len(self._waiting) > MOST // 2

"""Uploaded files in, clips in the store out: checked one by one before they are acknowledged, landed in batches.

A file that is acknowledged lies in the landing folder until its row is in the table, so that a kill loses nothing: the
next start takes it up again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from drivefoundry.clips.prepared import Prepared, prepare
from drivefoundry.clips.store import ClipStore

BATCH, EVERY_S = 128, 2.0
"""Rows are appended once so many wait, or after this time: each append is a version of the table."""
Check = Callable[[Path, str, str], Prepared]
"""`prepared.prepare` of a file, its promised hash and its vehicle: here, or in a process of its own (`checking`)."""
_log = logging.getLogger(__name__)


class Landing:
    """The landing folder of one store, and the thread that empties it."""

    def __init__(self, store: ClipStore, folder: Path, check: Check | None = None) -> None:
        self.store, self.folder = store, folder
        self.check: Check = check or (lambda path, sha, vehicle: prepare(path, store.objects, sha, vehicle))
        folder.mkdir(parents=True, exist_ok=True)
        self._lock, self._landing = threading.Lock(), threading.Lock()
        self._waiting: dict[str, Prepared] = {}
        rows = store.rows(["id", "vehicle"]).to_pydict()
        self._landed: dict[str, str] = dict(zip(rows["id"], rows["vehicle"], strict=True))
        self._acknowledged: dict[str, None] = {}
        self.trouble = ""
        """Why clips do not get into the table at present."""
        self._wake, self._stop = threading.Event(), threading.Event()
        for file in sorted(folder.glob("*.mcap")):  # acknowledged before the last stop, not yet in the table
            self._recover(file)
        self._thread = threading.Thread(target=self._run, name="landing", daemon=True)
        self._thread.start()

    def has(self, sha: str, vehicle: str) -> bool:
        """Whether this clip of this vehicle is here for good; if so, it counts as acknowledged."""
        with self._lock:
            waiting = self._waiting.get(sha)
            owner = self._landed.get(sha) if waiting is None else waiting.row["vehicle"]
            if owner != vehicle:
                return False
            self._acknowledged[sha] = None
            return True

    def take(self, part: Path, sha: str, vehicle: str) -> None:
        """A whole upload in; on return it is durable and may be acknowledged.

        Errors: see `prepared.prepare`; OSError as well if the file cannot be kept.
        """
        prepared = self.check(part, sha, vehicle)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, self.folder / f"{sha}.mcap")
        directory = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        with self._lock:
            self._waiting[sha] = prepared
            self._acknowledged[sha] = None
            if len(self._waiting) >= BATCH:
                self._wake.set()

    def flush(self) -> list[str]:
        """Land all that waits; returns the ids of the clips acknowledged since the start, in that order."""
        with self._landing:
            with self._lock:
                batch = dict(self._waiting)
            self.store.append(list(batch.values()))
            with self._lock:
                for sha, prepared in batch.items():
                    self._landed[sha] = prepared.row["vehicle"]
                    del self._waiting[sha]
            for sha in batch:
                (self.folder / f"{sha}.mcap").unlink(missing_ok=True)
        with self._lock:
            return list(self._acknowledged)

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

    def _recover(self, file: Path) -> None:
        """Take up a file again that was acknowledged; what the disk has damaged since is kept apart and told."""
        try:
            self._waiting[file.stem] = prepare(file, self.store.objects, file.stem)
        except ValueError as error:
            aside = self.folder / "damaged"
            aside.mkdir(exist_ok=True)
            os.replace(file, aside / file.name)
            _log.error("an acknowledged clip is damaged, its file is now in %s: %s", aside, error)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(EVERY_S)
            self._wake.clear()
            try:
                self.flush()
                self.trouble = ""
            except OSError as error:  # a full disk: what waits stays in the folder and is tried again
                self.trouble = f"clips wait for the store: {' '.join(str(error).split())}"
                _log.warning(self.trouble)

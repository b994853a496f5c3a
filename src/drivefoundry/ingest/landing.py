"""Uploaded files in, clips in the store out: checked one by one before they are acknowledged, landed in batches.

A file that is acknowledged lies in the landing folder until its row is in the table, so that a kill loses nothing: the
next start takes it up again.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from drivefoundry.clips.store import ClipStore, Prepared

BATCH, EVERY_S = 128, 2.0
"""Rows are appended once so many wait, or after this time: each append is a version of the table."""
_log = logging.getLogger(__name__)


class Landing:
    """The landing folder of one store, and the thread that empties it."""

    def __init__(self, store: ClipStore, folder: Path) -> None:
        self.store, self.folder = store, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock, self._landing = threading.Lock(), threading.Lock()
        self._waiting: dict[str, Prepared] = {}
        self._landed = set(store.ids())
        self._acknowledged: dict[str, None] = {}
        self._wake, self._stop = threading.Event(), threading.Event()
        for file in sorted(folder.glob("*.mcap")):  # acknowledged before the last stop, not yet in the table
            self._waiting[file.stem] = store.prepare(file)
        self._thread = threading.Thread(target=self._run, name="landing", daemon=True)
        self._thread.start()

    def has(self, sha: str) -> bool:
        """Whether the clip with this hash is here for good; if so, it counts as acknowledged."""
        with self._lock:
            here = sha in self._landed or sha in self._waiting
            if here:
                self._acknowledged[sha] = None
            return here

    def take(self, part: Path, sha: str, vehicle: str) -> None:
        """A whole upload with verified hash in; on return it is durable and may be acknowledged.

        ValueError if it holds no drive, PermissionError if that is another vehicle's, OSError if it cannot be kept.
        """
        prepared = self.store.prepare(part)
        owner = prepared.row["vehicle"]
        if owner != vehicle:
            raise PermissionError(f"the clip is of vehicle '{owner}', the token of '{vehicle}'")
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, self.folder / f"{sha}.mcap")
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
                self._landed |= batch.keys()
                for sha in batch:
                    del self._waiting[sha]
            for sha in batch:
                (self.folder / f"{sha}.mcap").unlink()
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

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(EVERY_S)
            self._wake.clear()
            try:
                self.flush()
            except OSError as error:  # a full disk: what waits stays in the folder and is tried again
                _log.warning("clips wait for the store: %s", error)

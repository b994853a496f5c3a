"""Landing: uploads are checked one by one before they are acknowledged, then stored in batches.

An acknowledged file stays in the landing folder until its row is in the table, so a crash loses nothing: the next start
resumes it. If it is damaged, unreadable or gone by then, it is set aside and the others land; its vehicle is informed
and may send the clip again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from drivefoundry.clips.prepared import Prepared, prepare
from drivefoundry.clips.store import ClipStore
from drivefoundry_car.durable import sync, write_json

BATCH, EVERY_S = 128, 2.0
"""Rows are appended in batches of this size, or after this time, since each append makes a table version."""
QUIET_S, LONGEST_S = 1.0, 30.0
"""Rows are made after this long without a new clip, or once one has waited this long, s."""
MOST = 1000
"""Most clips that may wait; beyond that uploads are refused until some have landed."""
Check = Callable[[Path, str, str], Prepared | None]
"""(file, promised hash, vehicle) -> its row, or None if it is made later."""
Prepare = Callable[[Path, str], Prepared]
"""(checked file, hash) -> its row."""
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
        self._waiting: dict[str, tuple[str, Prepared | None]] = {}  # by hash: vehicle and, once made, row
        rows = store.rows(["id", "vehicle"]).to_pydict()
        self._landed: dict[str, str] = dict(zip(rows["id"], rows["vehicle"], strict=True))
        self._acknowledged: dict[str, None] = {}
        self.trouble = ""
        """Why clips cannot be stored at present, without this machine's paths; '' if they can."""
        self._aside = folder / "damaged"
        self._lost: dict[str, str] = dict(self._noted())  # by hash: vehicle
        self.set_aside = len(self._lost)
        """Acknowledged clips, and other files named like clips, that could not be landed."""
        self._wake, self._stop = threading.Event(), threading.Event()
        for file in sorted(folder.glob("*.mcap")):  # acknowledged before the last stop, not yet in the table
            self._waiting[file.stem] = "", None  # its row will name the vehicle
            try:
                row = self._made(file.stem)
            except OSError as error:  # the store failed: make the row once it works again
                _log.warning("clips wait for the store: %s", error)
                continue
            if row is not None:
                self._waiting[file.stem] = row.row["vehicle"], row
        self._thread = threading.Thread(target=self._run, name="landing", daemon=True)
        self._thread.start()

    def has(self, sha: str, vehicle: str) -> bool:
        """Whether this clip of this vehicle is stored durably; if so, it counts as acknowledged."""
        with self._lock:
            owner = self._waiting[sha][0] if sha in self._waiting else self._landed.get(sha)
            if owner != vehicle:
                return False
            self._acknowledged[sha] = None
            return True

    def take(self, part: Path, sha: str, vehicle: str) -> None:
        """Take a complete upload; on return it is durable and may be acknowledged.

        Errors: see `prepared.prepare`; also OSError if the file cannot be stored or too many are waiting.
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
            place = self.folder / f"{sha}.mcap"
            if place.is_dir():
                self._keep(place)
            os.replace(part, place)
            self._first_waits = self._first_waits if self._waiting else time.monotonic()
            self._waiting[sha] = vehicle, row
            self._lost.pop(sha, None)
            if len(self._waiting) >= BATCH:
                self._wake.set()
        sync(self.folder)

    def flush(self) -> list[str]:
        """Land all waiting clips; return the ids of those acknowledged since the start, in order."""
        with self._landing:
            with self._lock:
                waiting = list(self._waiting.items())
            for i in range(0, len(waiting), BATCH):
                rows = {sha: row or self._made(sha) for sha, (_, row) in waiting[i : i + BATCH]}
                self._append({sha: row for sha, row in rows.items() if row is not None})
        with self._lock:
            return list(self._acknowledged)

    def _append(self, rows: dict[str, Prepared]) -> None:
        """Append rows durably, then delete their files."""
        self.store.append(list(rows.values()))
        self.store.sync()
        with self._lock:
            for sha, row in rows.items():
                self._landed[sha] = row.row["vehicle"]
                self._waiting.pop(sha, None)
                self._lost.pop(sha, None)
        for sha in rows:
            try:
                (self.folder / f"{sha}.mcap").unlink(missing_ok=True)
                (self._aside / f"{sha}.json").unlink(missing_ok=True)
            except OSError as error:  # its row exists: the next start will notice
                _log.warning("cannot delete the file of a landed clip: %s", error)

    def lost(self, vehicle: str) -> list[str]:
        """Hashes of clips that were acknowledged to the vehicle and could not be landed: damaged or gone since."""
        with self._lock:
            return sorted(sha for sha, owner in self._lost.items() if owner == vehicle)

    def counts(self) -> dict[str, int]:
        """Number of clips in the table, waiting, and set aside."""
        with self._lock:
            return {"landed": len(self._landed), "waiting": len(self._waiting)}

    def close(self) -> None:
        """Stop the thread and land all waiting clips."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self.flush()

    def _made(self, sha: str) -> Prepared | None:
        """The row of a waiting clip. If its file is damaged, unreadable or gone, set the clip aside and return None.
        OSError if the store fails."""
        file = self.folder / f"{sha}.mcap"
        try:
            return self._make(file, sha)
        except ValueError as error:
            self._give_up(sha, error)
        except OSError as error:
            if readable(file):
                raise
            self._give_up(sha, error)
        return None

    def _give_up(self, sha: str, error: Exception) -> None:
        """Set aside a clip that cannot be landed, and note its vehicle."""
        kept = self._keep(self.folder / f"{sha}.mcap")
        _log.error("an acknowledged clip cannot be landed; %s: %s", kept or "its file cannot be moved", error)
        with self._lock:
            owner = self._waiting.pop(sha, ("", None))[0]
            self._acknowledged.pop(sha, None)
            self._lost[sha] = owner
            self.set_aside += 1
        note = {"vehicle": owner, "why": " ".join(str(error).split()), "at": time.time()}
        try:
            self._aside.mkdir(exist_ok=True)
            write_json(self._aside / f"{sha}.json", note)
        except OSError as full:
            _log.error("clip %s: its loss cannot be recorded: %s", sha, full)

    def _keep(self, file: Path) -> str:
        """Move whatever has this name into the folder `damaged`; return a phrase that says where it is now."""
        try:
            self._aside.mkdir(exist_ok=True)
            kept = self._aside / file.name
            if kept.exists():
                kept = kept.with_name(f"{file.name}.{time.time_ns()}")
            os.replace(file, kept)
        except FileNotFoundError:
            return "its file is gone"
        except OSError:
            return ""
        return f"it is now {kept}"

    def _noted(self) -> Iterator[tuple[str, str]]:
        """(hash, vehicle) of clips lost before this start."""
        for note in sorted(self._aside.glob("*.json")):
            try:
                yield note.stem, str(json.loads(note.read_text())["vehicle"])
            except (OSError, ValueError, LookupError, TypeError) as error:
                _log.warning("%s: cannot be read (%s)", note, error)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(EVERY_S)
            self._wake.clear()
            if self._makes_later and not self._quiet():
                continue
            try:
                self.flush()
                self.trouble = ""
            except (
                OSError,
                ValueError,
            ) as error:  # e.g. a full disk: waiting clips stay in the folder and are tried again
                self.trouble = f"clips wait for the store: {public(error)}"
                _log.warning("clips wait for the store: %s", " ".join(str(error).split()))

    def _quiet(self) -> bool:
        """Whether to make rows now: checks that cars are waiting for come first."""
        now = time.monotonic()
        return now - self._last_came > QUIET_S or now - self._first_waits > LONGEST_S or len(self._waiting) > MOST // 2


def readable(file: Path) -> bool:
    """Whether a file exists and is readable to its end."""
    try:
        with file.open("rb") as opened:
            while opened.read(1 << 20):
                pass
    except OSError:
        return False
    return True


def public(error: Exception) -> str:
    """An error's reason as clients may see it, without paths or addresses."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(re.sub(r"(?:\w+://|(?<![\w.])/)[^\s'\",;)]*", "...", text).split())

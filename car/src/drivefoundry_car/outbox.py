"""Clip files in, the one most worth its bytes out: the durable queue of a car, a folder that outlives any kill.

A clip is a file named by its SHA-256, its note a JSON file beside it. What was sent today stands in `spent.json`. All
is written aside and renamed. Several processes may share the folder: each clip is locked by whoever sends it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from drivefoundry_car.durable import sync, write_json

LAST = -(1 << 31)
"""Priority of a clip of which nobody knows what it is for."""
DAYS = 8
"""So many days' spending is remembered: a clock that jumps back and forth must not open the purse anew."""


@dataclass(frozen=True)
class Note:
    """What a clip is for: its campaign, priority (the higher goes first), and bytes that campaign may send a day."""

    campaign: str = ""
    priority: int = 0
    bytes_per_day: int | None = None

    def validate(self) -> Note:
        """The note itself, or ValueError naming the field."""
        if type(self.campaign) is not str:
            raise ValueError(f"Note.campaign: text wanted, not {self.campaign!r}")
        if type(self.priority) is not int:
            raise ValueError(f"Note.priority: a whole number wanted, not {self.priority!r}; the higher goes first")
        if self.bytes_per_day is not None and (type(self.bytes_per_day) is not int or self.bytes_per_day < 0):
            raise ValueError(f"Note.bytes_per_day: bytes or nothing wanted, not {self.bytes_per_day!r}")
        return self


@dataclass(frozen=True)
class Queued:
    """One clip that waits: its file, SHA-256 (= the file's name), size in bytes, and note."""

    file: Path
    sha256: str
    size: int
    note: Note


class Outbox:
    """The queue folder. bytes_per_day: budget of all campaigns together, None for none; clock: s since 1970.

    A day is the local one. Budgets count what was sent, also over a link that broke.
    """

    def __init__(
        self, folder: Path | str, bytes_per_day: int | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.folder, self.bytes_per_day, self._clock = Path(folder), bytes_per_day, clock
        self.folder.mkdir(parents=True, exist_ok=True)

    def put(self, path: Path | str, note: Note | None = None) -> str:
        """Move a file into the queue, whole or not at all; its SHA-256 out, once it is there for good. Without a note
        the one beside it counts."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                sha = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file") from None
        beside = path.with_suffix(".json")
        note = _read_note(beside) if note is None else note.validate()
        queued = self.folder / f"{sha}.mcap"
        if note != Note():  # first, so that no clip is ever sent without its note
            write_json(queued.with_suffix(".json"), asdict(note))
        sync(path)
        try:
            os.replace(path, queued)
        except OSError:  # another file system: copy aside, then rename
            aside = queued.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
            shutil.copyfile(path, aside)
            sync(aside)
            os.replace(aside, queued)
            sync(self.folder)
            path.unlink()
        sync(self.folder)
        if beside != queued.with_suffix(".json"):
            beside.unlink(missing_ok=True)
        return sha

    def waiting(self) -> list[Queued]:
        """All that waits, the most value a byte first: by priority, then the smaller. Strays are named and queued."""
        found = []
        for file in self.folder.glob("*.mcap"):
            try:
                sha = file.stem if len(file.stem) == 64 else self.put(file)
                queued = self.folder / f"{sha}.mcap"
                note = _read_note(queued.with_suffix(".json"))
                found.append(Queued(queued, sha, queued.stat().st_size, note))
            except (FileNotFoundError, ValueError):  # another uploader has just sent it or taken it in
                if file.exists():
                    raise
        return sorted(set(found), key=lambda q: (-q.note.priority, q.size, q.sha256))

    @contextmanager
    def held(self, clip: Queued) -> Iterator[IO[bytes] | None]:
        """The clip's file, open and this caller's alone; None where another has it or has sent it."""
        try:
            file = clip.file.open("rb", buffering=0)
        except FileNotFoundError:
            yield None
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            yield file if clip.file.exists() else None

    def remove(self, clip: Queued) -> None:
        """Forget a clip that the service has acknowledged."""
        clip.file.unlink(missing_ok=True)
        clip.file.with_suffix(".json").unlink(missing_ok=True)

    def refuse(self, clip: Queued, why: str) -> None:
        """Keep a clip that the service will never take apart in the folder 'refused', the reason beside it."""
        aside = self.folder / "refused"
        aside.mkdir(exist_ok=True)
        (aside / f"{clip.sha256}.txt").write_text(why + "\n")
        os.replace(clip.file, aside / clip.file.name)
        clip.file.with_suffix(".json").unlink(missing_ok=True)

    def grant(self, note: Note, wanted: int) -> int:
        """So many of the wanted bytes may be sent now; they count as spent from here on (see `refund`)."""
        if self.bytes_per_day is None and note.bytes_per_day is None:
            return wanted
        return self._book(note, lambda left: min(wanted, left))

    def spent(self, note: Note) -> bool:
        """Whether nothing more may be sent for it today."""
        granted = self.grant(note, 1)
        self.refund(note, granted)
        return not granted

    def refund(self, note: Note, unsent: int) -> None:
        """Of what was granted, this was not sent."""
        if unsent and (self.bytes_per_day is not None or note.bytes_per_day is not None):
            self._book(note, lambda _: -unsent)

    def _book(self, note: Note, amount: Callable[[int], int]) -> int:
        """Change today's spending by an amount that may depend on what is left; the amount out."""
        book = self.folder / "spent.json"
        with (self.folder / ".spent.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            days = _read_days(book)
            today = time.strftime("%Y-%m-%d", time.localtime(self._clock()))
            spent = days.pop(today, {"all": 0, "campaigns": {}})
            ours = spent["campaigns"].get(note.campaign, 0)
            left = [1 << 62]
            left += [] if self.bytes_per_day is None else [self.bytes_per_day - spent["all"]]
            left += [] if note.bytes_per_day is None else [note.bytes_per_day - ours]
            booked = amount(max(0, min(left)))
            if booked:
                spent["all"] += booked
                spent["campaigns"][note.campaign] = ours + booked
                write_json(book, {**dict(list(days.items())[1 - DAYS :]), today: spent}, durable=False)
        return booked


def _read_note(file: Path) -> Note:
    """A clip's note. One that cannot be read does not keep the clip at home: it goes last."""
    try:
        return Note(**json.loads(file.read_text())).validate()
    except FileNotFoundError:
        return Note()
    except (ValueError, TypeError, RecursionError):
        return Note(priority=LAST)


def _read_days(book: Path) -> dict[str, Any]:
    """Day -> what was spent; nothing where the book is new or not ours."""
    try:
        days = json.loads(book.read_text())
        return {day: {"all": int(s["all"]), "campaigns": dict(s["campaigns"])} for day, s in days.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}

"""The durable queue of a car: clip files in, the one most worth its bytes out. A folder that outlives any kill.

A clip is a file named by its SHA-256, its note a JSON file beside it. What was sent today is in `spent.json`, what the
service refused in the folder `refused`. Files are written aside and renamed. Several processes may share the folder:
each clip is locked by whoever sends it.

    python -m drivefoundry_car.upload.outbox list QUEUE               what waits and what was refused, and why
    python -m drivefoundry_car.upload.outbox restore QUEUE [HASH...]  bring refused clips back; all without a hash
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from drivefoundry_car.durable import NO_ROOM, rename, replacing, sweep, sync, write_json
from drivefoundry_car.note import LAST, Note, read_note

__all__ = ["LAST", "Full", "Note", "Outbox", "Queued", "Refused"]

log = logging.getLogger(__name__)
REFUSED = "refused"
MOST_BYTES = 8 << 30
"""Bytes of a queue that is not told otherwise."""
_ANY_CLIP = "?" * 64 + ".*"
DAYS = 8
"""So many days' spending is remembered: a clock that jumps back and forth must not open the purse anew."""


@dataclass(frozen=True)
class Queued:
    """One clip that waits: its file, SHA-256 (= the file's name), size in bytes, and note."""

    file: Path
    sha256: str
    size: int
    note: Note


@dataclass(frozen=True)
class Refused:
    """A clip that the service will not take: its file in the folder 'refused', SHA-256, note, and the reason."""

    file: Path
    sha256: str
    note: Note
    why: str


class Full(OSError):
    """The queue has no room for a clip, and holds nothing that is worth less."""


class Outbox:
    """The queue folder. bytes_per_day: budget of all campaigns together, None for none; clock: s since 1970;
    most_bytes: limit on all clips in the folder, refused ones included.

    A day is the local one. Budgets count what was sent, also over a link that broke. Where a clip finds no room, within
    most_bytes or on the disk, those worth less make way: first refused ones, then those of lower priority, then the
    older ones. A clip that is being sent stays.
    """

    def __init__(
        self,
        folder: Path | str,
        bytes_per_day: int | None = None,
        clock: Callable[[], float] = time.time,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        if most_bytes < 1:
            raise ValueError(f"Outbox.most_bytes: must be > 0, got {most_bytes}")
        self.folder, self.bytes_per_day, self._clock = Path(folder), bytes_per_day, clock
        self.most_bytes = most_bytes
        self.evicted: Counter[str] = Counter()
        """Clips that made room for others since this object was made, by campaign."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for place in (self.folder, self.folder / REFUSED):
            sweep(place, _ANY_CLIP)
        sweep(self.folder, "spent.json")

    def put(self, path: Path | str, note: Note | None = None) -> str:
        """Move a file into the queue, whole or not at all; its SHA-256 out, once it is there for good. Without a note
        the one beside it counts.

        Full if the queue is full of clips worth more, OSError if the disk does not take it: the file stays where it
        was.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                sha = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file") from None
        beside = path.with_suffix(".json")
        note = read_note(beside) if note is None else note.validate()
        queued = self.folder / f"{sha}.mcap"
        with self._alone():
            self._bound(path, sha, note)
            while True:
                try:
                    self._take(path, queued, note)
                    break
                except OSError as error:
                    if error.errno not in NO_ROOM or not self._evict(self._lacking(path), (1, note.priority)):
                        if not queued.exists():
                            queued.with_suffix(".json").unlink(missing_ok=True)
                        raise
        if beside != queued.with_suffix(".json"):
            beside.unlink(missing_ok=True)
        return sha

    def _take(self, path: Path, queued: Path, note: Note) -> None:
        if note != Note():  # first, so that no clip is ever sent without its note
            write_json(queued.with_suffix(".json"), asdict(note))
        sync(path)
        try:
            os.replace(path, queued)
            sync(self.folder)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with path.open("rb") as source, replacing(queued) as out:  # another file system
                shutil.copyfileobj(source, out, 1 << 20)
            path.unlink()

    def make_room(self, count: int, priority: int) -> bool:
        """Free `count` bytes of the disk by dropping clips of a lower priority; whether that was possible. Nothing is
        dropped if it was not."""
        with self._alone():
            return self._evict(count, (1, priority - 1))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread or process adds to the queue or drops from it meanwhile."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _bound(self, path: Path, sha: str, note: Note) -> None:
        """Make room for a file within most_bytes; Full if there is nothing that is worth less."""
        size = path.stat().st_size
        here = [f.stat() for place in (self.folder, self.folder / REFUSED) for f in place.glob("*.mcap")]
        over = sum(f.st_size for f in here) + size - self.most_bytes
        if (self.folder / f"{sha}.mcap").exists() or path.parent == self.folder:
            over -= size  # it is counted already
        if over > 0 and not self._evict(over, (1, note.priority), but=path):
            raise Full(errno.ENOSPC, f"the queue's {self.most_bytes} bytes are full of clips worth more", str(path))

    def _lacking(self, path: Path) -> int:
        """Bytes that the disk lacks to take a file; moving one within the disk takes next to nothing."""
        about, disk = path.stat(), os.statvfs(self.folder)
        copied = about.st_size if about.st_dev != self.folder.stat().st_dev else 0
        return max(1, copied - disk.f_bavail * disk.f_frsize)

    def _evict(self, count: int, worth: tuple[int, int], but: Path | None = None) -> bool:
        """Drop the least valuable clips, `count` bytes of them; nothing, and False, if those that are worth no more
        than `worth` (0 if refused, else 1; priority) hold less than that."""
        found = []
        for place in (self.folder, self.folder / REFUSED):
            for file in place.glob("*.mcap"):
                value = int(place == self.folder), read_note(file.with_suffix(".json")).priority
                if file != but and value <= worth:
                    about = file.stat()
                    found.append((*value, about.st_mtime_ns, file.name, file, about.st_size))
        with ExitStack() as held:
            chosen = []
            for *_, file, size in sorted(found):
                if count <= 0:
                    break
                if held.enter_context(_held(file)) is not None:
                    chosen.append(file)
                    count -= size
            if count > 0:
                return False
            for file in chosen:
                self._drop(file)
        return True

    def _drop(self, file: Path) -> None:
        note = read_note(file.with_suffix(".json"))
        file.unlink()
        for end in (".json", ".txt"):
            file.with_suffix(end).unlink(missing_ok=True)
        self.evicted[note.campaign] += 1
        log.warning("%s: dropped to make room (campaign '%s', priority %d)", file, note.campaign, note.priority)

    def waiting(self) -> list[Queued]:
        """All that waits, the most value a byte first: by priority, then the smaller. Strays are named and queued."""
        found = []
        for file in self.folder.glob("*.mcap"):
            try:
                sha = file.stem if len(file.stem) == 64 else self.put(file)
                queued = self.folder / f"{sha}.mcap"
                note = read_note(queued.with_suffix(".json"))
                found.append(Queued(queued, sha, queued.stat().st_size, note))
            except Full:
                self._drop(file)  # of all that is here it is worth the least
            except (FileNotFoundError, ValueError):  # another uploader has just sent it or taken it in
                if file.exists():
                    raise
        return sorted(set(found), key=lambda q: (-q.note.priority, q.size, q.sha256))

    @contextmanager
    def held(self, clip: Queued) -> Iterator[IO[bytes] | None]:
        """The clip's file, open and this caller's alone; None where another has it or has sent it."""
        with _held(clip.file) as file:
            yield file

    def remove(self, clip: Queued) -> None:
        """Forget a clip that the service has acknowledged."""
        clip.file.unlink(missing_ok=True)
        clip.file.with_suffix(".json").unlink(missing_ok=True)

    def refuse(self, clip: Queued, why: str) -> None:
        """Keep a clip that the service will never take apart in the folder 'refused', its note and the reason beside
        it."""
        aside = self.folder / REFUSED
        aside.mkdir(exist_ok=True)
        try:
            with replacing(aside / f"{clip.sha256}.txt") as out:
                out.write(f"{why}\n".encode())
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            log.warning("%s: no room to write down why it was refused: %s", clip.file, why)
        note = clip.file.with_suffix(".json")
        if note.exists():
            os.replace(note, aside / note.name)
        rename(clip.file, aside / clip.file.name)

    def refused(self) -> list[Refused]:
        """What the service has refused, by hash."""
        found = []
        for file in sorted((self.folder / REFUSED).glob("*.mcap")):
            reason = file.with_suffix(".txt")
            why = reason.read_text(errors="replace").strip() if reason.exists() else "for a reason not written down"
            found.append(Refused(file, file.stem, read_note(file.with_suffix(".json")), why))
        return found

    def restore(self, clip: Refused) -> None:
        """Put a refused clip back into the queue, with its note; it is sent again with the next `send_all`."""
        note = clip.file.with_suffix(".json")
        with self._alone():
            if note.exists():  # first, so that no clip is ever sent without its note
                rename(note, self.folder / note.name)
            rename(clip.file, self.folder / clip.file.name)
        clip.file.with_suffix(".txt").unlink(missing_ok=True)

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
                days = {**dict(list(days.items())[1 - DAYS :]), today: spent}
                while not self._written(book, days, note):
                    pass
        return booked

    def _written(self, book: Path, days: dict[str, Any], note: Note) -> bool:
        """Write the book; False where that is worth another try: a full disk must not keep the queue from emptying."""
        try:
            write_json(book, days, durable=False)
        except OSError as error:
            if error.errno not in NO_ROOM or not self.make_room(1, note.priority + 1):
                raise
            return False
        return True


@contextmanager
def _held(path: Path) -> Iterator[IO[bytes] | None]:
    """A file, open and this caller's alone; None where another has it or it is gone."""
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file if path.exists() else None


def _read_days(book: Path) -> dict[str, Any]:
    """Day -> what was spent; nothing where the book is new or not ours."""
    try:
        days = json.loads(book.read_text())
        return {day: {"all": int(s["all"]), "campaigns": dict(s["campaigns"])} for day, s in days.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line above; 0 if all went well, 2 with one line on stderr if not."""
    parser = argparse.ArgumentParser(
        prog="python -m drivefoundry_car.upload.outbox",
        description="Look into a car's queue and bring refused clips back.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    told = {"list": "print what waits and what was refused, and why", "restore": "bring refused clips back"}
    for verb, about in told.items():
        verbs.add_parser(verb, help=about, description=about).add_argument(
            "queue", type=Path, help="the queue's folder"
        )
    verbs.choices["restore"].add_argument("hash", nargs="*", help="or the first digits of it; all clips without one")
    asked = parser.parse_args(arguments)
    try:
        if not asked.queue.is_dir():
            raise ValueError(f"{asked.queue}: no such folder; give the queue's")
        box = Outbox(asked.queue, most_bytes=sys.maxsize)  # looking drops nothing
        if asked.verb == "list":
            for q in box.waiting():
                print(f"waiting  {q.sha256}  {q.size} bytes  priority {q.note.priority}  {q.note.campaign}")
            for r in box.refused():
                print(f"refused  {r.sha256}  {r.file.stat().st_size} bytes  priority {r.note.priority}  {r.why}")
            return 0
        clips = box.refused()
        for start in asked.hash:
            if len([c for c in clips if c.sha256.startswith(start)]) != 1:
                raise ValueError(f"{asked.queue}: '{start}' is not the hash of one refused clip; see list")
        for clip in clips:
            if not asked.hash or clip.sha256.startswith(tuple(asked.hash)):
                box.restore(clip)
                print(f"restored {clip.sha256}")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

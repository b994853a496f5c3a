"""Durable, crash-safe queue of clip files, ordered by value per byte, in one folder.

A clip is a file named by its SHA-256, with its note in a JSON file beside it. `spent.json` records what was sent today,
the folder `refused` holds what the service refused. Files are written under a temporary name and renamed. Several
processes may share the folder: each clip is locked while it is being sent.

    python -m drivefoundry_car.upload.outbox list QUEUE               waiting and refused clips, with reasons
    python -m drivefoundry_car.upload.outbox restore QUEUE [HASH...]  re-queue refused clips; all without a hash
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
"""Default limit of a queue, bytes."""
_ANY_CLIP = "?" * 64 + ".*"
DAYS = 8
"""Days for which spending is remembered, so that a clock that jumps back and forth does not reset the budget."""


@dataclass(frozen=True)
class Queued:
    """A waiting clip: file, SHA-256 (= file name), size in bytes, and note."""

    file: Path
    sha256: str
    size: int
    note: Note


@dataclass(frozen=True)
class Refused:
    """A clip that the service refused: file in the folder 'refused', SHA-256, note, and the reason."""

    file: Path
    sha256: str
    note: Note
    why: str


class Full(OSError):
    """The queue has no room for a clip, and contains nothing less valuable."""


class Outbox:
    """The queue folder. bytes_per_day: budget of all campaigns together, None for unlimited; clock: s since 1970;
    most_bytes: limit on all clips in the folder, including refused ones.

    Days are local. Budgets count what was sent, also over a connection that broke. If there is no room for a clip,
    within most_bytes or on disk, less valuable clips are dropped: first refused ones, then lower priorities, then older
    ones. A clip that is being sent stays.
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
        """Clips dropped to make room since this object was created, by campaign."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for place in (self.folder, self.folder / REFUSED):
            sweep(place, _ANY_CLIP)
        sweep(self.folder, "spent.json")

    def put(self, path: Path | str, note: Note | None = None) -> str:
        """Move a file into the queue atomically and durably; return its SHA-256. By default the note beside it is used.

        Full if the queue is full of more valuable clips, OSError if the disk fails: the file then stays where it was.
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
        if note != Note():  # first, so that a clip is never sent without its note
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
        """Free `count` bytes of disk by dropping clips of lower priority; return whether that was possible. If not,
        nothing is dropped."""
        with self._alone():
            return self._evict(count, (1, priority - 1))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock out other threads and processes that add to the queue or drop from it."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _bound(self, path: Path, sha: str, note: Note) -> None:
        """Make room for a file within most_bytes; Full if nothing is less valuable."""
        size = path.stat().st_size
        here = [f.stat() for place in (self.folder, self.folder / REFUSED) for f in place.glob("*.mcap")]
        over = sum(f.st_size for f in here) + size - self.most_bytes
        if (self.folder / f"{sha}.mcap").exists() or path.parent == self.folder:
            over -= size  # it is already counted
        if over > 0 and not self._evict(over, (1, note.priority), but=path):
            raise Full(errno.ENOSPC, f"the queue's {self.most_bytes} bytes are full of more valuable clips", str(path))

    def _lacking(self, path: Path) -> int:
        """Bytes that the disk lacks for a file; moving one within the disk needs almost none."""
        about, disk = path.stat(), os.statvfs(self.folder)
        copied = about.st_size if about.st_dev != self.folder.stat().st_dev else 0
        return max(1, copied - disk.f_bavail * disk.f_frsize)

    def _evict(self, count: int, worth: tuple[int, int], but: Path | None = None) -> bool:
        """Drop the least valuable clips, `count` bytes of them; do nothing and return False if those worth at most
        `worth` (0 if refused, else 1; priority) are fewer bytes."""
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
        """Waiting clips, most valuable per byte first: by priority, then size. Stray files are renamed and queued."""
        found = []
        for file in self.folder.glob("*.mcap"):
            try:
                sha = file.stem if len(file.stem) == 64 else self.put(file)
                queued = self.folder / f"{sha}.mcap"
                note = read_note(queued.with_suffix(".json"))
                found.append(Queued(queued, sha, queued.stat().st_size, note))
            except Full:
                self._drop(file)  # it is the least valuable of all
            except (FileNotFoundError, ValueError):  # another uploader has just sent or queued it
                if file.exists():
                    raise
        return sorted(set(found), key=lambda q: (-q.note.priority, q.size, q.sha256))

    @contextmanager
    def held(self, clip: Queued) -> Iterator[IO[bytes] | None]:
        """Open and lock a clip's file; None if another process has locked or sent it."""
        with _held(clip.file) as file:
            yield file

    def remove(self, clip: Queued) -> None:
        """Delete a clip that the service has acknowledged."""
        clip.file.unlink(missing_ok=True)
        clip.file.with_suffix(".json").unlink(missing_ok=True)

    def refuse(self, clip: Queued, why: str) -> None:
        """Move a clip that the service will never accept to the folder 'refused', with its note and the reason."""
        aside = self.folder / REFUSED
        aside.mkdir(exist_ok=True)
        try:
            with replacing(aside / f"{clip.sha256}.txt") as out:
                out.write(f"{why}\n".encode())
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            log.warning("%s: no space to record why it was refused: %s", clip.file, why)
        note = clip.file.with_suffix(".json")
        if note.exists():
            os.replace(note, aside / note.name)
        rename(clip.file, aside / clip.file.name)

    def refused(self) -> list[Refused]:
        """Refused clips, sorted by hash."""
        found = []
        for file in sorted((self.folder / REFUSED).glob("*.mcap")):
            reason = file.with_suffix(".txt")
            why = reason.read_text(errors="replace").strip() if reason.exists() else "for an unrecorded reason"
            found.append(Refused(file, file.stem, read_note(file.with_suffix(".json")), why))
        return found

    def restore(self, clip: Refused) -> None:
        """Re-queue a refused clip with its note; the next `send_all` sends it again."""
        note = clip.file.with_suffix(".json")
        with self._alone():
            if note.exists():  # first, so that a clip is never sent without its note
                rename(note, self.folder / note.name)
            rename(clip.file, self.folder / clip.file.name)
        clip.file.with_suffix(".txt").unlink(missing_ok=True)

    def grant(self, note: Note, requested: int) -> int:
        """Return how many of the requested bytes may be sent now; they count as spent from then on (see `refund`)."""
        if self.bytes_per_day is None and note.bytes_per_day is None:
            return requested
        return self._book(note, lambda left: min(requested, left))

    def spent(self, note: Note) -> bool:
        """Whether its budget for today is used up."""
        granted = self.grant(note, 1)
        self.refund(note, granted)
        return not granted

    def refund(self, note: Note, unsent: int) -> None:
        """Return unsent bytes of a grant to the budget."""
        if unsent and (self.bytes_per_day is not None or note.bytes_per_day is not None):
            self._book(note, lambda _: -unsent)

    def _book(self, note: Note, amount: Callable[[int], int]) -> int:
        """Change today's spending by an amount that may depend on the remainder; return the amount."""
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
        """Write the accounts; return False if it should be retried: a full disk must not stop the queue from
        emptying."""
        try:
            write_json(book, days, durable=False)
        except OSError as error:
            if error.errno not in NO_ROOM or not self.make_room(1, note.priority + 1):
                raise
            return False
        return True


@contextmanager
def _held(path: Path) -> Iterator[IO[bytes] | None]:
    """Open and lock a file; None if another process has locked it or it is gone."""
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
    """Day -> spending; empty if the file is new or not ours."""
    try:
        days = json.loads(book.read_text())
        return {day: {"all": int(s["all"]), "campaigns": dict(s["campaigns"])} for day, s in days.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line above; 0 on success, 2 with one line on stderr otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m drivefoundry_car.upload.outbox",
        description="Inspect a car's queue and re-queue refused clips.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    helps = {"list": "print waiting and refused clips, with reasons", "restore": "re-queue refused clips"}
    for verb, about in helps.items():
        verbs.add_parser(verb, help=about, description=about).add_argument(
            "queue", type=Path, help="the queue's folder"
        )
    verbs.choices["restore"].add_argument("hash", nargs="*", help="hash or its first digits (default: all clips)")
    asked = parser.parse_args(arguments)
    try:
        if not asked.queue.is_dir():
            raise ValueError(f"{asked.queue}: no such folder; give the queue's folder")
        box = Outbox(asked.queue, most_bytes=sys.maxsize)  # inspection must not drop anything
        if asked.verb == "list":
            for q in box.waiting():
                print(f"waiting  {q.sha256}  {q.size} bytes  priority {q.note.priority}  {q.note.campaign}")
            for r in box.refused():
                print(f"refused  {r.sha256}  {r.file.stat().st_size} bytes  priority {r.note.priority}  {r.why}")
            return 0
        clips = box.refused()
        for start in asked.hash:
            if len([c for c in clips if c.sha256.startswith(start)]) != 1:
                raise ValueError(f"{asked.queue}: '{start}' matches no refused clip, or several; see `list`")
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

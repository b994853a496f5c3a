"""Progress for the user: bars with time left on a terminal, plain lines elsewhere; and a clock for stages."""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from drivefoundry_car.durable import sweep, write_text

SHOWN_AFTER_S = 2.0
"""Work shorter than this shows no bar, s."""
LINE_EVERY_S = 15.0
"""Interval between plain lines, if there is no terminal, s."""
PACE_OVER = 20
"""Number of reports over which pace is measured."""
WIDE = 110
"""Minimum width of a terminal for bars to show their elapsed time, columns."""

console = Console(highlight=False, soft_wrap=True)
_errors = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def silent() -> Iterator[None]:
    """Show neither bars nor lines within the block."""
    was, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = was


def say(text: str) -> None:
    """Print one line for the user, above any running bar. Rich markup is supported."""
    console.print(text)


def warn(text: str) -> None:
    """Print one line on stderr about something left out; work continues without it."""
    _errors.print(" ".join(text.split()), markup=False)


def cpu_seconds() -> float:
    """CPU seconds of this process and its finished children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@dataclass
class Clock:
    """Duration of a stage, filled in when it ends."""

    name: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0


@contextmanager
def stage(name: str) -> Iterator[Clock]:
    """Measure a stage: once the block has ended, even with an error, the Clock holds wall and CPU seconds."""
    clock = Clock(name)
    start, cpu = time.monotonic(), cpu_seconds()
    try:
        yield clock
    finally:
        clock.seconds, clock.cpu_seconds = time.monotonic() - start, cpu_seconds() - cpu


class _Bars(Progress):
    """All running bars of the process; those younger than SHOWN_AFTER_S are hidden."""

    def get_renderables(self) -> Iterable[Any]:
        yield self.make_tasks_table([t for t in self.tasks if (t.elapsed or 0.0) > SHOWN_AFTER_S])


_bars: _Bars | None = None


class Pace:
    """Pace of work: from its first report, since before that it also starts up, compiles and reads, and only over its
    last reports, since later steps may cost more or less than earlier ones."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.reports: deque[tuple[float, int]] = deque(maxlen=PACE_OVER)

    def advance(self, steps: int) -> None:
        self.done += steps
        self.reports.append((time.monotonic(), self.done))

    def left(self) -> float | None:
        """Seconds left; None while unknown."""
        if len(self.reports) < 2 or self.reports[-1][1] == self.reports[0][1]:
            return None
        (first, was), (last, now) = self.reports[0], self.reports[-1]
        return (last - first) / (now - was) * (self.total - self.done)


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """While the block runs, keep current progress in a file: {"stage", "since" (Unix time), "bars": [{"what", "done",
    "total", "left_s"}]}, outermost bar first. Written atomically, at most once a second; removed at the end."""
    global _keeper
    sweep(path.parent, path.name)
    _keeper = _Keeper(path)
    try:
        yield
    finally:
        _keeper = None
        path.unlink(missing_ok=True)


def under_way(stage: str) -> None:
    """Set the current stage in the file of `kept`."""
    if _keeper is not None:
        _keeper.stage, _keeper.since = stage, time.time()
        _keeper.write()


class _Keeper:
    def __init__(self, path: Path) -> None:
        self.path, self.stage, self.since, self.written = path, "", time.time(), -LINE_EVERY_S
        self.bars: list[tuple[str, Pace]] = []

    def write(self, *, now: bool = True) -> None:
        if now or time.monotonic() - self.written > 1.0:
            bars = [{"what": w, "done": p.done, "total": p.total, "left_s": p.left()} for w, p in [*self.bars]]
            with suppress(OSError):  # a full disk stops the work itself, not the report about it
                write_text(self.path, json.dumps({"stage": self.stage, "since": self.since, "bars": bars}))
            self.written = time.monotonic()


_keeper: _Keeper | None = None


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[..., None]]:
    """Show a bar for `total` steps; yields `advance(steps=1, note="")`. Bars nest; worker processes show none."""
    if multiprocessing.parent_process() is not None:
        yield lambda steps=1, note="": None
        return
    pace, keeper = Pace(total), _keeper
    shown = _live(what, total) if console.is_terminal and not console.quiet else _lines(what, pace)
    advance = next(shown)

    def report(steps: int = 1, note: str = "") -> None:
        pace.advance(steps)
        advance(steps, note)
        if keeper is not None:
            keeper.write(now=False)

    if keeper is not None:
        keeper.bars.append((what, pace))
    try:
        yield report
    finally:
        shown.close()
        if keeper is not None:
            keeper.bars.remove((what, pace))


def _live(what: str, total: int) -> Generator[Callable[..., None]]:
    global _bars
    outermost = _bars is None
    if _bars is None:
        _bars = _Bars(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            *([TimeElapsedColumn()] if console.width >= WIDE else []),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            transient=True,
        )
        _bars.start()
    bars = _bars
    task = bars.add_task(what, total=total, note="")
    try:
        yield lambda steps=1, note="": bars.update(task, advance=steps, note=note)
    finally:
        bars.remove_task(task)
        if outermost:
            bars.stop()
            _bars = None


def _lines(what: str, pace: Pace) -> Generator[Callable[..., None]]:
    last = time.monotonic()

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal last
        now, left = time.monotonic(), pace.left()
        if now - last >= LINE_EVERY_S and 0 < pace.done < pace.total:
            parts = [f"{pace.done}/{pace.total}", "" if left is None else f"{left:.0f} s left", note]
            console.print(f"  {what}: {', '.join(filter(None, parts))}", markup=False)
            last = now

    yield advance

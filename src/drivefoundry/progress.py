"""Work in, a line of progress out: a bar with time left on a terminal, plain lines elsewhere; a clock for stages."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SHOWN_AFTER_S = 2.0
"""Shorter work shows no bar."""
LINE_EVERY_S = 15.0
"""Between plain lines, where there is no terminal."""
WIDE = 110
"""Columns of a terminal from which bars also say how long they have been going."""

console = Console(highlight=False, soft_wrap=True)


@contextmanager
def silent() -> Iterator[None]:
    """Neither bars nor lines within the block."""
    was, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = was


def say(text: str) -> None:
    """One line for the user, above any running bar. Rich markup is understood."""
    console.print(text)


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@dataclass
class Clock:
    """What a stage took: filled when it ends."""

    name: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0


@contextmanager
def stage(name: str) -> Iterator[Clock]:
    """Stage name in, a Clock out; once the block has ended, also by an error, it holds wall and CPU seconds."""
    clock = Clock(name)
    start, cpu = time.monotonic(), cpu_seconds()
    try:
        yield clock
    finally:
        clock.seconds, clock.cpu_seconds = time.monotonic() - start, cpu_seconds() - cpu


class _Bars(Progress):
    """All running bars of the process; those younger than SHOWN_AFTER_S stay out of sight."""

    def get_renderables(self) -> Iterable[Any]:
        yield self.make_tasks_table([t for t in self.tasks if (t.elapsed or 0.0) > SHOWN_AFTER_S])


_bars: _Bars | None = None


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[..., None]]:
    """What is done in how many steps in, `advance(steps=1, note="")` out. Bars nest; worker processes show none."""
    if multiprocessing.parent_process() is not None:
        yield lambda steps=1, note="": None
    elif console.is_terminal and not console.quiet:
        yield from _live(what, total)
    else:
        yield from _lines(what, total)


def _live(what: str, total: int) -> Iterator[Callable[..., None]]:
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


def _lines(what: str, total: int) -> Iterator[Callable[..., None]]:
    start = last = time.monotonic()
    done = 0

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += steps
        now = time.monotonic()
        if now - last >= LINE_EVERY_S and 0 < done < total:
            left = (now - start) / done * (total - done)
            console.print(f"  {what}: {done}/{total}, {left:.0f} s left{', ' * bool(note)}{note}", markup=False)
            last = now

    yield advance

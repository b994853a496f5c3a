"""State of a running job, and accounting of its time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from drivefoundry.scaling.goodput.cluster import CAUSES, HOUR, Job

QUEUED, WAITING, STARTING, RUNNING, CUT = range(5)
"""States of a job: queued; lacking modules; loading; training; interrupted by a link failure."""


@dataclass(eq=False)
class Task:
    """State of a running job."""

    job: Job
    interval: float
    """Work between checkpoints, s."""
    state: int = QUEUED
    modules: list[int] = field(default_factory=list)
    since: float = 0.0
    """Time up to which it is accounted."""
    turn: int = 0
    """Number of state changes: events scheduled earlier are void."""
    speed: float = 1.0
    phase: float = 0.0
    """Seconds into the cycle of work and checkpoint."""
    cut_for_good: bool = False
    kept: float = 0.0
    """Durable work, s at full speed."""
    fresh: tuple[float, float] = (0.0, 0.0)
    """Seconds and work since the last checkpoint began."""
    pending: tuple[float, float] = (0.0, 0.0)
    """Seconds and work of the checkpoint being written."""
    safe_at: float = 0.0


class TimeAccounting:
    """Module-seconds by cause; those of jobs that had all their modules (held), of steps that were not lost, and their
    work.

    stall: s that a checkpoint stops its job; lag: s from then until it is durable.
    """

    def __init__(self, stall: float, lag: float):
        self.stall, self.lag = stall, lag
        self.time = dict.fromkeys(CAUSES, 0.0)
        self.held = self.lasting = self.work = 0.0

    def count(self, task: Task, now: float) -> None:
        """Account a task's time since the last call."""
        passed, n = now - task.since, len(task.modules)
        task.since = now
        if task.state == WAITING:
            self.time["waiting"] += passed * n
        if task.state in (QUEUED, WAITING):
            return
        self.held += passed * n
        if task.state == STARTING:
            self.time["restart"] += passed * n
        elif task.state == CUT:
            self.time["links"] += passed * n
        else:
            self._train(task, passed, now)
        if task.pending[0] and now >= task.safe_at:
            self.keep(task, *task.pending)
            task.pending = (0.0, 0.0)

    def _train(self, task: Task, passed: float, now: float) -> None:
        """Cycles of `interval` s of work and `stall` s of checkpoint, as many as fit."""
        every, cycle = task.interval, task.interval + self.stall
        end = task.phase + passed
        done = math.floor(end / cycle)
        in_cycle = end - done * cycle
        before, after = min(task.phase, every), min(in_cycle, every)
        worked = done * every + after - before
        self.time["checkpoints"] += (passed - worked) * len(task.modules)
        task.phase = in_cycle
        if not done:
            task.fresh = (task.fresh[0] + worked, task.fresh[1] + worked * task.speed)
            return
        self.keep(task, *task.pending)  # an interval is never shorter than the writing of a checkpoint
        first = every - before
        caught = (task.fresh[0] + first, task.fresh[1] + first * task.speed)
        if done > 1:
            more = (done - 2) * every
            self.keep(task, caught[0] + more, caught[1] + more * task.speed)
            caught = (every, every * task.speed)
        task.pending, task.safe_at = caught, now - in_cycle + self.lag
        task.fresh = (after, after * task.speed)

    def keep(self, task: Task, seconds: float, work: float) -> None:
        task.kept += work
        self.lasting += seconds * task.job.modules
        self.work += work * task.job.modules

    def lose(self, task: Task) -> None:
        self.time["lost work"] += (task.fresh[0] + task.pending[0]) * task.job.modules
        task.fresh = task.pending = (0.0, 0.0)

    def save(self, task: Task) -> None:
        """Keep the work of a task that is stopped deliberately."""
        self.keep(task, *task.fresh)
        self.keep(task, *task.pending)
        task.fresh = task.pending = (0.0, 0.0)

    def left(self, task: Task) -> float:
        """Seconds until a task's work is done, including checkpoints."""
        work = task.job.hours * HOUR - task.kept - task.fresh[1] - task.pending[1]
        if not math.isfinite(work):
            return math.inf
        needs, here = max(work, 0.0) / task.speed, max(0.0, task.interval - task.phase)
        if needs <= here:
            return needs
        cycle = task.interval + self.stall
        whole = math.ceil((needs - here) / task.interval) - 1
        return cycle - task.phase + whole * cycle + (needs - here) - whole * task.interval

"""Discrete-event simulation of a cluster and its jobs: the share of useful work."""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections.abc import Sequence

import numpy as np

from drivefoundry.scaling.goodput.cluster import DAY, HOUR, SAMPLES, Cluster, Job, Outcome
from drivefoundry.scaling.goodput.task import CUT, QUEUED, RUNNING, STARTING, WAITING, Task, TimeAccounting
from drivefoundry.scaling.plan import daly
from drivefoundry.types import require

LOOK_AHEAD = 64
"""Queued jobs considered at once; those that fit may overtake (backfill)."""
FREE, DOWN = -1, -2
"""Owner codes of modules without a job."""


def simulate(c: Cluster, jobs: Sequence[Job], seed: int = 0) -> Outcome:
    """Simulate jobs on a cluster, deterministically per seed. ValueError for a job larger than the cluster."""
    c.validate()
    most = max((job.modules for job in jobs), default=0)
    require(most <= c.modules, f"a job of {most} modules on a cluster of {c.modules}; give more cards")
    return _Simulation(c, jobs, np.random.default_rng(seed)).go()


def _rank(task: Task) -> tuple[float, float]:
    return -task.job.priority, task.job.submitted


class _Simulation:
    """One simulation. Events are (time, number, what, about, turn) on a heap."""

    def __init__(self, c: Cluster, jobs: Sequence[Job], rng: np.random.Generator):
        self.c, self.rng = c, rng
        self.end, self.now = c.days * DAY, 0.0
        late = c.write_seconds
        self.book = TimeAccounting(
            c.snapshot_seconds + (0.0 if c.asynchronous else late), late if c.asynchronous else 0.0
        )
        self.tasks = [Task(job, self._interval(job)) for job in jobs]
        self.lowest = min((job.priority for job in jobs), default=0)
        self.reserve = round(c.spares * c.modules)
        self.owner = [FREE] * c.modules
        self.free = list(range(c.modules - 1, -1, -1))
        self.down = 0
        self.slow: dict[int, float] = {}
        self.spell = [0] * c.modules
        self.queue: list[Task] = []
        self.waiting: list[Task] = []
        self.heap: list[tuple[float, int, str, int, int]] = []
        self.pushed = self.events = self.failures = self.finished = 0
        self.samples: list[tuple[float, float, float, float]] = [(0.0, 0.0, 0.0, 0.0)]
        self.number = {id(task): i for i, task in enumerate(self.tasks)}

    def _interval(self, job: Job) -> float:
        """Work between checkpoints, at least the time to write one."""
        c = self.c
        if c.checkpoint_minutes is not None:
            return max(60.0 * c.checkpoint_minutes, self.book.lag, 1e-3)
        mtbf = c.card_mtbf_hours * HOUR / (job.modules * c.module)
        longest = c.days * DAY
        best = daly(max(self.book.stall, 1e-3), mtbf) if math.isfinite(mtbf) else longest
        return min(max(best, self.book.lag), longest)

    def go(self) -> Outcome:
        c = self.c
        for i, task in enumerate(self.tasks):
            self._push(task.job.submitted * HOUR, "submit", i)
        for what, hours in (("fail", c.card_mtbf_hours), ("slow", c.slow_mtbf_hours), ("cut", c.link_mtbf_hours)):
            self._next(what, hours)
        for i in range(1, SAMPLES):
            self._push(self.end * i / SAMPLES, "sample")
        act = {
            "fail": self._fail, "slow": self._slowed, "cut": self._cut, "repaired": self._repaired,
            "found": self._found, "eased": self._eased, "job": self._job, "submit": self._submit,
            "sample": self._sample,
        }  # fmt: skip
        while self.heap and self.heap[0][0] < self.end:
            time, _, what, about, turn = heapq.heappop(self.heap)
            self._clock(time)
            self.events += 1
            act[what](about, turn)
        self._clock(self.end)
        for task in self.tasks:
            self.book.count(task, self.now)
            self.book.keep(task, *(a + b for a, b in zip(task.fresh, task.pending, strict=True)))
        self._sample(0, 0)
        return self._outcome()

    def _push(self, time: float, what: str, about: int = -1, turn: int = 0) -> None:
        if time < self.end:
            self.pushed += 1
            heapq.heappush(self.heap, (time, self.pushed, what, about, turn))

    def _next(self, what: str, card_hours: float) -> None:
        """Schedule the next event of all cards together, a Poisson process; it has no effect on a module under
        repair."""
        rate = self.c.modules * self.c.module / (card_hours * HOUR)
        if rate > 0:
            self._push(self.now + float(self.rng.exponential(1 / rate)), what, int(self.rng.integers(self.c.modules)))

    def _clock(self, time: float) -> None:
        passed, free = time - self.now, len(self.free)
        spare = min(free, self.reserve)
        self.book.time["spare"] += passed * spare
        self.book.time["idle"] += passed * (free - spare)
        self.book.time["repair"] += passed * self.down
        self.now = time

    def _fail(self, module: int, _: int) -> None:
        self._next("fail", self.c.card_mtbf_hours)
        if self.owner[module] != DOWN:
            self.failures += 1
            self._remove(module)

    def _remove(self, module: int) -> None:
        """Send a module to repair; its task loses the work that is not durable and needs another module."""
        held = self.owner[module]
        self.slow.pop(module, None)
        self.owner[module] = DOWN
        self.down += 1
        self._push(self.now + float(self.rng.exponential(self.c.repair_hours * HOUR)), "repaired", module)
        if held == FREE:
            self.free.remove(module)
            return
        task = self.tasks[held]
        self.book.count(task, self.now)
        self.book.lose(task)
        task.modules.remove(module)
        self._refill(task)

    def _repaired(self, module: int, _: int) -> None:
        self.owner[module] = FREE
        self.down -= 1
        self.free.append(module)
        self._dispatch()

    def _slowed(self, module: int, _: int) -> None:
        self._next("slow", self.c.slow_mtbf_hours)
        if self.owner[module] == DOWN or module in self.slow:
            return
        low = 2 * self.c.slow_speed - 1
        self.slow[module] = max(0.05, float(self.rng.uniform(low, 1.0)))
        self.spell[module] += 1
        spell, lasts = self.spell[module], float(self.rng.exponential(self.c.slow_hours * HOUR))
        self._push(self.now + lasts, "eased", module, spell)
        if self.c.detect_minutes is not None:
            self._push(self.now + 60 * self.c.detect_minutes, "found", module, spell)
        self._pace(module)

    def _eased(self, module: int, spell: int) -> None:
        if self.spell[module] == spell and module in self.slow:
            self.slow.pop(module, None)
            self._pace(module)

    def _found(self, module: int, spell: int) -> None:
        """Swap a slow module after a checkpoint, if a replacement is free."""
        held = self.owner[module]
        if self.spell[module] != spell or module not in self.slow or held == DOWN:
            return
        if held != FREE:
            if not self.free:
                self._push(self.now + 60 * (self.c.detect_minutes or 1.0), "found", module, spell)
                return
            task = self.tasks[held]
            self.book.count(task, self.now)
            self.book.save(task)
        self._remove(module)

    def _pace(self, module: int) -> None:
        """Update a task's speed after a module's has changed."""
        held = self.owner[module]
        if held >= 0 and self.tasks[held].state == RUNNING:
            self._enter(self.tasks[held], RUNNING)

    def _cut(self, module: int, _: int) -> None:
        self._next("cut", self.c.link_mtbf_hours)
        held = self.owner[module]
        if held < 0 or self.tasks[held].state != RUNNING:
            return
        lasts = float(self.rng.exponential(self.c.link_seconds))
        task = self.tasks[held]
        self._enter(task, CUT, min(lasts, self.c.timeout_seconds))
        task.cut_for_good = lasts > self.c.timeout_seconds

    def _enter(self, task: Task, state: int, lasts: float = math.inf) -> None:
        """Change a task's state; `lasts`: s until its next event."""
        self.book.count(task, self.now)
        if state == RUNNING:
            mine = self.number[id(task)]
            task.speed = min((v for m, v in self.slow.items() if self.owner[m] == mine), default=1.0)
            lasts = self.book.left(task)
        task.state = state
        task.turn += 1
        if math.isfinite(lasts):
            self._push(self.now + lasts, "job", self.number[id(task)], task.turn)

    def _job(self, number: int, turn: int) -> None:
        """End of a task's state: it has started, its link is back or given up, or its work is done."""
        task = self.tasks[number]
        if task.turn != turn:
            return
        if task.state == STARTING:
            self._enter(task, RUNNING)
        elif task.state == CUT and task.cut_for_good:
            self.book.count(task, self.now)
            self.book.lose(task)
            self._start(task)
        elif task.state == CUT:
            self._enter(task, RUNNING)
        else:
            self.book.count(task, self.now)
            self.book.save(task)
            self.finished += 1
            self._release(task)
            self._dispatch()

    def _submit(self, number: int, _: int) -> None:
        insort(self.queue, self.tasks[number], key=_rank)
        self._dispatch()

    def _start(self, task: Task) -> None:
        task.phase = 0.0
        self._enter(task, STARTING, 60 * self.c.restart_minutes)

    def _release(self, task: Task) -> None:
        self._enter(task, QUEUED)
        for module in task.modules:
            self.owner[module] = FREE
        self.free += task.modules
        task.modules = []

    def _take(self, task: Task, needed: int) -> None:
        for _ in range(needed):
            module = self.free.pop()
            self.owner[module] = self.number[id(task)]
            task.modules.append(module)

    def _refill(self, task: Task) -> None:
        """Give a task its missing modules: free ones, including spares, or those of lower priorities."""
        lacks = task.job.modules - len(task.modules)
        self._preempt(task, lacks)
        self._enter(task, WAITING)
        self._take(task, min(lacks, len(self.free)))
        if len(task.modules) == task.job.modules:
            self._start(task)
        elif task not in self.waiting:
            self.waiting.append(task)

    def _preempt(self, task: Task, needed: int) -> None:
        """Stop tasks of lower priority, smallest first, to free the needed modules; none if they are too few."""
        lower = [t for t in self.tasks if t.modules and t.job.priority < task.job.priority]
        if len(self.free) + sum(len(t.modules) for t in lower) < needed:
            return
        for victim in sorted(lower, key=lambda t: (t.job.priority, len(t.modules))):
            if len(self.free) >= needed:
                return
            self.book.count(victim, self.now)
            self.book.save(victim)
            self._release(victim)
            if victim in self.waiting:
                self.waiting.remove(victim)
            insort(self.queue, victim, key=_rank)

    def _dispatch(self) -> None:
        """Assign free modules to tasks that lack some, then to the queue; jobs that fit may overtake."""
        for task in sorted(self.waiting, key=lambda t: -t.job.priority):
            if self.free and task in self.waiting:
                self.waiting.remove(task)
                self._refill(task)
        for task in self.queue[:LOOK_AHEAD]:
            room = len(self.free) - self.reserve
            if task.job.modules > room and task.job.priority > self.lowest:
                self._preempt(task, task.job.modules + self.reserve)
                room = len(self.free) - self.reserve
            elif room <= 0:
                return
            if task.job.modules <= room:
                self.queue.remove(task)
                task.since = self.now
                self._take(task, task.job.modules)
                self._start(task)

    def _sample(self, _: int, __: int) -> None:
        for task in self.tasks:
            if task.modules:
                self.book.count(task, self.now)
        self.samples.append((self.now, self.book.held, self.book.lasting, self.book.work))

    def _outcome(self) -> Outcome:
        book, all_time = self.book, self.c.modules * self.end
        held, lasting = max(book.held, 1e-9), max(book.lasting, 1e-9)
        causes = {name: value / all_time for name, value in book.time.items()}
        causes["stragglers"] = (book.lasting - book.work) / all_time
        at = np.array(self.samples)
        step = np.diff(at, axis=0)
        share = lambda a, b: np.divide(a, b, out=np.ones_like(a), where=b > 0)  # noqa: E731
        course = [at[1:, 0] / DAY, step[:, 1] / (self.c.modules * step[:, 0])]
        course += [np.minimum(share(step[:, 2], step[:, 1]), 1.0), share(step[:, 3], step[:, 2])]
        return Outcome(
            book.held / all_time, book.lasting / held, book.work / lasting, causes, np.stack(course, 1),
            self.events, self.failures, self.finished,
        )  # fmt: skip

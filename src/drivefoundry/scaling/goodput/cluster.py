"""Types of the simulated cluster: its hardware and failures, its jobs, and the outcome.

Modules (servers) fail and are repaired, become slow until detected, and lose their links for a while. Jobs wait for all
their modules at once (gang scheduling), run as fast as their slowest module, write checkpoints, lose the work since the
last durable one, and restart. They are not elastic: none continues with fewer modules.

Goodput = scheduling x runtime x program. scheduling: share of all module-time in which a job had all its modules;
runtime: share of that spent on steps that were not lost; program: their speed relative to healthy modules (multiplied
by the MFU it is the program's share of the chips' peak). The causes of loss and the goodput add up to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from drivefoundry.types import require

HOUR, DAY = 3600.0, 86_400.0
SAMPLES = 60
"""Samples over time."""
CAUSES = ("idle", "spare", "repair", "waiting", "restart", "lost work", "checkpoints", "links", "stragglers")


@dataclass(frozen=True)
class Cluster:
    """Cards and their failures. Times are means of exponential distributions unless stated otherwise."""

    cards: int = 10_000
    module: int = 8
    """Cards that fail together."""
    days: float = 30.0
    card_mtbf_hours: float = 50_000.0
    repair_hours: float = 24.0
    spares: float = 0.015
    """Share of modules on which no job starts: they replace failed ones."""
    restart_minutes: float = 10.0
    """Fixed: from a failure, or a job's start, to the first step."""
    checkpoint_minutes: float | None = None
    """Fixed; None: each job's own optimum (Daly 2006)."""
    snapshot_seconds: float = 3.0
    """Stall of the job per checkpoint."""
    write_seconds: float = 30.0
    """Time until a checkpoint is durable."""
    asynchronous: bool = True
    """Training continues while a checkpoint is written."""
    slow_mtbf_hours: float = 200_000.0
    """Time between slowdowns of a card."""
    slow_hours: float = 24.0
    """Duration of a slowdown if undetected."""
    slow_speed: float = 0.8
    """Mean speed of slow modules; each is drawn uniformly, symmetric around it, up to 1."""
    detect_minutes: float | None = 30.0
    """Fixed: time until a slow module is swapped; None: never."""
    link_mtbf_hours: float = 20_000.0
    """Time between link failures of a card."""
    link_seconds: float = 60.0
    """Duration of a link failure."""
    timeout_seconds: float = 600.0
    """A link failure longer than this restarts the job."""

    @property
    def modules(self) -> int:
        return self.cards // self.module

    def validate(self) -> Cluster:
        require(self.module >= 1, f"module: must be at least 1 card, got {self.module}")
        require(self.modules >= 1, f"cards: must be at least one module of {self.module}, got {self.cards}")
        for name in ("days", "card_mtbf_hours", "slow_mtbf_hours", "link_mtbf_hours", "timeout_seconds"):
            require(getattr(self, name) > 0, f"{name}: must be > 0, got {getattr(self, name):g}")
        times = ("repair_hours", "restart_minutes", "snapshot_seconds", "write_seconds", "slow_hours", "link_seconds")
        for name in times:
            require(getattr(self, name) >= 0, f"{name}: must be >= 0, got {getattr(self, name):g}")
        for name in ("checkpoint_minutes", "detect_minutes"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name}: must be > 0 or none, got {value}")
        require(0 <= self.spares < 1, f"spares: must be a share < 1, got {self.spares:g}")
        require(0.5 <= self.slow_speed <= 1, f"slow_speed: must be 0.5 to 1, got {self.slow_speed:g}")
        return self


@dataclass(frozen=True)
class Job:
    """A request for modules at once, for an amount of work; higher priorities go first and preempt lower ones."""

    modules: int
    hours: float = math.inf
    """Work, as hours on healthy modules."""
    submitted: float = 0.0
    """Submission time, hours after the start."""
    priority: int = 0


@dataclass(frozen=True, eq=False)
class Outcome:
    """Shares of all module-time. course (SAMPLES, 4): end of each interval in days, and the three factors in it."""

    scheduling: float
    runtime: float
    program: float
    causes: dict[str, float]
    course: np.ndarray
    events: int
    failures: int
    finished: int

    @property
    def goodput(self) -> float:
        return self.scheduling * self.runtime * self.program


def mixed(c: Cluster, flagship: float = 0.8, seed: int = 0) -> list[Job]:
    """One job on a share of the cluster for the whole simulation, and more small ones (1 to 32 modules, 12 h on
    average) than the rest can hold."""
    big = min(round(flagship * c.modules), c.modules - round(c.spares * c.modules))
    rng = np.random.default_rng(seed)
    rest, jobs, t = c.modules - big, [Job(big, priority=1)] if big else [], 0.0
    sizes = [2**k for k in range(6) if 2**k <= rest] if rest > 0 else []
    while sizes and t < 24 * c.days:
        jobs.append(Job(int(rng.choice(sizes)), float(rng.exponential(12.0)), t))
        t += float(rng.exponential(12.0 * np.mean(sizes) / (1.3 * rest)))
    return jobs

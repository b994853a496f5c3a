"""The nouns of a simulated cluster: what it is and what befalls it, its jobs, and what came of them.

Modules (servers) fail and are repaired, become slow and are found, lose their links for a while; jobs wait for all
their modules at once (gang scheduling), run as fast as their slowest one, write checkpoints, lose what came after the
last safe one, and start again. They are not elastic: none goes on with a module less.

Goodput = scheduling x runtime x program. scheduling: share of all module-time in which a job had all its modules;
runtime: share of that in which steps were taken that lasted; program: their speed against that of healthy modules
(times the MFU it is the program's share of the chips' peak). The causes of loss and the goodput add up to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from drivefoundry.types import require

HOUR, DAY = 3600.0, 86_400.0
SAMPLES = 60
"""Of the course over time."""
CAUSES = ("idle", "spare", "repair", "waiting", "restart", "lost work", "checkpoints", "links", "stragglers")


@dataclass(frozen=True)
class Cluster:
    """Cards and what befalls them. Means of exponential times, unless said otherwise."""

    cards: int = 10_000
    module: int = 8
    """Cards that fail together."""
    days: float = 30.0
    card_mtbf_hours: float = 50_000.0
    repair_hours: float = 24.0
    spares: float = 0.015
    """Share of the modules that no job starts on: they replace what fails."""
    restart_minutes: float = 10.0
    """Fixed: from a failure, or a job's start, to its first step."""
    checkpoint_minutes: float | None = None
    """Fixed; None: each job's own optimum (Daly 2006)."""
    snapshot_seconds: float = 3.0
    """A checkpoint stops its job for so long."""
    write_seconds: float = 30.0
    """Until it is safe."""
    asynchronous: bool = True
    """Training goes on while a checkpoint is written."""
    slow_mtbf_hours: float = 200_000.0
    """Between a card's spells of slowness."""
    slow_hours: float = 24.0
    """That a spell lasts if nobody ends it."""
    slow_speed: float = 0.8
    """A slow module's mean speed; each has its own, uniform within as far above as below."""
    detect_minutes: float | None = 30.0
    """Fixed: after which a slow module is swapped; None: never."""
    link_mtbf_hours: float = 20_000.0
    """Between cuts of a card's link."""
    link_seconds: float = 60.0
    """That a cut lasts."""
    timeout_seconds: float = 600.0
    """A cut that outlasts it restarts the job."""

    @property
    def modules(self) -> int:
        return self.cards // self.module

    def validate(self) -> Cluster:
        require(self.module >= 1, f"module: at least 1 card wanted, got {self.module}")
        require(self.modules >= 1, f"cards: at least a module of {self.module} wanted, got {self.cards}")
        for name in ("days", "card_mtbf_hours", "slow_mtbf_hours", "link_mtbf_hours", "timeout_seconds"):
            require(getattr(self, name) > 0, f"{name}: must be > 0, got {getattr(self, name):g}")
        times = ("repair_hours", "restart_minutes", "snapshot_seconds", "write_seconds", "slow_hours", "link_seconds")
        for name in times:
            require(getattr(self, name) >= 0, f"{name}: 0 or more wanted, got {getattr(self, name):g}")
        for name in ("checkpoint_minutes", "detect_minutes"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name}: above 0, or none, wanted, got {value}")
        require(0 <= self.spares < 1, f"spares: must be a share < 1, got {self.spares:g}")
        require(0.5 <= self.slow_speed <= 1, f"slow_speed: within 0.5 .. 1 wanted, got {self.slow_speed:g}")
        return self


@dataclass(frozen=True)
class Job:
    """What is asked for: so many modules at once for so much work; higher priorities go first and take from lower."""

    modules: int
    hours: float = math.inf
    """Of work on healthy modules."""
    submitted: float = 0.0
    """Hours after the start."""
    priority: int = 0


@dataclass(frozen=True, eq=False)
class Outcome:
    """Shares of all module-time. course (SAMPLES, 4): end of each stretch in days, and the three factors in it."""

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
    """One job on a share of the cluster for as long as it lasts, and more small ones (1 to 32 modules, 12 h on average)
    than the rest has room for."""
    big = min(round(flagship * c.modules), c.modules - round(c.spares * c.modules))
    rng = np.random.default_rng(seed)
    rest, jobs, t = c.modules - big, [Job(big, priority=1)] if big else [], 0.0
    sizes = [2**k for k in range(6) if 2**k <= rest] if rest > 0 else []
    while sizes and t < 24 * c.days:
        jobs.append(Job(int(rng.choice(sizes)), float(rng.exponential(12.0)), t))
        t += float(rng.exponential(12.0 * np.mean(sizes) / (1.3 * rest)))
    return jobs

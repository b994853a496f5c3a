"""Observations in, guarded plans out: the loop of one car, or of S simulated ones in one batch.

Three parts with one order of rank. The planner answers at every decision (2 Hz). The reasoner, far slower, works
beside it in its own thread; what it says is a hint that expires, and the planner never waits for it. The guard has the
last word. Lateness is counted in decisions, not in seconds of this machine: 0.5 s each in a car, and the same in
simulation at any speed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from drivefoundry_car.guard import PLAN_DT, Guard

log = logging.getLogger(__name__)


class Model(Protocol):
    """What the runtime asks of an engine; `drivefoundry_car.engine.Engine` is one."""

    def plan(self, frames: np.ndarray, ego: np.ndarray, route: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """frames (S, 2, H, W, 3) uint8, ego (S, 4, 3), route (S, 12) -> points (S, 8, 3), tokens (S, 8)."""
        ...

    def reason(self, frames: np.ndarray, ego: np.ndarray, route: np.ndarray) -> list[str]:
        """The same inputs -> S texts."""
        ...


@dataclass(frozen=True)
class Planned:
    """One decision of S cars. points (S, 8, 3) ego frame, as guarded; tokens (S, 8) as the engine chose them; guarded
    (S,) bool, the guard changed the plan; text: S hints still alive at this decision, '' where there is none.
    """

    points: np.ndarray
    tokens: np.ndarray
    guarded: np.ndarray
    text: list[str]


@dataclass(frozen=True)
class Counts:
    """What happened since the runtime was made; never reset by `reset`."""

    decisions: int = 0
    dropped: int = 0
    """Decisions that should have been made (2 Hz) and were not: the observation came too late."""
    guarded: int = 0
    """Plans of single cars that the guard changed."""
    hints: int = 0
    hints_late: int = 0
    """Answers thrown away because they were older than `hint_life` decisions, or of a drive that has ended."""
    hints_skipped: int = 0
    """Requests not made because the reasoner was still busy."""
    hints_failed: int = 0


class Runtime:
    """The car's loop as a policy: `reset()`, then `plan(...)` at every decision.

    reason_every: decisions between requests to the reasoner, 0 for never; hint_life: decisions after its observation
    at which a hint expires; reason_cars: only the first so many cars of a batch are reasoned about (a fleet in
    simulation needs texts of a few); patient: the decision after a request waits for the answer, which no car does, so
    that a simulated drive is the same every time.
    """

    def __init__(
        self,
        engine: Model,
        guard: Guard | None = None,
        reasoner: Model | None = None,
        *,
        reason_every: int = 4,
        hint_life: int = 6,
        reason_cars: int = 1,
        patient: bool = False,
    ):
        self.engine = engine
        self.guard = guard or Guard()
        self.reasoner = reasoner
        self.reason_every = reason_every if reasoner is not None else 0
        self.hint_life = hint_life
        self.reason_cars = reason_cars
        self.patient = patient
        self.counts = Counts()
        self._worker = ThreadPoolExecutor(1, "reasoner") if self.reason_every else None
        self._asked: Future[list[str]] | None = None
        self._drive = 0
        self._asked_at = (0, 0)
        self.reset()

    @classmethod
    def load(
        cls, engine_dir: str | Path, guard: Guard | None = None, *, reason_every: int = 4, **options: Any
    ) -> Runtime:
        """Engine directory in, Runtime out. The reasoner gets an engine of its own, so that the two share no
        buffers.
        """
        from drivefoundry_car.engine import Engine

        reasoner = Engine(engine_dir) if reason_every else None
        return cls(Engine(engine_dir), guard, reasoner, reason_every=reason_every, **options)

    def reset(self) -> None:
        """Begin a new drive: hints and the clock of the old one are forgotten, and an answer under way will be too
        late.
        """
        self._drive += 1
        self._step = 0
        self._last_t: float | None = None
        self._hint: tuple[int, list[str]] = (-1_000_000, [])

    def plan(
        self,
        frames: np.ndarray,
        ego: np.ndarray,
        route: np.ndarray,
        objects: Sequence[np.ndarray | None] | None = None,
        t: float | None = None,
    ) -> Planned:
        """One observation of S cars in, one guarded decision out; never waits for the reasoner unless it is patient.

        frames (S, 2, H, W, 3) uint8 at t - 0.5 s and t; ego (S, 4, 3) and route (S, 12) as `inputs` makes them;
        objects as `Guard.check` takes them, from the perception channel, None without one; t: time of the newest
        frame, s, by which decisions that fell out are counted.
        """
        self._collect()
        self._count_dropped(t)
        self._ask(frames, ego, route)
        points, tokens = self.engine.plan(frames, ego, route)
        points, guarded = self.guard.check(points, ego[:, -1, 0], objects)
        self._count(decisions=1, guarded=int(guarded.sum()))
        born, texts = self._hint
        alive = texts if self._step - born <= self.hint_life else []
        self._step += 1
        return Planned(points, tokens, guarded, alive + [""] * (len(points) - len(alive)))

    def close(self) -> None:
        """Let the reasoner's thread end after what it is doing."""
        if self._worker is not None:
            self._worker.shutdown(wait=False, cancel_futures=True)

    def _count(self, **more: int) -> None:
        self.counts = replace(self.counts, **{k: getattr(self.counts, k) + n for k, n in more.items()})

    def _count_dropped(self, t: float | None) -> None:
        if t is not None and self._last_t is not None:
            missed = round((t - self._last_t) / PLAN_DT) - 1
            if missed > 0:
                self._count(dropped=missed)
                log.warning("%d decision(s) dropped before t=%.2f s", missed, t)
        self._last_t = t

    def _collect(self) -> None:
        """Take the reasoner's answer if there is one."""
        if self._asked is None or not (self.patient or self._asked.done()):
            return
        asked, self._asked = self._asked, None
        error = asked.exception()
        drive, step = self._asked_at
        if error is not None:
            self._count(hints_failed=1)
            log.warning("reasoner failed: %s: %s", type(error).__name__, error)
        elif drive != self._drive or self._step - step > self.hint_life:
            self._count(hints_late=1)
            log.warning("a hint came too late and was thrown away")
        else:
            self._count(hints=1)
            self._hint = (step, asked.result())

    def _ask(self, frames: np.ndarray, ego: np.ndarray, route: np.ndarray) -> None:
        """Hand this observation to the reasoner, if it is time and it is free."""
        if self._worker is None or self.reasoner is None or self._step % self.reason_every:
            return
        if self._asked is not None:
            self._count(hints_skipped=1)
            return
        n = self.reason_cars
        self._asked_at = (self._drive, self._step)
        # copies: the caller may reuse its buffers while the reasoner still reads
        self._asked = self._worker.submit(self.reasoner.reason, frames[:n].copy(), ego[:n].copy(), route[:n].copy())

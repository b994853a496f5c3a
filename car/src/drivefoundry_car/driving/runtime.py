"""The driving runtime: guarded plans from observations, for one car or a batch of S simulated ones.

Three parts with a fixed order of precedence. The planner answers at every decision (2 Hz). The reasoner, far slower,
works beside it in a separate thread; its output is a hint that expires, and the planner never waits for it. The guard
has the last word. The age of a hint is counted in decisions rather than seconds of this machine, so that simulation at
any speed gives the same result.

There is always a plan. If the observation, the planner or the clock cannot be trusted, it is the last good plan braked
to a stop (`stopping`), which passes the guard like any other plan, and `RuntimeCounts` records why. `watchdog`,
between this loop and the actuators, covers the case that `plan` itself does not return.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from drivefoundry_car.driving.guard import Guard
from drivefoundry_car.driving.sanity import CameraMonitor, Seen, answer_of, are_texts, copies, inspect, is_number
from drivefoundry_car.driving.stopping import Stopping
from drivefoundry_car.driving.worker import Worker, settle
from drivefoundry_car.vehicle.embodiment import CAR, Embodiment

log = logging.getLogger(__name__)
STALE_S = 0.5  # a newest frame older than this is not used for planning
JUMP_S = 60.0
"""If the clock advances by more than this between two decisions, it has been changed, s."""

Frames = Mapping[str, np.ndarray]
"""Camera -> pictures (S, F, H, W, 3) uint8, oldest first."""


class Model(Protocol):
    """The interface that the runtime needs of an engine; `drivefoundry_car.engine.Engine` implements it."""

    def plan(self, frames: Frames, ego: np.ndarray, route: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (S, 8, 3) and tokens (S, 8) for ego (S, history, state) and route (S, features)."""
        ...

    def reason(self, frames: Frames, ego: np.ndarray, route: np.ndarray) -> list[str]:
        """The same inputs -> S texts."""
        ...


@dataclass(frozen=True)
class Planned:
    """One decision of S cars. points (S, 8, 3) ego frame, after the guard; tokens (S, 8) as the engine chose them;
    guarded (S,) bool: the guard changed the plan, or it is a stop; stopped (S,) bool: it is the last good plan braked
    to a stop; text: S hints still valid at this decision, '' if there is none.
    """

    points: np.ndarray
    tokens: np.ndarray
    guarded: np.ndarray
    text: list[str]
    stopped: np.ndarray


@dataclass(frozen=True)
class RuntimeCounts:
    """Events since the runtime was created; not reset by `reset`. Plans, and reasons to stop, are counted per car."""

    decisions: int = 0
    dropped: int = 0
    """Decisions (2 Hz) that were due but not made, because the observation came too late."""
    guarded: int = 0
    """Plans that the guard changed, or that are a stop."""
    hints: int = 0
    hints_late: int = 0
    """Answers discarded because they were older than `hint_life` decisions, or from a drive that has ended."""
    hints_skipped: int = 0
    """Requests not made because the reasoner was still busy."""
    hints_failed: int = 0
    stopped: int = 0
    """Plans that are the last good one braked to a stop, for one or more of the following reasons."""
    frames_bad: int = 0
    """Pictures missing, or of wrong type or shape."""
    frames_blank: int = 0
    """Pictures of one colour; a reason to stop from the third in a row on."""
    frames_frozen: int = 0
    """Picture identical to that of the previous decision although the car moves; a reason to stop from the fourth in a
    row on."""
    frames_old: int = 0
    """Newest frame older than half a second, or in the future."""
    clock_bad: int = 0
    """Time of the newest frame NaN, before that of the last decision, or far after it."""
    ego_bad: int = 0
    """Impossible speed, or an ego state that is not finite."""
    route_bad: int = 0
    objects_bad: int = 0
    """Perception output that is not a list of objects."""
    objects_left_out: int = 0
    """Single objects with a value that is not finite or impossible; no reason to stop."""
    planner_failed: int = 0
    """The planner raised an error."""
    planner_late: int = 0
    """The planner missed the deadline; an answer that comes later is discarded."""
    plan_bad: int = 0
    """The planner's answer had a wrong shape or type, or points that are not finite."""
    guard_failed: int = 0
    """The guard raised an error: the stop of this decision is unguarded."""


class Runtime:
    """The car's loop as a policy: `reset()`, then `plan(...)` at every decision.

    reason_every: decisions between requests to the reasoner, 0 for never; hint_life: decisions after its observation
    until a hint expires; reason_cars: number of cars, the first of the batch, to reason about (a simulated fleet needs
    only a few texts); deadline_s: the planner's; patient: for simulation, where a drive must be reproducible on any
    machine. The decision after a request waits for the reasoner's answer, the planner has no deadline, its errors and
    the guard's are raised, and rendered pictures, which have no noise, may repeat.
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
        deadline_s: float | None = None,
    ):
        embodiment: Embodiment = getattr(engine, "embodiment", CAR)
        deadline_s = embodiment.decision_dt if deadline_s is None else deadline_s
        if not deadline_s > 0:
            raise ValueError(f"Runtime.deadline_s: must be > 0, got {deadline_s}")
        self.engine = engine
        self.embodiment = embodiment
        self.guard = guard or Guard.of(embodiment)
        self.reasoner = reasoner
        self.reason_every = reason_every if reasoner is not None else 0
        self.hint_life = hint_life
        self.reason_cars = reason_cars
        self.patient = patient
        self.deadline_s = deadline_s
        self.counts = RuntimeCounts()
        self._worker = Worker("reasoner") if self.reason_every else None
        self._planner = None if patient else Worker("planner")
        self._planning: Future[Any] | None = None
        self._cars = 1
        self._told: set[str] = set()
        self._asked: Future[list[str]] | None = None
        self._drive = 0
        self._asked_at = (0, 0)
        self.reset()

    @classmethod
    def load(
        cls,
        engine_dir: str | Path,
        guard: Guard | None = None,
        *,
        reason_every: int = 4,
        vehicle: Embodiment | None = None,
        **options: Any,
    ) -> Runtime:
        """The runtime of an engine directory; the reasoner gets its own engine, so that the two share no buffers.

        vehicle: the one to drive; ValueError if the engine was made for another embodiment.
        """
        from drivefoundry_car.engine import Engine

        engine = Engine(engine_dir)
        if vehicle is not None:
            engine.embodiment.require_same(vehicle, engine_dir)
        reasoner = Engine(engine_dir) if reason_every else None
        return cls(engine, guard, reasoner, reason_every=reason_every, **options)

    def reset(self) -> None:
        """Begin a new drive, without the old one's hints, clock and last plan. A pending answer is discarded: at once
        if the runtime is patient, otherwise on arrival, as too late.
        """
        if self.patient and self._asked is not None:
            if (error := self._asked.exception()) is not None:
                self._failed_hint(error)
            self._asked = None
        self._drive += 1
        self._step = 0
        self._last_t: float | None = None
        self._hint: tuple[int, list[str]] = (-1_000_000, [])
        self._watch(self._cars)

    def plan(
        self,
        frames: Frames,
        ego: np.ndarray,
        route: np.ndarray,
        objects: Sequence[np.ndarray | None] | None = None,
        t: float | None = None,
        now: float | None = None,
    ) -> Planned:
        """Make one guarded decision from one observation of S cars; never waits for the reasoner unless patient.

        frames: for each camera (S, F, H, W, 3) uint8, oldest first; ego and route as `vehicle.inputs` computes them;
        objects as `Guard.check` takes them, from perception, None without one; t: time of the newest frame, s, from
        which missed decisions are counted; now: current time on the same clock, for the frame's age. There is an answer
        within the deadline for any input; `RuntimeCounts` lists what makes it a stop.
        """
        until = None if self.patient else time.monotonic() + self.deadline_s
        self._collect()
        seen = inspect(frames, ego, route, objects, self._cars, self.embodiment.pictures)
        if seen.cars != self._cars:
            self._cars = seen.cars
            self._watch(seen.cars)
        seconds, timed = self._time(t, now)
        bad = {**seen.bad, **{name: np.full(seen.cars, yes) for name, yes in timed.items()}}
        if not self.patient and not seen.bad["frames_bad"].any():
            bad |= self._look(frames, seen, again=seconds == 0)
        points, tokens, failed = self._think(frames, ego, route, seen, until)
        bad |= failed
        stopped = np.logical_or.reduce([*bad.values()])
        points, guarded, broken = self._guarded(
            points, stopped, seen, self.embodiment.decision_dt if seconds is None else seconds
        )
        if broken:
            bad["guard_failed"], stopped = np.ones(seen.cars, bool), np.ones(seen.cars, bool)
        self._stopping.keep(points, ~stopped)
        self._stopping.given(points, guarded & stopped, stopped)
        self._say(bad, seen)
        self._count(decisions=1, guarded=int((guarded | stopped).sum()), stopped=int(stopped.sum()))
        born, texts = self._hint
        alive = texts[: seen.cars] if self._step - born <= self.hint_life else []
        self._step += 1
        return Planned(points, tokens, guarded | stopped, alive + [""] * (seen.cars - len(alive)), stopped)

    def _watch(self, cars: int) -> None:
        self._stopping = Stopping(cars)
        self._monitors = {name: CameraMonitor(cars) for name in self.embodiment.pictures}

    def close(self) -> None:
        """Let the threads end after their current jobs."""
        for worker in (self._worker, self._planner):
            if worker is not None:
                worker.close()

    def _look(self, frames: Frames, seen: Seen, again: bool) -> dict[str, np.ndarray]:
        """Check pictures across decisions; some problems are a reason to stop only after several in a row."""
        looks = [monitor.look(frames[name], seen.speed, again) for name, monitor in self._monitors.items()]
        dark = np.logical_or.reduce([blind & blank for blank, _, blind in looks])
        still = np.logical_or.reduce([blind & ~blank for blank, _, blind in looks]) & ~dark
        blank, frozen = (np.logical_or.reduce([look[k] for look in looks]) & ~dark & ~still for k in (0, 1))
        self._count(frames_blank=int(blank.sum()), frames_frozen=int(frozen.sum()))
        return {"frames_blank": dark, "frames_frozen": still}

    def _think(
        self, frames: Frames, ego: np.ndarray, route: np.ndarray, seen: Seen, until: float | None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Run the reasoner and the planner: points and tokens, zeros where there are none, and the reasons (masks by
        name)."""
        every, none = np.ones(seen.cars, bool), np.zeros((seen.cars, 8, 3))
        tokens = np.zeros((seen.cars, 8), np.int64)
        lost = seen.bad["frames_bad"] | seen.bad["ego_bad"] | seen.bad["route_bad"]
        if not self.patient and (lost.all() or seen.bad["objects_bad"].all()):
            return none, tokens, {}
        if not self.patient and lost.any():  # the other cars have their plan
            ego, route = (np.where(lost.reshape(-1, *[1] * (a.ndim - 1)), 0, a).astype(a.dtype) for a in (ego, route))
        self._ask(frames, ego, route)
        answer, error = self._planned(frames, ego, route, until)
        if error is not None:
            if self.patient:
                raise error
            late = isinstance(error, _Late)
            if not late:
                log.warning("planner failed: %s: %s", type(error).__name__, error)
            return none, tokens, {"planner_late" if late else "planner_failed": every}
        checked = answer_of(answer, seen.cars)
        if checked is None:
            if self.patient:
                raise ValueError(
                    "planner: must return points (S, 8, 3) and tokens (S, 8); the engine does not fit this car"
                )
            return none, tokens, {"plan_bad": every}
        points, tokens, lost = checked
        return points, tokens, {"plan_bad": lost}

    def _planned(
        self, frames: Frames, ego: np.ndarray, route: np.ndarray, until: float | None
    ) -> tuple[Any, BaseException | None]:
        """The planner's answer, or its error, or _Late. While it is busy with an earlier observation it gets no other,
        and its answer to the earlier one is discarded."""
        if self._planner is None or until is None:
            return self.engine.plan(frames, ego, route), None
        try:
            if self._planning is not None:
                self._planning.exception(max(0.0, until - time.monotonic()))
            # copies: the caller may reuse its buffers while a late planner still reads them
            self._planning = self._planner.submit(self.engine.plan, copies(frames), ego.copy(), route.copy())
            error = self._planning.exception(max(0.0, until - time.monotonic()))
        except TimeoutError:
            return None, _Late()
        done, self._planning = self._planning, None
        return (None, error) if error is not None else (done.result(), None)

    def _guarded(
        self, points: np.ndarray, stopped: np.ndarray, seen: Seen, seconds: float
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Guarded plans, with a stop for stopped cars; which of them the guard changed; and whether the guard failed,
        which leaves every car its bare stop. seconds: since the last decision."""
        speed = seen.speed
        if stopped.any():
            speed = self._moved_on(seen, seconds)
            points = np.where(stopped[:, None, None], self._stopping.stop(speed), points)
        outcome = settle(Future(), self.guard.check, points, speed, seen.objects)
        if (error := outcome.exception()) is None:
            return *outcome.result(), False
        if self.patient:
            raise error
        log.error("guard failed: %s: %s", type(error).__name__, error)
        if not stopped.any():
            speed = self._moved_on(seen, seconds)
        return self._stopping.stop(speed), np.zeros(seen.cars, bool), True

    def _moved_on(self, seen: Seen, seconds: float) -> np.ndarray:
        """Account for the time since the last decision. Returns speeds (S,) m/s: measured, else planned, else measured
        before, else 0."""
        planned = self._stopping.advance(seconds)
        return np.nan_to_num(
            np.where(np.isnan(seen.speed), np.where(np.isnan(planned), seen.last, planned), seen.speed)
        )

    def _say(self, bad: dict[str, np.ndarray], seen: Seen) -> None:
        """Count the reasons, and log each when it begins."""
        now = {name for name, cars in bad.items() if cars.any()}
        if now or seen.left_out:
            self._count(objects_left_out=seen.left_out, **{name: int(bad[name].sum()) for name in now})
        for name in sorted(now - self._told):
            log.error("no fresh plan (%s): braking to a stop along the last good one", name)
        if self._told and not now:
            log.warning("plans are fresh again")
        self._told = now

    def _count(self, **more: int) -> None:
        self.counts = replace(self.counts, **{k: getattr(self.counts, k) + n for k, n in more.items()})

    def _time(self, t: float | None, now: float | None) -> tuple[float | None, dict[str, bool]]:
        """Seconds since the last decision, None if unknown, and problems with the clock or the frame's age."""
        if t is None:
            self._last_t = None
            return None, {}
        if not is_number(t) or (now is not None and not is_number(now)):
            return None, {"clock_bad": True}
        last, self._last_t = self._last_t, t
        old = {} if now is None else {"frames_old": not -STALE_S <= now - t <= STALE_S}
        if last is None:
            return None, old
        if not 0 <= t - last <= JUMP_S:
            return None, {**old, "clock_bad": True}
        missed = round((t - last) / self.embodiment.decision_dt) - 1
        if missed > 0:
            self._count(dropped=missed)
            log.warning("%d decision(s) dropped before t=%.2f s", missed, t)
        return t - last, old

    def _collect(self) -> None:
        """Fetch the reasoner's answer if there is one."""
        if self._asked is None or not (self.patient or self._asked.done()):
            return
        asked, self._asked = self._asked, None
        error = asked.exception()
        if error is None and not are_texts(asked.result(), self._cars):
            error = TypeError(f"its answer is not a list of at most {self._cars} texts")
        drive, step = self._asked_at
        if error is not None:
            self._failed_hint(error)
        elif drive != self._drive or self._step - step > self.hint_life:
            self._count(hints_late=1)
            log.warning("a hint came too late and was discarded")
        else:
            self._count(hints=1)
            self._hint = (step, list(asked.result()))

    def _failed_hint(self, error: BaseException) -> None:
        self._count(hints_failed=1)
        log.warning("reasoner failed: %s: %s", type(error).__name__, error)

    def _ask(self, frames: Frames, ego: np.ndarray, route: np.ndarray) -> None:
        """Hand this observation to the reasoner, if it is due and free."""
        if self._worker is None or self.reasoner is None or self._step % self.reason_every:
            return
        if self._asked is not None:
            self._count(hints_skipped=1)
            return
        n = self.reason_cars
        self._asked_at = (self._drive, self._step)
        # copies: the caller may reuse its buffers while the reasoner still reads them
        self._asked = self._worker.submit(self.reasoner.reason, copies(frames, n), ego[:n].copy(), route[:n].copy())


class _Late(Exception):
    """The planner missed its deadline."""

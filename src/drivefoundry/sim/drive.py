"""Drive scenes with a policy: the closed loop of camera, policy, ego and traffic.

With a safety driver, the expert runs beside the policy, records its own plan at every decision, takes over before an
accident, and hands back once it is safe (HG-DAgger, Kelly 2019). Its frames are kept for the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from drivefoundry.sim.expert import DANGERS, dangers, expert_plan
from drivefoundry.sim.pack import pack
from drivefoundry.sim.policies import LogReplay, Privileged
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.sim.sensors.perception import detector
from drivefoundry.sim.sensors.suite import SensorSuite
from drivefoundry.sim.simulator import Cameras, Simulator, SimulatorOf
from drivefoundry.sim.world import Kind, World, with_traffic
from drivefoundry.types import DT, Plan, Policy, Rollout, Scene, require
from drivefoundry_car.vehicle.embodiment import CAR, Embodiment

MANUAL_S = 3.0
"""Minimum duration of a takeover, s."""
STALL_S = 2.5
"""The safety driver takes over after standing for this long although the way is free, s."""
STALLED = DANGERS.index("stalled")


@dataclass(frozen=True)
class Supervision:
    """Record of the safety driver, D decisions over T steps."""

    frames: dict[str, np.ndarray]
    """Camera -> (S, T, H, W, 3) uint8 at 10 Hz."""
    correction: np.ndarray
    """(S, D, 8, 3) the expert's plan at each decision."""
    engaged: np.ndarray
    """(S, T) bool: the policy drives."""
    danger: np.ndarray
    """(S, D) index into sim.expert.DANGERS of the policy's plan."""
    takeover: np.ndarray
    """(S, T) bool: the safety driver drives."""


def batches(scenes: list[Scene], most: int) -> list[list[int]]:
    """Group indices of scenes into batches of at most `most` whose logs have similar lengths (to about 1 s).

    A batch runs until its longest log ends, so similar lengths waste the least; results do not depend on the grouping.
    Scenes of the same length keep their order.
    """
    length = [s.valid.shape[1] - s.start for s in scenes]
    alike = not scenes or max(length) - min(length) < 10
    out: list[list[int]] = []
    for i in range(len(scenes)) if alike else np.argsort(length, kind="stable").tolist():
        if not out or len(out[-1]) == most or length[i] - length[out[-1][0]] >= 10:
            out.append([])
        out[-1].append(i)
    return out


def drive(
    policy: Policy,
    scenes: list[Scene],
    seconds: float = 18.0,
    *,
    body: Embodiment | None = None,
    perception: Perception | None = None,
    simulator: SimulatorOf | None = None,
    on_decision: Callable[[int, int], None] | None = None,
) -> Rollout:
    """Drive S scenes with the policy at 10 Hz, with the decision rate and cameras of a body, by default the policy's
    own.

    Each scene runs for `seconds` or until the last decision that its own log has time for, unless the simulator needs
    no log; it does not depend on the other scenes. perception: what the cars perceive of other road users, by default
    the realistic detector. simulator: by default a `World` with reactive traffic, or with replayed traffic if the
    policy is an exact log replay, because others would react twice to what they reacted to in the recording.
    """
    body = body or body_of(policy)
    world = (simulator or with_traffic(traffic_of(policy), body))(scenes)
    cameras = None if isinstance(policy, Privileged) else world.cameras(body)
    return _loop(policy, world, _suite(policy, world, body, cameras, perception), seconds, None, on_decision)


def drive_supervised(
    policy: Policy,
    scenes: list[Scene],
    seconds: float = 18.0,
    *,
    body: Embodiment | None = None,
    perception: Perception | None = None,
    on_decision: Callable[[int, int], None] | None = None,
) -> tuple[Rollout, Supervision]:
    """As `drive`, with a safety driver; also returns its record."""
    body = body or body_of(policy)
    world = World(pack(scenes), traffic_of(policy), body)
    cameras = world.cameras(body)
    safety = _SafetyDriver(world, cameras)
    suite = _suite(policy, world, body, None if isinstance(policy, Privileged) else cameras, perception)
    rollout = _loop(policy, world, suite, seconds, safety, on_decision)
    return rollout, safety.record()


def body_of(policy: Policy) -> Embodiment:
    """The vehicle that a policy was made for (attribute `embodiment`); the default one if it does not say."""
    return getattr(policy, "embodiment", CAR)


def _suite(
    policy: Policy, world: Simulator, body: Embodiment, cameras: Cameras | None, perception: Perception | None
) -> SensorSuite:
    """The sensors that a policy reads: only the ego's own state if it is privileged."""
    objects = None
    if not isinstance(policy, Privileged) and reads_objects(policy):
        objects = detector(world, perception or Perception(), body)
    others = {name: made(world, body) for name, made in getattr(policy, "sensors", {}).items()}
    return SensorSuite(world, body, cameras, objects, others)


def reads_objects(policy: Policy) -> bool:
    """Whether a policy reads `Observation.objects`; one that does not may say so (attribute `reads_objects`)."""
    return getattr(policy, "reads_objects", True)


def traffic_of(policy: Policy) -> Kind:
    """The default traffic around a policy."""
    return "replay" if isinstance(policy, LogReplay) and policy.exact else "reactive"


class _SafetyDriver:
    """Runs beside the policy of S cars: decides who drives, scene by scene, and records why."""

    def __init__(self, world: World, eyes: Cameras):
        n = len(world.ego)
        self.world, self.eyes, self.every = world, eyes, eyes.body.decision_steps
        self.manual = np.zeros(n, np.int64)
        self.stalled = np.zeros(n, np.int64)
        self._frames: list[dict[str, np.ndarray]] = []
        self._correction: list[np.ndarray] = []
        self._danger: list[np.ndarray] = []
        self._held: list[np.ndarray] = []

    def check(self, plan: Plan) -> np.ndarray:
        """Return the plans (S, 8, 3) to drive: the policy's or the expert's. A recorded driver is never overruled."""
        points = plan.points
        right = expert_plan(self.world)
        danger = dangers(self.world, points, right)
        self.stalled = np.where(danger == STALLED, self.stalled + 1, 0)
        grab = plan.motion is None and ((danger > 0) & (danger < STALLED)) | (
            self.stalled >= round(STALL_S / DT / self.every)
        )
        self.manual = np.where(grab, round(MANUAL_S / DT / self.every), np.maximum(self.manual - 1, 0))
        self._correction.append(right)
        self._danger.append(danger)
        self._held.append(self.manual > 0)
        return np.where(self._held[-1][:, None, None], right, points)

    def film(self) -> None:
        """Keep the camera frames of this step."""
        self._frames.append(self.eyes.look())

    def record(self) -> Supervision:
        """The complete record; a takeover covers every step of its decision, and the last one lasts to the end."""
        held = np.repeat(np.stack(self._held, 1), self.every, 1)
        held = np.concatenate([held, held[:, -1:]], 1)
        correction, danger = np.stack(self._correction, 1), np.stack(self._danger, 1)
        frames = {name: np.stack([shown[name] for shown in self._frames], 1) for name in self._frames[0]}
        return Supervision(frames, correction, ~held, danger, held)


class _Log:
    """Collects a Rollout step by step. decisions (S,): number of decisions of each scene."""

    def __init__(self, world: Simulator, decisions: np.ndarray, body: Embodiment):
        n, a = world.packed.kind.shape
        self.decisions, self.decision_dt = decisions, body.decision_dt
        self.steps = decisions * body.decision_steps + 1
        longest = int(self.steps.max())
        self.ego = np.zeros((n, longest, 6))
        self.agents = np.zeros((n, a, longest, 4), np.float32)
        self.agents_valid = np.zeros((n, a, longest), np.bool_)
        self.plans: list[Plan] = []

    def note(self, world: Simulator) -> None:
        """Record this step of the world; for scenes that have ended, their last ego state."""
        t = world.step
        on = t < self.steps
        self.ego[:, t] = world.ego if t == 0 else np.where(on[:, None], world.ego, self.ego[:, t - 1])
        self.agents[on, :, t], self.agents_valid[on, :, t] = world.agents[on], world.seen[on]

    def rollout(self, policy: str, scenes: list[Scene]) -> Rollout:
        tokens = [p.tokens for p in self.plans if p.tokens is not None]
        text = [p.text for p in self.plans if p.text is not None]
        silent = np.zeros(len(scenes), np.bool_)
        over = np.arange(len(self.plans)) >= self.decisions[:, None]
        on = ~over[..., None]
        spoken = [["" if o else t for o, t in zip(row, of_one, strict=True)]
                  for row, of_one in zip(over, zip(*text, strict=True), strict=True)] if text else None  # fmt: skip
        return Rollout(
            policy=policy,
            scenes=[s.id for s in scenes],
            ego=self.ego,
            agents=self.agents,
            agents_valid=self.agents_valid,
            plans=np.stack([p.points for p in self.plans], 1) * on[..., None],
            tokens=np.stack(tokens, 1) * on if tokens else None,
            text=spoken,
            guarded=np.stack([silent if p.guarded is None else p.guarded for p in self.plans], 1) & ~over,
            steps=self.steps,
            decision_dt=self.decision_dt,
        )


def _loop(
    policy: Policy,
    world: Simulator,
    suite: SensorSuite,
    seconds: float,
    safety: _SafetyDriver | None,
    on_decision: Callable[[int, int], None] | None,
) -> Rollout:
    body, scenes = suite.body, world.packed.scenes
    of_each = np.minimum(round(seconds / DT), world.steps_left()) // body.decision_steps
    log = _Log(world, of_each, body)
    privileged = isinstance(policy, Privileged)
    if isinstance(policy, Privileged):
        assert isinstance(world, World), "a privileged policy reads the true simulator"
        policy.bind(world)
    policy.reset(scenes)
    decisions = int(of_each.max())
    require(decisions > 0, f"seconds: no scene has {body.decision_dt} s to drive; give longer scenes, or more seconds")
    for k in range(decisions):
        suite.watch()
        plan = policy.act(suite.observe())
        assert plan.motion is None or privileged, "only a privileged baseline may set the ego"
        log.plans.append(plan)
        world.follow(safety.check(plan) if safety else plan.points, plan.motion)
        for _ in range(body.decision_steps):
            log.note(world)
            if safety:
                safety.film()
            suite.watch()
            world.advance()
        if on_decision:
            on_decision(k + 1, decisions)
    log.note(world)
    if safety:
        safety.film()
    return log.rollout(policy.name, scenes)

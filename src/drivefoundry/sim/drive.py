"""A policy and scenes in, a Rollout out: the closed loop of camera, policy, ego and traffic.

With a safety driver the expert sits beside the policy, notes at every decision what it would have done, takes over
before harm is done and hands back when all is calm (HG-DAgger, Kelly 2019). Its frames are kept, for the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from drivefoundry.render.camera import Renderer
from drivefoundry.render.rig import Rig
from drivefoundry.roadmap import arc_length
from drivefoundry.sim.expert import DANGERS, dangers, expert_plan
from drivefoundry.sim.pack import Packed, pack
from drivefoundry.sim.policies import LogReplay, Privileged
from drivefoundry.sim.world import Kind, TrafficOf, World
from drivefoundry.types import DT, Observation, Plan, Policy, Rollout, Scene, require
from drivefoundry_car.vehicle.embodiment import CAR, Embodiment
from drivefoundry_car.vehicle.inputs import ego_history, route_features, to_ego

PERCEPTION_RANGE = 60.0
"""Radius within which the car's perception tracks objects for the guard, m."""
ROUTE_BACK, ROUTE_ON = 5.0, 50.0
"""How much of its route the navigator looks at, behind a car and ahead, m: as little as its words need, as round a
roundabout a route soon comes back to where it was."""
MANUAL_S = 3.0
"""A takeover lasts at least so long, s."""
STALL_S = 2.5
"""The safety driver's patience with standing where the way is free, s."""
STALLED = DANGERS.index("stalled")


@dataclass(frozen=True)
class Supervision:
    """What the safety driver saw and did, D decisions over T steps."""

    frames: dict[str, np.ndarray]
    """Camera -> (S, T, H, W, 3) uint8 at 10 Hz."""
    correction: np.ndarray
    """(S, D, 8, 3) the expert's plan at each decision."""
    engaged: np.ndarray
    """(S, T) bool, the policy drives."""
    danger: np.ndarray
    """(S, D) index into sim.expert.DANGERS of the policy's plan."""
    takeover: np.ndarray
    """(S, T) bool, the safety driver holds the wheel."""


class CameraRig:
    """The cameras of S cars over one packed batch, and the pictures that decisions see.

    Call `watch` at every step, then `frames` at a decision.
    """

    def __init__(self, packed: Packed, body: Embodiment = CAR):
        self.packed, self.body = packed, body
        maps = list({s.map.id: s.map for s in packed.scenes}.values())
        index = {m.id: i for i, m in enumerate(maps)}
        self.map_index = np.array([index[s.map.id] for s in packed.scenes])
        sizes = {size: [c for c in body.cameras if (c.height, c.width) == size] for size in body.pictures.values()}
        self.renderers = [([c.name for c in some], Renderer(maps, Rig.of(some))) for some in sizes.values()]
        self._seen: tuple[int, dict[str, np.ndarray]] | None = None
        self._kept: dict[int, dict[str, np.ndarray]] = {}

    def look(self, world: World) -> dict[str, np.ndarray]:
        """Camera -> (S, H, W, 3) what it sees now; a step is drawn once, however often it is looked at."""
        if self._seen is None or self._seen[0] != world.step:
            p = self.packed
            seen = world.ego[:, :3], world.agents, world.seen, p.size, p.kind, world.brake, world.signals_now()
            self._seen = world.step, self._drawn(*seen)
        return self._seen[1]

    def render_history(self, world: World, steps: int) -> dict[str, np.ndarray]:
        """What the cameras saw so many steps before the start, out of the logs."""
        p = self.packed
        n = np.arange(len(p.start))
        t = p.start - steps
        brake = p.tracks[n, :, t, 3] < 0.2
        return self._drawn(
            world.past[-1 - steps][:, :3], p.tracks[n, :, t], p.valid[n, :, t], p.size, p.kind, brake,
            p.signals[n, :, t],
        )  # fmt: skip

    def _drawn(self, *seen: np.ndarray) -> dict[str, np.ndarray]:
        out = {}
        for names, renderer in self.renderers:
            pictures = renderer.render(self.map_index, *seen)
            out |= {name: pictures[:, i] for i, name in enumerate(names)}
        return {name: out[name] for name in self.body.pictures}

    def watch(self, world: World) -> None:
        """Keep this step's pictures if a decision will see them."""
        every, back = self.body.decision_steps, self.body.frame_steps
        if world.step == 0:
            self._kept = {-n: self.render_history(world, n) for n in range(1, back + 1) if (back - n) % every == 0}
        if world.step % every == 0 or (world.step + back) % every == 0:
            self._kept[world.step] = self.look(world)
        for old in [step for step in self._kept if step < world.step - back]:
            del self._kept[old]

    def frames(self, world: World) -> dict[str, np.ndarray]:
        """Camera -> (S, 2, H, W, 3), `frame_dt` ago and now."""
        before, now = self._kept[world.step - self.body.frame_steps], self._kept[world.step]
        return {name: np.stack([before[name], now[name]], 1) for name in now}


def policy_inputs(world: World, body: Embodiment = CAR) -> tuple[np.ndarray, np.ndarray]:
    """Policy inputs other than pixels: Observation.ego (S, history, state) and .route (S, features)."""
    past = np.stack(world.past, 1)
    ego = np.stack([ego_history(p[:, 3], p[:, 5], body) for p in past])
    route = np.stack([route_features(r, e) for r, e in zip(routes_near(world), world.ego[:, :3], strict=True)])
    return ego, route


def observe(world: World, frames: dict[str, np.ndarray], body: Embodiment = CAR) -> Observation:
    """Build the Observation from the world and the cameras' frames."""
    objects = []
    for i, e in enumerate(world.ego):
        near = world.seen[i] & (np.hypot(world.agents[i, :, 0] - e[0], world.agents[i, :, 1] - e[1]) < PERCEPTION_RANGE)
        a = world.agents[i, near]
        objects.append(np.column_stack([to_ego(a[:, :3], e[:3]), a[:, 3], world.size[i, near, :2]]))
    return Observation(frames, *policy_inputs(world, body), objects)


def routes_near(world: World, on: float = ROUTE_ON) -> list[np.ndarray]:
    """The part of each ego's route that it is on, `on` metres ahead: x, y, limit; the whole may pass the same place
    twice."""
    out = []
    for scene, at in zip(world.packed.scenes, world.along, strict=True):
        s = arc_length(scene.route)
        first = max(0, int(np.searchsorted(s, at - ROUTE_BACK)) - 1)
        part = slice(first, int(np.searchsorted(s, at + on, "right")) + 1)
        out.append(np.column_stack([scene.route[part, :2], scene.route_speed[part]]))
    return out


def batches(scenes: list[Scene], most: int) -> list[list[int]]:
    """Group the numbers of the scenes into batches of at most `most` whose logs are about (1 s) equally long.

    A batch steps until its longest log ends, so alike lengths waste least; no result depends on the grouping. Scenes
    that are all alike keep their order.
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
    traffic: Kind | TrafficOf | None = None,
    on_decision: Callable[[int, int], None] | None = None,
) -> Rollout:
    """Drive S scenes with the policy at 10 Hz, with the decisions and cameras of a body, the policy's own by default.

    Each scene runs for `seconds` or until the last decision that its own log has time for, unless the traffic needs no
    log; what else is in the list changes nothing. traffic: see `sim.world`; by default the others react, and where the
    policy is an exact log replay they are replayed too, as they would otherwise react to what they have reacted to.
    """
    body = body or body_of(policy)
    world = World(pack(scenes), traffic or traffic_of(policy))
    eyes = None if isinstance(policy, Privileged) else CameraRig(world.packed, body)
    return _loop(policy, world, seconds, body, eyes, None, on_decision)


def drive_supervised(
    policy: Policy,
    scenes: list[Scene],
    seconds: float = 18.0,
    *,
    body: Embodiment | None = None,
    on_decision: Callable[[int, int], None] | None = None,
) -> tuple[Rollout, Supervision]:
    """As `drive`, with the safety driver and its record."""
    body = body or body_of(policy)
    world = World(pack(scenes), traffic_of(policy))
    safety = _SafetyDriver(CameraRig(world.packed, body))
    rollout = _loop(policy, world, seconds, body, safety.eyes, safety, on_decision)
    return rollout, safety.record()


def body_of(policy: Policy) -> Embodiment:
    """The vehicle that a policy was made for; the default one where it does not say (attribute `embodiment`)."""
    return getattr(policy, "embodiment", CAR)


def traffic_of(policy: Policy) -> Kind:
    """The traffic around a policy where none is asked for."""
    return "replay" if isinstance(policy, LogReplay) and policy.exact else "reactive"


class _SafetyDriver:
    """Sits beside the policy of S cars: decides who holds the wheel, scene by scene, and writes down why."""

    def __init__(self, eyes: CameraRig):
        n = len(eyes.packed.start)
        self.eyes, self.every = eyes, eyes.body.decision_steps
        self.manual = np.zeros(n, np.int64)
        self.stalled = np.zeros(n, np.int64)
        self._frames: list[dict[str, np.ndarray]] = []
        self._correction: list[np.ndarray] = []
        self._danger: list[np.ndarray] = []
        self._held: list[np.ndarray] = []

    def check(self, world: World, plan: Plan) -> np.ndarray:
        """The policy's plan in, the plans (S, 8, 3) that are driven out. Nobody takes over from the recorded driver."""
        points = plan.points
        right = expert_plan(world)
        danger = dangers(world, points, right)
        self.stalled = np.where(danger == STALLED, self.stalled + 1, 0)
        grab = plan.motion is None and ((danger > 0) & (danger < STALLED)) | (
            self.stalled >= round(STALL_S / DT / self.every)
        )
        self.manual = np.where(grab, round(MANUAL_S / DT / self.every), np.maximum(self.manual - 1, 0))
        self._correction.append(right)
        self._danger.append(danger)
        self._held.append(self.manual > 0)
        return np.where(self._held[-1][:, None, None], right, points)

    def film(self, world: World) -> None:
        """Keep what the cameras see at this step."""
        self._frames.append(self.eyes.look(world))

    def record(self) -> Supervision:
        """All that was written down; a takeover holds for every step of its decision, and the last one to the end."""
        held = np.repeat(np.stack(self._held, 1), self.every, 1)
        held = np.concatenate([held, held[:, -1:]], 1)
        correction, danger = np.stack(self._correction, 1), np.stack(self._danger, 1)
        frames = {name: np.stack([shown[name] for shown in self._frames], 1) for name in self._frames[0]}
        return Supervision(frames, correction, ~held, danger, held)


class _Log:
    """What a Rollout holds, written down step by step. decisions (S,): how many each scene makes."""

    def __init__(self, world: World, decisions: np.ndarray, body: Embodiment):
        n, a = world.packed.kind.shape
        self.decisions, self.decision_dt = decisions, body.decision_dt
        self.steps = decisions * body.decision_steps + 1
        longest = int(self.steps.max())
        self.ego = np.zeros((n, longest, 6))
        self.agents = np.zeros((n, a, longest, 4), np.float32)
        self.agents_valid = np.zeros((n, a, longest), np.bool_)
        self.plans: list[Plan] = []

    def note(self, world: World) -> None:
        """This step of the world; of scenes that have ended their last ego state."""
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
        said = [["" if o else t for o, t in zip(row, of_one, strict=True)]
                for row, of_one in zip(over, zip(*text, strict=True), strict=True)] if text else None  # fmt: skip
        return Rollout(
            policy=policy,
            scenes=[s.id for s in scenes],
            ego=self.ego,
            agents=self.agents,
            agents_valid=self.agents_valid,
            plans=np.stack([p.points for p in self.plans], 1) * on[..., None],
            tokens=np.stack(tokens, 1) * on if tokens else None,
            text=said,
            guarded=np.stack([silent if p.guarded is None else p.guarded for p in self.plans], 1) & ~over,
            steps=self.steps,
            decision_dt=self.decision_dt,
        )


def _bind_policy(policy: Policy, world: World, body: Embodiment, eyes: CameraRig | None) -> Callable[[], Plan]:
    """The policy as a function that plans for this moment of the world; reset."""
    if isinstance(policy, Privileged):
        policy.bind(world)
        policy.reset(world.packed.scenes)
        return lambda: policy.act(observe(world, {}, body))
    assert eyes is not None, "a policy that is not privileged needs eyes"
    policy.reset(world.packed.scenes)
    return lambda: policy.act(observe(world, eyes.frames(world), body))


def _loop(
    policy: Policy,
    world: World,
    seconds: float,
    body: Embodiment,
    eyes: CameraRig | None,
    safety: _SafetyDriver | None,
    on_decision: Callable[[int, int], None] | None,
) -> Rollout:
    scenes = world.packed.scenes
    of_each = np.minimum(round(seconds / DT), world.steps_left()) // body.decision_steps
    log = _Log(world, of_each, body)
    decide = _bind_policy(policy, world, body, eyes)
    decisions = int(of_each.max())
    require(decisions > 0, f"seconds: no scene has {body.decision_dt} s to drive; give longer scenes, or more seconds")
    sees = None if isinstance(policy, Privileged) else eyes
    for k in range(decisions):
        if sees:
            sees.watch(world)
        plan = decide()
        assert plan.motion is None or isinstance(policy, Privileged), "only a privileged baseline may set the ego"
        log.plans.append(plan)
        world.follow(safety.check(world, plan) if safety else plan.points, plan.motion)
        for _ in range(body.decision_steps):
            log.note(world)
            if safety:
                safety.film(world)
            if sees:
                sees.watch(world)
            world.advance()
        if on_decision:
            on_decision(k + 1, decisions)
    log.note(world)
    if safety:
        safety.film(world)
    return log.rollout(policy.name, scenes)

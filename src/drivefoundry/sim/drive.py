"""A policy and scenes in, a Rollout out: the closed loop of camera, policy, ego and traffic.

With a safety driver the expert sits beside the policy, notes at every decision what it would have done, takes over before
harm is done and hands back when all is calm (HG-DAgger, Kelly 2019). The frames are kept then, for the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from drivefoundry.sim.camera import Camera, Rig
from drivefoundry.sim.expert import dangers, expert_plan
from drivefoundry.sim.pack import Packed, pack
from drivefoundry.sim.world import World
from drivefoundry.types import DT, PLAN_DT, Observation, Plan, Policy, Rollout, Scene
from drivefoundry_car.inputs import ego_history, route_features

DECISION_STEPS = round(PLAN_DT / DT)
PERCEPTION_RANGE = 60.0
"""Radius within which the car's perception tracks objects for the guard, m."""
MANUAL_DECISIONS = 6
"""A takeover lasts at least this many decisions (3 s)."""
STALL_DECISIONS = 5
"""The safety driver's patience with standing where the way is free."""


@dataclass(frozen=True)
class Supervision:
    """What the safety driver saw: frames (S, T, H, W, 3) uint8 at 10 Hz; correction (S, D, 8, 3) the expert's plan at each decision;
    engaged (S, T) bool; danger (S, D) index into sim.expert.DANGERS of the policy's plan; takeover (S, T) bool, True while
    the safety driver holds the wheel."""

    frames: np.ndarray
    correction: np.ndarray
    engaged: np.ndarray
    danger: np.ndarray
    takeover: np.ndarray


class Eyes:
    """Cameras of S cars over one packed batch: world in, frames (S, H, W, 3) out."""

    def __init__(self, packed: Packed, rig: Rig):
        self.packed = packed
        maps = list({s.map.id: s.map for s in packed.scenes}.values())
        index = {m.id: i for i, m in enumerate(maps)}
        self.map_index = np.array([index[s.map.id] for s in packed.scenes])
        self.camera = Camera(maps, rig)

    def look(self, world: World) -> np.ndarray:
        p = self.packed
        return self.camera.render(
            self.map_index, world.ego[:, :3], world.agents, world.seen, p.size, p.kind, world.brake, world.signals_now()
        )

    def look_back(self, world: World) -> np.ndarray:
        """What the cameras saw 0.5 s before the start, out of the logs."""
        p = self.packed
        n = np.arange(len(p.start))
        t = p.start - DECISION_STEPS
        brake = p.tracks[n, :, t, 3] < 0.2
        return self.camera.render(
            self.map_index, world.past[-1 - DECISION_STEPS][:, :3], p.tracks[n, :, t], p.valid[n, :, t], p.size, p.kind,
            brake, p.signals[n, :, t],
        )  # fmt: skip


def observe(world: World, frames: np.ndarray) -> Observation:
    """World and the frames (S, 2, H, W, 3) of half a second ago and now in, what the policies may know out."""
    past = np.stack(world.past[-16:], 1)
    ego = np.stack([ego_history(p[:, 3], p[:, 5]) for p in past])
    route = np.stack([route_features(r, e) for r, e in zip(_routes(world.packed), world.ego[:, :3], strict=True)])
    objects = []
    for i, e in enumerate(world.ego):
        near = world.seen[i] & (np.hypot(world.agents[i, :, 0] - e[0], world.agents[i, :, 1] - e[1]) < PERCEPTION_RANGE)
        a, c, s = world.agents[i, near], np.cos(e[2]), np.sin(e[2])
        d = a[:, :2] - e[:2]
        rows = [c * d[:, 0] + s * d[:, 1], -s * d[:, 0] + c * d[:, 1], a[:, 2] - e[2], a[:, 3]]
        objects.append(np.column_stack([*rows, world.size[i, near, :2]]))
    return Observation(frames, ego, route.astype(np.float32), objects)


def _routes(packed: Packed) -> list[np.ndarray]:
    return [np.column_stack([s.route[:, :2], s.route_speed]) for s in packed.scenes]


def batches(scenes: list[Scene], most: int) -> list[list[Scene]]:
    """Scenes in, groups of at most `most` out whose logs are about (1 s) equally long: a batch ends with its shortest log.

    Scenes that are all alike keep their order.
    """
    length = {id(s): s.valid.shape[1] - s.start for s in scenes}
    alike = not scenes or max(length.values()) - min(length.values()) < 10
    out: list[list[Scene]] = []
    for scene in scenes if alike else sorted(scenes, key=lambda s: length[id(s)]):
        if not out or len(out[-1]) == most or length[id(scene)] - length[id(out[-1][0])] >= 10:
            out.append([])
        out[-1].append(scene)
    return out


def drive(
    policy: Policy,
    scenes: list[Scene],
    seconds: float = 18.0,
    rig: Rig | None = None,
    *,
    reactive: bool = True,
    on_decision: Callable[[int, int], None] | None = None,
) -> Rollout:
    """S scenes driven by the policy, 10 Hz, decisions at 2 Hz. seconds is cut to the shortest log."""
    return _loop(policy, scenes, seconds, rig or Rig(), reactive, False, on_decision)[0]


def drive_supervised(
    policy: Policy,
    scenes: list[Scene],
    seconds: float = 18.0,
    rig: Rig | None = None,
    *,
    on_decision: Callable[[int, int], None] | None = None,
) -> tuple[Rollout, Supervision]:
    """As `drive`, with the safety driver and its record."""
    rollout, supervision = _loop(policy, scenes, seconds, rig or Rig(), True, True, on_decision)
    assert supervision is not None
    return rollout, supervision


class _SafetyDriver:
    """Decides who holds the wheel, scene by scene."""

    def __init__(self, n: int):
        self.manual = np.zeros(n, np.int64)
        self.stalled = np.zeros(n, np.int64)

    def decide(self, danger: np.ndarray) -> np.ndarray:
        """danger (S,) of the policy's plan in, (S,) bool the safety driver drives this time out."""
        self.stalled = np.where(danger == 4, self.stalled + 1, 0)
        grab = ((danger > 0) & (danger < 4)) | (self.stalled >= STALL_DECISIONS)
        self.manual = np.where(grab, MANUAL_DECISIONS, np.maximum(self.manual - 1, 0))
        return self.manual > 0


def _loop(policy, scenes, seconds, rig, reactive, supervised, on_decision) -> tuple[Rollout, Supervision | None]:
    packed = pack(scenes)
    world = World(packed, reactive)
    log_end = min(s.valid.shape[1] - s.start - 1 for s in scenes)
    decisions = int(min(round(seconds / DT), log_end)) // DECISION_STEPS
    steps = decisions * DECISION_STEPS
    see = supervised or not policy.privileged
    eyes = Eyes(packed, rig) if see else None
    policy.reset(scenes)
    n, a = packed.kind.shape
    ego = np.zeros((n, steps + 1, 6))
    agents = np.zeros((n, a, steps + 1, 4), np.float32)
    agents_valid = np.zeros((n, a, steps + 1), np.bool_)
    plans: list[Plan] = []
    driver = _SafetyDriver(n)
    correction, dangerous, manual_at, frames = [], [], [], []
    before = eyes.look_back(world) if eyes else None
    for k in range(decisions):
        now = frames[-1] if frames else eyes.look(world) if eyes else None
        if supervised and not frames:
            frames.append(now)
        plan = policy.plan(world if policy.privileged else observe(world, np.stack([before, now], 1)))
        points = plan.points
        plans.append(plan)
        if supervised:
            right = expert_plan(world)
            danger = dangers(world, points, right)
            manual = driver.decide(danger)
            correction.append(right)
            dangerous.append(danger)
            manual_at.append(manual)
            points = np.where(manual[:, None, None], right, points)
        world.follow(points)
        before = now
        for step in range(DECISION_STEPS):
            at = k * DECISION_STEPS + step
            ego[:, at], agents[:, :, at], agents_valid[:, :, at] = world.ego, world.agents, world.seen
            world.advance()
            if supervised:
                frames.append(eyes.look(world))
        if not supervised:
            frames.clear()
        if on_decision:
            on_decision(k + 1, decisions)
    ego[:, steps], agents[:, :, steps], agents_valid[:, :, steps] = world.ego, world.agents, world.seen
    rollout = Rollout(
        policy=policy.name,
        scenes=[s.id for s in scenes],
        ego=ego,
        agents=agents,
        agents_valid=agents_valid,
        plans=np.stack([p.points for p in plans], 1),
        tokens=np.stack([p.tokens for p in plans], 1) if plans[0].tokens is not None else None,
        text=[list(t) for t in zip(*[p.text for p in plans], strict=True)] if plans[0].text is not None else None,
        guarded=np.stack([p.guarded if p.guarded is not None else np.zeros(n, np.bool_) for p in plans], 1),
    )
    if not supervised:
        return rollout, None
    held = np.repeat(np.stack(manual_at, 1), DECISION_STEPS, 1)
    held = np.concatenate([held, held[:, -1:]], 1)
    supervision = Supervision(np.stack(frames, 1), np.stack(correction, 1), ~held, np.stack(dangerous, 1), held)
    return rollout, supervision

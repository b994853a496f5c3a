"""Perception of simulated cars: which road users around it a car detects, and with what errors.

`ObjectDetector`, the default, models a camera detector with misses, errors, latency, false alarms and occlusion.
`PerfectDetector` reports the simulator's ground truth, for comparison. Both are sensors (`simulator.Sensor`), so a
learned detector that reads the cameras can replace them.

Letters: S scenes, A agents.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
from numba import njit

from drivefoundry.sim.sensors.config import Perception
from drivefoundry.sim.sensors.visibility import visible_share
from drivefoundry.sim.simulator import Simulator
from drivefoundry.types import AGENT_TRUCK, DT, Scene
from drivefoundry_car.vehicle.embodiment import CAR, Embodiment
from drivefoundry_car.vehicle.inputs import to_ego

PERFECT_RANGE = 60.0
"""Radius within which ground truth is reported, m."""
KNOT_STEPS = 10
"""Errors of one object are correlated over about this many steps (1 s), as a tracker's are."""
MISS, RADIAL, LATERAL, YAW, SPEED, LENGTH, WIDTH, ALARM, ALARM_RANGE, ALARM_BEARING, ALARM_YAW = range(11)
"""Independent streams of random numbers."""
CAR_LENGTH, CAR_WIDTH = 4.6, 1.9
"""Size of a false alarm, m."""

Tracks = tuple[np.ndarray, np.ndarray]
"""Track numbers (n,) and rows (n, 6) x, y, yaw in the map's frame, speed, length, width, as reported by one car. An
agent's track number is its row in the scene; false alarms have higher numbers."""


def detector(simulator: Simulator, perception: Perception, body: Embodiment = CAR) -> ObjectDetector | PerfectDetector:
    """The detector with these parameters for S cars of this type."""
    return PerfectDetector(simulator) if perception.perfect else ObjectDetector(simulator, perception, body)


class Errors(NamedTuple):
    """`Perception` in the form that the compiled code takes."""

    range_m: float
    visible: float
    miss: float
    small_rad: float
    depth_m: float
    depth_share: float
    bearing_rad: float
    yaw_rad: float
    speed_mps: float
    speed_share: float
    size_share: float
    false_alarms: float


class PerfectDetector:
    """Ground truth within PERFECT_RANGE, whether visible or not."""

    def __init__(self, simulator: Simulator):
        self.simulator = simulator

    def watch(self) -> None:
        """Do nothing: reports have no latency."""

    def tracks(self) -> list[Tracks]:
        """Report of each of the S cars at this step."""
        w, out = self.simulator, []
        for i, e in enumerate(w.ego):
            distance = np.hypot(w.agents[i, :, 0] - e[0], w.agents[i, :, 1] - e[1])
            near = np.flatnonzero(w.seen[i] & (distance < PERFECT_RANGE))
            out.append((near, np.column_stack([w.agents[i, near], w.packed.size[i, near, :2]])))
        return out

    def read(self) -> list[np.ndarray]:
        """S arrays (n, 6), see `types.Observation.objects`."""
        return _in_ego_frames(self.tracks(), self.simulator)


class ObjectDetector:
    """See `Perception`. A report depends only on the scene, the step and the seed, not on the batch or threads."""

    def __init__(self, simulator: Simulator, perception: Perception, body: Embodiment = CAR):
        values = asdict(perception.validate())
        self.simulator = simulator
        self._errors = Errors(**{name: float(values[name]) for name in Errors._fields})
        self._lag = round(perception.latency_s / DT)
        self._mount = float(body.cameras[0].x), float(body.cameras[0].y)
        p = simulator.packed
        self._seeds = np.array([_seed(s, perception.seed) for s in p.scenes], np.uint64)
        self._buildings = [np.ascontiguousarray(s.map.buildings, np.float64) for s in p.scenes]
        self._size = np.ascontiguousarray(p.size, np.float64)
        self._step = simulator.step - 1
        n = np.arange(len(p.start))
        steps = [np.maximum(p.start - k, 0) for k in range(self._lag, 0, -1)]
        before = [(p.tracks[n, :, t].astype(np.float64), p.valid[n, :, t]) for t in steps]
        self._past: deque[tuple[np.ndarray, np.ndarray]] = deque(before, maxlen=self._lag + 1)

    def watch(self) -> None:
        """Keep this step until its report is due."""
        w = self.simulator
        if self._step != w.step:
            self._step = w.step
            self._past.append((w.agents.copy(), w.seen.copy()))

    def tracks(self) -> list[Tracks]:
        """Report of each of the S cars at this step, which must have been watched."""
        w, out = self.simulator, []
        agents, seen = self._past[0]
        poses = w.past[-1 - self._lag]
        for i, step in enumerate(w.now.tolist()):
            rows, numbers = np.empty((agents.shape[1] + 1, 6)), np.empty(agents.shape[1] + 1, np.int64)
            n = _detect(
                poses[i, :3], self._mount, agents[i], seen[i], self._size[i], w.packed.kind[i], self._buildings[i],
                self._seeds[i], step, self._lag * DT, self._errors, rows, numbers,
            )  # fmt: skip
            out.append((numbers[:n], rows[:n]))
        return out

    def read(self) -> list[np.ndarray]:
        """S arrays (n, 6), see `types.Observation.objects`."""
        return _in_ego_frames(self.tracks(), self.simulator)


def _in_ego_frames(tracks: list[Tracks], simulator: Simulator) -> list[np.ndarray]:
    return [
        np.column_stack([to_ego(rows[:, :3], ego[:3]), rows[:, 3:]])
        for (_, rows), ego in zip(tracks, simulator.ego, strict=True)
    ]


def _seed(scene: Scene, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{scene.id}".encode()).digest()[:8], "little")


@njit(cache=True, nogil=True)
def _uniform(seed, stream, who, when):
    """A number in (0, 1) that depends only on the arguments (SplitMix64, Steele et al. 2014)."""
    z = seed + np.uint64(0x9E3779B97F4A7C15) * np.uint64(1 + stream + 64 * who)
    z ^= np.uint64(0xD1B54A32D192ED03) * np.uint64(1 + when)
    for _ in range(2):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (float(z >> np.uint64(11)) + 0.5) / 9007199254740992.0


@njit(cache=True, nogil=True)
def _normal(seed, stream, who, step):
    """A standard normal number that changes smoothly: sampled every KNOT_STEPS, interpolated with unit variance."""
    knot, share = step // KNOT_STEPS, (step % KNOT_STEPS) / KNOT_STEPS
    total = 0.0
    for k, weight in ((knot, 1.0 - share), (knot + 1, share)):
        radius = math.sqrt(-2.0 * math.log(_uniform(seed, stream, 2 * who, k)))
        total += weight * radius * math.cos(2.0 * math.pi * _uniform(seed, stream, 2 * who + 1, k))
    return total / math.hypot(1.0 - share, share)


@njit(cache=True, nogil=True)
def _detect(ego, mount, agents, seen, size, kind, buildings, seed, step, lag, errors, out, numbers):
    """Write the Tracks of one car to out (A + 1, 6) and numbers (A + 1,); return their number.

    ego (3,), agents (A, 4) and seen (A,) are `lag` seconds old; mount: x, y of the front camera in the ego frame, from
    where occlusion is judged; step: current step of the scene's log.
    """
    eye_x = ego[0] + math.cos(ego[2]) * mount[0] - math.sin(ego[2]) * mount[1]
    eye_y = ego[1] + math.sin(ego[2]) * mount[0] + math.cos(ego[2]) * mount[1]
    boxes, who, count = np.empty((len(agents), 5)), np.empty(len(agents), np.int64), 0
    for a in range(len(agents)):
        if seen[a] and math.hypot(agents[a, 0] - ego[0], agents[a, 1] - ego[1]) < errors.range_m:
            boxes[count, :3], boxes[count, 3:] = agents[a, :3], size[a, :2]
            who[count] = a
            count += 1
    near, blocks = np.empty(len(buildings), np.int64), 0
    for b in range(len(buildings)):
        spare = errors.range_m + 0.5 * math.hypot(buildings[b, 3], buildings[b, 4])
        if math.hypot(buildings[b, 0] - ego[0], buildings[b, 1] - ego[1]) < spare:
            near[blocks] = b
            blocks += 1
    found = 0
    for i in range(count):
        a = who[i]
        share = visible_share(eye_x, eye_y, i, boxes, count, buildings, near[:blocks])
        if share < errors.visible or share == 0.0:
            continue
        away = max(1.0, math.hypot(agents[a, 0] - ego[0], agents[a, 1] - ego[1]))
        across = 0.5 * (size[a, 0] + size[a, 1])
        missed = errors.miss + math.exp(-math.sqrt(across * share * size[a, 2]) / away / errors.small_rad)
        if 0.5 * (1.0 + math.erf(_normal(seed, MISS, a, step) / math.sqrt(2.0))) < missed:
            continue
        _estimate(ego, agents[a], size[a], kind[a], seed, a, step, errors, out[found])
        out[found, 0] += math.cos(out[found, 2]) * out[found, 3] * lag
        out[found, 1] += math.sin(out[found, 2]) * out[found, 3] * lag
        numbers[found] = a
        found += 1
    second = step // KNOT_STEPS
    if _uniform(seed, ALARM, 0, second) < errors.false_alarms:
        distance = errors.range_m * math.sqrt(_uniform(seed, ALARM_RANGE, 0, second))
        bearing = ego[2] + 2.0 * math.pi * _uniform(seed, ALARM_BEARING, 0, second)
        out[found, 0], out[found, 1] = ego[0] + distance * math.cos(bearing), ego[1] + distance * math.sin(bearing)
        out[found, 2] = math.pi * (2.0 * _uniform(seed, ALARM_YAW, 0, second) - 1.0)
        out[found, 3], out[found, 4], out[found, 5] = 0.0, CAR_LENGTH, CAR_WIDTH
        numbers[found] = len(agents) + second
        found += 1
    return found


@njit(cache=True, nogil=True)
def _estimate(ego, agent, size, kind, seed, who, step, errors, out):
    """Write the estimate of one detected agent, before extrapolation, to out (6,)."""
    dx, dy = agent[0] - ego[0], agent[1] - ego[1]
    away = max(1e-6, math.hypot(dx, dy))
    deep = (errors.depth_m + errors.depth_share * away) * _normal(seed, RADIAL, who, step)
    beside = errors.bearing_rad * away * _normal(seed, LATERAL, who, step)
    out[0] = agent[0] + (dx * deep - dy * beside) / away
    out[1] = agent[1] + (dy * deep + dx * beside) / away
    turned = errors.yaw_rad * (1.0 if kind <= AGENT_TRUCK else 2.0)
    out[2] = agent[2] + turned * _normal(seed, YAW, who, step)
    doubt = errors.speed_mps + errors.speed_share * agent[3]
    out[3] = max(0.0, agent[3] + doubt * _normal(seed, SPEED, who, step))
    out[4] = size[0] * max(0.1, 1.0 + errors.size_share * _normal(seed, LENGTH, who, step))
    out[5] = size[1] * max(0.1, 1.0 + errors.size_share * _normal(seed, WIDTH, who, step))

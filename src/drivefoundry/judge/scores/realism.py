"""Realism of simulated road users, measured against their log: the Waymo Open Sim Agents Challenge 2025 (WOSAC).

The likelihood of the logged motion under the simulated one, feature by feature: for every agent a histogram over all
rollouts and steps, then the exponential of the mean log probability of the logged values in it; realism is the weighted
mean over features (Montali et al., "The Waymo Open Sim Agents Challenge", NeurIPS 2023). Bins, smoothing and weights
are those of Waymo's `challenge_2025_sim_agents_config.textproto`. Differences from Waymo's: docs/metrics.md.
Letters: R rollouts, A agents, T steps.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from drivefoundry.edges import unknown_ground
from drivefoundry.geometry import box_corners, wrap
from drivefoundry.judge.scores.motion import crosses
from drivefoundry.raster import DRIVABLE, ground_raster
from drivefoundry.types import AGENT_CAR, AGENT_TRUCK, DT, SIGNAL_RED, RoadMap, Rollout, Scene, require


@dataclass(frozen=True)
class Feature:
    """Histogram of `bins` bins between low and high (values outside are clipped); smoothing: added to every count."""

    weight: float
    low: float
    high: float
    bins: int
    smoothing: float = 0.1


def _whether(weight: float) -> Feature:
    """A yes-or-no feature of a whole drive: the Bernoulli estimate, with two bins around 0 and 1."""
    return Feature(weight, -0.5, 1.5, 2, 0.001)


FEATURES = {
    "linear_speed": Feature(0.05, 0.0, 25.0, 10),
    "linear_acceleration": Feature(0.05, -12.0, 12.0, 11),
    "angular_speed": Feature(0.05, -0.628, 0.628, 11),
    "angular_acceleration": Feature(0.05, -3.14, 3.14, 11),
    "distance_to_nearest_object": Feature(0.10, -5.0, 40.0, 10),
    "collision": _whether(0.25),
    "time_to_collision": Feature(0.10, 0.0, 5.0, 10),
    "distance_to_road_edge": Feature(0.05, -20.0, 40.0, 10),
    "off_road": _whether(0.25),
    "red_light": _whether(0.05),
}
"""SI units. Distances are negative inside another object and inside the road."""
GROUPS = {
    "kinematic": ("linear_speed", "linear_acceleration", "angular_speed", "angular_acceleration"),
    "interactive": ("distance_to_nearest_object", "collision", "time_to_collision"),
    "map_based": ("distance_to_road_edge", "off_road", "red_light"),
}
HISTORY = 2
"""Logged steps before the start that the central differences of the first simulated steps use."""
TTC_MAX = 5.0
FOLLOWS, FOLLOWS_NARROW, NARROW = math.radians(75.0), math.radians(10.0), 0.5
"""A vehicle ahead within 75 degrees of an agent's heading is being followed; within 10 degrees if they overlap less
than 0.5 m across."""
KEPT = 8
"""Number of maps whose distances to the road's edge are cached."""


def realism(scene: Scene, simulated: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """Likelihood 0 .. 1 of each feature, of the groups kinematic, interactive and map_based, and "realism" of a scene.

    simulated (R, A, T, 4): states of its agents from its start on; valid (R, A, T): whether they were present. Agents
    and states are those of `Scene.tracks`, including the ego; step 0 is the start itself and is not judged. Judged are
    the agents that the log has at the start, at the steps where it has them; time to collision and red lights only for
    vehicles. A feature without logged values is left out of the weighted means. ValueError on wrong shapes, or if there
    is no agent to judge.
    """
    agents, steps = len(scene.kind), simulated.shape[2] if simulated.ndim == 4 else 0
    last = scene.valid.shape[1] - scene.start
    fits = simulated.shape[1:] == (agents, steps, 4) and valid.shape == simulated.shape[:3] and 3 <= steps <= last
    expected = f"(R, {agents}, 3 .. {last}, 4) and valid beside it"
    require(fits, f"simulated: must have shape {expected}, got {simulated.shape} and {valid.shape}")
    window = slice(scene.start - HISTORY, scene.start + steps)
    logged, seen = scene.tracks[:, window].astype(np.float64), scene.valid[:, window]
    judged = seen[:, HISTORY]
    require(bool(judged.any()), f"scene {scene.id}: no agent is present at the start; choose another scene")
    log = _features(scene, logged, seen)
    before = logged[:, :HISTORY]
    sims = [
        _features(scene, np.concatenate([before, s], 1), np.concatenate([seen[:, :HISTORY], v], 1))
        for s, v in zip(simulated, valid, strict=True)
    ]
    vehicles = judged & np.isin(scene.kind, (AGENT_CAR, AGENT_TRUCK))
    out: dict[str, float] = {}
    for name, feature in FEATURES.items():
        who = vehicles if name in ("time_to_collision", "red_light") else judged
        values = np.stack([s[name] for s in sims])
        out[name] = likelihood(feature, log[name][who], values[:, who])
    for group, names in {**GROUPS, "realism": tuple(FEATURES)}.items():
        known = [n for n in names if math.isfinite(out[n])]
        weight = sum(FEATURES[n].weight for n in known)
        out[group] = sum(FEATURES[n].weight * out[n] for n in known) / weight if known else math.nan
    return out


def rollout_realism(scenes: Sequence[Scene], rollouts: Sequence[Rollout]) -> dict[str, np.ndarray]:
    """`realism` of each scene by name (S,), from rollouts of all of them; the ego is judged too."""
    rows = []
    for i, scene in enumerate(scenes):
        simulated, valid = zip(*(_as_driven(r, i, scene) for r in rollouts), strict=True)
        rows.append(realism(scene, np.stack(simulated), np.stack(valid)))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _as_driven(rollout: Rollout, i: int, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    require(rollout.scenes[i] == scene.id, "scenes: not the rollout's scenes in the rollout's order")
    agents = len(scene.kind)
    states, valid = rollout.agents[i, :agents].astype(np.float64), rollout.agents_valid[i, :agents].copy()
    states[scene.ego], valid[scene.ego] = rollout.ego[i, :, :4], True
    return states, valid


def straight_on(scene: Scene, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """All agents at constant velocity from the start, a lower bound of realism; one rollout, as `realism` takes it."""
    states = np.repeat(scene.tracks[:, scene.start, None].astype(np.float64), steps, 1)
    way = states[..., 3] * DT * np.arange(steps)
    states[..., 0] += np.cos(states[..., 2]) * way
    states[..., 1] += np.sin(states[..., 2]) * way
    return states[None], np.repeat(scene.valid[:, scene.start, None], steps, 1)[None]


def replayed(scene: Scene, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The log itself from the start; one rollout, as `realism` takes it."""
    window = slice(scene.start, scene.start + steps)
    return scene.tracks[None, :, window].astype(np.float64), scene.valid[None, :, window]


def likelihood(feature: Feature, log: np.ndarray, simulated: np.ndarray) -> float:
    """exp of the mean log probability of logged values (A, T), each under its own agent's histogram of simulated values
    (R, A, T) over all rollouts and steps. NaN marks missing values, and is returned if nothing is logged.
    """
    total, count = 0.0, 0
    for a in range(len(log)):
        values = log[a][np.isfinite(log[a])]
        if not len(values):
            continue
        sims = simulated[:, a]
        counts = np.bincount(_bin(feature, sims[np.isfinite(sims)]), minlength=feature.bins) + feature.smoothing
        total += float(np.log(counts / counts.sum())[_bin(feature, values)].sum())
        count += len(values)
    return math.exp(total / count) if count else math.nan


def _bin(feature: Feature, values: np.ndarray) -> np.ndarray:
    share = (np.clip(values, feature.low, feature.high) - feature.low) / (feature.high - feature.low)
    return np.minimum((share * feature.bins).astype(np.int64), feature.bins - 1)


def _features(scene: Scene, states: np.ndarray, seen: np.ndarray) -> dict[str, np.ndarray]:
    """Each feature (A, T - 1), or (A, 1) for a whole drive, of states (A, 2 + T, 4) that begin two steps before the
    start; NaN marks missing values."""
    speed, accel, turn, spin = _kinematics(states, seen)
    states, seen, speed = states[:, HISTORY:], seen[:, HISTORY:], speed[:, HISTORY:]
    size = np.asarray(scene.size[:, :2], np.float64)
    distance, ttc = np.full(seen.shape, np.nan), np.full(seen.shape, np.nan)
    _neighbours(np.ascontiguousarray(states), speed, np.ascontiguousarray(seen), size, distance, ttc)
    edge, red = np.full(seen.shape, np.nan), np.full(seen.shape, np.nan)
    _edges(states, seen, size, *_ground(scene.map), edge)
    steps = np.minimum(scene.start + np.arange(seen.shape[1]), scene.signals.shape[1] - 1)
    facing = np.asarray(scene.map.signal_heads[: len(scene.signals), 3], np.float64) + np.pi
    _reds(states, seen, np.asarray(scene.map.stop_lines, np.float64), facing, scene.signals[:, steps], red)
    there = seen[:, 1:].any(1)

    def ever(happens: np.ndarray) -> np.ndarray:
        return np.where(there, happens[:, 1:].any(1), np.nan)[:, None]

    return {
        "linear_speed": speed[:, 1:],
        "linear_acceleration": accel[:, HISTORY + 1 :],
        "angular_speed": turn[:, HISTORY + 1 :],
        "angular_acceleration": spin[:, HISTORY + 1 :],
        "distance_to_nearest_object": distance[:, 1:],
        "collision": ever(distance < 0.0),
        "time_to_collision": ttc[:, 1:],
        "distance_to_road_edge": edge[:, 1:],
        "off_road": ever(edge > 0.0),
        "red_light": ever(red > 0.0),
    }


def _central(values: np.ndarray) -> np.ndarray:
    """Half the difference between the two neighbours in time, NaN at both ends."""
    out = np.full(values.shape, np.nan)
    out[..., 1:-1] = (values[..., 2:] - values[..., :-2]) / 2
    return out


def _kinematics(states: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, ...]:
    """Speed, acceleration, yaw rate and yaw acceleration (A, T) from positions and headings by central differences."""
    there = np.where(seen[..., None], states, np.nan)

    def turned(angle: np.ndarray) -> np.ndarray:
        two = 2 * _central(angle)
        return (np.mod(two + np.pi, 2 * np.pi) - np.pi) / 2

    speed = np.hypot(_central(there[..., 0]), _central(there[..., 1])) / DT
    step = turned(there[..., 2])
    return speed, _central(speed) / DT, step / DT, turned(step) / DT**2


@njit(cache=True, nogil=True)
def _corner_distance(x, y, c, s, a, b, ox, oy, oc, os, oa, ob):
    """Smallest distance from a corner of the first box (half sides a, b) to the second."""
    best = math.inf
    for i in range(4):
        u, v = (a if i < 2 else -a), (b if i % 2 == 0 else -b)
        dx, dy = x + u * c - v * s - ox, y + u * s + v * c - oy
        px, py = max(abs(dx * oc + dy * os) - oa, 0.0), max(abs(dy * oc - dx * os) - ob, 0.0)
        best = min(best, px * px + py * py)
    return math.sqrt(best)


@njit(cache=True, nogil=True)
def box_distance(x1, y1, yaw1, l1, w1, x2, y2, yaw2, l2, w2):
    """Distance between two boxes, m; if they overlap, minus the distance that would separate them."""
    dx, dy = x2 - x1, y2 - y1
    c1, s1, c2, s2 = math.cos(yaw1), math.sin(yaw1), math.cos(yaw2), math.sin(yaw2)
    c, s = abs(c1 * c2 + s1 * s2), abs(c1 * s2 - s1 * c2)
    ahead, left = abs(dx * c1 + dy * s1), abs(dy * c1 - dx * s1)
    gap = max(ahead - 0.5 * (l1 + l2 * c + w2 * s), left - 0.5 * (w1 + l2 * s + w2 * c))
    ahead, left = abs(dx * c2 + dy * s2), abs(dy * c2 - dx * s2)
    gap = max(gap, ahead - 0.5 * (l2 + l1 * c + w1 * s), left - 0.5 * (w2 + l1 * s + w1 * c))
    if gap <= 0.0:
        return gap
    one = _corner_distance(x1, y1, c1, s1, 0.5 * l1, 0.5 * w1, x2, y2, c2, s2, 0.5 * l2, 0.5 * w2)
    return min(one, _corner_distance(x2, y2, c2, s2, 0.5 * l2, 0.5 * w2, x1, y1, c1, s1, 0.5 * l1, 0.5 * w1))


@njit(cache=True, nogil=True)
def _neighbours(states, speed, seen, size, distance, ttc):
    """Write the distance to the nearest object and the time to collision with the vehicle that is followed, (A, T)
    each."""
    agents, steps = seen.shape
    for t in range(steps):
        for a in range(agents):
            if not seen[a, t]:
                continue
            x, y, yaw = states[a, t, 0], states[a, t, 1], states[a, t, 2]
            c, s = math.cos(yaw), math.sin(yaw)
            nearest, ahead, ahead_speed = 1e10, math.inf, 0.0
            for b in range(agents):
                if b == a or not seen[b, t]:
                    continue
                dx, dy = states[b, t, 0] - x, states[b, t, 1] - y
                reach = 0.5 * (size[a, 0] + size[a, 1] + size[b, 0] + size[b, 1])
                if math.hypot(dx, dy) - reach < nearest:
                    nearest = min(nearest, box_distance(
                        x, y, yaw, size[a, 0], size[a, 1],
                        states[b, t, 0], states[b, t, 1], states[b, t, 2], size[b, 0], size[b, 1],
                    ))  # fmt: skip
                turn = abs(wrap(states[b, t, 2] - yaw))
                ct, st = abs(math.cos(turn)), abs(math.sin(turn))
                gap = dx * c + dy * s - 0.5 * (size[a, 0] + size[b, 0] * ct + size[b, 1] * st)
                apart = abs(dy * c - dx * s) - 0.5 * (size[a, 1] + size[b, 0] * st + size[b, 1] * ct)
                follows = gap > 0.0 and turn <= FOLLOWS and apart < 0.0
                if follows and (apart < -NARROW or turn <= FOLLOWS_NARROW) and gap < ahead:
                    ahead, ahead_speed = gap, speed[b, t]
            distance[a, t] = nearest
            closing = speed[a, t] - ahead_speed  # NaN if a speed is unknown, and NaN > 0 is False
            ttc[a, t] = min(ahead / closing, TTC_MAX) if closing > 0.0 else TTC_MAX


@njit(cache=True, nogil=True)
def squared_distance(marked):
    """Squared distance to the nearest marked cell of cells (H, W) bool, in cells (Felzenszwalb and Huttenlocher
    2012)."""
    rows, cols = marked.shape
    far = float(rows + cols) ** 2
    out = np.empty((rows, cols))
    for c in range(cols):
        gap = math.inf
        for r in range(rows):
            gap = 0.0 if marked[r, c] else gap + 1.0
            out[r, c] = gap
        gap = math.inf
        for r in range(rows - 1, -1, -1):
            gap = 0.0 if marked[r, c] else gap + 1.0
            out[r, c] = min(min(out[r, c], gap) ** 2, far)
    at, start, line = np.empty(cols, np.int64), np.empty(cols + 1), np.empty(cols)
    for r in range(rows):
        line[:] = out[r]
        k = 0
        at[0], start[0], start[1] = 0, -math.inf, math.inf
        for q in range(1, cols):
            cut = ((line[q] + q * q) - (line[at[k]] + at[k] * at[k])) / (2.0 * (q - at[k]))
            while cut <= start[k]:
                k -= 1
                cut = ((line[q] + q * q) - (line[at[k]] + at[k] * at[k])) / (2.0 * (q - at[k]))
            k += 1
            at[k], start[k], start[k + 1] = q, cut, math.inf
        k = 0
        for q in range(cols):
            while start[k + 1] < q:
                k += 1
            out[r, q] = (q - at[k]) ** 2 + line[at[k]]
    return out


_kept: OrderedDict[str, tuple[np.ndarray, float, float, float]] = OrderedDict()


def _ground(road_map: RoadMap) -> tuple[np.ndarray, float, float, float]:
    """Signed distance to the road's edge (H, W) float32, m, over a map's raster, with origin x, y and resolution of its
    cells."""
    if road_map.id not in _kept:
        raster = ground_raster(road_map)
        road = DRIVABLE[raster.classes]
        unknown = unknown_ground(road_map)
        if unknown is not None:
            road |= unknown
        inside, outside = np.sqrt(squared_distance(~road)), np.sqrt(squared_distance(road))
        signed = (np.where(road, 0.5 - inside, outside - 0.5) * raster.resolution).astype(np.float32)
        _kept[road_map.id] = signed, raster.origin_x, raster.origin_y, raster.resolution
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return _kept[road_map.id]


@njit(cache=True, nogil=True)
def _edges(states, seen, size, signed, x0, y0, step, out):
    """Write the distance of each agent's outermost corner to the road's edge to out (A, T)."""
    corners = np.empty((4, 2))
    rows, cols = signed.shape
    for a in range(seen.shape[0]):
        for t in range(seen.shape[1]):
            if not seen[a, t]:
                continue
            box_corners(states[a, t, 0], states[a, t, 1], states[a, t, 2], size[a, 0], size[a, 1], corners)
            worst = -math.inf
            for j in range(4):
                row, col = (corners[j, 1] - y0) / step, (corners[j, 0] - x0) / step
                r, c = min(max(row, 0.0), rows - 1.0), min(max(col, 0.0), cols - 1.0)
                beyond = step * math.hypot(row - r, col - c) if row != r or col != c else 0.0
                worst = max(worst, signed[int(r), int(c)] + beyond)
            out[a, t] = worst


@njit(cache=True, nogil=True)
def _reds(states, seen, lines, facing, signals, out):
    """Write 1 to out (A, T) at steps where an agent's centre crosses a stop line on red, 0 at the others where it is
    present."""
    for a in range(seen.shape[0]):
        for t in range(1, seen.shape[1]):
            if not (seen[a, t] and seen[a, t - 1]):
                continue
            out[a, t] = 0.0
            for g in range(len(signals)):
                if signals[g, t] == SIGNAL_RED and crosses(states[a, t - 1], states[a, t], 0.0, lines[g], facing[g]):
                    out[a, t] = 1.0

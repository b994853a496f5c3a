"""Place houses along the roads: seeded boxes clear of every road, every pavement and each other."""

from __future__ import annotations

import numpy as np

from drivefoundry.roadmap import arc_length, resample

SETBACK = (5.0, 9.0)
"""Distance of a front from the carriageway's edge, m."""
CLEAR = 1.5
"""Least distance of a house from any pavement, m."""
CLEAR_OF_ROAD = 4.0


def place_buildings(fronts: list[np.ndarray], kept_free: list[tuple[np.ndarray, float]], seed: int) -> np.ndarray:
    """Place boxes (B, 6) x, y, yaw, length, width, height along fronts (right carriageway edges, driving direction).

    kept_free: (line (P, 2), half width) of every lane, pavement and crossing. A house that would overlap one, or stand
    within 4 m of a lane, is left out.
    """
    rng = np.random.default_rng(seed)
    free = np.concatenate(
        [np.column_stack([resample(p, 2.0), np.full(len(resample(p, 2.0)), r)]) for p, r in kept_free]
    )
    houses: list[np.ndarray] = []
    for front in fronts:
        s = arc_length(front)
        at = rng.uniform(2.0, 10.0)
        while at < s[-1] - 6.0:
            length, depth, height = rng.uniform(9, 24), rng.uniform(8, 14), rng.uniform(6, 25)
            back = rng.uniform(*SETBACK) + depth / 2
            here, ahead = (
                np.array([np.interp(x, s, front[:, k]) for k in (0, 1)]) for x in (at, min(at + length, s[-1]))
            )
            yaw = np.arctan2(*(ahead - here)[::-1])
            x, y = (here + ahead) / 2 + back * np.array([np.sin(yaw), -np.cos(yaw)])
            house = np.array([x, y, yaw, length, depth, height])
            # only nearby points can touch it: a house is at most 28 m across, a lane 2 m wide
            near = [other for other in houses if abs(other[0] - x) + abs(other[1] - y) < 60.0]
            around = free[(np.abs(free[:, 0] - x) < 40.0) & (np.abs(free[:, 1] - y) < 40.0)]
            if _stands_clear(house, around) and all(_apart(house, other) for other in near):
                houses.append(house)
            at += length + rng.choice([1.0, 3.0, 12.0, 25.0])
    return np.array(houses).reshape(-1, 6)


def _stands_clear(house: np.ndarray, free: np.ndarray) -> bool:
    x, y, yaw, length, depth, _ = house
    c, s = np.cos(yaw), np.sin(yaw)
    d = free[:, :2] - (x, y)
    out = np.abs(np.stack([c * d[:, 0] + s * d[:, 1], c * d[:, 1] - s * d[:, 0]], 1)) - (length / 2, depth / 2)
    distance = np.hypot(*np.maximum(out, 0.0).T) - free[:, 2]
    margin = np.where(free[:, 2] > 1.2, CLEAR_OF_ROAD, CLEAR)  # lanes are wider than pavements
    return bool((distance > margin).all())


def _apart(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two boxes are disjoint: a side of one separates them."""
    for p, q in ((a, b), (b, a)):
        corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * q[3:5] / 2
        c, s = np.cos(q[2] - p[2]), np.sin(q[2] - p[2])
        cp, sp = np.cos(p[2]), np.sin(p[2])
        dx, dy = q[:2] - p[:2]
        at = corners @ np.array([[c, s], [-s, c]]) + (cp * dx + sp * dy, cp * dy - sp * dx)
        half = p[3:5] / 2
        if ((at > half).all(0) | (at < -half).all(0)).any():
            return True
    return False

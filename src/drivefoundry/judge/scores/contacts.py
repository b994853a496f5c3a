"""Contacts between one ego motion and one agent: first overlap, fault, and time to collision.

Collision types and faults follow nuPlan: the ego is at fault if the other agent stands or is hit by the ego's front; in
a side collision, only if the ego straddles lanes or leaves the road; never if the ego stands or is hit from behind.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from drivefoundry.geometry import boxes_overlap
from drivefoundry.judge.scores.nearby import BLOCK, TTC_STEPS, near, touch
from drivefoundry.types import DT
from drivefoundry_car.vehicle.embodiment import CAR

STANDING = 0.05
"""A car at most this fast, m/s, is standing when it is hit."""
TTC_STANDING = 0.005
AHEAD_COS = math.cos(math.radians(30.0))
"""Within 30 degrees of the heading is ahead; within 30 degrees of its opposite is behind."""
REAR_AXLE = CAR.rear_axle / CAR.length
"""Distance of the rear axle behind the box centre, in vehicle lengths: bearings are measured from the rear axle."""
OFF_ROAD, STRADDLING, IN_JUNCTION, ONCOMING, UNMAPPED = 1, 2, 4, 8, 16
"""Flags for the ego's location at a step."""


class Motion(NamedTuple):
    """One ego motion: states (T, 6), size (2,), cosine and sine of the heading (T, 2), area flags (T,), spans
    (B + 1, 5)."""

    states: np.ndarray
    size: np.ndarray
    trig: np.ndarray
    areas: np.ndarray
    spans: np.ndarray


class Other(NamedTuple):
    """One agent: states (T, 4), seen (T,), size (2,), spans (B + 1, 4); reach: distance between centres beyond which
    its box cannot touch the ego's, m."""

    states: np.ndarray
    seen: np.ndarray
    size: np.ndarray
    spans: np.ndarray
    reach: float


@njit(cache=True, nogil=True)
def _bearing(state, length, x, y):
    """Cosine of the angle between the ego's heading and the direction from its rear axle to x, y."""
    c, s = math.cos(state[2]), math.sin(state[2])
    dx, dy = x - (state[0] - REAR_AXLE * length * c), y - (state[1] - REAR_AXLE * length * s)
    return (dx * c + dy * s) / max(math.hypot(dx, dy), 1e-9)


@njit(cache=True, nogil=True)
def first_hit(ego, other, out):
    """Step of the first overlap with one agent, -1 if there is none, -2 if they overlap at the start; writes (at fault,
    ego active) to out (2,)."""
    states, trig, size, its = ego.states, ego.trig, ego.size, other.states
    for block in range(len(ego.spans) - 1):
        if not near(ego.spans, other.spans, block, other.reach):
            continue
        for k in range(block * BLOCK, min(len(states), (block + 1) * BLOCK)):
            if not other.seen[k]:
                continue
            if not touch(
                states[k, 0], states[k, 1], states[k, 2], trig[k, 0], trig[k, 1], size[0], size[1],
                its[k, 0], its[k, 1], its[k, 2], other.size[0], other.size[1], other.reach,
            ):  # fmt: skip
                continue
            if k == 0:
                return -2
            _fault(states[k], size, ego.areas[k], its[k], other.size, out)
            return k
    return -1


@njit(cache=True, nogil=True)
def _fault(e, size, area, o, other_size, out):
    """Write (at fault, ego active) of a first contact to out (2,); active: neither standing nor hit from behind."""
    out[0], out[1] = 0.0, 0.0
    if e[3] <= STANDING:
        return
    if o[3] <= STANDING:
        out[0], out[1] = 1.0, 1.0
    elif _bearing(e, size[0], o[0], o[1]) >= -AHEAD_COS:
        out[1] = 1.0
        c, s = 0.5 * size[0] * math.cos(e[2]), 0.5 * size[0] * math.sin(e[2])
        front = boxes_overlap(e[0] + c, e[1] + s, e[2], 0.0, size[1], o[0], o[1], o[2], other_size[0], other_size[1])
        if front or area & (OFF_ROAD | STRADDLING):
            out[0] = 1.0


@njit(cache=True, nogil=True)
def keeps_clear(ego, other, end):
    """Whether time to collision with one agent stays within bounds up to step `end`: no collision when the ego is
    extrapolated by up to 0.9 s."""
    states, trig, size, areas, its = ego.states, ego.trig, ego.size, ego.areas, other.states
    for block in range(len(ego.spans) - 1):
        if not near(ego.spans, other.spans, block, other.reach):
            continue
        for k in range(block * BLOCK, min(end - TTC_STEPS[-1], (block + 1) * BLOCK)):
            x, y, v = states[k, 0], states[k, 1], states[k, 3]
            if v < TTC_STANDING:
                continue
            c, s = trig[k, 0], trig[k, 1]
            for f in TTC_STEPS:
                if not other.seen[k + f]:
                    continue
                move = v * f * DT
                ox, oy = its[k + f, 0], its[k + f, 1]
                if not touch(
                    x + c * move, y + s * move, states[k, 2], c, s, size[0], size[1],
                    ox, oy, its[k + f, 2], other.size[0], other.size[1], other.reach,
                ):  # fmt: skip
                    continue
                ahead = _bearing(states[k], size[0], ox, oy)
                if ahead > AHEAD_COS:
                    return False
                # A conflict from the side is the ego's fault only if it is not simply in its lane. If it is the other
                # agent's fault, that agent does not count from here on.
                return not (areas[k] & (OFF_ROAD | STRADDLING | IN_JUNCTION) and ahead >= -AHEAD_COS)
    return True

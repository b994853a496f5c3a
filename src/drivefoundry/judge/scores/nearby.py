"""Cheap bounds on which agents the ego may meet, and when, before exact tests.

Time is divided into blocks, with a bounding box of the ego and of each agent in each; a pair is tested only in blocks
where its boxes come close. All motions of a scene share the spans of its agents.
"""

from __future__ import annotations

import math

from numba import njit, prange

from drivefoundry.geometry import boxes_overlap
from drivefoundry.types import DT

BLOCK = 8
"""Steps per block."""
TTC_STEPS = (0, 3, 6, 9)
"""Steps of 0.1 s ahead at which the ego, extrapolated at constant velocity, must not overlap other agents."""


@njit(cache=True, nogil=True)
def _span(states, seen, first, last, out):
    """Write the extent of an agent seen in steps first .. last - 1 to out: min x, max x, min y, max y; (inf, -inf, ..)
    if it is not seen."""
    out[0], out[1], out[2], out[3] = math.inf, -math.inf, math.inf, -math.inf
    for k in range(first, last):
        if seen[k]:
            out[0], out[1] = min(out[0], states[k, 0]), max(out[1], states[k, 0])
            out[2], out[3] = min(out[2], states[k, 1]), max(out[3], states[k, 1])


@njit(cache=True, nogil=True, parallel=True)
def agent_spans(traffic, seen, out):
    """Write the span of every agent over each block plus the second after it, and over all steps (last), to out (S, A,
    B + 1, 4)."""
    steps, blocks = traffic.shape[2], out.shape[2] - 1
    for s in prange(len(traffic)):
        for a in range(traffic.shape[1]):
            for b in range(blocks):
                end = min(steps, (b + 1) * BLOCK + TTC_STEPS[-1])
                _span(traffic[s, a], seen[s, a], b * BLOCK, end, out[s, a, b])
            _span(traffic[s, a], seen[s, a], 0, steps, out[s, a, blocks])


@njit(cache=True, nogil=True)
def ego_spans(states, out):
    """Write the span and top speed of the ego in each block, and over all steps (last), to out (B + 1, 5)."""
    blocks = len(out) - 1
    out[:, 0], out[:, 1], out[:, 2], out[:, 3], out[:, 4] = math.inf, -math.inf, math.inf, -math.inf, 0.0
    for k in range(len(states)):
        for i in (k // BLOCK, blocks):
            out[i, 0], out[i, 1] = min(out[i, 0], states[k, 0]), max(out[i, 1], states[k, 0])
            out[i, 2], out[i, 3] = min(out[i, 2], states[k, 1]), max(out[i, 3], states[k, 1])
            out[i, 4] = max(out[i, 4], states[k, 3])


@njit(cache=True, nogil=True)
def touch(x, y, yaw, c, s, length, width, ox, oy, o_yaw, o_length, o_width, reach):
    """`boxes_overlap` of a box whose heading has cosine c and sine s with an agent; fast when they are apart."""
    dx, dy = ox - x, oy - y
    if dx * dx + dy * dy > reach * reach:
        return False
    spare = 0.5 * (o_length + o_width)  # more than half its diagonal
    if abs(dx * c + dy * s) > 0.5 * length + spare or abs(dy * c - dx * s) > 0.5 * width + spare:
        return False
    return boxes_overlap(x, y, yaw, length, width, ox, oy, o_yaw, o_length, o_width)


@njit(cache=True, nogil=True)
def reach_of(size, other_size):
    """Distance between centres beyond which two boxes cannot touch, m."""
    return 0.5 * (math.hypot(size[0], size[1]) + math.hypot(other_size[0], other_size[1])) + 1e-6


@njit(cache=True, nogil=True)
def near(ego, other, i, reach):
    """Whether boxes that touch within `reach` could meet in block i, if the ego may continue for 0.9 s; ego and other
    are spans."""
    pad = reach + ego[i, 4] * TTC_STEPS[-1] * DT
    return (
        ego[i, 0] - pad <= other[i, 1]
        and other[i, 0] <= ego[i, 1] + pad
        and ego[i, 2] - pad <= other[i, 3]
        and other[i, 2] <= ego[i, 3] + pad
    )

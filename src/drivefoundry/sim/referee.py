"""Infractions of egos in a stepping world: contacts, leaving the road, running red lights.

Uses the judge's definitions, so that training on these events trains for the judge: a contact is the first overlap with
an agent that did not overlap at the start; off the road is a corner more than 0.2 m beyond the drivable area, on ground
that the map knows not to be road; a red light is run if the front crosses its stop line in the direction it guards.
Letters: S scenes, A agents, R route points, G signals.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit, prange

from drivefoundry.edges import ground_at, stack_roads
from drivefoundry.geometry import box_corners, boxes_overlap, project_on_polyline
from drivefoundry.sim.world import World
from drivefoundry.types import SIGNAL_RED

SLACK = 0.2
"""A corner within this distance of the road, m, is on it: one texel, the accuracy of the edge."""
CONTACT, OFF_ROAD, RED_LIGHT = range(3)
"""Columns of `Referee.events`."""


@njit(cache=True, nogil=True)
def _on_road(classes, frames, m, ego, size):
    """Whether no corner is on ground known not to be road, more than one texel from other ground."""
    corners = np.empty((4, 2))
    box_corners(ego[0], ego[1], ego[2], size[0], size[1], corners)
    for i in range(4):
        x, y = corners[i]
        if not (
            ground_at(classes, frames, m, x, y)
            or ground_at(classes, frames, m, x + SLACK, y)
            or ground_at(classes, frames, m, x - SLACK, y)
            or ground_at(classes, frames, m, x, y + SLACK)
            or ground_at(classes, frames, m, x, y - SLACK)
        ):
            return False
    return True


@njit(cache=True, nogil=True)
def _runs_red(before, ego, length, lines, facing, signals):
    """Whether the ego's front has crossed a stop line of a red light, in its direction, since the previous step."""
    half = 0.5 * length
    ax, ay = before[0] + half * math.cos(before[2]), before[1] + half * math.sin(before[2])
    bx, by = ego[0] + half * math.cos(ego[2]), ego[1] + half * math.sin(ego[2])
    for g in range(len(lines)):
        if signals[g] != SIGNAL_RED or math.cos(ego[2] - facing[g]) < 0.3:
            continue
        x0, y0, x1, y1 = lines[g]
        ex, ey = x1 - x0, y1 - y0
        start, end = ex * (ay - y0) - ey * (ax - x0), ex * (by - y0) - ey * (bx - x0)
        if start == end or (start < 0.0) == (end < 0.0):
            continue
        u = start / (start - end)
        px, py = ax + u * (bx - ax), ay + u * (by - ay)
        along = ((px - x0) * ex + (py - y0) * ey) / (ex * ex + ey * ey)
        if 0.0 <= along <= 1.0:
            return True
    return False


class _Moment(NamedTuple):
    """State of a world at one step: previous and current egos (S, 6), agents (S, A, 4), seen (S, A), signals (S, G)."""

    before: np.ndarray
    ego: np.ndarray
    agents: np.ndarray
    seen: np.ndarray
    signals: np.ndarray


class _Static(NamedTuple):
    """Static data: ego slots (S,), sizes (S, A, 3), the stacked roads and each scene's index in them, stop lines (S, G,
    4) and the yaw (S, G) of the traffic that they stop, routes (S, R, 2) with points 1 m apart."""

    ego_slot: np.ndarray
    size: np.ndarray
    classes: np.ndarray
    frames: np.ndarray
    place: np.ndarray
    lines: np.ndarray
    facing: np.ndarray
    route: np.ndarray
    route_s: np.ndarray
    route_n: np.ndarray


class _Memory(NamedTuple):
    """State of the referee: agents that overlapped at the start (S, A), egos that have been on the road (S,), their
    position on the route (segment and m), events (S, 3)."""

    touched: np.ndarray
    on_road: np.ndarray
    foot: np.ndarray
    s: np.ndarray
    events: np.ndarray


@njit(cache=True, nogil=True)
def _watch_one(i, first, now, static, memory):
    e, mine = now.ego[i], static.size[i, static.ego_slot[i]]
    for a in range(now.seen.shape[1]):
        o, its = now.agents[i, a], static.size[i, a]
        if not now.seen[i, a] or not boxes_overlap(
            e[0], e[1], e[2], mine[0], mine[1], o[0], o[1], o[2], its[0], its[1]
        ):
            continue
        if first:
            memory.touched[i, a] = True
        elif not memory.touched[i, a]:
            memory.events[i, CONTACT] = True
    now_on = _on_road(static.classes, static.frames, static.place[i], e, mine)
    if memory.on_road[i] and not now_on:
        memory.events[i, OFF_ROAD] = True
    memory.on_road[i] |= now_on
    if not first and _runs_red(now.before[i], e, mine[0], static.lines[i], static.facing[i], now.signals[i]):
        memory.events[i, RED_LIGHT] = True
    n = static.route_n[i]
    memory.s[i], _, memory.foot[i] = project_on_polyline(
        static.route[i, :n], static.route_s[:n], e[0], e[1], memory.foot[i]
    )


@njit(cache=True, nogil=True, parallel=True)
def _watch(first, now, static, memory):
    for i in prange(len(now.ego)):
        _watch_one(i, first, now, static, memory)


class Referee:
    """Watches one world from its start. Public arrays (read only): events (S, 3) bool since the last `clear`; s (S,)
    distance of each ego along its route, m.

    A scene that starts beside the drawn road has to reach it before it can leave it.
    """

    def __init__(self, world: World):
        p, n = world.packed, len(world.ego)
        self.world = world
        maps = list({s.map.id: s.map for s in p.scenes}.values())
        index = {m.id: i for i, m in enumerate(maps)}
        place, roads = np.array([index[s.map.id] for s in p.scenes]), stack_roads(maps)
        signals = p.signals.shape[1]
        lines, facing = np.full((n, signals, 4), np.nan), np.zeros((n, signals))
        for i, scene in enumerate(p.scenes):
            g = len(scene.signals)
            lines[i, :g] = scene.map.stop_lines[:g]
            facing[i, :g] = scene.map.signal_heads[:g, 3] + np.pi  # a head faces the traffic it stops
        route, route_s = p.route[..., :2].copy(), np.arange(p.route.shape[1], dtype=np.float64)
        self._static = _Static(
            p.ego, p.size, roads.classes, roads.frames, place, lines, facing, route, route_s, p.route_n
        )
        touched, on_road = np.zeros(p.kind.shape, np.bool_), np.zeros(n, np.bool_)
        self.s, self.events = np.zeros(n), np.zeros((n, 3), np.bool_)
        self._memory = _Memory(touched, on_road, np.full(n, -1), self.s, self.events)
        self._look(True)
        self._first = on_road.copy(), self._memory.foot.copy(), self.s.copy()

    def watch(self) -> None:
        """Check the step that the world has just made."""
        self._look(False)

    def clear(self) -> None:
        """Forget the events so far."""
        self.events[:] = False

    def restart(self, rows: np.ndarray) -> None:
        """Reset the referee for scenes `rows`, which have been set back to their start."""
        m = self._memory
        for array, first in zip((m.on_road, m.foot, m.s), self._first, strict=True):
            array[rows] = first[rows]
        self.events[rows] = False

    def _look(self, first: bool) -> None:
        w = self.world
        now = _Moment(w.past[-2], w.ego, w.agents, w.seen, w.signals_now())
        _watch(first, now, self._static, self._memory)

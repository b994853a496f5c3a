"""Lane-level route of a recording car in a CityLog: the centre line it drove and the lanes it takes next."""

from __future__ import annotations

import numpy as np

from drivefoundry.fleet.places import PlaceNet
from drivefoundry.fleet.sumo.city import CityLog
from drivefoundry.roadmap import arc_length, resample
from drivefoundry_car.vehicle.inputs import along

STEP = 1.0
"""Distance between route points, m."""
BEHIND = 10.0
"""Route behind the car's first position, m."""
AHEAD = 160.0
"""Route beyond the car's last position, m."""
SIDEWAYS = 3.0
"""Least ratio of forward to sideways motion for a step to count as part of the path."""
CHANGE = 25.0
"""Length of a planned lane change, m."""


def car_route(log: CityLog, net: PlaceNet, car: int) -> tuple[np.ndarray, np.ndarray]:
    """Route (R, 3) x, y, limit m/s of recording car `car` (index into log.fleet), and (T,) the arc length on it of the
    car's front at each step.

    SUMO moves the middle of the front bumper along the lane's centre line (and smoothly across when changing lanes), so
    the bumper's path is that line; the box centre cuts corners slightly.
    """
    row = log.fleet[car]
    pose = log.tracks[row].astype(np.float64)
    heading = np.stack([np.cos(pose[:, 2]), np.sin(pose[:, 2])], 1)
    front = pose[:, :2] + heading * log.size[row, 0] / 2
    moved = [0]
    for i in range(1, len(front)):  # only clear forward steps make a path
        step = front[i] - front[moved[-1]]
        if step @ heading[i] > max(0.3, SIDEWAYS * abs(step[0] * heading[i, 1] - step[1] * heading[i, 0])):
            moved.append(i)
    limits = net.map.lane_speed[log.lane[car]]
    driven = np.column_stack([front[moved], limits[moved]])
    behind = np.append(front[0] - (BEHIND + log.size[row, 0]) * heading[0], limits[0])
    ahead = plan(net, int(log.lane[car, -1]), driven[-1, :2], str(log.ahead[car]).split())
    path = np.concatenate([behind[None], driven, ahead])
    route = resample(path, STEP)
    # arc length of a step: that of the last forward step before it
    s = arc_length(path)[1 : 1 + len(driven)]
    return route, s[np.searchsorted(moved, np.arange(len(front)), "right") - 1]


def plan(net: PlaceNet, lane: int, at: np.ndarray, edges: list[str], metres: float = AHEAD) -> np.ndarray:
    """Continuation (P, 3) x, y, limit of a car at `at` on `lane` along its edges, for about `metres`."""
    out: list[np.ndarray] = []
    done = 0.0
    while lane >= 0 and done < metres:
        here = net.edge[lane]
        if here in edges:
            edges = edges[edges.index(here) :]
        line = net.map.lanes[lane]
        first = 0.0 if out else along(line, at)[1] + 0.5
        target, after = _toward(net, lane, edges[1] if here in edges and len(edges) > 1 else "")
        part = _along(line, net.map.lanes[target], first) if target != lane else resample(_rest(line, first), 2.0)
        out.append(np.column_stack([part, np.full(len(part), net.map.lane_speed[lane])]))
        done += float(arc_length(part)[-1])
        lane = after
    way = np.concatenate(out)
    s = arc_length(way)
    begin = way[: max(2, int(np.searchsorted(s, CHANGE)))]  # the route may pass here again
    return way[s > along(begin, at)[1] + 0.5]


def _rest(line: np.ndarray, first: float) -> np.ndarray:
    s = arc_length(line)
    first = min(first, s[-1] - 0.1)
    start = [np.interp(first, s, line[:, 0]), np.interp(first, s, line[:, 1])]
    return np.concatenate([[start], line[s > first]])


def _along(line: np.ndarray, beside: np.ndarray, first: float) -> np.ndarray:
    """From `first` m along one lane over to the lane beside it, then to its end."""
    s, t = arc_length(line), arc_length(beside)
    at = np.linspace(min(first, s[-1] - 1.0), s[-1], max(2, round((s[-1] - first) / 2.0)))
    own = np.stack([np.interp(at, s, line[:, k]) for k in (0, 1)], 1)
    # neighbouring lanes differ in length by a few per cent only
    other = np.stack([np.interp(at * t[-1] / s[-1], t, beside[:, k]) for k in (0, 1)], 1)
    share = np.clip((at - at[0]) / max(min(CHANGE, at[-1] - at[0]), 1.0), 0, 1)[:, None]
    share = share * share * (3 - 2 * share)
    return own * (1 - share) + other * share


def _toward(net: PlaceNet, lane: int, edge: str) -> tuple[int, int]:
    """The lane to be in at the end (this one or a neighbour) and its successor that leads to `edge`."""
    candidates = [lane]
    for side in (net.map.lane_left, net.map.lane_right):
        other = int(side[lane])
        while other >= 0:
            candidates.append(other)
            other = int(side[other])
    for candidate in candidates:
        for after in _next(net, candidate):
            if edge and _leaves_to(net, after) == edge:
                return candidate, after
    after = _next(net, lane)  # within a junction, or at the end of the route: follow the lane
    return lane, after[0] if after else -1


def _leaves_to(net: PlaceNet, lane: int) -> str:
    """Edge that a lane within a junction leads to (lanes that wait for a gap are followed by another such lane)."""
    while net.map.lane_junction[lane]:
        after = _next(net, lane)
        if not after:
            return ""
        lane = after[0]
    return net.edge[lane]


def _next(net: PlaceNet, lane: int) -> list[int]:
    return net.map.lane_next[lane].ravel().astype(int).tolist()

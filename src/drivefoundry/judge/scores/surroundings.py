"""The static world of scenes as padded arrays for the scoring kernels: roads, lanes, routes, lights.

Letters: S scenes, M maps, L lanes, R route points, G signals.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from drivefoundry.edges import stack_roads
from drivefoundry.geometry import project_on_polyline
from drivefoundry.judge.scores.lanes import LaneStack, route_lanes, stack_lanes
from drivefoundry.raster import RasterStack
from drivefoundry.roadmap import arc_length
from drivefoundry.types import RoadMap, Scene

BANK_CELLS = 1_000_000_000
"""Road cells (bytes) kept stacked between calls, so that scenes drawn at random from many maps need no restacking."""

ROUTES = 4096
"""Number of routes cached."""


@dataclass(frozen=True)
class Surroundings:
    """The static parts of scenes. Rows of scenes with fewer lanes, points or signals are padded."""

    place: np.ndarray
    """(S,) index of each scene's map in the stacks."""
    roads: RasterStack
    lanes: LaneStack
    on_route: np.ndarray
    """(S, L) bool: lanes on the route or beside it in the same direction."""
    has_lanes: np.ndarray
    """(S,) bool; without lanes there is no driving direction to judge."""
    route: np.ndarray
    """(S, R, 2) m."""
    route_s: np.ndarray
    """(S, R) arc length, m."""
    route_n: np.ndarray
    """(S,) number of valid points."""
    lines: np.ndarray
    """(S, G, 4) stop lines x0, y0, x1, y1; NaN if there is none."""
    facing: np.ndarray
    """(S, G) heading of the traffic that each stop line stops, rad."""


@dataclass
class _Bank:
    maps: dict[str, RoadMap]
    roads: RasterStack
    lanes: LaneStack


_bank: _Bank | None = None


def _stacks(maps: dict[str, RoadMap]) -> _Bank:
    """Stacks that hold at least these maps; they grow, and are rebuilt when they get too large."""
    global _bank
    if _bank is not None and maps.keys() <= _bank.maps.keys():
        return _bank
    if _bank is not None and len(_bank.roads.classes) < BANK_CELLS:
        maps = {**_bank.maps, **maps}
    every = list(maps.values())
    _bank = _Bank(maps, stack_roads(every), stack_lanes(every))
    return _bank


_routes: OrderedDict[tuple[str, bytes], tuple[np.ndarray, np.ndarray]] = OrderedDict()


def _known_route(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Arc length (R,) and lanes (L,) of a scene's route, cached by content because training asks for the same ones
    again."""
    key = (scene.map.id, scene.route.tobytes())
    if key not in _routes:
        _routes[key] = arc_length(np.asarray(scene.route, np.float64)), route_lanes(scene)
        while len(_routes) > ROUTES:
            _routes.popitem(last=False)
    return _routes[key]


def surroundings(scenes: list[Scene]) -> Surroundings:
    """Collect the static world of scenes."""
    bank = _stacks({s.map.id: s.map for s in scenes})
    index = {name: i for i, name in enumerate(bank.maps)}
    n = len(scenes)
    r = max(len(s.route) for s in scenes)
    g = max(1, max(len(s.signals) for s in scenes))
    lanes = max(1, max(len(s.map.lanes) for s in scenes))
    out = Surroundings(
        place=np.array([index[s.map.id] for s in scenes]),
        roads=bank.roads,
        lanes=bank.lanes,
        on_route=np.zeros((n, lanes), np.bool_),
        has_lanes=np.array([len(s.map.lanes) > 0 for s in scenes]),
        route=np.zeros((n, r, 2)),
        route_s=np.zeros((n, r)),
        route_n=np.array([len(s.route) for s in scenes]),
        lines=np.full((n, g, 4), np.nan),
        facing=np.zeros((n, g)),
    )
    for i, scene in enumerate(scenes):
        m = len(scene.route)
        out.route[i, :m] = scene.route[:, :2]
        s, on_route = _known_route(scene)
        out.route_s[i, :m], out.on_route[i, : len(on_route)] = s, on_route
        count = len(scene.signals)
        if count:
            out.lines[i, :count] = scene.map.stop_lines[:count]
            out.facing[i, :count] = scene.map.signal_heads[:count, 3] + np.pi  # a head faces the traffic it stops
    return out


def signal_states(scenes: list[Scene], first: np.ndarray, steps: int) -> np.ndarray:
    """States (S, G, steps) uint8 of each scene's lights from step `first` (S,); the last one holds beyond the log."""
    out = np.zeros((len(scenes), max(1, max(len(s.signals) for s in scenes)), steps), np.uint8)
    for i, scene in enumerate(scenes):
        if len(scene.signals):
            t = np.minimum(first[i] + np.arange(steps), scene.signals.shape[1] - 1)
            out[i, : len(scene.signals)] = scene.signals[:, t]
    return out


def route_feet(where: Surroundings, xy: np.ndarray) -> np.ndarray:
    """(S,) index of the route segment nearest to each point (S, 2)."""
    return np.array(
        [
            project_on_polyline(where.route[i, :k], where.route_s[i, :k], xy[i, 0], xy[i, 1], -1)[2]
            for i, k in enumerate(where.route_n)
        ]
    )

"""Lane rasters of maps: which lane a point is in, and whether it is in a junction.

The driving-direction, lane-keeping and fault rules need this at every ego step, so it is a table of 0.5 m cells.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numba import njit

from drivefoundry.geometry import wrap
from drivefoundry.roadmap import resample
from drivefoundry.types import RoadMap, Scene

CELL = 0.5
NO_LANE, JUNCTION = -1, -2
"""Cell values other than lane indices. Cells where lanes of different directions cross count as junction."""
CROSSING_ANGLE = 0.35
"""Lanes whose directions differ by more than this, rad, cross each other."""
SIDE, JUNCTION_SIDE = 1.0, 1.5
"""Half widths that a lane extends to each side; 1.5 in junctions, to cover the ground between their lanes."""
KEPT = 64


@dataclass(frozen=True)
class LaneGrid:
    """cells (H, W) int16: lane index, NO_LANE or JUNCTION of the cell whose corner is origin + CELL * (column, row)."""

    origin: tuple[float, float]
    cells: np.ndarray


@dataclass(frozen=True)
class LaneStack:
    """Grids of M maps in one flat array for kernels. cells (sum of H*W,) int16; frames (M, 5): offset, H, W, origin x,
    origin y."""

    cells: np.ndarray
    frames: np.ndarray


_kept: OrderedDict[str, LaneGrid] = OrderedDict()


def lane_grid(road_map: RoadMap) -> LaneGrid:
    """The lane grid of a map; cached by map id."""
    if road_map.id in _kept:
        _kept.move_to_end(road_map.id)
        return _kept[road_map.id]
    points = np.ascontiguousarray(road_map.lanes.points[:, :2], np.float64)
    width = np.asarray(road_map.lane_width, np.float64)
    margin = 0.5 * JUNCTION_SIDE * (width.max() if len(width) else 0.0) + 2 * CELL
    low = points.min(0) - margin if len(points) else np.zeros(2)
    high = points.max(0) + margin if len(points) else np.ones(2)
    shape = tuple(int(n) for n in np.ceil((high - low) / CELL)[::-1])
    cells = np.full(shape, NO_LANE, np.int16)
    assert len(width) < 32767, "lane indices are 16-bit"
    junction = np.asarray(road_map.lane_junction, np.bool_)
    _paint_lanes(points - low, road_map.lanes.offsets, width, junction, cells)
    grid = LaneGrid((float(low[0]), float(low[1])), cells)
    _kept[road_map.id] = grid
    while len(_kept) > KEPT:
        _kept.popitem(last=False)
    return grid


def stack_lanes(maps: list[RoadMap]) -> LaneStack:
    """Stack the lane grids of maps, in the order given (index m of `lane_at`)."""
    grids = [lane_grid(m) for m in maps]
    sizes = [g.cells.size for g in grids]
    frames = np.zeros((len(grids), 5))
    for m, g in enumerate(grids):
        frames[m] = (sum(sizes[:m]), *g.cells.shape, *g.origin)
    flat = [g.cells.reshape(-1) for g in grids]
    return LaneStack(flat[0] if len(flat) == 1 else np.concatenate(flat), frames)


@njit(cache=True, nogil=True)
def lane_at(cells, frames, m, x, y):
    """Lane index, NO_LANE or JUNCTION at point x, y (m) of map m. Arrays as in LaneStack."""
    col = (x - frames[m, 3]) / CELL
    row = (y - frames[m, 4]) / CELL
    if row >= 0.0 and col >= 0.0 and row < frames[m, 1] and col < frames[m, 2]:
        return int(cells[int(frames[m, 0]) + int(row) * int(frames[m, 2]) + int(col)])
    return NO_LANE


@njit(cache=True, nogil=True)
def _paint_lanes(points, offsets, width, junction, cells):
    """Paint lane centre lines (m from the grid's origin) into cells, in place."""
    rows, cols = cells.shape
    share = np.full((rows, cols), np.inf, np.float32)  # lateral offset of the cell's lane, in half widths
    heading = np.zeros((rows, cols), np.float32)
    crossed = np.zeros((rows, cols), np.bool_)
    for lane in range(len(offsets) - 1):
        half = 0.5 * width[lane]
        side = JUNCTION_SIDE if junction[lane] else SIDE
        first, last = offsets[lane], offsets[lane + 1] - 1
        for i in range(first, last):
            ax, ay = points[i, 0], points[i, 1]
            ex, ey = points[i + 1, 0] - ax, points[i + 1, 1] - ay
            length = math.hypot(ex, ey)
            if length == 0.0:
                continue
            yaw = math.atan2(ey, ex)
            pad = half * side
            r0, r1 = (min(ay, ay + ey) - pad) / CELL, (max(ay, ay + ey) + pad) / CELL
            c0, c1 = (min(ax, ax + ex) - pad) / CELL, (max(ax, ax + ex) + pad) / CELL
            for r in range(max(0, int(r0)), min(rows, int(r1) + 1)):
                for c in range(max(0, int(c0)), min(cols, int(c1) + 1)):
                    rx, ry = (c + 0.5) * CELL - ax, (r + 0.5) * CELL - ay
                    u = (rx * ex + ry * ey) / length
                    # Round joints inside a lane, square ends: a lane does not extend into its successor.
                    if (u < 0.0 and i == first) or (u > length and i == last - 1):
                        continue
                    u = min(length, max(0.0, u))
                    off = math.hypot(rx - u * ex / length, ry - u * ey / length) / half
                    if off > side:
                        continue
                    old = share[r, c]
                    turned = abs(wrap(yaw - heading[r, c])) > CROSSING_ANGLE
                    if old < 0.8 and off < 0.8 and turned and cells[r, c] != lane:
                        crossed[r, c] = True
                    # Ground beyond a junction lane's own width goes to any other lane, since its share is above 1.
                    if off < old:
                        share[r, c], heading[r, c], cells[r, c] = off, yaw, lane
    for r in range(rows):
        for c in range(cols):
            lane = cells[r, c]
            if lane >= 0 and (crossed[r, c] or junction[lane]):
                cells[r, c] = JUNCTION


def route_lanes(scene: Scene) -> np.ndarray:
    """(L,) bool: lanes on a scene's route and their neighbours in the same direction, as NAVSIM's roadblocks."""
    road_map = scene.map
    grid = lane_grid(road_map)
    at = np.floor((resample(np.asarray(scene.route[:, :2]), CELL) - grid.origin) / CELL).astype(int)
    inside = ((at >= 0) & (at < grid.cells.shape[::-1])).all(1)
    lanes = np.unique(grid.cells[at[inside, 1], at[inside, 0]])
    on_route = np.zeros(max(1, len(road_map.lanes)), np.bool_)
    waiting = [int(lane) for lane in lanes if lane >= 0]
    while waiting:
        lane = waiting.pop()
        if on_route[lane]:
            continue
        on_route[lane] = True
        beside = (int(road_map.lane_left[lane]), int(road_map.lane_right[lane]))
        waiting += [n for n in beside if n >= 0 and not on_route[n]]
    return on_route

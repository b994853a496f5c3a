"""Unknown ground of maps with road edges: neither road nor known to be off the road.

Some sources record lanes and road edges, but no lanes in other drivable places: car parks, yards, lay-bys. Beside the
recorded road, only an edge shows that the road ends: up to BAND behind one the ground is not road; all other ground is
unknown. Edges have the road on their left, as in Waymo's data (whose sim agents' metric uses the same rule to detect
leaving the road). Complete maps (`RoadMap.road_edges` is None) have no unknown ground.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numba import njit

from drivefoundry.raster import CLASSES, GROUND, SIDEWALK, RasterStack, ground_raster, stack_rasters
from drivefoundry.types import RoadMap

UNKNOWN = CLASSES
"""Texel class of unknown ground in a stack of `stack_roads`; `drivable_at` treats it as drivable."""
NO_ROAD, UNMAPPED, MAPPED_ROAD = range(3)
"""Results of `ground_at`."""
BAND = 3.0
"""Depth of the ground behind a road edge that is known not to be road, m: the distance that the fastest car covers in a
step, so that no car can jump over it."""
KEPT = 16

_kept: OrderedDict[str, np.ndarray] = OrderedDict()


def unknown_ground(road_map: RoadMap) -> np.ndarray | None:
    """(H, W) bool: unknown texels of a map's raster; None for a complete map."""
    if road_map.road_edges is None:
        return None
    if road_map.id in _kept:
        _kept.move_to_end(road_map.id)
        return _kept[road_map.id]
    raster = ground_raster(road_map)
    edges = road_map.road_edges
    starts = np.arange(max(len(edges.points) - 1, 0))
    inside = ~np.isin(starts, np.asarray(edges.offsets[1:]) - 1)
    scale, origin = 1.0 / raster.resolution, np.array([raster.origin_x, raster.origin_y])
    points = (np.asarray(edges.points[:, :2], np.float64) - origin) * scale
    segments = np.hstack([points[starts[inside]], points[starts[inside] + 1]])
    behind = np.zeros(raster.classes.shape, np.bool_)
    _mark_behind(segments, BAND * scale, behind)
    _kept[road_map.id] = (raster.classes == GROUND) & ~behind
    while len(_kept) > KEPT:
        _kept.popitem(last=False)
    return _kept[road_map.id]


def stack_roads(maps: list[RoadMap]) -> RasterStack:
    """Stack maps for `ground_at`: as `stack_rasters`, with UNKNOWN where a map does not classify the ground, and frames
    (M, 7) with the class beyond the raster as last column."""
    stack = stack_rasters(maps)
    beyond = [GROUND if m.road_edges is None else UNKNOWN for m in maps]
    frames = np.column_stack([stack.frames, np.array(beyond, np.float64)])
    if all(m.road_edges is None for m in maps):
        return RasterStack(stack.classes, frames)
    classes = stack.classes.copy()
    for road_map, frame in zip(maps, stack.frames, strict=True):
        unknown = unknown_ground(road_map)
        if unknown is not None:
            first = int(frame[0])
            classes[first : first + unknown.size][unknown.reshape(-1)] = UNKNOWN
    return RasterStack(classes, frames)


@njit(cache=True, nogil=True)
def ground_at(classes, frames, m, x, y):
    """NO_ROAD, UNMAPPED or MAPPED_ROAD at point (x, y) m of map m. NaN is NO_ROAD. Arrays as in `stack_roads`."""
    col = (x - frames[m, 3]) / frames[m, 5]
    row = (y - frames[m, 4]) / frames[m, 5]
    c = GROUND if col != col or row != row else int(frames[m, 6])
    if row >= 0.0 and col >= 0.0 and row < frames[m, 1] and col < frames[m, 2]:
        c = int(classes[int(frames[m, 0]) + int(row) * int(frames[m, 2]) + int(col)])
    return UNMAPPED if c == UNKNOWN else NO_ROAD if c in (GROUND, SIDEWALK) else MAPPED_ROAD


@njit(cache=True, nogil=True)
def _mark_behind(segments, reach, behind):
    """Mark texels (H, W) that are on the right of their nearest segment within `reach`; segments (n, 4) in texels.

    If two segments are equally near, at their common corner, the one whose line is further away decides.
    """
    rows, cols = behind.shape
    best = np.full((rows, cols), np.float32(np.inf), np.float32)
    away = np.zeros((rows, cols), np.float32)
    for k in range(len(segments)):
        ax, ay, bx, by = segments[k, 0], segments[k, 1], segments[k, 2], segments[k, 3]
        ex, ey = bx - ax, by - ay
        ee = ex * ex + ey * ey
        if ee == 0.0:
            continue
        r0, r1 = int(max(0.0, min(ay, by) - reach)), int(min(rows - 1.0, max(ay, by) + reach))
        c0, c1 = int(max(0.0, min(ax, bx) - reach)), int(min(cols - 1.0, max(ax, bx) + reach))
        for r in range(r0, r1 + 1):
            for c in range(c0, c1 + 1):
                px, py = c + 0.5 - ax, r + 0.5 - ay
                u = min(1.0, max(0.0, (px * ex + py * ey) / ee))
                dx, dy = px - u * ex, py - u * ey
                d = np.float32(np.sqrt(dx * dx + dy * dy))
                if d > reach or d > best[r, c] + 1e-3:
                    continue
                side = np.float32((ex * py - ey * px) / np.sqrt(ee))
                if d < best[r, c] - 1e-3 or abs(side) > away[r, c]:
                    best[r, c], away[r, c], behind[r, c] = min(d, best[r, c]), abs(side), side < 0.0

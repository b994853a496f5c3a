"""Ground rasters of maps: what is on the ground at a resolution of 0.2 m, for off-road checks and for the camera.

Texel (row, col) covers [origin_x + col * res, + res) x [origin_y + row * res, + res) of the map, rows growing with y.
A texel's class is that of its centre. Letters: H, W texel rows and columns; M maps.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numba import njit

from drivefoundry.types import LINE_WHITE_DASHED, LINE_YELLOW, RoadMap, require

GROUND, ROAD, SIDEWALK, WHITE, YELLOW, CROSSWALK, STOP_LINE = range(7)
"""Texel classes."""
CLASSES = 7
SHADES = 16
"""Texture codes are class * SHADES + shade: brightness for the first three classes, paint coverage for the others."""
DRIVABLE = np.array([False, True, False, True, True, True, True])
"""(CLASSES,) whether a car may drive on each class."""

MARGIN = 20.0
"""Margin around the outermost feature, m."""
MAX_TEXELS = 200_000_000
KEPT = 16
"""Number of rasters cached, by map id."""

LINE_WIDTH = 0.2
STOP_WIDTH = 0.5
DASH_ON, DASH_PERIOD = 3.0, 7.5
STRIPE_ON, STRIPE_PERIOD = 0.5, 1.0


@dataclass(frozen=True)
class GroundRaster:
    """The ground of one map. classes (H, W) uint8 texel classes; texture (H, W) uint8 class * SHADES + shade."""

    origin_x: float
    origin_y: float
    resolution: float
    classes: np.ndarray
    texture: np.ndarray


@dataclass(frozen=True)
class RasterStack:
    """Rasters of M maps as flat arrays for kernels.

    classes (sum of H*W,) uint8; frames (M, 6) float64: offset of the map's first texel, H, W, origin x, origin y and
    resolution, m.
    """

    classes: np.ndarray
    frames: np.ndarray


_kept: OrderedDict[tuple[str, float], GroundRaster] = OrderedDict()


def ground_raster(road_map: RoadMap, resolution: float = 0.2) -> GroundRaster:
    """The raster of a map; the last 16 are cached by id.

    resolution: texel edge, m. ValueError if the map spans more texels than fit in memory.
    """
    key = (road_map.id, resolution)
    if key in _kept:
        _kept.move_to_end(key)
        return _kept[key]
    raster = _paint(road_map, resolution)
    _kept[key] = raster
    while len(_kept) > KEPT:
        _kept.popitem(last=False)
    return raster


def stack_rasters(maps: list[RoadMap]) -> RasterStack:
    """Stack the rasters of maps, in the order given (index m of `drivable_at`)."""
    rasters = [ground_raster(m) for m in maps]
    sizes = [r.classes.size for r in rasters]
    frames = np.zeros((len(rasters), 6))
    for m, r in enumerate(rasters):
        frames[m] = (sum(sizes[:m]), *r.classes.shape, r.origin_x, r.origin_y, r.resolution)
    flat = [r.classes.reshape(-1) for r in rasters]
    classes = flat[0] if len(flat) == 1 else np.concatenate(flat or [np.zeros(0, np.uint8)])
    return RasterStack(classes, frames)


@njit(cache=True, nogil=True)
def class_at(classes, frames, m, x, y):
    """Texel class at point (x, y) m of map m; GROUND beyond the raster and for NaN. Arrays as in RasterStack."""
    col = (x - frames[m, 3]) / frames[m, 5]
    row = (y - frames[m, 4]) / frames[m, 5]
    if row >= 0.0 and col >= 0.0 and row < frames[m, 1] and col < frames[m, 2]:
        return classes[int(frames[m, 0]) + int(row) * int(frames[m, 2]) + int(col)]
    return np.uint8(GROUND)


@njit(cache=True, nogil=True)
def drivable_at(classes, frames, m, x, y):
    """Whether a car may drive at a point. For use inside kernels; arguments as in `class_at`."""
    c = class_at(classes, frames, m, x, y)
    return c != GROUND and c != SIDEWALK


def _paint(road_map: RoadMap, resolution: float) -> GroundRaster:
    features = (road_map.drivable, road_map.lanes, road_map.sidewalks, road_map.crosswalks, road_map.lines)
    points = np.concatenate([f.points[:, :2] for f in features])
    require(len(points) > 0, f"RoadMap {road_map.id}: nothing to draw; give it lanes or drivable polygons")
    require(bool(np.isfinite(points).all()), f"RoadMap {road_map.id}: outlines must be finite")
    low = np.floor(points.min(0) - MARGIN)
    # Multiples of 64 texels, so that every level of the camera's mip pyramid has whole texels.
    wide, high = (int(n) for n in np.ceil((points.max(0) + MARGIN - low) / (resolution * 64)) * 64)
    require(
        wide * high <= MAX_TEXELS,
        f"RoadMap {road_map.id}: {wide} x {high} texels of {resolution} m are too many; cut the map or coarsen it",
    )
    classes = np.zeros((high, wide), np.uint8)
    offset, scale = low, 1.0 / resolution
    for polygons, code in ((road_map.sidewalks, SIDEWALK), (road_map.drivable, ROAD)):
        _fill(classes, (polygons.points[:, :2] - offset) * scale, polygons.offsets, code)
    texture = np.empty_like(classes)
    _shade(classes, texture)
    for i in range(len(road_map.lines)):
        code = YELLOW if road_map.line_kind[i] == LINE_YELLOW else WHITE
        dashed = road_map.line_kind[i] == LINE_WHITE_DASHED
        strip = (road_map.lines[i][:, :2] - offset) * scale
        _stroke(
            classes, texture, strip, LINE_WIDTH * scale, DASH_ON * scale, DASH_PERIOD * scale if dashed else 0.0, code
        )
    directions = _directions(road_map)
    for i in range(len(road_map.crosswalks)):
        polygon = road_map.crosswalks[i][:, :2]
        if len(polygon) >= 3:
            axis = _walking_axis(polygon, directions)
            _stripes(classes, texture, (polygon - offset) * scale, axis, STRIPE_ON * scale, STRIPE_PERIOD * scale)
    for line in road_map.stop_lines:
        strip = (line.reshape(2, 2) - offset) * scale
        _stroke(classes, texture, strip, STOP_WIDTH * scale, 0.0, 0.0, STOP_LINE)
    return GroundRaster(float(low[0]), float(low[1]), resolution, classes, texture)


def _directions(road_map: RoadMap) -> np.ndarray:
    """(n, 4) mid point and unit direction of every lane segment."""
    p, starts = road_map.lanes.points[:, :2], road_map.lanes.offsets[1:-1]
    step = np.diff(p, axis=0)
    inside = np.ones(len(step), bool)
    inside[starts[(starts > 0) & (starts <= len(step))] - 1] = False
    length = np.hypot(*step.T)
    inside &= length > 1e-6
    return np.column_stack([(p[:-1] + p[1:])[inside] / 2, step[inside] / length[inside, None]])


def _walking_axis(polygon: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Unit vector along which people cross: the polygon's principal axis that is more perpendicular to the nearest
    lane."""
    centre = polygon.mean(0)
    _, axes = np.linalg.eigh(np.cov((polygon - centre).T))
    long = axes[:, 1]
    if len(directions) == 0:
        return long
    near = directions[np.argmin(((directions[:, :2] - centre) ** 2).sum(1)), 2:]
    return long if abs(long @ near) < 0.7 else axes[:, 0]


@njit(cache=True, nogil=True)
def _crossings(points, first, last, y, xs):
    """Write the x of the polygon's edges at height y to xs, ascending; returns their number (even-odd rule)."""
    n = 0
    j = last - 1
    for i in range(first, last):
        ya, yb = points[j, 1], points[i, 1]
        if (ya > y) != (yb > y):
            x = points[j, 0] + (y - ya) / (yb - ya) * (points[i, 0] - points[j, 0])
            k = n
            while k > 0 and xs[k - 1] > x:
                xs[k] = xs[k - 1]
                k -= 1
            xs[k] = x
            n += 1
        j = i
    return n


@njit(cache=True, nogil=True)
def _rows(points, first, last, high):
    """Rows [a, b) whose centres are within the polygon's height."""
    low, top = np.inf, -np.inf
    for i in range(first, last):
        low, top = min(low, points[i, 1]), max(top, points[i, 1])
    return max(0, int(np.ceil(low - 0.5))), min(high, int(np.ceil(top - 0.5)))


@njit(cache=True, nogil=True)
def _fill(classes, points, offsets, code):
    """Paint polygons (in texels) in place where texel centres are inside."""
    high, wide = classes.shape
    xs = np.empty(len(points) + 1)
    for p in range(len(offsets) - 1):
        first, last = offsets[p], offsets[p + 1]
        a, b = _rows(points, first, last, high)
        for row in range(a, b):
            n = _crossings(points, first, last, row + 0.5, xs)
            for k in range(0, n - 1, 2):
                left = max(0, int(np.ceil(xs[k] - 0.5)))
                right = min(wide, int(np.ceil(xs[k + 1] - 0.5)))
                for col in range(left, right):
                    classes[row, col] = code


@njit(cache=True, nogil=True)
def _lattice(row, col):
    """Fixed pseudo-random number in [0, 1) of an integer point: texture must depend only on the place."""
    h = np.uint32(row) * np.uint32(0x9E3779B1) ^ np.uint32(col) * np.uint32(0x85EBCA77)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    h = (h ^ (h >> np.uint32(12))) * np.uint32(0x297A2D39)
    return np.float32((h >> np.uint32(16)) & np.uint32(0xFFFF)) / np.float32(65536.0)


@njit(cache=True, nogil=True)
def _shade(classes, texture):
    """Write texture codes: grain and broad patches on grass and asphalt, slab joints on sidewalks."""
    high, wide = classes.shape
    broad = np.empty((high // 16 + 1, wide // 16 + 1), np.float32)
    for r in range(broad.shape[0]):
        for c in range(broad.shape[1]):
            broad[r, c] = _lattice(r + 7919, c + 104729)
    for row in range(high):
        r, fr = row // 16, np.float32(row % 16) / np.float32(16)
        r1 = min(r + 1, broad.shape[0] - 1)
        for col in range(wide):
            c, fc = col // 16, np.float32(col % 16) / np.float32(16)
            c1 = min(c + 1, broad.shape[1] - 1)
            top = broad[r, c] * (1 - fc) + broad[r, c1] * fc
            patch = top * (1 - fr) + (broad[r1, c] * (1 - fc) + broad[r1, c1] * fc) * fr
            grain = _lattice(row, col)
            code = classes[row, col]
            level = np.float32(0.5) * (grain + patch)
            if code == SIDEWALK:
                level = np.float32(0.4) if row % 8 == 0 or col % 8 == 0 else np.float32(0.7) + np.float32(0.3) * grain
            texture[row, col] = code * SHADES + int(level * np.float32(SHADES - 0.01))


@njit(cache=True, nogil=True)
def _cover(classes, texture, row, col, coverage, code):
    """Paint one texel with coverage 0..1. Coverage of the same kind adds up, as in a double line; otherwise the larger
    wins. Off the road, paint changes the colour but not the class."""
    level = int(min(1.0, coverage) * (SHADES - 1) + 0.5)
    old, road = texture[row, col], classes[row, col] != GROUND and classes[row, col] != SIDEWALK
    # Thin coverage is mixed with asphalt in the palette, so beside the road it would look dirty.
    if level <= (0 if road else SHADES // 2):
        return
    if old // SHADES == code:
        level = min(SHADES - 1, level + old % SHADES)
    elif old >= WHITE * SHADES and level < old % SHADES:
        return
    texture[row, col] = code * SHADES + level
    if road and level * 2 >= SHADES - 1:
        classes[row, col] = code


@njit(cache=True, nogil=True)
def _stroke(classes, texture, strip, width, on, period, code):
    """Paint a polyline (P, 2) in texels in place, with its exact coverage of each texel; dashed if period > 0."""
    high, wide = classes.shape
    half, along = 0.5 * width, 0.0
    for i in range(len(strip) - 1):
        x0, y0 = strip[i]
        dx, dy = strip[i + 1, 0] - x0, strip[i + 1, 1] - y0
        length = np.hypot(dx, dy)
        if length < 1e-9:
            continue
        dx, dy = dx / length, dy / length
        pad = half + 1.0
        row0, row1 = int(np.floor(min(y0, strip[i + 1, 1]) - pad)), int(np.ceil(max(y0, strip[i + 1, 1]) + pad))
        col0, col1 = int(np.floor(min(x0, strip[i + 1, 0]) - pad)), int(np.ceil(max(x0, strip[i + 1, 0]) + pad))
        for row in range(max(0, row0), min(high, row1)):
            for col in range(max(0, col0), min(wide, col1)):
                px, py = col + 0.5 - x0, row + 0.5 - y0
                s, side = px * dx + py * dy, abs(py * dx - px * dy)
                # Each texel belongs to one segment; only at the two ends of the strip is paint cut within a texel.
                head, tail = i == 0, i == len(strip) - 2
                if (s < 0.0 and not head) or (s >= length and not tail):
                    continue
                end = min(0.5 + s if head else 1.0, 0.5 + length - s if tail else 1.0)
                coverage = min(1.0, max(0.0, half - side + 0.5)) * min(1.0, max(0.0, end))
                if period > 0.0:
                    phase = (along + s) % period
                    coverage *= min(1.0, max(0.0, 0.5 + min(phase, on - phase)))
                _cover(classes, texture, row, col, coverage, code)
        along += length


@njit(cache=True, nogil=True)
def _stripes(classes, texture, polygon, axis, on, period):
    """Paint zebra stripes in place on a crosswalk polygon (in texels), across its walking axis."""
    high, wide = classes.shape
    xs = np.empty(len(polygon) + 1)
    a, b = _rows(polygon, 0, len(polygon), high)
    start = np.inf
    for i in range(len(polygon)):
        start = min(start, polygon[i, 0] * axis[0] + polygon[i, 1] * axis[1])
    for row in range(a, b):
        n = _crossings(polygon, 0, len(polygon), row + 0.5, xs)
        for k in range(0, n - 1, 2):
            for col in range(max(0, int(np.ceil(xs[k] - 0.5))), min(wide, int(np.ceil(xs[k + 1] - 0.5)))):
                phase = ((col + 0.5) * axis[0] + (row + 0.5) * axis[1] - start) % period
                _cover(classes, texture, row, col, 0.5 + min(phase, on - phase), CROSSWALK)

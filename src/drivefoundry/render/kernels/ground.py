"""The ground: a mip pyramid of class rasters, and the kernel that warps it into a camera's view below the sky.

A pixel of distant road is metres long and centimetres wide. So each image row uses the pyramid level that fits a
pixel's width and averages up to eight taps along its length (anisotropic filtering): lane lines stay visible far away.
Colours are packed R | G << 8 | B << 16. Letters: H, W image rows and columns; M maps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from drivefoundry.raster import (
    CLASSES,
    CROSSWALK,
    GROUND,
    ROAD,
    SHADES,
    SIDEWALK,
    STOP_LINE,
    WHITE,
    YELLOW,
    GroundRaster,
)

COUNTED: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": True}
BARE: dict[str, Any] = COUNTED | {"_nrt": False}
"""Options of drawing code with and without numba's runtime: without it, code can neither allocate arrays nor count
references to those of its caller, which took half of the time."""

kernel = njit(**BARE)
"""Decorator of drawing code. Its compiled form is cached on disk inside the kernels that call it, keyed by its source:
numba alone would use a stale kernel after a change in another file that it calls."""

inlined = njit(**BARE, inline="always")
"""The same, inlined into callers by numba."""

maker = njit(**COUNTED)
"""The same for the few functions that allocate arrays."""

LEVELS = 6
TAPS = 8
FAR = 500.0
"""Ground farther than this, m, is drawn as at this distance."""

PX, PY, PZ, COS, SIN, COSP, SINP, FX, FY, CX, CY = range(11)
"""Camera vector: position m, cosine and sine of heading and of pitch (positive down), intrinsics in pixels."""

SKY_TOP = np.array([96.0, 148.0, 214.0])
SKY_LOW = np.array([206.0, 218.0, 230.0])
HAZE = 206 | 218 << 8 | 230 << 16
"""Packed SKY_LOW: the colour of distant objects."""
FADE = np.round(256 * (1 - np.exp(-np.arange(1024) / 380.0))).astype(np.int64)
"""Share of haze, in 1/256, by distance in whole metres."""


def _palette() -> np.ndarray:
    level = np.linspace(0.0, 1.0, SHADES)[:, None]
    ends = {
        GROUND: ((98, 116, 72), (126, 140, 94)),
        ROAD: ((76, 77, 82), (98, 99, 103)),
        SIDEWALK: ((136, 132, 126), (182, 177, 168)),
        WHITE: ((88, 89, 93), (240, 240, 236)),
        YELLOW: ((88, 89, 93), (242, 186, 44)),
        CROSSWALK: ((88, 89, 93), (236, 236, 232)),
        STOP_LINE: ((88, 89, 93), (242, 242, 238)),
    }
    rgb = np.concatenate([np.array(ends[c][0]) * (1 - level) + np.array(ends[c][1]) * level for c in range(CLASSES)])
    rgb = np.round(rgb).astype(np.uint32)
    return rgb[:, 0] | rgb[:, 1] << 8 | rgb[:, 2] << 16


PALETTE = _palette()
"""(CLASSES * SHADES,) packed colour of each texture code."""
_WIDE = PALETTE.astype(np.int64)
SPREAD = _WIDE & 0xFF | (_WIDE & 0xFF00) << 13 | (_WIDE & 0xFF0000) << 26
"""The palette in the format of `_spread`."""
OUTSIDE = int(PALETTE[GROUND * SHADES + SHADES // 2])


class Pyramid(NamedTuple):
    """Ground textures of M maps. base: flat texture codes of level 0; upper: flat packed colours of levels 1..5; levels
    (M, LEVELS) int64: offset of each level in its array; frames (M, 6): as in RasterStack, with the offset unused."""

    base: np.ndarray
    upper: np.ndarray
    levels: np.ndarray
    frames: np.ndarray


def pyramid(rasters: list[GroundRaster]) -> Pyramid:
    """Build the mip pyramid of rasters. Each level halves the one below by averaging 2 x 2 colours."""
    base, upper = [r.texture.reshape(-1) for r in rasters], []
    levels = np.zeros((len(rasters), LEVELS), np.int64)
    frames = np.zeros((len(rasters), 6))
    low = high = 0
    for m, r in enumerate(rasters):
        frames[m] = (low, *r.texture.shape, r.origin_x, r.origin_y, r.resolution)
        levels[m, 0] = low
        low += r.texture.size
        colours = _first_half(r.texture, PALETTE)
        for k in range(1, LEVELS):
            levels[m, k] = high
            upper.append(colours.reshape(-1))
            high += colours.size
            colours = _half(colours)
    return Pyramid(base[0] if len(base) == 1 else np.concatenate(base), np.concatenate(upper), levels, frames)


@njit(cache=True, nogil=True)
def mean4(a, b, c, d):
    """Mean of four packed colours."""
    rb = (a & 0xFF00FF) + (b & 0xFF00FF) + (c & 0xFF00FF) + (d & 0xFF00FF) + 0x20002
    g = (a & 0xFF00) + (b & 0xFF00) + (c & 0xFF00) + (d & 0xFF00) + 0x200
    return (rb >> 2 & 0xFF00FF) | (g >> 2 & 0xFF00)


@njit(cache=True, nogil=True)
def _first_half(texture, palette):
    out = np.empty((texture.shape[0] // 2, texture.shape[1] // 2), np.uint32)
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            a, b = palette[texture[2 * r, 2 * c]], palette[texture[2 * r, 2 * c + 1]]
            d, e = palette[texture[2 * r + 1, 2 * c]], palette[texture[2 * r + 1, 2 * c + 1]]
            out[r, c] = mean4(np.int64(a), np.int64(b), np.int64(d), np.int64(e))
    return out


@njit(cache=True, nogil=True)
def _half(colours):
    out = np.empty((colours.shape[0] // 2, colours.shape[1] // 2), np.uint32)
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            a, b = colours[2 * r, 2 * c], colours[2 * r, 2 * c + 1]
            d, e = colours[2 * r + 1, 2 * c], colours[2 * r + 1, 2 * c + 1]
            out[r, c] = mean4(np.int64(a), np.int64(b), np.int64(d), np.int64(e))
    return out


@kernel
def mix(a, b, w):
    """Mix packed colours: a + (b - a) * w / 256."""
    rb = ((a & 0xFF00FF) * (256 - w) + (b & 0xFF00FF) * w) >> 8 & 0xFF00FF
    return rb | (((a & 0xFF00) * (256 - w) + (b & 0xFF00) * w) >> 8 & 0xFF00)


@kernel
def fade(z):
    """Share of haze at a distance, m, in 1/256."""
    return FADE[max(0, min(1023, int(z)))]


@kernel
def _reach(cam, v):
    """Depth (m along the optical axis) where the ray of an image row meets the ground; -1 above the horizon."""
    yn = (v - cam[CY]) / cam[FY]
    fall = cam[SINP] + yn * cam[COSP]
    if fall <= 1e-6:
        return -1.0
    return min(FAR, cam[PZ] / fall)


@kernel
def row_taps(cam, frame, v, taps):
    """Fill taps (TAPS, 4) of an image row: texel x, y at the first pixel centre, and their step per pixel.

    Returns (number of taps, pyramid level, depth m of the row's centre); no taps above the horizon.
    """
    depth = _reach(cam, v + 0.5)
    if depth < 0.0:
        return 0, 0, 0.0
    near = _reach(cam, v + 1.0)
    far = _reach(cam, v + 0.02)
    if far < 0.0:
        far = FAR
    across, along, res = depth / cam[FX], far - near, frame[5]
    level = 0
    while level < LEVELS - 1 and (res * 1.5 < across or res * 3 * TAPS < along):
        level += 1
        res *= 2.0
    n = max(1, min(TAPS, int(np.ceil(along / res))))
    xn0, dxn = (0.5 - cam[CX]) / cam[FX], 1.0 / cam[FX]
    for k in range(n):
        vk = v + (k + 0.5) / n
        t = _reach(cam, vk)
        if t < 0.0:
            t = FAR
        yn = (vk - cam[CY]) / cam[FY]
        ahead = t * (cam[COSP] - yn * cam[SINP])
        x = cam[PX] + ahead * cam[COS] + xn0 * t * cam[SIN]
        y = cam[PY] + ahead * cam[SIN] - xn0 * t * cam[COS]
        taps[k, 0], taps[k, 1] = (x - frame[3]) / res, (y - frame[4]) / res
        taps[k, 2], taps[k, 3] = t * dxn * cam[SIN] / res, -t * dxn * cam[COS] / res
    return n, level, depth


@kernel
def _within(start, step, limit, first, last):
    """Narrow pixels first..last to those whose coordinate start + i * step (texels) stays within 1 .. limit - 2."""
    for edge, sign in ((1.0, 1.0), (limit - 2.0, -1.0)):
        room, gain = (start - edge) * sign, step * sign
        if abs(gain) < 1e-12:
            if room < 0.0:
                return 0, 0
        elif gain > 0.0:
            first = max(first, min(last, np.ceil(-room / gain)))
        else:
            last = min(last, max(first, np.floor(-room / gain) + 1.0))
    return first, last


@kernel
def _spread(c):
    """Spread a packed colour to R | G << 21 | B << 42: one integer has room for the sum of TAPS colours of weight
    256."""
    return (c & 0xFF) | (c & 0xFF00) << 13 | (c & 0xFF0000) << 26


@inlined
def _texel(base, upper, level, at):
    """Colour at a position in the pyramid, as `_spread` gives it. at: unsigned, so numba omits negative indexing."""
    return SPREAD[base[at]] if level == 0 else _spread(np.int64(upper[at]))


@kernel
def _take(base, upper, level, wide, at, x, y, dx, dy, total):
    """Add the nearest texels along a line to total (n,). at: position of texel 0, 0; x, y, dx, dy: in 1 / 65536."""
    for i in range(len(total)):
        total[i] += _texel(base, upper, level, np.uint64(at + (y >> 16) * wide + (x >> 16)))
        x += dx
        y += dy


@kernel
def _blend(base, upper, level, wide, at, x, y, dx, dy, total):
    """The same, interpolated between the four surrounding texels, times 256."""
    one, below = np.uint64(1), np.uint64(wide)
    for i in range(len(total)):
        k = np.uint64(at + (y >> 16) * wide + (x >> 16))
        wx, wy = x >> 12 & 15, y >> 12 & 15
        c00, c01 = _texel(base, upper, level, k), _texel(base, upper, level, k + one)
        c10, c11 = _texel(base, upper, level, k + below), _texel(base, upper, level, k + below + one)
        top, low = 16 * c00 + (c01 - c00) * wx, 16 * c10 + (c11 - c10) * wx
        total[i] += 16 * top + (low - top) * wy
        x += dx
        y += dy


@kernel
def ground_row(base, upper, offset, high, wide, level, taps, n, haze, fine, total, line, left, right):
    """Average a row's taps (from `row_taps`) into line (W,), int32 packed colours, for pixels left..right; interpolated
    if there are few taps (one, or up to three in a `fine` picture), with `haze` / 256 of haze. base, upper: as in
    Pyramid; offset, high, wide: position of the level in them and its size; total (W,) int64: scratch.
    """
    total[left:right] = 0
    blend = n <= 1 + 2 * fine
    half, outside = (0.5, _spread(OUTSIDE) * 256) if blend else (0.0, _spread(OUTSIDE))
    for k in range(n):
        a, b = _within(taps[k, 0], taps[k, 2], wide, 0.0, len(line) * 1.0)
        a, b = _within(taps[k, 1], taps[k, 3], high, a, b)
        first, last = min(right, max(left, int(a))), min(right, max(left, int(b)))
        for i in range(left, first):
            total[i] += outside
        for i in range(last, right):
            total[i] += outside
        # Texel coordinates in 1 / 65536: cheap to split into an integer part and a weight.
        dx, dy = int(taps[k, 2] * 65536.0), int(taps[k, 3] * 65536.0)
        x = int((taps[k, 0] - half) * 65536.0) + first * dx
        y = int((taps[k, 1] - half) * 65536.0) + first * dy
        if blend:
            _blend(base, upper, level, wide, offset, x, y, dx, dy, total[first:last])
        else:
            _take(base, upper, level, wide, offset, x, y, dx, dy, total[first:last])
    share, seen, out = 65536 // n << (0 if blend else 8), total[left:right], line[left:right]
    for i in range(len(seen)):
        c = seen[i]
        red, green, blue = (c & 0x1FFFFF) * share, (c >> 21 & 0x1FFFFF) * share, (c >> 42) * share
        out[i] = mix(red >> 24 | (green >> 24) << 8 | (blue >> 24) << 16, HAZE, haze)


@kernel
def sky_colour(cam, v):
    """Packed sky colour of an image row."""
    yn = (v + 0.5 - cam[CY]) / cam[FY]
    up = -(cam[SINP] + yn * cam[COSP])
    w = min(1.0, max(0.0, up * 2.2))
    c = 0
    for k in range(3):
        c |= int(SKY_LOW[k] + (SKY_TOP[k] - SKY_LOW[k]) * w) << (8 * k)
    return c

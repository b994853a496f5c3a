"""Colours of points on faces: walls with windows, bodywork, glass and lamps; and the paints of all objects."""

from __future__ import annotations

import numpy as np

from drivefoundry.render.kernels.ground import HAZE, kernel, mix

PLAIN, WALL, SIDE, FRONT, REAR, GLASS, REAR_GLASS, BIKE = np.arange(8)
"""Surfaces; each uses up to three colours. (Numpy integers: numba recompiles for each Python constant.)"""

PAINTS = np.array(
    [
        [int(h[k : k + 2], 16) for k in (0, 2, 4)]
        for line in (
            "c42420 1c4aa0 dededc 2c2e34 969aa0 1a7054 d6a024 622a62",  # cars
            "ceccc4 346096 b27a3c 78827e",  # trucks
            "d83c3c 2e68be ecc43c f0f0f0 3c9654 aa46a0",  # clothes
            "b2967c 965c4c c4bcac 80848c a48c60 6c6462",  # walls
            "3e4e62 1e1e22 d6aa8c ff241a 761012 f6f4e2 2c2d30 54585c 18191c",
        )
        for h in line.split()
    ],
    np.float64,
)
"""(n, 3) every colour other than the ground's, by the numbers below."""
CARS, TRUCKS, CLOTHES, WALLS = np.array([0, 8, 12, 18])
PANE, DARK, SKIN, BRAKE, TAIL, HEADLIGHT, SHADOW, STEEL, HOUSING = np.arange(24, 33)

BRAKES, LAMPS, WINDOWS = np.array([1, 2, 3]) << 28
"""Emission flags above a sample's colour, with the strength, 0 to 15, in bits 24 to 27: brake lamps whenever lit, other
lamps and lit windows (drawn dark) once the lights are on."""
OWN = 0x3F000000
"""Bits of a sample that hold emission."""


@kernel
def pack(paint, light):
    """Packed colour of a paint number at a given brightness."""
    c = 0
    for k in range(3):
        c |= int(min(255.0, PAINTS[paint, k] * light)) << (8 * k)
    return c


@kernel
def surface(kind, s, t, lu, lv, grain, c0, c1, c2):
    """Packed colour at point (s, t) m on a face of lu x lv m; -1 for a hole. grain: half a pixel there, m."""
    big = lv > 1.6
    if kind == SIDE:
        r = 0.46 if big else 0.33
        d = min(abs(s - 0.2 * lu), abs(s - 0.8 * lu))
        return c2 if t < 0.2 or d * d + (t - r) * (t - r) < r * r else c0
    if kind in (FRONT, REAR):
        if t < 0.2:
            return c2
        w = max(0.42, 2.6 * grain)
        mid = 0.9 if big else 0.68 * lv
        half = max(0.1, 1.3 * grain)
        if abs(t - mid) < half and (s < w or s > lu - w):
            return c1
        if abs(s - 0.5 * lu) < 0.3 and abs(t - 0.4) < 0.08 and kind == REAR:
            return HAZE
        return c2 if kind == FRONT and abs(s - 0.5 * lu) < 0.5 and abs(t - 0.45) < 0.12 else c0
    if kind in (GLASS, REAR_GLASS):
        if kind == REAR_GLASS and t > lv - max(0.14, 2.0 * grain) and abs(s - 0.5 * lu) < max(0.3, 1.5 * grain):
            return c2
        pillar = min(s, lu - s, abs(s - 0.5 * lu) + (0.05 if lu > 1.8 else 1.0))
        return c0 if pillar < 0.08 or t > 0.92 * lv else c1
    r = 0.33
    d = min(abs(s - r), abs(s - lu + r))
    ring = np.sqrt(d * d + (t - r) * (t - r))
    thick = max(0.06, 0.8 * grain)
    if abs(ring - r + thick) < thick or (abs(t - 0.62) < thick and r < s < lu - r):
        return c0
    return -1


@kernel
def wall(s, t, lv, grain, c0, c1, c2):
    """Storeys of 3.2 m with windows every 3 m above a ground floor of shop fronts; only their mean if far away."""
    if t > lv - 0.5:
        return c0
    mean = mix(c0, c1, 90)
    if grain > 0.9:
        return mean
    bay, window = s * 0.2, s * (1.0 / 3.0)
    shop = 0.12 < bay - int(bay) < 0.88
    c = opening(t, shop, int(window), 0.25 < window - int(window) < 0.75, c0, c1, c2)
    return c if grain < 0.25 else mix(c, mean, int((grain - 0.25) * 393.0)) | c & OWN


@kernel
def opening(t, shop, bay, glazed, c0, c1, c2):
    """Colour of a wall at height t m: c0 the wall, c1 a pane, c2 one lit by day, in column `bay` of the windows."""
    if t < 3.2:
        return c1 | WINDOWS | 8 << 24 if shop and 0.5 < t < 2.6 else c0
    storey = t * (1.0 / 3.2)
    j = int(storey)
    if not glazed or not 0.25 < storey - j < 0.8:
        return c0
    h = bay * 73 + j * 151 + bay * j
    return c2 | WINDOWS | 15 << 24 if h & 15 == 0 else c1 | WINDOWS | 11 << 24 if h & 7 == 3 else c1

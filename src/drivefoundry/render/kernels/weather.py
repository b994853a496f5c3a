"""Kernels that resolve samples to pixels under conditions: light by hour and weather, and sensor noise.

The counterpart of `draw`'s clear day. Light falls on each pixel's mean surface: from the sky, from the car's own low
beam ahead, plus emission; then the air attenuates it. Letters: H, W rows and columns.
"""

from __future__ import annotations

import numpy as np

from drivefoundry.render.conditions import EXPOSURE, LAMPS_ON, LIGHT, LOW, NOISE, RAIN, SEED, THIN, TOP
from drivefoundry.render.kernels.ground import (
    COSP,
    CX,
    CY,
    FX,
    FY,
    PZ,
    SINP,
    ground_row,
    inlined,
    kernel,
    maker,
    row_taps,
)
from drivefoundry.render.kernels.surfaces import BRAKES, WINDOWS

BEAM = np.array([1.0, 0.95, 0.84])
"""Colour of the low beam's light."""
ROOM = np.array([255.0, 206.0, 138.0])
"""Colour of a lit window."""
DEPTHS = 512
"""Range of the table of the air's attenuation, whole metres."""


@inlined
def _low_beam(ahead, left, up):
    """Light of the car's low beam, 1 as by day, at a point m in its frame: about 25 m far, cut off above the bonnet."""
    if ahead < 1.5:
        return 0.0
    aside, far, over = 2.2 * left / ahead, ahead / 24.0, 2.0 * max(0.0, up - 0.9)
    return 1.4 * min(1.0, 0.25 * (ahead - 1.5)) / ((1.0 + aside**4) * (1.0 + far * far) * (1.0 + over * over))


@inlined
def _wet(line, sky, fall):
    """Apply rain to ground colour (3,) in place: it darkens, and asphalt mirrors the sky, more so at flat angles."""
    rain = sky[RAIN]
    grey = max(0.0, 1.0 - (max(line[0], line[1], line[2]) - min(line[0], line[1], line[2])) / 24.0)
    mirror = 0.8 * rain * grey * (1.0 - min(1.0, fall)) ** 5
    for k in range(3):
        line[k] = line[k] * (1.0 - 0.45 * rain) * (1.0 - mirror)
    return mirror


@inlined
def _gather(canvas, row, col, lamps, colour):
    """Combine a pixel's samples: number that hold an object, its depth m, its emission and that of lit rooms, 0..1;
    writes its mean colour to colour (3,). Brakes shine by day, too, other lamps in proportion to `lamps`, 0..1."""
    zbuf, cbuf, fine = canvas.zbuf, canvas.cbuf, canvas.fine
    near, count, shine, room = 0.0, 0, 0.0, 0.0
    colour[:] = 0.0
    for k in range(1 << 2 * fine):
        a, b = (col << fine) + (k & 1), (row << fine) + (k >> 1)
        if zbuf[a, b] > 0.0:
            c = np.int64(cbuf[a, b])
            near += zbuf[a, b]
            count += 1
            kind, strength = c & 3 << 28, (c >> 24 & 15) / 15.0
            if kind == WINDOWS:
                room += strength
            elif kind != 0:
                shine += strength * (1.0 if kind == BRAKES else lamps)
            colour[0] += c & 255
            colour[1] += c >> 8 & 255
            colour[2] += c >> 16 & 255
    if count > 0:
        for k in range(3):
            colour[k] /= count
    return count, count / max(near, 1e-9), shine / max(count, 1), room / max(count, 1)


@inlined
def _light(colour, sky, beam, shine, room, air):
    """Light an object's colour (3,) in place: by sky, low beam and emission (0..1), then attenuate it by the air."""
    for k in range(3):
        lit = min(1.0, sky[LIGHT + k] + beam * BEAM[k])
        seen = colour[k] * (lit + (1.0 - lit) * shine) * (1.0 - room) + ROOM[k] * room
        colour[k] = sky[LOW + k] + (seen - sky[LOW + k]) * air


@maker
def resolve(out, canvas, world, m, taps, acc, sky, mount):
    """Resolve samples of a canvas drawn without haze to pixels (H, W, 3) under conditions `sky` (a `Conditions.row`).

    canvas.cam in pixels; mount (4,) x, y, z m and yaw rad of the view on the car; taps, acc (W,) scratch.
    """
    cam, samples = canvas.cam, 1 << 2 * canvas.fine
    base, upper, frame = world.ground.base, world.ground.upper, world.ground.frames[m]
    high, wide = out.shape[0], out.shape[1]
    clear = np.exp(-sky[THIN] * np.arange(DEPTHS))
    cos, sin = np.cos(mount[3]), np.sin(mount[3])
    lamps = sky[LAMPS_ON] * (1.0 - (sky[LIGHT] + sky[LIGHT + 1] + sky[LIGHT + 2]) / 3.0)
    # 0 x NaN is NaN: zero the background buffer first.
    back, thing, line = np.zeros(3), np.empty(3), np.empty(wide, np.int32)
    for row in range(high):
        n, level, depth = row_taps(cam, frame, row, taps)
        yn = (row + 0.5 - cam[CY]) / cam[FY]
        fall, flat = cam[SINP] + yn * cam[COSP], cam[COSP] - yn * cam[SINP]
        w = min(1.0, max(0.0, -2.2 * fall))
        if n > 0:
            rows, cols = int(frame[1]) >> level, int(frame[2]) >> level
            offset = world.ground.levels[m, level]
            ground_row(base, upper, offset, rows, cols, level, taps, n, 0, canvas.fine, acc, line, 0, wide)
        for col in range(wide):
            xn = (col + 0.5 - cam[CX]) / cam[FX]
            count, z, shine, room = _gather(canvas, row, col, sky[LAMPS_ON], thing)
            if count < samples:
                if n == 0:
                    for k in range(3):
                        back[k] = sky[LOW + k] + (sky[TOP + k] - sky[LOW + k]) * w
                else:
                    c = line[col]
                    back[0], back[1], back[2] = c & 255, c >> 8 & 255, c >> 16 & 255
                    mirror = _wet(back, sky, fall) if sky[RAIN] > 0.0 else 0.0
                    ahead, right = depth * flat, depth * xn
                    beam = lamps * _low_beam(
                        mount[0] + ahead * cos + right * sin, mount[1] + ahead * sin - right * cos, 0.0
                    )
                    air = clear[min(DEPTHS - 1, int(depth))]
                    for k in range(3):
                        seen = back[k] * (sky[LIGHT + k] + beam * BEAM[k]) + mirror * sky[LOW + k]
                        back[k] = sky[LOW + k] + (seen - sky[LOW + k]) * air
            if count > 0:
                ahead, right = z * flat, z * xn
                up = cam[PZ] - z * fall
                beam = lamps * _low_beam(mount[0] + ahead * cos + right * sin, mount[1] + ahead * sin - right * cos, up)
                _light(thing, sky, beam, shine, room * lamps, clear[min(DEPTHS - 1, int(z))])
            cover = count / samples
            for k in range(3):
                value = back[k] * (1.0 - cover) + thing[k] * cover if count > 0 else back[k]
                out[row, col, k] = int(min(255.0, max(0.0, value + 0.5)))


@kernel
def hashed(key, i):
    """64 pseudo-random bits of an integer under a key (splitmix64, Steele 2014)."""
    z = np.uint64(key) + np.uint64(i) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)


@kernel
def key_of(sky, view, step):
    """Seed of a picture's patterns, from the scene's seed, the view and the step."""
    return hashed(hashed(np.uint64(int(sky[SEED])), view + 1), step + 1)


@maker
def streaks(out, sky, key):
    """Draw falling rain over the pixels: short slanted strokes, lighter than the dark and darker than the sky."""
    high, wide = out.shape[0], out.shape[1]
    wind = (np.float64(hashed(np.uint64(int(sky[SEED])), 0) & np.uint64(255)) / 255.0 - 0.5) * 0.5
    tone = np.empty(3)
    for k in range(3):
        tone[k] = 40.0 + 0.75 * sky[LOW + k]
    for i in range(int(sky[RAIN] * high * wide / 90.0)):
        h = hashed(key, i)
        x = np.float64(h & np.uint64(0xFFFF)) / 65536.0 * wide
        y = np.float64(h >> np.uint64(16) & np.uint64(0xFFFF)) / 65536.0 * high * 1.2 - 0.2 * high
        near = np.float64(h >> np.uint64(32) & np.uint64(0xFF)) / 255.0
        length, weight = high * (0.03 + 0.11 * near * near), 0.1 + 0.22 * near
        for step in range(int(length)):
            row, col = int(y) + step, int(np.floor(x + wind * step))
            if 0 <= row < high and 0 <= col < wide:
                for k in range(3):
                    old = np.float64(out[row, col, k])
                    out[row, col, k] = int(old + (tone[k] - old) * weight)


@kernel
def sensor(out, sky, key):
    """Apply the sensor's gain and noise in place; the noise is a sum of four uniform variables, nearly normal."""
    gain, spread = sky[EXPOSURE], sky[NOISE] / 37836.8
    high, wide = out.shape[0], out.shape[1]
    for row in range(high):
        for col in range(wide):
            for k in range(3):
                value = gain * out[row, col, k] + 0.5
                if spread > 0.0:
                    h = hashed(key, (row * wide + col) * 3 + k)
                    low = (h & np.uint64(0x0000FFFF0000FFFF)) + (h >> np.uint64(16) & np.uint64(0x0000FFFF0000FFFF))
                    total = np.int64(low & np.uint64(0xFFFFFFFF)) + np.int64(low >> np.uint64(32))
                    value += (total - 131070) * spread
                out[row, col, k] = int(min(255.0, max(0.0, value)))

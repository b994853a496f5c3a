"""Kernels that draw road users and buildings as boxes into a view's depth and colour samples.

A pixel is one sample, or the mean of two by two, so that edges move smoothly. Samples are stored by columns: an upright
face seen by a level camera has one depth per column. Camera frame: x right, y down, z ahead. Letters: H, W rows and
columns of samples. zbuf (W, H) float32 holds 1/z of the nearest surface (0 if none), cbuf (W, H) int32 its packed
colour. A hull is eight corners: rear-right, front-right, front-left, rear-left at the bottom, then the same at the top.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from drivefoundry.render.kernels.ground import (
    COS,
    COSP,
    CX,
    CY,
    FX,
    FY,
    HAZE,
    PX,
    PY,
    PZ,
    SIN,
    SINP,
    fade,
    inlined,
    kernel,
    maker,
    mix,
)
from drivefoundry.render.kernels.surfaces import (
    BRAKE,
    BRAKES,
    FRONT,
    HEADLIGHT,
    LAMPS,
    OWN,
    PANE,
    PLAIN,
    REAR,
    REAR_GLASS,
    TAIL,
    WALL,
    WALLS,
    opening,
    pack,
    surface,
    wall,
)  # fmt: skip

NEAR = 0.2
"""Depth below which nothing is drawn, m."""


class Canvas(NamedTuple):
    """Buffers and parameters for drawing one view.

    fine: 0 if a pixel is one sample, 1 if it is two by two. zbuf, cbuf (W, H): samples; cam (11,): the camera, in
    samples; light (5,): horizontal direction to the sun, brightness of a wall without and with sun, and whether colours
    fade with distance. touched (W, 2): rows drawn on since the last wipe; roof (W, 2): rows that walls cover without a
    gap, all within 1 / cover (W,) m. Scratch: hull (8, 3) in the camera frame, poly (8, 5), tone (H,) int64 and
    shaded (H,) int64.
    """

    fine: int
    zbuf: np.ndarray
    cbuf: np.ndarray
    cam: np.ndarray
    light: np.ndarray
    touched: np.ndarray
    roof: np.ndarray
    cover: np.ndarray
    hull: np.ndarray
    poly: np.ndarray
    tone: np.ndarray
    shaded: np.ndarray


DAYLIGHT = np.array([0.55, -0.83, 0.76, 0.24, 1.0])
"""`Canvas.light` of a clear day."""


@maker
def new_canvas(wide, high, fine):
    """An empty canvas for pictures of this size, px."""
    wide, high = wide << fine, high << fine
    zbuf, cbuf = np.zeros((wide, high), np.float32), np.empty((wide, high), np.int32)
    touched, roof = np.zeros((wide, 2), np.int64), np.zeros((wide, 2), np.int64)
    tone, shaded = np.empty(high, np.int64), np.empty(high, np.int64)
    hull, poly = np.empty((8, 3)), np.empty((8, 5))
    cover = np.zeros(wide, np.float32)
    return Canvas(fine, zbuf, cbuf, np.empty(11), np.empty(5), touched, roof, cover, hull, poly, tone, shaded)


@kernel
def wipe(canvas):
    """Clear everything drawn since the last wipe."""
    touched, zbuf = canvas.touched, canvas.zbuf
    high = zbuf.shape[1]
    for col in range(len(touched)):
        if touched[col, 0] < touched[col, 1]:
            zbuf[col, touched[col, 0] : touched[col, 1]] = 0.0
        touched[col, 0], touched[col, 1] = high, 0
    canvas.roof[:] = 0


FACES = np.array([[3, 0, 4, 7], [0, 1, 5, 4], [2, 3, 7, 6], [1, 2, 6, 5], [4, 5, 6, 7]])
"""Corners of the rear, right, left, front and top face: seen from outside, bottom left first, counter-clockwise."""


@kernel
def to_camera(cam, x, y, z):
    """Transform a point from the map, m, to the camera frame."""
    dx, dy, dz = x - cam[PX], y - cam[PY], z - cam[PZ]
    ahead = dx * cam[COS] + dy * cam[SIN]
    right = dx * cam[SIN] - dy * cam[COS]
    return right, -ahead * cam[SINP] - dz * cam[COSP], ahead * cam[COSP] - dz * cam[SINP]


@kernel
def in_view(cam, wide, high, x, y, z, radius):
    """Whether a sphere may intersect the view frustum. wide, high: samples."""
    right, down, ahead = to_camera(cam, x, y, z)
    if ahead < NEAR - radius:
        return False
    for side in range(2):
        edge = cam[CX] if side == 0 else wide - cam[CX]
        t = edge / cam[FX]
        if (-right if side == 0 else right) - t * ahead > radius * np.sqrt(1.0 + t * t):
            return False
    t = cam[CY] / cam[FY]
    if -down - t * ahead > radius * np.sqrt(1.0 + t * t):
        return False
    t = (high - cam[CY]) / cam[FY]
    return down - t * ahead <= radius * np.sqrt(1.0 + t * t)


@inlined
def _wall_column(canvas, first, last, col, iz, at, lv, grain, haze, c0, c1, c2):
    """`wall` down one column of an upright face at constant depth, where only the height varies."""
    depth, colour, tone, shaded = canvas.zbuf[col], canvas.cbuf[col], canvas.tone, canvas.shaded
    fine, pixel_col = canvas.fine, col >> canvas.fine
    s, t0, z, t_col, tv = at
    mean = mix(c0, c1, 90)
    mixed = int(max(0.0, (grain - 0.25) * 393.0)) if grain <= 0.9 else 256
    top = mix(c0, HAZE, haze)
    if mixed > 0:
        c0, c1, c2 = mix(c0, mean, mixed), mix(c1, mean, mixed), mix(c2, mean, mixed)
    c0, c1, c2 = mix(c0, HAZE, haze), mix(c1, HAZE, haze), mix(c2, HAZE, haze)
    bay, window = s * 0.2, s * (1.0 / 3.0)
    shop = grain <= 0.9 and 0.12 < bay - int(bay) < 0.88
    i, glazed = int(window), grain <= 0.9 and 0.25 < window - int(window) < 0.75
    for row in range(first, last):
        if iz > depth[row]:
            pixel = row >> fine
            if shaded[pixel] != pixel_col:
                t = z * (t_col + row * tv) - t0
                tone[pixel] = top if t > lv - 0.5 else opening(t, shop, i, glazed, c0, c1, c2)
                shaded[pixel] = pixel_col
            depth[row] = iz
            colour[row] = tone[pixel]


@inlined
def _clip(hull, face, poly):
    """Clip a face of a hull at depth NEAR; writes the corners to poly[:, 2:5] (camera frame), returns their number."""
    n = 0
    for k in range(4):
        a, b = FACES[face, k], FACES[face, (k + 1) % 4]
        za, zb = hull[a, 2], hull[b, 2]
        if za >= NEAR:
            poly[n, 2], poly[n, 3], poly[n, 4] = hull[a, 0], hull[a, 1], za
            n += 1
        if (za >= NEAR) != (zb >= NEAR):
            w = (NEAR - za) / (zb - za)
            for d in range(3):
                poly[n, 2 + d] = hull[a, d] + (hull[b, d] - hull[a, d]) * w
            n += 1
    return n


@inlined
def _span(poly, n, x):
    """Top and bottom of a convex polygon (image points poly[:n, :2]) in the column at x."""
    top, low = np.inf, -np.inf
    for a in range(n):
        b = a + 1 if a + 1 < n else 0
        xa, xb = poly[a, 0], poly[b, 0]
        if (xa > x) != (xb > x):
            y = poly[a, 1] + (x - xa) / (xb - xa) * (poly[b, 1] - poly[a, 1])
            top, low = min(top, y), max(low, y)
    return top, low


@inlined
def _plane(hull, face):
    """Unit vectors along and up a face, its lengths m, its normal, and its product with a corner (< 0: visible)."""
    a, b, d = FACES[face, 0], FACES[face, 1], FACES[face, 3]
    ax, ay, az = hull[a, 0], hull[a, 1], hull[a, 2]
    ux, uy, uz = hull[b, 0] - ax, hull[b, 1] - ay, hull[b, 2] - az
    vx, vy, vz = hull[d, 0] - ax, hull[d, 1] - ay, hull[d, 2] - az
    lu = max(1e-9, np.sqrt(ux * ux + uy * uy + uz * uz))
    ux, uy, uz = ux / lu, uy / lu, uz / lu
    skew = vx * ux + vy * uy + vz * uz
    vx, vy, vz = vx - skew * ux, vy - skew * uy, vz - skew * uz
    lv = max(1e-9, np.sqrt(vx * vx + vy * vy + vz * vz))
    vx, vy, vz = vx / lv, vy / lv, vz / lv
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    return ux, uy, uz, vx, vy, vz, lu, lv, nx, ny, nz, nx * ax + ny * ay + nz * az


@inlined
def _hidden(canvas, col, first, last, least):
    """End of the rows first..last of a column where a face no nearer than 1 / least m may be visible."""
    if least <= canvas.cover[col] and canvas.roof[col, 0] < canvas.roof[col, 1] and last <= canvas.roof[col, 1]:
        return min(last, canvas.roof[col, 0])
    return last


@inlined
def _cover(canvas, col, first, last, least):
    """Record that a wall covers rows first..last of a column, all of it within 1 / least m."""
    roof, cover = canvas.roof, canvas.cover
    if roof[col, 0] >= roof[col, 1] or (first <= roof[col, 0] and last >= roof[col, 1] and least >= cover[col]):
        roof[col, 0], roof[col, 1], cover[col] = first, last, least
    elif first <= roof[col, 1] and last >= roof[col, 0]:
        roof[col, 0], roof[col, 1] = min(roof[col, 0], first), max(roof[col, 1], last)
        cover[col] = min(cover[col], least)


@inlined
def _looks_away(hull, face):
    """Whether a face certainly looks away from the camera: a cheap test before `_plane`, which decides."""
    a, b, d = FACES[face, 0], FACES[face, 1], FACES[face, 3]
    ax, ay, az = hull[a, 0], hull[a, 1], hull[a, 2]
    ux, uy, uz = hull[b, 0] - ax, hull[b, 1] - ay, hull[b, 2] - az
    vx, vy, vz = hull[d, 0] - ax, hull[d, 1] - ay, hull[d, 2] - az
    return (uy * vz - uz * vy) * ax + (uz * vx - ux * vz) * ay + (ux * vy - uy * vx) * az > 1e-3


@inlined
def _shade_column(canvas, first, last, col, plane, fades, kind, lu, lv, look, c0, c1, c2):
    """Draw rows of one column of a face: 1/z is base + row slope, the position (z (s_col + row su) - s0, likewise
    t)."""
    base, slope, z, haze, s_col, su, s0, t_col, tv, t0 = plane
    depth, colour, tone, shaded = canvas.zbuf[col], canvas.cbuf[col], canvas.tone, canvas.shaded
    fine, pixel_col = canvas.fine, col >> canvas.fine
    for row in range(first, last):
        iz = base + np.float32(row) * slope
        if iz > depth[row]:
            # The four samples of a pixel share one surface lookup, which costs more than the depth test.
            pixel = row >> fine
            if shaded[pixel] != pixel_col:
                if slope != 0.0:
                    z = 1.0 / np.float64(iz)
                    haze = fade(z) if fades else 0
                s, t = z * (s_col + row * su) - s0, z * (t_col + row * tv) - t0
                if kind == PLAIN:
                    c = c0
                elif kind == WALL:
                    c = wall(s, t, lv, z * look, c0, c1, c2)
                else:
                    c = surface(kind, s, t, lu, lv, z * look, c0, c1, c2)
                tone[pixel] = mix(c, HAZE, haze) | c & OWN if c >= 0 else c
                shaded[pixel] = pixel_col
            c = tone[pixel]
            if c >= 0:
                depth[row] = iz
                colour[row] = c


@inlined
def draw_face(canvas, face, kind, c0, c1, c2):
    """Draw one face of the canvas's hull if it faces the camera: a surface of `kind` in packed colours."""
    zbuf, cam, hull, poly = canvas.zbuf, canvas.cam, canvas.hull, canvas.poly
    touched, fades = canvas.touched, canvas.light[4] != 0.0
    ux, uy, uz, vx, vy, vz, lu, lv, nx, ny, nz, facing = _plane(hull, face)
    if facing >= -1e-9:
        return
    n = _clip(hull, face, poly)
    if n < 3:
        return
    left, right = np.inf, -np.inf
    for k in range(n):
        poly[k, 0] = cam[CX] + cam[FX] * poly[k, 2] / poly[k, 4]
        poly[k, 1] = cam[CY] + cam[FY] * poly[k, 3] / poly[k, 4]
        left, right = min(left, poly[k, 0]), max(right, poly[k, 0])
    a = FACES[face, 0]
    ax, ay, az = hull[a, 0], hull[a, 1], hull[a, 2]
    s0, t0 = ux * ax + uy * ay + uz * az, vx * ax + vy * ay + vz * az
    # Down a column 1/z, s/z and t/z are linear; on an upright face seen by a level camera 1/z and s are even constant.
    gx, gy = 1.0 / cam[FX], 1.0 / cam[FY]
    look = gx if canvas.fine else 0.5 * gx
    y0 = (0.5 - cam[CY]) * gy
    slope, su, tv = np.float32(ny * gy / facing), uy * gy, vy * gy
    wide, high = zbuf.shape
    canvas.shaded[:] = -1
    for col in range(int(max(0.0, np.ceil(left - 0.5))), int(min(wide * 1.0, np.ceil(right - 0.5)))):
        top, low = _span(poly, n, col + 0.5)
        first, last = int(max(0.0, np.ceil(top - 0.5))), int(min(high * 1.0, np.ceil(low - 0.5)))
        if first >= last:
            continue
        depth = zbuf[col]
        xn = (col + 0.5 - cam[CX]) * gx
        base = np.float32((nx * xn + ny * y0 + nz) / facing)
        end = last
        if kind == WALL:
            one, other = base + np.float32(first) * slope, base + np.float32(last - 1) * slope
            end = _hidden(canvas, col, first, last, max(one, other))
            _cover(canvas, col, first, last, min(one, other))
        seen = 0
        for row in range(first, end):
            seen += base + np.float32(row) * slope > depth[row]
        if seen == 0:
            continue
        touched[col, 0], touched[col, 1] = min(touched[col, 0], first), max(touched[col, 1], end)
        s_col, t_col = ux * xn + uy * y0 + uz, vx * xn + vy * y0 + vz
        z = 1.0 / np.float64(base)
        haze = fade(z) if fades else 0
        if kind == WALL and slope == 0.0 and su == 0.0:
            at = z * s_col - s0, t0, z, t_col, tv
            _wall_column(canvas, first, end, col, base, at, lv, z * look, haze, c0, c1, c2)
            continue
        plane = base, slope, z, haze, s_col, su, s0, t_col, tv, t0
        _shade_column(canvas, first, end, col, plane, fades, kind, lu, lv, look, c0, c1, c2)


@kernel
def set_hull(canvas, x, y, cos, sin, rear, front, half, z0, z1, taper_rear, taper_front, taper_side):
    """Fill the canvas's hull: rear to front m along its heading from (x, y), half m to each side, from height z0 to z1
    m, narrowed at the top by the tapers, m."""
    hull, cam = canvas.hull, canvas.cam
    for k in range(8):
        above, along, left = k >= 4, k % 4 == 1 or k % 4 == 2, k % 4 >= 2
        dx = (front - (taper_front if above else 0.0)) if along else (rear + (taper_rear if above else 0.0))
        dy = half - (taper_side if above else 0.0)
        if not left:
            dy = -dy
        px, py = x + cos * dx - sin * dy, y + sin * dx + cos * dy
        hull[k, 0], hull[k, 1], hull[k, 2] = to_camera(cam, px, py, z1 if above else z0)


@kernel
def draw_hull(canvas, cos, sin, rear, side, front, c0, c1, c2):
    """Draw a hull with surfaces for rear, sides and front; c0, c1, c2: paints. Lamps shine on their own."""
    sun = canvas.light
    for face in range(5):
        if _looks_away(canvas.hull, face):
            continue
        kind, light, second = PLAIN, 1.0, c1
        if face < 4:
            kind = rear if face == 0 else side if face < 3 else front
            along = -1.0 if face == 0 else 1.0 if face == 3 else 0.0
            left = -1.0 if face == 1 else 1.0 if face == 2 else 0.0
            light = sun[2] + sun[3] * (sun[0] * (cos * along - sin * left) + sun[1] * (sin * along + cos * left))
        if kind == FRONT:
            second = HEADLIGHT
        a, b = pack(c0, light), pack(second, 1.0 if kind in (FRONT, REAR) else light)
        if kind == FRONT or (kind == REAR and second == TAIL):
            b |= LAMPS | 12 << 24
        elif kind == REAR and second == BRAKE:
            b |= BRAKES | 15 << 24
        third = pack(c2, 1.0 if kind == REAR_GLASS else light)
        if kind == REAR_GLASS and c2 == BRAKE:
            third |= BRAKES | 15 << 24
        draw_face(canvas, face, kind, a, b, third)


@kernel
def _behind_walls(canvas):
    """Whether walls drawn so far hide the canvas's upright hull completely."""
    hull, cam, roof, cover = canvas.hull, canvas.cam, canvas.roof, canvas.cover
    left, right, top, low, near = np.inf, -np.inf, np.inf, -np.inf, np.inf
    for k in range(8):
        z = hull[k, 2]
        if z < NEAR:
            return False
        u, v = cam[CX] + cam[FX] * hull[k, 0] / z, cam[CY] + cam[FY] * hull[k, 1] / z
        left, right, top, low, near = min(left, u), max(right, u), min(top, v), max(low, v), min(near, z)
    least = np.float32(1.00001 / near)
    high = canvas.zbuf.shape[1] * 1.0
    top, low = max(0.0, top - 1.0), min(high, low + 1.0)
    for col in range(int(max(0.0, left - 1.0)), int(min(len(roof) * 1.0, right + 2.0))):
        if roof[col, 0] > top or roof[col, 1] < low or cover[col] < least:
            return False
    return True


@kernel
def draw_building(canvas, box, index):
    """Draw the map's building number `index`: box (6,) x, y, yaw, length, width, height."""
    cos, sin, half = np.cos(box[2]), np.sin(box[2]), 0.5 * box[3]
    set_hull(canvas, box[0], box[1], cos, sin, -half, half, 0.5 * box[4], 0.0, box[5], 0.0, 0.0, 0.0)
    if _behind_walls(canvas):
        return
    wall = WALLS + (index * 5 + int(box[5])) % 6
    draw_hull(canvas, cos, sin, WALL, WALL, WALL, wall, PANE, HEADLIGHT)

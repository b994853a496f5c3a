"""Oriented boxes and polylines in the plane: numba kernels that other kernels call. All arguments and results are
scalars.

Metres, radians, right-handed, x forward and y left; a box is its centre x, y, its yaw, its length (along yaw) and
width.
"""

from __future__ import annotations

import math

from numba import njit

BEHIND, AHEAD = 4, 12
"""Segments searched behind and ahead of a hint before the search moves on."""
SAME_PLACE = 1.5
"""Two passes of a polyline by one place differ in distance by less than this, m: half a lane."""


@njit(cache=True, nogil=True)
def wrap(angle):
    """Wrap an angle to (-pi, pi]."""
    return math.atan2(math.sin(angle), math.cos(angle))


@njit(cache=True, nogil=True)
def boxes_overlap(x1, y1, yaw1, l1, w1, x2, y2, yaw2, l2, w2):
    """Whether two boxes share a point (touching counts). Separating axes (Gottschalk et al. 1996)."""
    dx, dy = x2 - x1, y2 - y1
    reach = 0.5 * (l1 + w1 + l2 + w2)  # a box lies within (length + width) / 2 of its centre
    if dx * dx + dy * dy > reach * reach:
        return False
    c1, s1 = math.cos(yaw1), math.sin(yaw1)
    c2, s2 = math.cos(yaw2), math.sin(yaw2)
    c, s = abs(c1 * c2 + s1 * s2), abs(c1 * s2 - s1 * c2)
    if abs(dx * c1 + dy * s1) > 0.5 * (l1 + l2 * c + w2 * s):
        return False
    if abs(dy * c1 - dx * s1) > 0.5 * (w1 + l2 * s + w2 * c):
        return False
    if abs(dx * c2 + dy * s2) > 0.5 * (l2 + l1 * c + w1 * s):
        return False
    return abs(dy * c2 - dx * s2) <= 0.5 * (w2 + l1 * s + w1 * c)


@njit(cache=True, nogil=True)
def box_corners(x, y, yaw, length, width, out):
    """Write a box's corners front left, rear left, rear right, front right to out (4, 2)."""
    c, s = math.cos(yaw), math.sin(yaw)
    a, b = 0.5 * length, 0.5 * width
    out[0, 0], out[0, 1] = x + a * c - b * s, y + a * s + b * c
    out[1, 0], out[1, 1] = x - a * c - b * s, y - a * s + b * c
    out[2, 0], out[2, 1] = x - a * c + b * s, y - a * s - b * c
    out[3, 0], out[3, 1] = x + a * c + b * s, y + a * s - b * c


@njit(cache=True, nogil=True)
def _nearest_segment(points, x, y, first, last):
    """Segment of points (P, 2) among first .. last nearest to x, y: (index, position along it in [0, 1])."""
    best, best_d, best_u = first, math.inf, 0.0
    for i in range(first, last + 1):
        ax, ay = points[i, 0], points[i, 1]
        ex, ey = points[i + 1, 0] - ax, points[i + 1, 1] - ay
        rx, ry = x - ax, y - ay
        ee = ex * ex + ey * ey
        u = 0.0
        if ee > 0.0:
            u = min(1.0, max(0.0, (rx * ex + ry * ey) / ee))
        qx, qy = rx - u * ex, ry - u * ey
        d = qx * qx + qy * qy
        if d < best_d:
            best, best_d, best_u = i, d, u
    return best, best_u


@njit(cache=True, nogil=True)
def first_pass(points, n, x, y):
    """Segment of points (n, 2+) nearest to x, y; if the polyline passes the place several times, that of the first
    pass, even if another is slightly nearer."""
    least = math.inf
    for turn in range(2):
        limit = (math.sqrt(least) + SAME_PLACE) ** 2
        best, best_d = -1, math.inf
        for i in range(n - 1):
            ax, ay = points[i, 0], points[i, 1]
            ex, ey = points[i + 1, 0] - ax, points[i + 1, 1] - ay
            rx, ry = x - ax, y - ay
            ee = ex * ex + ey * ey
            u = min(1.0, max(0.0, (rx * ex + ry * ey) / ee)) if ee > 0.0 else 0.0
            d = (rx - u * ex) ** 2 + (ry - u * ey) ** 2
            if d < best_d:
                best, best_d = i, d
            elif turn == 1 and best_d <= limit < d:
                break  # the first pass is over
        least = best_d
    return best


@njit(cache=True, nogil=True)
def project_on_polyline(points, s, x, y, hint):
    """Projection of x, y onto a polyline: (arc length m, lateral offset m with left positive, segment index).

    points (P, 2); s (P,) arc length of each point; hint: segment to search around (the last result), or -1 to search
    all, for the first pass. Beyond either end the arc length stays at the end and the offset is measured across the end
    segment's direction.
    """
    n = len(points) - 1
    if hint < 0:
        i = first_pass(points, n + 1, x, y)
        i, u = _nearest_segment(points, x, y, i, i)
    else:
        i = min(hint, n - 1)
        u = 0.0
        while True:
            first, last = max(0, i - BEHIND), min(n - 1, i + AHEAD)
            was = i
            i, u = _nearest_segment(points, x, y, first, last)
            at_edge = (i == first and first > 0) or (i == last and last < n - 1)
            if not at_edge or i == was:
                break
    ex, ey = points[i + 1, 0] - points[i, 0], points[i + 1, 1] - points[i, 1]
    rx, ry = x - points[i, 0], y - points[i, 1]
    length = math.hypot(ex, ey)
    cross = ex * ry - ey * rx
    if (i == 0 and u <= 0.0) or (i == n - 1 and u >= 1.0):
        lateral = cross / length if length > 0.0 else math.hypot(rx, ry)
    else:
        lateral = math.copysign(math.hypot(rx - u * ex, ry - u * ey), cross)
    return s[i] + u * (s[i + 1] - s[i]), lateral, i


@njit(cache=True, nogil=True)
def route_foot(route, n, x, y, lo, hi):
    """Nearest route segment between indices lo and hi: arc length (1 m points) and lateral offset (left positive)."""
    best, s_best, lat = 1e18, 0.0, 0.0
    for i in range(max(0, lo), min(n - 1, hi)):
        ax, ay = route[i, 0], route[i, 1]
        bx, by = route[i + 1, 0] - ax, route[i + 1, 1] - ay
        u = min(1.0, max(0.0, ((x - ax) * bx + (y - ay) * by) / (bx * bx + by * by + 1e-9)))
        dx, dy = x - ax - u * bx, y - ay - u * by
        d = dx * dx + dy * dy
        if d < best:
            best, s_best = d, i + u
            lat = math.sqrt(d) if bx * dy - by * dx > 0 else -math.sqrt(d)
    return s_best, lat

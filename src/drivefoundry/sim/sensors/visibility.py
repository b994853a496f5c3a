"""Share of each road user's silhouette that a camera sees past other road users and buildings, in the plane.

RAYS sight lines are spread evenly over the angle that a box covers as seen from the camera. One is blocked if another
box cuts it before the target. Heights are ignored: a car hides a person standing behind it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from drivefoundry.geometry import box_corners, wrap

RAYS = 12


@njit(cache=True, nogil=True)
def ray_to_box(x, y, c, s, box):
    """Distance along a ray from (x, y) with direction (c, s) to a box (x, y, yaw, length, width), m.

    inf if the ray misses it; 0 if it starts inside.
    """
    bc, bs = math.cos(box[2]), math.sin(box[2])
    dx, dy = x - box[0], y - box[1]
    px, py = bc * dx + bs * dy, bc * dy - bs * dx
    vx, vy = bc * c + bs * s, bc * s - bs * c
    near, far = 0.0, math.inf
    for p, v, half in ((px, vx, 0.5 * box[3]), (py, vy, 0.5 * box[4])):
        if abs(v) < 1e-12:
            if abs(p) > half:
                return math.inf
            continue
        a, b = (-half - p) / v, (half - p) / v
        near, far = max(near, min(a, b)), min(far, max(a, b))
    return near if near <= far else math.inf


@njit(cache=True, nogil=True)
def silhouette(x, y, box, out):
    """Write bearing of a box from (x, y), and the lowest and highest angle of its edges relative to it, to out (3,),
    rad."""
    corners = np.empty((4, 2))
    box_corners(box[0], box[1], box[2], box[3], box[4], corners)
    out[0] = math.atan2(box[1] - y, box[0] - x)
    out[1], out[2] = 0.0, 0.0
    for i in range(4):
        turn = wrap(math.atan2(corners[i, 1] - y, corners[i, 0] - x) - out[0])
        out[1], out[2] = min(out[1], turn), max(out[2], turn)


@njit(cache=True, nogil=True)
def visible_share(x, y, target, boxes, count, buildings, at):
    """Share of the silhouette of box `target` that is visible from (x, y), 0 .. 1.

    boxes (n, 5) x, y, yaw, length, width, of which the first `count` are used; target: its row. buildings (B, 6) as in
    a RoadMap, of which rows `at` are used.
    """
    box = boxes[target]
    edge = np.empty(3)
    silhouette(x, y, box, edge)
    reach = math.hypot(box[0] - x, box[1] - y) + 0.5 * math.hypot(box[3], box[4])
    free = 0
    for i in range(RAYS):
        angle = edge[0] + edge[1] + (edge[2] - edge[1]) * (i + 0.5) / RAYS
        c, s = math.cos(angle), math.sin(angle)
        until = min(reach, ray_to_box(x, y, c, s, box)) - 1e-6
        blocked = until <= 0.0
        if blocked:  # the camera is inside the box
            return 1.0
        for j in range(count):
            if j != target:
                hit = ray_to_box(x, y, c, s, boxes[j])
                if 0.0 < hit < until:
                    blocked = True
                    break
        if not blocked:
            for j in at:
                if ray_to_box(x, y, c, s, buildings[j]) < until:
                    blocked = True
                    break
        if not blocked:
            free += 1
    return free / RAYS

"""Bird's-eye maps of simulator state for models: S squares of ground drawn at once by compiled code.

Letters: S scenes, M maps, A agents, G signals, R route points, N pixels per side. Every pixel has exactly one of the
colours of CODES, so a picture is equivalent to a map of classes. `view.from_above` draws maps for people.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from drivefoundry.raster import class_at, stack_rasters
from drivefoundry.render.snapshot import Snapshot
from drivefoundry.types import RoadMap, require

CODES = np.array(
    [
        [int(h[k : k + 2], 16) for k in (0, 2, 4)]
        for line in (
            "5c6e44 4b4c50 a09c94 e6e6e2 e2b02c c8c8cc f0f0f0",  # ground classes, by number
            "3c8cff",  # route
            "787878 28dc6e fac428 f53228",  # stop lines, by SIGNAL_*
            "c43ccc 8c3cdc 3cdcdc 96f03c",  # road users, by AGENT_*
            "ff7a18",  # the ego
        )
        for h in line.split()
    ],
    np.uint8,
)
"""(17, 3) RGB by number: ground classes, route, stop lines by state, road users by kind, the ego."""
ROUTE, LINES, USERS, EGO = np.array([7, 8, 12, 16])
_class_at = njit(nogil=True, error_model="numpy", inline="always")(class_at.py_func)
"""Inlined into its caller: a call would count references for every pixel."""
BEHIND = 0.36
"""Share of the picture behind the ego's centre."""


class Bev:
    """Renderer of a square map around each ego, heading up.

    pixels: side length; metres: size of a pixel. ValueError unless both are > 0.
    """

    def __init__(self, maps: list[RoadMap], pixels: int = 128, metres: float = 0.5) -> None:
        require(len(maps) > 0, "Bev: give at least one map")
        require(pixels > 0 and metres > 0, f"Bev: pixels and metres must be > 0, got {pixels} and {metres}")
        self.pixels, self.metres = pixels, metres
        rasters = stack_rasters(maps)
        self._classes, self._frames = rasters.classes, rasters.frames
        self._lines = np.concatenate([m.stop_lines.reshape(-1, 4) for m in maps]).astype(np.float64)
        self._first = np.append(0, np.cumsum([len(m.stop_lines) for m in maps]))

    def render(self, seen: Snapshot, ego_size: np.ndarray, route: np.ndarray, route_n: np.ndarray) -> np.ndarray:
        """Render (S, N, N, 3) uint8 RGB of CODES. Lamps are not drawn.

        ego_size (S, 2+) length and width, m; route (S, R, 2+) m, with route_n (S,) valid points. ValueError for a
        snapshot that `Snapshot.checked` refuses, or routes or sizes of another number of scenes.
        """
        seen = seen.checked(len(self._frames))
        s = len(seen.ego)
        require(len(ego_size) == s, f"Bev.render: {len(ego_size)} sizes for {s} egos")
        require(len(route) == s and len(route_n) == s, "Bev.render: must have one route per scene")
        out = np.empty((s, self.pixels, self.pixels, 3), np.uint8)
        _draw(
            out, self.metres, self._classes, self._frames, self._lines, self._first, seen.map_index, seen.ego,
            np.ascontiguousarray(ego_size, np.float64), seen.agents, seen.valid, seen.size, seen.kind, seen.signals,
            np.ascontiguousarray(route, np.float64), np.ascontiguousarray(route_n, np.int64),
        )  # fmt: skip
        return out


@njit(cache=True, nogil=True, error_model="numpy")
def _box(codes, x, y, cos, sin, length, width, code):
    """Fill an oriented box, in pixels: those whose centres it contains, and at least the one at its centre."""
    n = len(codes)
    half, side = 0.5 * length, 0.5 * width
    across, down = abs(cos) * half + abs(sin) * side, abs(sin) * half + abs(cos) * side
    if not (x + across > 0.0 and x - across < n and y + down > 0.0 and y - down < n):
        return
    for row in range(int(max(0.0, y - down)), int(min(n - 1.0, y + down)) + 1):
        for col in range(int(max(0.0, x - across)), int(min(n - 1.0, x + across)) + 1):
            dx, dy = col + 0.5 - x, row + 0.5 - y
            if abs(dx * cos + dy * sin) <= half and abs(dy * cos - dx * sin) <= side:
                codes[row, col] = code
    if 0.0 <= x < n and 0.0 <= y < n:
        codes[int(y), int(x)] = code


@njit(cache=True, nogil=True, error_model="numpy")
def _strip(codes, x0, y0, x1, y1, width, code):
    """Draw a line of the given width, in pixels."""
    length = np.hypot(x1 - x0, y1 - y0)
    if length > 0.0:
        cos, sin = (x1 - x0) / length, (y1 - y0) / length
        _box(codes, 0.5 * (x0 + x1), 0.5 * (y0 + y1), cos, sin, length + width, width, code)


@njit(cache=True, nogil=True, error_model="numpy")
def _draw(
    out, metres, classes, frames, lines, first, maps, ego, ego_size, agents, valid, size, kind, signals, route, route_n
):
    n = out.shape[1]
    codes = np.empty((n, n), np.int64)
    k, u0, v0 = 1.0 / metres, 0.5 * n, (1.0 - BEHIND) * n
    for s in range(len(out)):
        x0, y0, m = ego[s, 0], ego[s, 1], maps[s]
        cos, sin = np.cos(ego[s, 2]), np.sin(ego[s, 2])
        for row in range(n):
            ahead = (v0 - row - 0.5) * metres
            for col in range(n):
                right = (col + 0.5 - u0) * metres
                x, y = x0 + ahead * cos + right * sin, y0 + ahead * sin - right * cos
                codes[row, col] = _class_at(classes, frames, m, x, y)
        # In the picture, a point is at (right, -ahead) of the ego, and heading h becomes (sin, -cos) of h.
        ax, ay, bx, by = sin * k, -cos * k, -cos * k, -sin * k
        for i in range(route_n[s] - 1):
            dx, dy, ex, ey = route[s, i, 0] - x0, route[s, i, 1] - y0, route[s, i + 1, 0] - x0, route[s, i + 1, 1] - y0
            _strip(
                codes, u0 + dx * ax + dy * ay, v0 + dx * bx + dy * by, u0 + ex * ax + ey * ay, v0 + ex * bx + ey * by,
                max(1.0, 0.8 * k), ROUTE,
            )  # fmt: skip
        for g in range(first[m], min(first[m + 1], first[m] + signals.shape[1])):
            dx, dy, ex, ey = lines[g, 0] - x0, lines[g, 1] - y0, lines[g, 2] - x0, lines[g, 3] - y0
            _strip(
                codes, u0 + dx * ax + dy * ay, v0 + dx * bx + dy * by, u0 + ex * ax + ey * ay, v0 + ex * bx + ey * by,
                max(1.0, 0.9 * k), LINES + signals[s, g - first[m]],
            )  # fmt: skip
        for i in range(len(agents[s])):
            if valid[s, i]:
                dx, dy, turn = agents[s, i, 0] - x0, agents[s, i, 1] - y0, agents[s, i, 2] - ego[s, 2]
                _box(
                    codes, u0 + dx * ax + dy * ay, v0 + dx * bx + dy * by, -np.sin(turn), -np.cos(turn),
                    size[s, i, 0] * k, size[s, i, 1] * k, USERS + kind[s, i],
                )  # fmt: skip
        _box(codes, u0, v0, 0.0, -1.0, ego_size[s, 0] * k, ego_size[s, 1] * k, EGO)
        for row in range(n):
            for col in range(n):
                for c in range(3):
                    out[s, row, col, c] = CODES[codes[row, col], c]

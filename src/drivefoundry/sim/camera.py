"""Simulator state in, camera frames out: S front cameras drawn at once by compiled code.

Letters: S views, M maps, A agents, G signals, H, W image rows and columns. Each view draws buildings, road users and signals
nearest first into depth-tested samples, then fills what is left from the warped ground raster and the sky. A view depends on
nothing but its own inputs, so frames are the same whatever the batch or the number of threads.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from drivefoundry.sim.actors import draw_agent, draw_head, shine
from drivefoundry.sim.boxes import draw_building, in_view
from drivefoundry.sim.ground import (
    COS,
    COSP,
    CX,
    CY,
    FX,
    FY,
    PX,
    PY,
    PZ,
    SIN,
    SINP,
    TAPS,
    Pyramid,
    fade,
    ground_row,
    kernel,
    mean4,
    pyramid,
    row_taps,
    sky_colour,
)
from drivefoundry.sim.raster import GROUND, SIDEWALK, ground_raster
from drivefoundry.types import AGENT_PEDESTRIAN, RoadMap, require

CELL = 64.0
"""Edge of the cells that buildings are filed under, m."""
SIGHT = 260.0
"""Buildings farther than this are not drawn, m."""
AGENT_SIGHT = 160.0


@dataclass(frozen=True)
class Rig:
    """One pinhole camera on the car.

    width, height px; fx, fy, cx, cy px (pixel (i, j) spans i..i+1, j..j+1, so a centred axis has cx = width / 2); x, z m ahead
    of and above the box centre on the ground; pitch rad, positive down.
    """

    width: int = 160
    height: int = 64
    fx: float = 95.3
    fy: float = 95.3
    cx: float = 80.0
    cy: float = 28.0
    x: float = 1.0
    z: float = 1.5
    pitch: float = 0.0

    def scaled(self, width: int, height: int) -> Rig:
        """The same mount and horizontal field of view on another image; rows are added or cut evenly about the axis."""
        k = width / self.width
        return Rig(
            width,
            height,
            self.fx * k,
            self.fy * k,
            self.cx * k,
            self.cy / self.height * height,
            self.x,
            self.z,
            self.pitch,
        )


class _World(NamedTuple):
    """Static surroundings of M maps, flat. cells (M, 5) int64 first cell, rows, columns and whole-metre origin of the building
    grid; cell_start (cells + 1,) ranges of buildings (B, 6), sorted by cell; reach (M,) half diagonal of the largest
    building; head_start (M + 1,) ranges of heads (G, 4) and posts (G, 2)."""

    ground: Pyramid
    buildings: np.ndarray
    cells: np.ndarray
    cell_start: np.ndarray
    reach: np.ndarray
    heads: np.ndarray
    posts: np.ndarray
    head_start: np.ndarray


class Camera:
    """Maps and a rig in; `render` gives one frame a view.

    Building one costs some 0.2 s for each new city; cameras on the same list of maps share what they draw from.
    """

    def __init__(self, maps: list[RoadMap], rig: Rig | None = None, threads: int | None = None) -> None:
        """threads: how many views are drawn at once; all cores (or OMP_NUM_THREADS) where None."""
        require(len(maps) > 0, "Camera: give at least one map")
        self.rig = rig or Rig()
        require(self.rig.width > 0 and self.rig.height > 0, "Rig: width and height must be positive")
        self.maps = maps
        self._world = _world(maps)
        self._threads = threads or int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))

    def render(
        self,
        map_index: np.ndarray,
        ego: np.ndarray,
        agents: np.ndarray,
        valid: np.ndarray,
        size: np.ndarray,
        kind: np.ndarray,
        brake: np.ndarray,
        signals: np.ndarray,
    ) -> np.ndarray:
        """State in, (S, H, W, 3) uint8 RGB out.

        map_index (S,) into the camera's maps; ego (S, 3+) x, y m and yaw rad of the box centre; agents (S, A, 4) x, y, yaw,
        speed; valid (S, A) which to draw (not the ego itself); size (S, A, 3) length, width, height m; kind (S, A) AGENT_*;
        brake (S, A) brake lamps lit; signals (S, G) SIGNAL_* of the map's heads, dark where G falls short.
        Raises ValueError for a pose that is not finite or a map index out of range.
        """
        s, a = valid.shape
        require(
            ego.shape[0] == s and agents.shape == (s, a, 4), f"Camera.render: agents {agents.shape} for {(s, a, 4)}"
        )
        require(size.shape == (s, a, 3), f"Camera.render: size {size.shape} for {(s, a, 3)}")
        require(kind.shape == (s, a) and brake.shape == (s, a), "Camera.render: kind and brake need shape (S, A)")
        require(len(signals) == s and signals.ndim == 2, "Camera.render: signals need shape (S, G)")
        maps = np.ascontiguousarray(map_index, np.int64)
        require(maps.shape == (s,), f"Camera.render: map_index {maps.shape} for {(s,)}")
        require(
            s == 0 or (maps.min() >= 0 and maps.max() < len(self.maps)), "Camera.render: map_index past the last map"
        )
        poses = np.ascontiguousarray(ego[:, :3], np.float64)
        require(bool(np.isfinite(poses).all()), "Camera.render: an ego pose is not finite")
        shown = np.ascontiguousarray(valid, np.bool_)
        require(bool(np.isfinite(agents[shown]).all()), "Camera.render: a valid agent's state is not finite")
        out = np.empty((s, self.rig.height, self.rig.width, 3), np.uint8)
        r = self.rig
        lens = np.array([r.fx, r.fy, r.cx, r.cy, r.x, r.z, r.pitch])
        state = (
            maps,
            poses,
            np.ascontiguousarray(agents, np.float64),
            shown,
            np.ascontiguousarray(size, np.float64),
            np.ascontiguousarray(kind, np.int64),
            np.ascontiguousarray(brake, np.bool_),
            np.ascontiguousarray(signals, np.int64),
        )
        if self._threads == 1 or s < 4:
            _render(out, 0, s, self._world, lens, *state)
            return out
        # Plain threads over a kernel that lets go of the GIL: no OpenMP pool to spin against torch's or to break on fork.
        chunk = max(1, -(-s // (4 * self._threads)))
        with ThreadPoolExecutor(self._threads) as pool:
            jobs = [
                pool.submit(_render, out, i, min(s, i + chunk), self._world, lens, *state) for i in range(0, s, chunk)
            ]
            for job in jobs:
                job.result()
        return out


_worlds: dict[tuple[str, ...], _World] = {}


def _world(maps: list[RoadMap]) -> _World:
    """Maps in, flat surroundings out; the last two lists of maps are kept."""
    key = tuple(m.id for m in maps)
    if key not in _worlds:
        while len(_worlds) > 1:
            _worlds.pop(next(iter(_worlds)))
        _worlds[key] = _flatten(maps)
    return _worlds[key]


def _flatten(maps: list[RoadMap]) -> _World:
    buildings, cells, starts, reach, first = [], np.zeros((len(maps), 5), np.int64), [], np.zeros(len(maps)), 0
    placed = 0
    for m, road_map in enumerate(maps):
        b = road_map.buildings.reshape(-1, 6)
        low = np.floor(b[:, :2].min(0)) if len(b) else np.zeros(2)
        at = ((b[:, :2] - low) // CELL).astype(np.int64)
        wide, high = (at.max(0) + 1) if len(b) else (1, 1)
        cell = at[:, 1] * wide + at[:, 0]
        order = np.argsort(cell, kind="stable")
        buildings.append(b[order])
        starts.append(placed + np.searchsorted(cell[order], np.arange(high * wide)))
        cells[m] = first, high, wide, low[0], low[1]
        first += int(high * wide)
        placed += len(b)
        reach[m] = 0.5 * np.hypot(b[:, 3], b[:, 4]).max() if len(b) else 0.0
    heads = [m.signal_heads.reshape(-1, 4) for m in maps]
    return _World(
        ground=pyramid([ground_raster(m) for m in maps]),
        buildings=np.ascontiguousarray(np.concatenate(buildings), np.float64),
        cells=cells,
        cell_start=np.append(np.concatenate(starts), placed).astype(np.int64),
        reach=reach,
        heads=np.ascontiguousarray(np.concatenate(heads), np.float64),
        posts=np.concatenate([_posts(m) for m in maps]),
        head_start=np.append(0, np.cumsum([len(h) for h in heads])).astype(np.int64),
    )


def _posts(road_map: RoadMap) -> np.ndarray:
    """(G, 2) where each signal's pole stands: the nearest spot off the road beside the lamp, or right below it."""
    raster = ground_raster(road_map)
    posts = road_map.signal_heads[:, :2].astype(np.float64)
    for g, (x, y, _, yaw) in enumerate(road_map.signal_heads):
        for shift in (0.0, *(side * d for d in np.arange(0.5, 16.0, 0.5) for side in (1.0, -1.0))):
            px, py = x - np.sin(yaw) * shift, y + np.cos(yaw) * shift
            row = int((py - raster.origin_y) / raster.resolution)
            col = int((px - raster.origin_x) / raster.resolution)
            inside = 0 <= row < raster.classes.shape[0] and 0 <= col < raster.classes.shape[1]
            if not inside or raster.classes[row, col] in (GROUND, SIDEWALK):
                posts[g] = px, py
                break
    return posts


@kernel
def _insert(order, far, n, item, distance):
    """Insert into the list of things to draw, nearest first."""
    while n > 0 and far[n - 1] > distance:
        order[n], far[n] = order[n - 1], far[n - 1]
        n -= 1
    order[n], far[n] = item, distance


@kernel
def _near_buildings(world, m, cam, shape, order, far):
    """Buildings of map m that may be seen: their indices into order, nearest first. Returns how many."""
    n = 0
    first, rows, cols = world.cells[m, 0], world.cells[m, 1], world.cells[m, 2]
    span = SIGHT + world.reach[m]
    x, y = cam[PX] - world.cells[m, 3], cam[PY] - world.cells[m, 4]
    for row in range(int(max(0.0, np.floor((y - span) / CELL))), int(min(rows * 1.0, np.floor((y + span) / CELL) + 1))):
        for col in range(
            int(max(0.0, np.floor((x - span) / CELL))), int(min(cols * 1.0, np.floor((x + span) / CELL) + 1))
        ):
            cx, cy = world.cells[m, 3] + (col + 0.5) * CELL, world.cells[m, 4] + (row + 0.5) * CELL
            if not in_view(cam, shape[1], shape[0], cx, cy, cam[PZ], 0.75 * CELL + world.reach[m] + 60.0):
                continue
            cell = first + row * cols + col
            for b in range(world.cell_start[cell], world.cell_start[cell + 1]):
                box = world.buildings[b]
                distance = np.sqrt((box[0] - cam[PX]) ** 2 + (box[1] - cam[PY]) ** 2)
                radius = 0.5 * np.sqrt(box[3] ** 2 + box[4] ** 2 + box[5] ** 2)
                if (
                    distance < span
                    and n < len(order)
                    and in_view(cam, shape[1], shape[0], box[0], box[1], 0.5 * box[5], radius)
                ):
                    _insert(order, far, n, b, distance - radius)
                    n += 1
    return n


@kernel
def _resolve(out, zbuf, cbuf, cam, world, m, taps, line):
    """Samples in, pixels out: their mean, over ground or sky where they are empty. cam is in pixels; line (W,) scratch."""
    base, upper, frame = world.ground.base, world.ground.upper, world.ground.frames[m]
    for row in range(out.shape[0]):
        top, low, shade, shade2 = zbuf[2 * row], zbuf[2 * row + 1], cbuf[2 * row], cbuf[2 * row + 1]
        bare = False
        for col in range(len(top)):
            bare |= (top[col] == 0.0) | (low[col] == 0.0)
        if bare:
            n, level, depth = row_taps(cam, frame, row, taps)
            if n == 0:
                line[:] = sky_colour(cam, row)
            else:
                rows, cols = int(frame[1]) >> level, int(frame[2]) >> level
                ground_row(base, upper, world.ground.levels[m, level], rows, cols, level, taps, n, fade(depth), line)
        for col in range(out.shape[1]):
            a, b = 2 * col, 2 * col + 1
            mean = line[col]
            if top[a] + top[b] + low[a] + low[b] > 0.0:
                c0 = np.int64(shade[a]) if top[a] > 0.0 else mean
                c1 = np.int64(shade[b]) if top[b] > 0.0 else mean
                c2 = np.int64(shade2[a]) if low[a] > 0.0 else mean
                c3 = np.int64(shade2[b]) if low[b] > 0.0 else mean
                mean = mean4(c0, c1, c2, c3)
            out[row, col, 0], out[row, col, 1], out[row, col, 2] = mean & 255, mean >> 8 & 255, mean >> 16


def _compiled(stamp: int):
    """Hash of the drawing code in, `render` out. As a closure variable the hash is part of numba's key for the kept kernel."""

    @njit(cache=True, nogil=True, error_model="numpy")
    def render(out, start, stop, world, lens, maps, ego, agents, valid, size, kind, brake, signals):
        """Draw views start..stop into out. lens (7,): fx, fy, cx, cy, x, z, pitch."""
        if stamp == 0:
            return
        high, wide = out.shape[1], out.shape[2]
        zbuf, cbuf = np.empty((2 * high, 2 * wide), np.float32), np.empty((2 * high, 2 * wide), np.int32)
        hull, poly, taps = np.empty((8, 3)), np.empty((8, 5)), np.empty((TAPS, 4))
        line = np.empty(wide, np.int64)
        order, far = np.empty(1024, np.int64), np.empty(1024)
        cam = np.empty(11)
        for s in range(start, stop):
            m, yaw = maps[s], ego[s, 2]
            cam[COS], cam[SIN], cam[COSP], cam[SINP] = np.cos(yaw), np.sin(yaw), np.cos(lens[6]), np.sin(lens[6])
            cam[PX], cam[PY], cam[PZ] = ego[s, 0] + cam[COS] * lens[4], ego[s, 1] + cam[SIN] * lens[4], lens[5]
            cam[FX], cam[FY], cam[CX], cam[CY] = 2 * lens[0], 2 * lens[1], 2 * lens[2], 2 * lens[3]
            zbuf[:] = 0.0
            n = 0
            for i in range(agents.shape[1]):
                if valid[s, i]:
                    x, y = agents[s, i, 0], agents[s, i, 1]
                    distance = np.sqrt((x - cam[PX]) ** 2 + (y - cam[PY]) ** 2)
                    radius = 0.6 * np.sqrt(size[s, i, 0] ** 2 + size[s, i, 1] ** 2 + size[s, i, 2] ** 2)
                    if kind[s, i] == AGENT_PEDESTRIAN:
                        radius += 0.03 * distance
                    if distance < AGENT_SIGHT and n < len(order):
                        if in_view(cam, zbuf.shape[1], zbuf.shape[0], x, y, 0.5 * size[s, i, 2], radius):
                            _insert(order, far, n, i, distance)
                            n += 1
            for k in range(n):
                i = order[k]
                draw_agent(zbuf, cbuf, cam, hull, poly, agents[s, i], size[s, i], kind[s, i], brake[s, i], i)
            first, last = world.head_start[m], world.head_start[m + 1]
            for g in range(first, last):
                head = world.heads[g]
                near = (head[0] - cam[PX]) ** 2 + (head[1] - cam[PY]) ** 2 < AGENT_SIGHT * AGENT_SIGHT
                if near and in_view(cam, zbuf.shape[1], zbuf.shape[0], head[0], head[1], 0.5 * head[2], 18.0):
                    draw_head(zbuf, cbuf, cam, hull, poly, head, world.posts[g])
            n = _near_buildings(world, m, cam, zbuf.shape, order, far)
            for k in range(n):
                draw_building(zbuf, cbuf, cam, hull, poly, world.buildings[order[k]], order[k])
            for k in range(FX, CY + 1):
                cam[k] *= 0.5
            _resolve(out[s], zbuf, cbuf, cam, world, m, taps, line)
            for k in range(FX, CY + 1):
                cam[k] *= 2.0
            for g in range(first, min(last, first + signals.shape[1])):
                head = world.heads[g]
                if (head[0] - cam[PX]) ** 2 + (head[1] - cam[PY]) ** 2 < AGENT_SIGHT * AGENT_SIGHT:
                    shine(out[s], zbuf, cam, head, signals[s, g - first])

    return render


def _source_hash() -> int:
    folder = Path(__file__).parent
    text = b"".join((folder / f"{name}.py").read_bytes() for name in ("ground", "boxes", "actors", "camera"))
    return int.from_bytes(sha256(text).digest()[:7], "big") | 1


_render = _compiled(_source_hash())

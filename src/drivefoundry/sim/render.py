"""Maps in, flat arrays of their surroundings out; and the compiled code that draws S views of them.

Letters: S views, M maps, A agents, G signals, B buildings, H, W image rows and columns. Each view draws road users,
signals and buildings, nearest first, into depth-tested samples, then fills the rest from the warped ground and the sky.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from drivefoundry.sim.actors import draw_agent, draw_head, shine
from drivefoundry.sim.boxes import Canvas, draw_building, in_view
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
from drivefoundry.types import RoadMap

CELL = 64.0
"""Edge of the cells that buildings are filed under, m."""
SIGHT = 260.0
"""Buildings farther than this are not drawn, m."""
AGENT_SIGHT = 160.0
"""The same for road users and signals."""


class World(NamedTuple):
    """Static surroundings of M maps, flat. cells (M, 5) int64 first cell, rows, columns and whole-metre origin of the
    building grid; cell_start (cells + 1,) ranges of buildings (B, 6), sorted by cell; reach (M,) half diagonal of the
    largest building; head_start (M + 1,) ranges of heads (G, 4) and posts (G, 2)."""

    ground: Pyramid
    buildings: np.ndarray
    cells: np.ndarray
    cell_start: np.ndarray
    reach: np.ndarray
    heads: np.ndarray
    posts: np.ndarray
    head_start: np.ndarray


def flatten(maps: list[RoadMap]) -> World:
    """Maps in, their surroundings in flat arrays out."""
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
    return World(
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
            if not in_view(cam, shape[0], shape[1], cx, cy, cam[PZ], 0.75 * CELL + world.reach[m] + 60.0):
                continue
            cell = first + row * cols + col
            for b in range(world.cell_start[cell], world.cell_start[cell + 1]):
                box = world.buildings[b]
                distance = np.sqrt((box[0] - cam[PX]) ** 2 + (box[1] - cam[PY]) ** 2)
                radius = 0.5 * np.sqrt(box[3] ** 2 + box[4] ** 2 + box[5] ** 2)
                if (
                    distance < span
                    and n < len(order)
                    and in_view(cam, shape[0], shape[1], box[0], box[1], 0.5 * box[5], radius)
                ):
                    _insert(order, far, n, b, distance - radius)
                    n += 1
    return n


@kernel
def _resolve(out, zbuf, cbuf, cam, world, m, taps, lines):
    """Samples in, pixels out: their mean, over ground or sky where empty. cam is in pixels; lines (8, W) scratch."""
    base, upper, frame = world.ground.base, world.ground.upper, world.ground.frames[m]
    high, wide = out.shape[0], out.shape[1]
    # Samples lie by columns, the ground's rows do not: eight rows at a time keep both within the cache.
    for first in range(0, high, len(lines)):
        last = min(high, first + len(lines))
        for row in range(first, last):
            n, level, depth = row_taps(cam, frame, row, taps)
            line = lines[row - first]
            if n == 0:
                line[:] = sky_colour(cam, row)
            else:
                rows, cols = int(frame[1]) >> level, int(frame[2]) >> level
                ground_row(base, upper, world.ground.levels[m, level], rows, cols, level, taps, n, fade(depth), line)
        for col in range(wide):
            left, right, shade, shade2 = zbuf[2 * col], zbuf[2 * col + 1], cbuf[2 * col], cbuf[2 * col + 1]
            for row in range(first, last):
                a, b = 2 * row, 2 * row + 1
                mean = lines[row - first, col]
                if left[a] + left[b] + right[a] + right[b] > 0.0:
                    c0 = np.int64(shade[a]) if left[a] > 0.0 else mean
                    c1 = np.int64(shade[b]) if left[b] > 0.0 else mean
                    c2 = np.int64(shade2[a]) if right[a] > 0.0 else mean
                    c3 = np.int64(shade2[b]) if right[b] > 0.0 else mean
                    mean = mean4(c0, c1, c2, c3)
                out[row, col, 0], out[row, col, 1], out[row, col, 2] = mean & 255, mean >> 8 & 255, mean >> 16


@kernel
def _draw_agents(canvas, order, far, agents, valid, size, kind, brake):
    """Draw one view's road users, nearest first."""
    n, cam, wide, high = 0, canvas.cam, canvas.zbuf.shape[0], canvas.zbuf.shape[1]
    for i in range(len(agents)):
        x, y = agents[i, 0], agents[i, 1]
        distance = np.sqrt((x - cam[PX]) ** 2 + (y - cam[PY]) ** 2)
        if not valid[i] or distance > AGENT_SIGHT or n == len(order):
            continue
        radius = 0.6 * np.sqrt(size[i, 0] ** 2 + size[i, 1] ** 2 + size[i, 2] ** 2) + 0.03 * distance
        if in_view(cam, wide, high, x, y, 0.5 * size[i, 2], radius):
            _insert(order, far, n, i, distance)
            n += 1
    for k in range(n):
        i = order[k]
        draw_agent(canvas, agents[i], size[i], kind[i], brake[i], i)


@kernel
def _near(head, cam):
    return (head[0] - cam[PX]) ** 2 + (head[1] - cam[PY]) ** 2 < AGENT_SIGHT * AGENT_SIGHT


def _compiled(stamp: int):
    """Hash of the drawing code in, `render` out. Closed over, the hash is part of numba's key for the kept kernel."""

    @njit(cache=True, nogil=True, error_model="numpy")
    def render(out, start, stop, world, lens, maps, ego, agents, valid, size, kind, brake, signals):
        """Draw views start..stop into out (S, H, W, 3). lens (7,): fx, fy, cx, cy, x, z, pitch; more as in Camera."""
        if stamp == 0:  # never so; numba keys on closed-over variables only where they are used
            return
        high, wide = out.shape[1], out.shape[2]
        zbuf, cbuf = np.empty((2 * wide, 2 * high), np.float32), np.empty((2 * wide, 2 * high), np.int32)
        tone, shaded = np.empty(high, np.int64), np.empty(high, np.int64)
        canvas = Canvas(zbuf, cbuf, np.empty(11), np.empty((8, 3)), np.empty((8, 5)), tone, shaded)
        cam, taps, lines = canvas.cam, np.empty((TAPS, 4)), np.empty((8, wide), np.int64)
        order, far = np.empty(1024, np.int64), np.empty(1024)
        for s in range(start, stop):
            m, yaw = maps[s], ego[s, 2]
            cam[COS], cam[SIN], cam[COSP], cam[SINP] = np.cos(yaw), np.sin(yaw), np.cos(lens[6]), np.sin(lens[6])
            cam[PX], cam[PY], cam[PZ] = ego[s, 0] + cam[COS] * lens[4], ego[s, 1] + cam[SIN] * lens[4], lens[5]
            cam[FX], cam[FY], cam[CX], cam[CY] = 2 * lens[0], 2 * lens[1], 2 * lens[2], 2 * lens[3]
            zbuf[:] = 0.0
            _draw_agents(canvas, order, far, agents[s], valid[s], size[s], kind[s], brake[s])
            first, last = world.head_start[m], world.head_start[m + 1]
            for g in range(first, last):
                head = world.heads[g]
                if _near(head, cam) and in_view(cam, 2 * wide, 2 * high, head[0], head[1], 0.5 * head[2], 18.0):
                    draw_head(canvas, head, world.posts[g])
            n = _near_buildings(world, m, cam, zbuf.shape, order, far)
            for k in range(n):
                draw_building(canvas, world.buildings[order[k]], order[k] - world.cell_start[world.cells[m, 0]])
            for k in range(FX, CY + 1):
                cam[k] *= 0.5
            _resolve(out[s], zbuf, cbuf, cam, world, m, taps, lines)
            for k in range(FX, CY + 1):
                cam[k] *= 2.0
            for g in range(first, min(last, first + signals.shape[1])):
                if _near(world.heads[g], cam):
                    shine(out[s], canvas, world.heads[g], signals[s, g - first])

    return render


def _source_hash() -> int:
    folder = Path(__file__).parent
    text = b"".join((folder / f"{name}.py").read_bytes() for name in ("ground", "boxes", "actors", "render"))
    return int.from_bytes(sha256(text).digest()[:7], "big") | 1


render = _compiled(_source_hash())

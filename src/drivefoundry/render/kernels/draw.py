"""Compiled code that draws S views of maps, and the flat arrays of static surroundings that it reads.

Letters: S views, M maps, A agents, G signals, B buildings, H, W image rows and columns. Each view draws road users,
signals and buildings, nearest first, into depth-tested samples, then fills the rest from the warped ground and the sky.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from drivefoundry.raster import GROUND, SIDEWALK, ground_raster
from drivefoundry.render.conditions import EXPOSURE, LAMPS_ON, NOISE, ON, RAIN, SUN_X
from drivefoundry.render.kernels.actors import draw_agent, draw_head, shine, shine_agent
from drivefoundry.render.kernels.boxes import DAYLIGHT, draw_building, in_view, new_canvas, wipe
from drivefoundry.render.kernels.ground import (
    COS,
    COSP,
    COUNTED,
    CY,
    FX,
    PX,
    PY,
    PZ,
    SIN,
    SINP,
    TAPS,
    Pyramid,
    fade,
    ground_row,
    inlined,
    kernel,
    mean4,
    pyramid,
    row_taps,
    sky_colour,
)
from drivefoundry.render.kernels.weather import key_of, resolve, sensor, streaks
from drivefoundry.types import RoadMap

CELL = 64.0
"""Edge of the grid cells that index buildings, m."""
SIGHT = 260.0
"""Distance beyond which buildings are not drawn, m."""
AGENT_SIGHT = 160.0
"""The same for road users and signals."""
MOST = 1024
"""Maximum number of buildings, and of road users, drawn per view."""
BLINK = 8
"""Steps per blink of an indicator: 75 a minute (UN regulation 48 allows 60 to 120)."""


class StaticWorld(NamedTuple):
    """Static surroundings of M maps, flat. cells (M, 5) int64: first cell, rows, columns and whole-metre origin of the
    building grid; cell_start (cells + 1,): ranges of buildings (B, 6), sorted by cell; reach (M,): half diagonal of the
    largest building; head_start (M + 1,): ranges of heads (G, 4) and posts (G, 2)."""

    ground: Pyramid
    buildings: np.ndarray
    cells: np.ndarray
    cell_start: np.ndarray
    reach: np.ndarray
    heads: np.ndarray
    posts: np.ndarray
    head_start: np.ndarray


def flatten(maps: list[RoadMap]) -> StaticWorld:
    """Flatten the maps' static surroundings into arrays."""
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
    return StaticWorld(
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
    """(G, 2) foot of each signal's pole: the nearest spot off the road beside the lamp, or directly below it."""
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
    """Write the indices of buildings of map m that may be visible to order, nearest first; return their number."""
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
                    and n < MOST
                    and in_view(cam, shape[0], shape[1], box[0], box[1], 0.5 * box[5], radius)
                ):
                    _insert(order, far, n, b, distance - radius)
                    n += 1
    return n


@kernel
def _open(roof, fine, row, wide):
    """First and last pixel of an image row whose ground may be visible: those between walls that hide it."""
    left, right = 0, wide
    while left < right and _walled(roof, fine, left, row):
        left += 1
    while left < right and _walled(roof, fine, right - 1, row):
        right -= 1
    return left, right


@inlined
def _walled(roof, fine, col, row):
    a, b = col << fine, (col + 1 << fine) - 1
    top, foot = max(roof[a, 0], roof[b, 0]), min(roof[a, 1], roof[b, 1])
    return top <= row << fine and foot >= row + 1 << fine


@kernel
def _lay(canvas, lines, first, last):
    """Write the samples of rows first..last over lines (rows, W), at one sample per pixel."""
    touched = canvas.touched
    for col in range(lines.shape[1]):
        near, shade = canvas.zbuf[col], canvas.cbuf[col]
        for row in range(max(first, touched[col, 0]), min(last, touched[col, 1])):
            if near[row] > 0.0:
                lines[row - first, col] = shade[row]


@kernel
def _lay_means(canvas, lines, first, last):
    """The same for four samples per pixel: their mean."""
    zbuf, cbuf, touched = canvas.zbuf, canvas.cbuf, canvas.touched
    for col in range(lines.shape[1]):
        top = max(first, min(touched[2 * col, 0], touched[2 * col + 1, 0]) >> 1)
        low = min(last, max(touched[2 * col, 1], touched[2 * col + 1, 1]) + 1 >> 1)
        near, far, shade, shade2 = zbuf[2 * col], zbuf[2 * col + 1], cbuf[2 * col], cbuf[2 * col + 1]
        for row in range(top, low):
            a, b = 2 * row, 2 * row + 1
            if near[a] + near[b] + far[a] + far[b] > 0.0:
                mean = np.int64(lines[row - first, col])
                c0 = np.int64(shade[a]) if near[a] > 0.0 else mean
                c1 = np.int64(shade[b]) if near[b] > 0.0 else mean
                c2 = np.int64(shade2[a]) if far[a] > 0.0 else mean
                c3 = np.int64(shade2[b]) if far[b] > 0.0 else mean
                lines[row - first, col] = mean4(c0, c1, c2, c3)


@kernel
def _resolve(out, canvas, world, m, taps, acc, lines):
    """Resolve samples to pixels: their mean, over ground or sky where empty. canvas.cam is in pixels; acc (W,) int64
    and lines (8, W) int32 are scratch."""
    cam = canvas.cam
    base, upper, frame = world.ground.base, world.ground.upper, world.ground.frames[m]
    high, wide = out.shape[0], out.shape[1]
    # Samples are stored by columns, the ground by rows: processing eight rows at a time keeps both in the cache.
    for first in range(0, high, len(lines)):
        last = min(high, first + len(lines))
        for row in range(first, last):
            n, level, depth = row_taps(cam, frame, row, taps)
            line = lines[row - first]
            if n == 0:
                line[:] = sky_colour(cam, row)
            else:
                rows, cols = int(frame[1]) >> level, int(frame[2]) >> level
                left, right = _open(canvas.roof, canvas.fine, row, wide)
                offset = world.ground.levels[m, level]
                ground_row(
                    base, upper, offset, rows, cols, level, taps, n, fade(depth), canvas.fine, acc, line, left, right
                )
        if canvas.fine:
            _lay_means(canvas, lines, first, last)
        else:
            _lay(canvas, lines, first, last)
        for row in range(first, last):
            line, pixels = lines[row - first], out[row].reshape(-1)
            for col in range(wide):
                c = line[col]
                pixels[3 * col], pixels[3 * col + 1], pixels[3 * col + 2] = c, c >> np.int32(8), c >> np.int32(16)


@kernel
def _draw_agents(canvas, order, far, agents, valid, size, kind, brake):
    """Draw one view's road users, nearest first."""
    n, cam, wide, high = 0, canvas.cam, canvas.zbuf.shape[0], canvas.zbuf.shape[1]
    for i in range(len(agents)):
        x, y = agents[i, 0], agents[i, 1]
        distance = np.sqrt((x - cam[PX]) ** 2 + (y - cam[PY]) ** 2)
        if not valid[i] or distance > AGENT_SIGHT or n == MOST:
            continue
        radius = 0.6 * np.sqrt(size[i, 0] ** 2 + size[i, 1] ** 2 + size[i, 2] ** 2) + 0.03 * distance
        if in_view(cam, wide, high, x, y, 0.5 * size[i, 2], radius):
            _insert(order, far, n, i, distance)
            n += 1
    for k in range(n):
        i = order[k]
        draw_agent(canvas, agents[i], size[i], kind[i], brake[i], i)


@kernel
def _near(point, cam):
    return (point[0] - cam[PX]) ** 2 + (point[1] - cam[PY]) ** 2 < AGENT_SIGHT * AGENT_SIGHT


@kernel
def _rescale(cam, k):
    for i in range(FX, CY + 1):
        cam[i] *= k


@kernel
def _aim(canvas, pose, lens, sky):
    """Set the canvas's camera, in samples, and light for an ego pose (3,), a view's lens and a scene's conditions."""
    cam, light = canvas.cam, canvas.light
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    cam[PX], cam[PY], cam[PZ] = (
        pose[0] + cos * lens[4] - sin * lens[5],
        pose[1] + sin * lens[4] + cos * lens[5],
        lens[6],
    )
    cam[COS], cam[SIN] = np.cos(pose[2] + lens[7]), np.sin(pose[2] + lens[7])
    cam[COSP], cam[SINP] = np.cos(lens[8]), np.sin(lens[8])
    for i in range(4):
        cam[FX + i] = lens[i]
    _rescale(cam, 1.0 * (1 << canvas.fine))
    clear = sky[ON] == 0.0
    for i in range(4):
        light[i] = DAYLIGHT[i] if clear else sky[SUN_X + i]
    light[4] = 1.0 if clear else 0.0


@kernel
def _draw(out, canvas, scratch, world, m, mount, agents, valid, size, kind, brake, signals, turn, sky, blink, key):
    """Draw one view, already aimed, into the pixels out (H, W, 3)."""
    taps, acc, lines, order, far = scratch
    cam, zbuf = canvas.cam, canvas.zbuf
    wipe(canvas)
    _draw_agents(canvas, order, far, agents, valid, size, kind, brake)
    first, last = world.head_start[m], world.head_start[m + 1]
    for g in range(first, last):
        head = world.heads[g]
        if _near(head, cam) and in_view(cam, zbuf.shape[0], zbuf.shape[1], head[0], head[1], 0.5 * head[2], 18.0):
            draw_head(canvas, head, world.posts[g])
    n = _near_buildings(world, m, cam, zbuf.shape, order, far)
    for k in range(n):
        draw_building(canvas, world.buildings[order[k]], order[k] - world.cell_start[world.cells[m, 0]])
    _rescale(cam, 1.0 / (1 << canvas.fine))
    if sky[ON] == 0.0:
        _resolve(out, canvas, world, m, taps, acc, lines)
    else:
        resolve(out, canvas, world, m, taps, acc, sky, mount)
    _rescale(cam, 1.0 * (1 << canvas.fine))
    for g in range(first, min(last, first + len(signals))):
        if _near(world.heads[g], cam):
            shine(out, canvas, sky, world.heads[g], signals[g - first])
    for i in range(len(agents)):
        side = turn[i] if blink else 0
        if valid[i] and (side != 0 or sky[LAMPS_ON] > 0.0) and _near(agents[i], cam):
            shine_agent(out, canvas, sky, agents[i], size[i], kind[i], brake[i], side)
    if sky[RAIN] > 0.0:
        streaks(out, sky, key)


@kernel
def _warp(out, picture, at):
    """Fill out (H, W, 3) from a picture by interpolation at positions `at` (H, W, 2) px."""
    for row in range(out.shape[0]):
        for col in range(out.shape[1]):
            u, v = at[row, col, 0] - np.float32(0.5), at[row, col, 1] - np.float32(0.5)
            i, j = int(u), int(v)
            a, b = int((u - i) * 256.0), int((v - j) * 256.0)
            for k in range(3):
                top = picture[j, i, k] * (256 - a) + picture[j, i + 1, k] * a
                low = picture[j + 1, i, k] * (256 - a) + picture[j + 1, i + 1, k] * a
                out[row, col, k] = top * (256 - b) + low * b + 32768 >> 16


def _compiled(stamp: int):
    """Compile `render`. Closing over the hash of the drawing code makes it part of the key of numba's disk cache."""

    @njit(**COUNTED, cache=True)
    def render(
        out, start, stop, world, lenses, warps, maps, ego, agents, valid, size, kind, brake, signals, turn, skies, steps
    ):
        """Draw scenes start..stop into out (S, V, H, W, 3). lenses (V, 13): fx, fy, cx, cy, x, y, z, yaw, pitch, width,
        height, samples and row of warps (n, H, W, 2), -1 for none; skies (S, COLUMNS) `Conditions.row`; more as in
        Camera."""
        if stamp == 0:  # never true; numba keys only on closed-over variables that are used
            return
        order, far = np.empty(MOST, np.int64), np.empty(MOST)
        for v in range(len(lenses)):
            lens = lenses[v]
            wide, high, warp = int(lens[9]), int(lens[10]), int(lens[12])
            canvas = new_canvas(wide, high, int(lens[11]) - 1)
            scratch = np.empty((TAPS, 4)), np.empty(wide, np.int64), np.empty((8, wide), np.int32), order, far
            picture = np.empty((high if warp >= 0 else 0, wide, 3), np.uint8)
            for s in range(start, stop):
                sky, pixels = skies[s], out[s, v]
                key = key_of(sky, v, steps[s])
                _aim(canvas, ego[s], lens, sky)
                _draw(
                    picture if warp >= 0 else pixels, canvas, scratch, world, maps[s], lens[4:8:1], agents[s], valid[s],
                    size[s], kind[s], brake[s], signals[s], turn[s], sky, steps[s] % BLINK < BLINK // 2, key,
                )  # fmt: skip
                if warp >= 0:
                    _warp(pixels, picture, warps[warp])
                if sky[ON] != 0.0 and (sky[NOISE] > 0.0 or sky[EXPOSURE] != 1.0):
                    sensor(pixels, sky, key)

    return render


def _source_hash() -> int:
    folder = Path(__file__).parent
    files = [folder.parent / "conditions.py", *sorted(folder.glob("*.py"))]
    text = b"".join(file.read_bytes() for file in files)
    return int.from_bytes(sha256(text).digest()[:7], "big") | 1


render = _compiled(_source_hash())

"""Road users and signals: the hulls of cars, trucks, people, cyclists and signal heads as the camera sees them, and
which of their lamps are lit. Replayed tracks have axes (A, T, ...), at 10 Hz, as in Scene."""

from __future__ import annotations

import numpy as np

from drivefoundry.render.conditions import LAMPS_ON, ON, RAIN, THIN
from drivefoundry.render.kernels.boxes import draw_face, draw_hull, set_hull, to_camera
from drivefoundry.render.kernels.ground import COS, CX, CY, FX, FY, PX, PY, SIN, kernel, mix
from drivefoundry.render.kernels.surfaces import (
    BIKE,
    BRAKE,
    CARS,
    CLOTHES,
    DARK,
    FRONT,
    GLASS,
    HEADLIGHT,
    HOUSING,
    PANE,
    PLAIN,
    REAR,
    REAR_GLASS,
    SHADOW,
    SIDE,
    SKIN,
    STEEL,
    TAIL,
    TRUCKS,
    pack,
)  # fmt: skip
from drivefoundry.types import (
    AGENT_CAR,
    AGENT_CYCLIST,
    AGENT_PEDESTRIAN,
    AGENT_TRUCK,
    DT,
    PSPEED,
    PYAW,
    SIGNAL_GREEN,
    SIGNAL_OFF,
    SIGNAL_YELLOW,
)

AHEAD_S, HOLD_S = 4.0, 0.5
"""An indicator blinks from AHEAD_S before a turn to HOLD_S after it."""
TURN = np.deg2rad(25.0)
"""Minimum heading change over that time for a turn; bends of a road stay below it."""
SHADE = 0.12
"""How far a shadow extends beyond the object that casts it, m."""
LAMP_RADIUS = 0.3
"""m, larger than life so that a lamp is a few pixels across at 60 m."""
LEAST_RADIUS = 1.4
"""Minimum radius of a lamp, pixels."""
LAMPS = np.array([[0, 0, 0], [40, 255, 130], [255, 196, 30], [255, 38, 28]], np.float64)
"""Colour by SIGNAL_* state."""
AMBER, BEAM, GLARE = np.array([255 | 150 << 8 | 12 << 16, 255 | 250 << 8 | 228 << 16, 255 | 30 << 8 | 22 << 16])
"""Packed colours of indicators, head lamps and tail lamps."""


@kernel
def paint_of(kind, index):
    """Paint of a road user by its kind and number: of the bodywork, or of the clothes of pedestrians and cyclists."""
    if kind in (AGENT_PEDESTRIAN, AGENT_CYCLIST):
        return CLOTHES + (index * 7 + 3) % 6
    return TRUCKS + index % 4 if kind == AGENT_TRUCK else CARS + (index * 5 + index // 8) % 8


@kernel
def _grain(canvas, x, y):
    """Half a pixel at (x, y), m; slightly more if a pixel is one sample, so that thin objects do not fall between
    samples."""
    cam = canvas.cam
    ahead = max(0.0, (x - cam[PX]) * cam[COS] + (y - cam[PY]) * cam[SIN])
    return (1.0 if canvas.fine else 0.6) * ahead / cam[FX]


@kernel
def draw_agent(canvas, state, size, kind, braking, index):
    """Draw agent number `index`: state (4,) x, y, yaw, speed; size (3,) m; kind AGENT_*."""
    x, y = state[0], state[1]
    cos, sin = np.cos(state[2]), np.sin(state[2])
    half, side = 0.5 * size[0], 0.5 * size[1]
    if canvas.fine:
        set_hull(canvas, x, y, cos, sin, -half - SHADE, half + SHADE, side + SHADE, 0.0, 0.015, 0.0, 0.0, 0.0)
        draw_hull(canvas, cos, sin, PLAIN, PLAIN, PLAIN, SHADOW, SHADOW, SHADOW)
    grain = _grain(canvas, x, y)
    if kind == AGENT_PEDESTRIAN:
        _draw_person(canvas, x, y, cos, sin, 0.0, size[2], 2.2 * grain, kind, index)
    elif kind == AGENT_CYCLIST:
        set_hull(canvas, x, y, cos, sin, -half, half, max(0.04, grain), 0.0, 0.68, 0.0, 0.0, 0.0)
        draw_hull(canvas, cos, sin, PLAIN, BIKE, PLAIN, DARK, DARK, DARK)
        _draw_person(canvas, x - 0.1 * cos, y - 0.1 * sin, cos, sin, 0.4, size[2], 2.2 * grain, kind, index)
    elif kind == AGENT_TRUCK:
        _draw_truck(canvas, x, y, cos, sin, half, side, size[2], kind, braking, index)
    else:
        _draw_car(canvas, x, y, cos, sin, half, side, size[2], kind, braking, index)
    if not canvas.fine:  # flat, and drawn last: most of it is behind the object that casts it, which halves the cost
        _draw_shadow(canvas, x, y, cos, sin, half + SHADE, side + SHADE)


@kernel
def _draw_shadow(canvas, x, y, cos, sin, half, side):
    """Darken the ground within half m ahead of and behind (x, y) and side m to each side."""
    hull, cam = canvas.hull, canvas.cam
    for k in range(4):
        dx, dy = half if k == 1 or k == 2 else -half, side if k >= 2 else -side
        px, py = x + cos * dx - sin * dy, y + sin * dx + cos * dy
        hull[4 + k, 0], hull[4 + k, 1], hull[4 + k, 2] = to_camera(cam, px, py, 0.015)
    c = pack(SHADOW, 1.0)
    draw_face(canvas, 4, PLAIN, c, c, c)


@kernel
def _draw_car(canvas, x, y, cos, sin, half, side, high, kind, braking, index):
    colour = paint_of(kind, index)
    belt = 0.58 * high
    lamp = BRAKE if braking else TAIL
    set_hull(canvas, x, y, cos, sin, -half, half, side, 0.0, belt, 0.04, 0.04, 0.03)
    draw_hull(canvas, cos, sin, REAR, SIDE, FRONT, colour, lamp, DARK)
    set_hull(
        canvas,
        x,
        y,
        cos,
        sin,
        -0.84 * half,
        0.42 * half,
        0.94 * side,
        belt,
        high,
        0.16 * half,
        0.3 * half,
        0.12 * side,
    )
    third = BRAKE if braking else PANE
    draw_hull(canvas, cos, sin, REAR_GLASS, GLASS, GLASS, colour, PANE, third)


@kernel
def _draw_truck(canvas, x, y, cos, sin, half, side, high, kind, braking, index):
    colour = paint_of(kind, index)
    cab = CARS + (index * 3 + 1) % 8
    cab_rear = half - min(2.2, 0.6 * half)
    lamp = BRAKE if braking else TAIL
    set_hull(canvas, x, y, cos, sin, -half, cab_rear - 0.15, side, 0.0, high, 0.0, 0.0, 0.0)
    draw_hull(canvas, cos, sin, REAR, SIDE, PLAIN, colour, lamp, DARK)
    set_hull(canvas, x, y, cos, sin, cab_rear, half, 0.96 * side, 0.0, 0.45 * high, 0.0, 0.0, 0.0)
    draw_hull(canvas, cos, sin, PLAIN, SIDE, FRONT, cab, HEADLIGHT, DARK)
    set_hull(canvas, x, y, cos, sin, cab_rear, half, 0.96 * side, 0.45 * high, 0.85 * high, 0.0, 0.2, 0.05)
    draw_hull(canvas, cos, sin, PLAIN, GLASS, GLASS, cab, PANE, PANE)


@kernel
def _draw_person(canvas, x, y, cos, sin, foot, high, least, kind, index):
    """Draw legs, torso and head, each at least `least` m wide so that none falls between samples."""
    top = paint_of(kind, index)
    legs = PANE if index % 2 == 0 else DARK
    body = high - foot
    for part in range(3):
        low = foot + body * (0.0 if part == 0 else 0.46 if part == 1 else 0.85)
        up = foot + body * (0.46 if part == 0 else 0.85 if part == 1 else 1.0)
        half = 0.5 * max(least, 0.3 if part == 0 else 0.34 if part == 1 else 0.22)
        side = 0.5 * max(least, 0.34 if part == 0 else 0.5 if part == 1 else 0.22)
        colour = legs if part == 0 else top if part == 1 else SKIN
        set_hull(canvas, x, y, cos, sin, -half, half, side, low, up, 0.0, 0.0, 0.0)
        draw_hull(canvas, cos, sin, PLAIN, PLAIN, PLAIN, colour, colour, colour)


@kernel
def _bar(canvas, x0, y0, x1, y1, z0, z1, half, colour):
    """Draw a straight bar from (x0, y0) to (x1, y1)."""
    dx, dy = x1 - x0, y1 - y0
    length = np.sqrt(dx * dx + dy * dy)
    cos, sin = dx / length, dy / length
    set_hull(canvas, x0, y0, cos, sin, 0.0, length, half, z0, z1, 0.0, 0.0, 0.0)
    draw_hull(canvas, cos, sin, PLAIN, PLAIN, PLAIN, colour, colour, colour)


@kernel
def draw_head(canvas, head, post):
    """Draw pole, arm and dark housing of a signal. head (4,): x, y, z and the yaw it faces; post (2,): foot of its
    pole."""
    grain = _grain(canvas, head[0], head[1])
    thin = max(0.08, grain)
    _bar(canvas, post[0] - thin, post[1], post[0] + thin, post[1], 0.0, head[2] + 0.4, thin, STEEL)
    if abs(post[0] - head[0]) + abs(post[1] - head[1]) > 0.5:
        z = head[2] + 0.3
        _bar(canvas, post[0], post[1], head[0], head[1], z, z + 2 * thin, thin, STEEL)
    cos, sin = np.cos(head[3]), np.sin(head[3])
    wide, high = max(0.42, 3.8 * grain), max(0.95, 5.5 * grain)
    x, y = head[0] - 0.15 * cos, head[1] - 0.15 * sin
    set_hull(canvas, x, y, cos, sin, -0.15, 0.15, wide, head[2] - high, head[2] + high, 0.0, 0.0, 0.0)
    draw_hull(canvas, cos, sin, PLAIN, PLAIN, PLAIN, HOUSING, HOUSING, HOUSING)


@kernel
def _glow(out, canvas, x, y, z, lamp, size, least, strength, tall):
    """Add a disc of light of a packed colour at a point, m, to the pixels out (H, W, 3), unless it is occluded.

    size, least: its diameter, m, and its minimum diameter, pixels; around it is a halo of 2.5 radii. The light is
    stretched vertically by `tall` and scaled by `strength`.
    """
    cam, zbuf, fine = canvas.cam, canvas.zbuf, canvas.fine
    right, down, ahead = to_camera(cam, x, y, z)
    if ahead < 0.5:
        return
    k = 1.0 / (1 << fine)
    u, v = k * (cam[CX] + cam[FX] * right / ahead), k * (cam[CY] + cam[FY] * down / ahead)
    radius = max(least, k * size * cam[FX] / ahead)
    reach = 2.5 * radius
    nearest = 1.0 / (ahead - min(0.3 * ahead, 0.6))
    high, wide = out.shape[0], out.shape[1]
    first, last = int(max(0.0, np.floor(v - reach * tall))), int(min(high * 1.0, np.ceil(v + reach * tall)))
    for row in range(first, last):
        for col in range(int(max(0.0, np.floor(u - reach))), int(min(wide * 1.0, np.ceil(u + reach)))):
            if zbuf[col << fine, row << fine] > nearest:
                continue
            d = np.sqrt((col + 0.5 - u) ** 2 + ((row + 0.5 - v) / tall) ** 2)
            core = min(1.0, max(0.0, radius + 0.5 - d))
            glow = max(0.0, 1.0 - d / reach)
            w = int(256.0 * max(core, 0.55 * glow * glow) * strength)
            old = np.int64(out[row, col, 0]) | np.int64(out[row, col, 1]) << 8 | np.int64(out[row, col, 2]) << 16
            new = mix(old, lamp, w)
            out[row, col, 0], out[row, col, 1], out[row, col, 2] = new & 255, new >> 8 & 255, new >> 16


@kernel
def _through_air(canvas, sky, x, y):
    """Share of a light at (x, y) that reaches the camera through the conditions' air; 1 on a clear day."""
    if sky[ON] == 0.0:
        return 1.0
    dx, dy = x - canvas.cam[PX], y - canvas.cam[PY]
    return np.exp(-0.5 * sky[THIN] * np.sqrt(dx * dx + dy * dy))


@kernel
def _lit(out, canvas, sky, x, y, z, lamp, size, least, strength):
    """Draw a light and, on a wet road, its reflection."""
    strength *= _through_air(canvas, sky, x, y)
    _glow(out, canvas, x, y, z, lamp, size, least, strength, 1.0)
    if sky[RAIN] > 0.0:
        _glow(out, canvas, x, y, -z, lamp, size, least, 0.35 * sky[RAIN] * strength, 4.0)


@kernel
def shine(out, canvas, sky, head, state):
    """Add a lit signal to the pixels out (H, W, 3) if its head faces the camera; red is on top, green below."""
    if state == SIGNAL_OFF:
        return
    cam = canvas.cam
    dx, dy = cam[PX] - head[0], cam[PY] - head[1]
    if np.cos(head[3]) * dx + np.sin(head[3]) * dy < 0.35 * np.sqrt(dx * dx + dy * dy):
        return
    lift = -0.6 if state == SIGNAL_GREEN else 0.0 if state == SIGNAL_YELLOW else 0.6
    colour = LAMPS[state]
    lamp = int(colour[0]) | int(colour[1]) << 8 | int(colour[2]) << 16
    _lit(out, canvas, sky, head[0], head[1], head[2] + lift, lamp, LAMP_RADIUS, LEAST_RADIUS, 1.0)


@kernel
def shine_agent(out, canvas, sky, state, size, kind, braking, turn):
    """Add a car's or truck's blinking indicators (turn: 1 left, -1 right, 0 none) and, with lights on, the glare of its
    head and tail lamps."""
    if kind in (AGENT_PEDESTRIAN, AGENT_CYCLIST):
        return
    cam, cos, sin = canvas.cam, np.cos(state[2]), np.sin(state[2])
    up = 0.9 if kind == AGENT_TRUCK else 0.39 * size[2]
    for corner in range(4):
        along, left = 1.0 if corner < 2 else -1.0, 1.0 if corner % 2 == 0 else -1.0
        dx, dy = 0.49 * size[0] * along, 0.44 * size[1] * left
        x, y = state[0] + cos * dx - sin * dy, state[1] + sin * dx + cos * dy
        ax, ay = cam[PX] - x, cam[PY] - y
        far = np.sqrt(ax * ax + ay * ay)
        ahead, aside = (ax * cos + ay * sin) * along / far, (ay * cos - ax * sin) * left / far
        if turn == left and ahead + 0.6 * aside > 0.2:
            _lit(out, canvas, sky, x, y, up, AMBER, 0.22, 1.1, 1.0)
        elif sky[LAMPS_ON] > 0.0 and ahead > 0.3:
            if along > 0.0:
                _lit(out, canvas, sky, x, y, up, BEAM, 0.26, 1.0, sky[LAMPS_ON] * ahead)
            else:
                _lit(out, canvas, sky, x, y, up, GLARE, 0.2, 0.7, sky[LAMPS_ON] * (0.9 if braking else 0.45))


def brake_lamps(agents: np.ndarray) -> np.ndarray:
    """(A, T) bool of states (A, T, 4): decelerating by more than 0.8 m/s^2, or standing."""
    slowing = np.diff(agents[..., PSPEED], axis=1, prepend=agents[:, :1, PSPEED]) < -0.8 * DT
    return slowing | (agents[..., PSPEED] < 0.2)


def indicators(agents: np.ndarray, valid: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """(A, T) int8 of states (A, T, 4), valid (A, T) and kind (A,): 1 before and in a left turn, -1 right, 0 otherwise.

    Cars and trucks only. Drivers are assumed to indicate 4 s ahead of a turn; after the end of a track, its last
    heading counts.
    """
    steps = agents.shape[1]
    at = np.arange(steps)
    last = np.where(valid.any(1), steps - 1 - valid[:, ::-1].argmax(1), 0)[:, None]
    first = valid.argmax(1)[:, None]
    heading = np.unwrap(np.where(valid, agents[..., PYAW], 0.0), axis=1)
    soon = np.clip(at + round(AHEAD_S / DT), first, np.maximum(first, last))
    since = np.clip(at - round(HOLD_S / DT), first, np.maximum(first, last))
    change = np.take_along_axis(heading, soon, 1) - np.take_along_axis(heading, since, 1)
    change = np.arctan2(np.sin(change), np.cos(change))
    shown = valid & np.isin(kind, (AGENT_CAR, AGENT_TRUCK))[:, None] & (np.abs(change) > TURN)
    return np.where(shown, np.sign(change), 0).astype(np.int8)

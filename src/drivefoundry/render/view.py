"""Pictures of a scene for people: the camera's view beside a map from above, MP4 films, and a wall of what the cameras
can show.

Arrays are laid out as in Rollout: ego (T, 3+), agents (A, T, 4), valid (A, T), step 0 = Scene.start, 10 Hz; SI units.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from drivefoundry.raster import ground_raster
from drivefoundry.render.bev import Bev
from drivefoundry.render.camera import Renderer
from drivefoundry.render.conditions import Conditions
from drivefoundry.render.kernels.actors import brake_lamps, indicators, paint_of
from drivefoundry.render.kernels.draw import BLINK
from drivefoundry.render.kernels.ground import PALETTE
from drivefoundry.render.kernels.surfaces import PAINTS
from drivefoundry.render.rig import Rig, View
from drivefoundry.render.snapshot import Snapshot
from drivefoundry.types import AGENT_PEDESTRIAN, DT, PLAN_DT, PSPEED, RoadMap, Scene, require
from drivefoundry_car.vehicle.inputs import to_ego

FILM_VIEW = View().scaled(480, 240)
AHEAD = 40.0
"""Ground shown ahead of the ego in the view from above, m; 5/9 as much is shown behind it."""
SMOOTH = 2
"""Supersampling factor of the view from above."""
EGO, ROUTE, PLAN = (255, 122, 24), (64, 156, 255), (40, 224, 140)
LIGHTS = [(120, 120, 120), (40, 220, 110), (250, 196, 40), (245, 50, 40)]


class Decisions(NamedTuple):
    """What a driver decided, from step 0 on every `dt` s."""

    plans: np.ndarray
    """(D, horizon, 3), in the ego frame of the decision."""
    text: Sequence[str] = ()
    """(D,) reasoning, or none."""
    dt: float = PLAN_DT


def film(
    scene: Scene,
    ego: np.ndarray,
    agents: np.ndarray,
    valid: np.ndarray,
    decisions: Decisions | None = None,
    view: View = FILM_VIEW,
    every: int = 2,
) -> list[np.ndarray]:
    """Frames (H, W, 3) uint8 of one drive, one per `every` steps (2: 5 frames a second).

    Agents beyond the scene's own (padding of a batch) are left out. ValueError if shapes do not match the scene.
    """
    steps = len(ego)
    a = len(scene.kind)
    require(agents.ndim == 3 and len(agents) >= a, f"film: agents {agents.shape} for the scene's {a}")
    require(
        valid.shape == agents.shape[:2] and valid.shape[1] == steps, f"film: valid {valid.shape}, {steps} ego steps"
    )
    agents, valid = agents[:a], valid[:a].copy()
    valid[scene.ego] = False
    at = np.arange(0, steps, every)
    log = np.minimum(scene.start + at, scene.valid.shape[1] - 1)
    n = len(at)
    seen = Snapshot(
        np.zeros(n, np.int64),
        ego[at],
        agents[:, at].transpose(1, 0, 2),
        valid[:, at].T,
        np.broadcast_to(scene.size, (n, a, 3)),
        np.broadcast_to(scene.kind, (n, a)),
        brake_lamps(agents)[:, at].T,
        scene.signals[:, log].T,
        indicators(agents, valid, scene.kind)[:, at].T,
    )
    views = Renderer([scene.map], Rig((view,))).render(seen, step=at)[:, 0]
    frames = []
    for k, step in enumerate(at):
        plan, caption = None, ""
        if decisions is not None:
            d, begun = divmod(int(step), round(decisions.dt / DT))
            since = to_ego(ego[step, :3], ego[step - begun, :3])
            plan = to_ego(decisions.plans[d][:, :2], since) if d < len(decisions.plans) else None
            caption = decisions.text[d] if d < len(decisions.text) else ""
        camera = _caption(views[k], view, ego[step], plan, caption)
        above = from_above(
            scene, view.height, ego[: step + 1], agents[:, step], valid[:, step], scene.signals[:, log[k]], plan
        )
        frames.append(np.concatenate([np.asarray(camera), np.asarray(above)], 1))
    return frames


def picture(scene: Scene, step: int | None = None, view: View = FILM_VIEW) -> Image.Image:
    """One picture of a scene's log at `step` (None: the start). ValueError if the ego is not present then."""
    step = scene.start if step is None else step
    require(0 <= step < scene.valid.shape[1], f"step {step}: the scene has {scene.valid.shape[1]} steps")
    require(bool(scene.valid[scene.ego, step]), f"step {step}: the ego has no state there; choose another")
    past = np.flatnonzero(scene.valid[scene.ego, : step + 1])
    ego, agents, valid = scene.tracks[scene.ego, past], scene.tracks, scene.valid[:, step].copy()
    valid[scene.ego] = False
    seen = _logged(scene, step, valid)
    drawn = Renderer([scene.map], Rig((view,))).render(seen, step=step)[0, 0]
    camera = _caption(drawn, view, ego[-1], None, "")
    above = from_above(scene, view.height, ego, agents[:, step], valid, scene.signals[:, step], None)
    return Image.fromarray(np.concatenate([np.asarray(camera), np.asarray(above)], 1))


def wall(scene: Scene, step: int | None = None) -> Image.Image:
    """One picture of a scene's log at `step` (None: the start) with maps, hours, weathers and rigs.

    Rows: bird's-eye views of models and people, day, dusk; night, rain, fog; three cameras; six cameras.
    """
    step = scene.start if step is None else step
    require(0 <= step < scene.valid.shape[1], f"step {step}: the scene has {scene.valid.shape[1]} steps")
    require(bool(scene.valid[scene.ego, step]), f"step {step}: the ego has no state there; choose another")
    valid = scene.valid[:, step].copy()
    valid[scene.ego] = False
    seen = _logged(scene, step, valid)

    def shoot(rig: Rig, names: Sequence[str], conditions: Conditions) -> np.ndarray:
        drawn = Renderer([scene.map], rig).render(seen, conditions=[conditions], step=step // BLINK * BLINK)[0]
        return np.concatenate([_named(f, name) for f, name in zip(drawn, names, strict=True)], 1)

    one, clear = Rig.front().scaled(320, 160), Conditions.clear()
    codes = Bev([scene.map], 160, 0.5).render(
        seen, scene.size[scene.ego, None], scene.route[None], np.array([len(scene.route)])
    )[0]
    past = np.flatnonzero(scene.valid[scene.ego, : step + 1])
    above = from_above(
        scene, 160, scene.tracks[scene.ego, past], scene.tracks[:, step], valid, scene.signals[:, step], None
    )
    maps = np.concatenate([_named(codes, "for models"), _named(np.asarray(above), "for people")], 1)
    hours = [("day", clear), ("dusk", Conditions(hour=17.75)), ("night", Conditions(hour=22.0))]
    weathers = [("rain", Conditions(rain=0.7)), ("fog", Conditions(fog=90.0))]
    tiles = [shoot(one, [name], conditions) for name, conditions in hours + weathers]
    three = shoot(Rig.three().scaled(320, 128), ["front", "front left", "front right"], clear)
    names = ["front", "front left", "front right", "rear left", "rear right", "rear"]
    six = shoot(Rig.six().scaled(320, 180), names, clear)
    rows = [
        np.concatenate([maps, *tiles[:2]], 1),
        np.concatenate(tiles[2:], 1),
        _order(three, 3, [1, 0, 2]),
        _order(six, 6, [1, 0, 2]),
        _order(six, 6, [3, 5, 4]),
    ]
    return Image.fromarray(np.concatenate(rows))


def _logged(scene: Scene, step: int, valid: np.ndarray) -> Snapshot:
    """The scene's log at `step`, with the road users `valid` (A,)."""
    turns, brakes = indicators(scene.tracks, scene.valid, scene.kind), brake_lamps(scene.tracks)
    return Snapshot(
        np.zeros(1, np.int64),
        scene.tracks[scene.ego, step][None],
        scene.tracks[None, :, step],
        valid[None],
        scene.size[None],
        scene.kind[None],
        brakes[None, :, step],
        scene.signals[None, :, step],
        turns[None, :, step],
    )


def _order(row: np.ndarray, n: int, order: list[int]) -> np.ndarray:
    """Place some of the n pictures of a row side by side."""
    parts = np.split(row, n, 1)
    return np.concatenate([parts[i] for i in order], 1)


def _named(frame: np.ndarray, name: str) -> np.ndarray:
    image = Image.fromarray(frame)
    draw, font = ImageDraw.Draw(image, "RGBA"), ImageFont.load_default(11)
    draw.rectangle((0, 0, 8 + draw.textlength(name, font), 15), fill=(0, 0, 0, 140))
    draw.text((4, 1), name, font=font, fill=(255, 255, 255))
    return np.asarray(image)


def mp4(frames: Sequence[np.ndarray], fps: int = 5, quality: int = 30) -> bytes:
    """Encode frames (H, W, 3) uint8, all of one even size, as an H.264 MP4 that browsers play from a data URI.

    quality: x264's constant rate factor, lower is better. 18 s of film at 5 frames a second take about 300 kB.
    The same frames give the same bytes.
    """
    require(len(frames) > 0, "mp4: no frames to encode")
    high, wide = frames[0].shape[:2]
    require(high % 2 == 0 and wide % 2 == 0, f"mp4: width and height must be even, got {wide} x {high} px")
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        # Without macroblock-tree rate control, whose bytes differ from run to run.
        options = {"crf": str(quality), "preset": "veryfast", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = wide, high, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def _caption(seen: np.ndarray, view: View, ego: np.ndarray, plan: np.ndarray | None, caption: str) -> Image.Image:
    """Camera view with the plan as a ribbon on the road, the speed, and the model's reasoning."""
    image = Image.fromarray(seen)
    draw = ImageDraw.Draw(image, "RGBA")
    ribbon = [] if plan is None else _ribbon(plan, view)
    if len(ribbon) > 3:
        draw.polygon(ribbon, fill=(*PLAN, 110))
    font = ImageFont.load_default(max(10, view.height // 16))
    line = round(view.height / 13)
    if len(ego) > PSPEED:
        draw.rectangle((0, 0, 4.6 * line, line + 3), fill=(0, 0, 0, 130))
        draw.text((5, 1), f"{ego[PSPEED]:.1f} m/s", font=font, fill=(255, 255, 255))
    lines = textwrap.wrap(caption, max(20, int(view.width / line * 1.95)))[:3] if caption else []
    if lines:
        top = view.height - line * len(lines) - 4
        draw.rectangle((0, top, view.width, view.height), fill=(0, 0, 0, 150))
        draw.multiline_text((6, top + 1), "\n".join(lines), font=font, fill=(255, 255, 255), spacing=2)
    return image


def _ribbon(plan: np.ndarray, view: View, width: float = 1.2) -> list[tuple[float, float]]:
    """Image outline of the strip along the plan points (P, 2), ego frame, that are ahead of the camera."""
    points = np.concatenate([[[2.6, 0.0]], plan])
    step = np.diff(points, axis=0)
    length = np.hypot(*step.T)
    kept = (length > 0.1) & (points[1:, 0] > 3.0)
    side = np.stack([-step[:, 1], step[:, 0]], 1)[kept] / length[kept, None] * width / 2
    middle = points[1:][kept]
    c, s = np.cos(view.pitch), np.sin(view.pitch)
    outline = np.concatenate([middle + side, (middle - side)[::-1]])
    ahead = (outline[:, 0] - view.x) * c + view.z * s
    down = view.z * c - (outline[:, 0] - view.x) * s
    ahead = np.maximum(ahead, 0.3)
    u, v = view.cx - view.fx * outline[:, 1] / ahead, view.cy + view.fy * down / ahead
    return [(float(a), float(b)) for a, b in zip(u, v, strict=True)]


def from_above(
    scene: Scene,
    pixels: int,
    past: np.ndarray,
    agents: np.ndarray,
    valid: np.ndarray,
    signals: np.ndarray,
    plan: np.ndarray | None,
) -> Image.Image:
    """Map around the ego, heading up, `pixels` square, with road users, route, plan and lights.

    past (t, 3+): the ego's poses until now; agents (A, 4), valid (A,), signals (G,): now; plan (P, 2): ego frame.
    """
    n = pixels * SMOOTH
    scale = n * 0.64 / AHEAD
    x0, y0, yaw = (float(v) for v in past[-1, :3])
    right, ahead = np.array([np.sin(yaw), -np.cos(yaw)]), np.array([np.cos(yaw), np.sin(yaw)])
    centre = np.array([n / 2, n * 0.64])

    def px(points: np.ndarray) -> list[tuple[float, float]]:
        d = np.atleast_2d(points)[:, :2] - (x0, y0)
        return [
            (float(u), float(v))
            for u, v in zip(centre[0] + d @ right * scale, centre[1] - d @ ahead * scale, strict=True)
        ]

    image = _ground(scene.map, n, scale, centre, (x0, y0), right, ahead)
    draw = ImageDraw.Draw(image, "RGBA")
    for b in scene.map.buildings:
        if np.hypot(b[0] - x0, b[1] - y0) < 90 + b[3]:
            draw.polygon(px(_corners(b[0], b[1], b[2], b[3], b[4])), fill=(150, 142, 132), outline=(96, 92, 88))
    near = np.flatnonzero(np.hypot(scene.route[:, 0] - x0, scene.route[:, 1] - y0) < 120)
    for part in np.split(near, np.flatnonzero(np.diff(near) > 1) + 1):  # the route may leave the picture and return
        if len(part) > 1:
            draw.line(px(scene.route[part]), fill=(*ROUTE, 120), width=round(0.9 * scale), joint="curve")
    if len(past) > 1:
        draw.line(px(past), fill=(*EGO, 150), width=round(0.5 * scale))
    for line, state in zip(scene.map.stop_lines, signals, strict=False):
        draw.line(px(line.reshape(2, 2)), fill=LIGHTS[int(state)], width=round(0.9 * scale))
    for i in np.flatnonzero(valid):
        _user(draw, px, agents[i], scene.size[i], int(scene.kind[i]), int(i), scale)
    length, width = scene.size[scene.ego, :2]
    draw.polygon(px(_corners(x0, y0, yaw, length, width)), fill=EGO, outline=(255, 255, 255), width=SMOOTH)
    if plan is not None:
        points = px(plan[:, :1] * ahead - plan[:, 1:2] * right + (x0, y0))
        draw.line([px(past[-1])[0], *points], fill=(*PLAN, 220), width=round(0.45 * scale))
        for u, v in points:
            r = 0.5 * scale
            draw.ellipse((u - r, v - r, u + r, v + r), fill=PLAN)
    return image.resize((pixels, pixels), Image.Resampling.BOX)


def _user(draw, px, state: np.ndarray, size: np.ndarray, kind: int, index: int, scale: float) -> None:
    """Draw one road user in its colour in the camera view; a pale bar marks its front."""
    colour = tuple(int(c) for c in PAINTS[paint_of(kind, index)])
    if kind == AGENT_PEDESTRIAN:
        u, v = px(state)[0]
        r = max(0.5 * scale, 3.0)
        draw.ellipse((u - r, v - r, u + r, v + r), fill=colour, outline=(20, 20, 20))
        return
    corners = _corners(state[0], state[1], state[2], size[0], size[1])
    draw.polygon(px(corners), fill=colour, outline=(20, 20, 20), width=SMOOTH)
    draw.line(
        px(0.7 * corners[:2] + 0.3 * corners[[3, 2]]), fill=(235, 240, 245), width=max(SMOOTH, round(0.3 * scale))
    )


def _corners(x: float, y: float, yaw: float, length: float, width: float) -> np.ndarray:
    """(4, 2) front left, front right, rear right, rear left."""
    c, s = np.cos(yaw), np.sin(yaw)
    along, left = np.array([c, s]) * length / 2, np.array([-s, c]) * width / 2
    return np.array([x, y]) + np.stack([along + left, along - left, -along - left, -along + left])


def _ground(
    road_map: RoadMap,
    n: int,
    scale: float,
    centre: np.ndarray,
    at: tuple[float, float],
    right: np.ndarray,
    ahead: np.ndarray,
) -> Image.Image:
    """The map's raster with `ahead` pointing up, n px square, at `scale` px per metre, with `at` at pixel `centre`."""
    raster = ground_raster(road_map)
    image = Image.fromarray(raster.texture, "P")
    rgb = np.stack([PALETTE & 255, PALETTE >> 8 & 255, PALETTE >> 16], 1).astype(np.uint8)
    image.putpalette(rgb.tobytes())
    k = 1.0 / (scale * raster.resolution)
    col = (at[0] - raster.origin_x) / raster.resolution
    row = (at[1] - raster.origin_y) / raster.resolution
    half = int(1.5 * n * k) + 2
    left, top = int(col) - half, int(row) - half
    part = image.crop((left, top, left + 2 * half, top + 2 * half)).convert("RGB")
    across, up = right * k, -ahead * k
    first = np.array([col - left, row - top]) - centre[0] * across - centre[1] * up
    matrix = (across[0], up[0], first[0], across[1], up[1], first[1])
    return part.transform((n, n), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)

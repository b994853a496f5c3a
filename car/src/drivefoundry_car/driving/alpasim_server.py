"""Serve a released engine as an AlpaSim driver over gRPC: plans from camera, egomotion and route.

AlpaSim (NVlabs) calls its driver through `egodriver.EgodriverService`; the package carla-driver-interface implements
that contract. Its rig frame has its origin on the ground below the rear axle, x forward, y left; the engine's ego frame
has it at the box centre, `axle` m ahead. Times are microseconds. Every session has its own runtime over one shared
engine. The guard checks the car's limits, but not objects, since the contract carries no perception.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

try:
    from carla_driver_interface.driver import (  # pyright: ignore[reportMissingImports]
        BaseDriver,
        CameraFrame,
        DriveContext,
        DriveResult,
        SessionState,
    )
    from carla_driver_interface.geometry import Pose, Trajectory  # pyright: ignore[reportMissingImports]
    from carla_driver_interface.server import build_server  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError:
    raise ImportError(
        "drivefoundry_car.driving.alpasim_server needs AlpaSim's contract: pip install 'drivefoundry-car[alpasim]'"
    ) from None

from drivefoundry_car.driving.guard import FINE_DT, fine_path
from drivefoundry_car.driving.runtime import Model, Runtime
from drivefoundry_car.engine import Engine
from drivefoundry_car.vehicle.embodiment import CAR, FRONT
from drivefoundry_car.vehicle.inputs import ego_history, route_features, shift

FOCAL, HORIZON = 95.3 / 160, 28 / 64
"""The picture that engines are trained on: a level pinhole camera facing ahead, with its focal length in picture widths
and the horizon's row in picture heights."""
CAMERA = "camera_front_wide_120fov"
"""AlpaSim's name of the front camera."""
EDGE = 0.02
"""Share of the engine's picture that a camera may miss; its edge pixels are repeated there."""
SPEED_LIMIT = 13.9
"""Speed limit for the navigator if the simulator gives none, m/s."""
SECOND = 1_000_000
STEP = round(FINE_DT * SECOND)


@dataclass
class _Drive:
    """One session: its runtime, its camera, the position of each sub-pixel of the engine's picture in the camera's, and
    the pictures by time."""

    runtime: Runtime
    camera: str
    pixels: np.ndarray
    size: tuple[int, int]
    pictures: dict[int, np.ndarray] = field(default_factory=dict)


class EngineDriver(BaseDriver):
    """An engine as a policy of carla-driver-interface.

    image: height and width of the engine's picture; camera: logical id of the front camera, if there are several and
    none has AlpaSim's usual name; speed_limit: m/s, used if the simulator gives none; axle: distance of the rig's
    origin behind the box centre, m.
    """

    name = "drivefoundry"
    frame_history_length = 32

    def __init__(
        self,
        engine: Model,
        image: tuple[int, int],
        *,
        camera: str | None = None,
        speed_limit: float = SPEED_LIMIT,
        axle: float = CAR.rear_axle,
    ):
        self.engine, self.image = engine, image
        self.camera, self.speed_limit, self.axle = camera, speed_limit, axle
        self._drives: dict[str, _Drive] = {}

    def on_session_start(self, session: SessionState) -> None:
        """Choose the front camera. ValueError if the session's cameras do not cover the engine's picture."""
        name = self._choose(list(session.cameras))
        camera = session.cameras[name]
        size = int(camera.intrinsics.resolution_h), int(camera.intrinsics.resolution_w)
        pixels = sampling(camera, self.image)
        self._drives[session.uuid] = _Drive(Runtime(self.engine, patient=True), name, pixels, size)

    def on_session_close(self, session: SessionState) -> None:
        self._drives.pop(session.uuid, None)

    def _choose(self, names: list[str]) -> str:
        if self.camera is None and len(names) == 1:
            return names[0]
        requested = self.camera or CAMERA
        if requested not in names:
            raise ValueError(
                f"no camera {requested!r} among {', '.join(sorted(names)) or 'none'}; name the one that looks ahead"
            )
        return requested

    def drive(self, ctx: DriveContext) -> DriveResult:
        """A 4 s plan at 10 Hz in the rig frame; empty, which holds the car, before the first picture."""
        session, now = ctx.session, ctx.time_now_us
        mine = self._drives[session.uuid]
        with session.lock:
            seen = session.frame_history[mine.camera]
            frames = [f for f in seen if isinstance(f, CameraFrame) and f.timestamp_us <= now]
            poses = Trajectory(list(session.ego_trajectory.timestamps_us), list(session.ego_trajectory.poses))
            states = list(session.dynamic_states)
            route, route_us = session.route_waypoints_in_rig, session.route_timestamp_us
        if not frames or not poses:
            return DriveResult(Trajectory.empty())
        limit = self.speed_limit
        if ctx.renderer_data is not None and ctx.renderer_data.speed_limit_mps > 0:
            limit = float(ctx.renderer_data.speed_limit_mps)
        ahead = None
        if len(route := route[np.isfinite(route).all(1)]) >= 2:
            then = poses.interpolate(route_us)
            assert then is not None, "there are poses"
            since = poses.poses[-1].inverse() @ then
            ahead = _route(since.transform_points(route)[:, :2], limit, self.axle)
        planned = mine.runtime.plan(
            {FRONT: _pictures(mine, frames, now)[None]},
            ego_history(*motion(poses, states, now))[None],
            route_features(ahead, np.zeros(3))[None],
            t=now / SECOND,
        )
        points = shift(fine_path(planned.points)[0, 1:], -self.axle)
        plan = [Pose.from_xyz_yaw(x + self.axle, y, 0.0, yaw) for x, y, yaw in points]
        times = [now + STEP * (k + 1) for k in range(len(plan))]
        return DriveResult(Trajectory(times, plan), debug_scalars={"guarded": float(planned.guarded[0])})


def _route(points: np.ndarray, limit: float, axle: float) -> np.ndarray:
    """Waypoints (R, 2) of the rig frame as a route (R', 3) of x, y in the ego frame and speed limit, from the car
    on."""
    points = points - [axle, 0.0]
    if points[0, 0] > 1.0:  # the simulator may omit the first metres, and distances count from the car
        points = np.concatenate([np.zeros((1, 2)), points])
    return np.column_stack([points, np.full(len(points), limit)])


def motion(poses: Trajectory, states: list, now: int) -> tuple[np.ndarray, np.ndarray]:
    """Speed m/s and yaw rate rad/s at 10 Hz, oldest first, over the last 1.5 s, or as much of it as was sent, from
    poses and the dynamic state of each. Missing fields of a state are derived from the poses."""
    first = max(0, int(np.searchsorted(poses.timestamps_us, now - 16 * STEP)) - 1)
    t = np.array(poses.timestamps_us[first:], np.float64)
    parts = poses.poses[first:]
    recent = states[first:]
    speed, rate = np.zeros(len(t)), np.zeros(len(t))
    if len(t) > 1:
        seconds = (t - t[0]) / SECOND
        xy, yaw = np.stack([p.position[:2] for p in parts]), np.unwrap([p.yaw for p in parts])
        vx, vy = np.gradient(xy[:, 0], seconds), np.gradient(xy[:, 1], seconds)
        speed, rate = vx * np.cos(yaw) + vy * np.sin(yaw), np.gradient(yaw, seconds)
    for i, state in enumerate(recent):
        if state.HasField("linear_velocity"):
            speed[i] = state.linear_velocity.x
        if state.HasField("angular_velocity"):
            rate[i] = state.angular_velocity.z
    requested = now - STEP * np.arange(15, -1, -1)
    requested = requested[requested >= t[0] - STEP // 10]
    return np.interp(requested, t, speed), np.interp(requested, t, rate)


def _pictures(mine: _Drive, frames: list[CameraFrame], now: int) -> np.ndarray:
    """The engine's pictures (2, H, W, 3): half a second ago, or the oldest available, and now."""
    before = min(frames, key=lambda f: abs(f.timestamp_us - (now - round(CAR.frame_dt * SECOND))))
    pair = (before, frames[-1])
    for frame in pair:
        if frame.timestamp_us not in mine.pictures:
            mine.pictures[frame.timestamp_us] = _picture(frame, mine)
    for old in set(mine.pictures) - {f.timestamp_us for f in frames}:
        del mine.pictures[old]
    return np.stack([mine.pictures[frame.timestamp_us] for frame in pair])


def _picture(frame: CameraFrame, mine: _Drive) -> np.ndarray:
    pixels = frame.as_array()
    if pixels.shape[:2] != mine.size:
        raise ValueError(f"camera {mine.camera}: frame of {pixels.shape[:2]} px, declared as {mine.size}")
    return np.round(pixels.reshape(-1, 3)[mine.pixels].mean((1, 3))).astype(np.uint8)


def sampling(camera, image: tuple[int, int]) -> np.ndarray:
    """Indices (H, n, W, n) of a declared camera's pixels at the n x n sub-pixels of each pixel of the engine's picture.

    Both are pinholes; the camera may be rotated, but a different position on the car is not corrected. ValueError for
    other lenses, and for a camera that does not cover the picture.
    """
    spec = camera.intrinsics
    lens = spec.opencv_pinhole_param
    bent = any([*lens.radial_coeffs, *lens.tangential_coeffs, *lens.thin_prism_coeffs])
    if not spec.HasField("opencv_pinhole_param") or bent:
        raise ValueError(f"camera {camera.logical_id}: must be an undistorted pinhole; have the simulator render one")
    high, wide = image
    focal = FOCAL * wide
    n = max(1, int(np.ceil(max(lens.focal_length_x, lens.focal_length_y) / focal - 0.01)))
    u, v = (np.arange(wide * n) + 0.5) / n, (np.arange(high * n) + 0.5) / n
    y, z = np.meshgrid((wide / 2 - u) / focal, (HORIZON * high - v) / focal)
    rays = np.stack([np.ones_like(y), y, z], -1) @ Pose.from_proto(camera.rig_to_camera).rotation_matrix
    depth = np.maximum(rays[..., 2], 1e-6)
    column = np.floor(lens.focal_length_x * rays[..., 0] / depth + lens.principal_point_x)
    row = np.floor(lens.focal_length_y * rays[..., 1] / depth + lens.principal_point_y)
    size = int(spec.resolution_h), int(spec.resolution_w)
    beyond = (rays[..., 2] <= 0) | (column < 0) | (column >= size[1]) | (row < 0) | (row >= size[0])
    if beyond.mean() > EDGE:
        raise ValueError(
            f"camera {camera.logical_id}: it misses {beyond.mean():.0%} of the engine's field of view, "
            f"{2 * np.degrees(np.arctan(0.5 / FOCAL)):.0f} degrees straight ahead; widen it or turn it"
        )
    inside = np.clip(row, 0, size[0] - 1).astype(int) * size[1] + np.clip(column, 0, size[1] - 1).astype(int)
    return inside.reshape(high, n, wide, n)


def load(path: str | Path, **options: Any) -> EngineDriver:
    """EngineDriver of an engine directory, with its options; the target of carla-driver-interface's `--policy`."""
    engine = Engine(path)
    high, wide = engine.contract["model"]["image"]
    return EngineDriver(engine, (high, wide), **options)


@contextmanager
def serving(driver: EngineDriver, host: str, port: int, mode: Literal["alpasim", "carla"]) -> Iterator[None]:
    """Serve while the block runs. ValueError if host and port cannot be listened on."""
    try:
        server, _ = build_server(driver, port=port, host=host, mode=mode)
    except RuntimeError:
        raise ValueError(f"--host {host} --port {port}: cannot listen there; choose another") from None
    server.start()
    try:
        yield
    finally:
        server.stop(1.0).wait()

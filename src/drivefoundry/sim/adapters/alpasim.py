"""Drive scenes of this simulator with an external AlpaSim driver, called over gRPC.

The driver receives what AlpaSim's runtime sends (`egodriver.EgodriverService`): pictures of a front camera, egomotion
with dynamic states at 10 Hz, and 20 waypoints of its route over the next 80 m, NaN beyond the route's end. Rig frame:
origin on the ground below the rear axle; local frame: the rig's at the start of the scene. Letters: S scenes.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

try:
    import grpc  # pyright: ignore[reportMissingImports, reportMissingModuleSource]
    from carla_driver_interface import protocol as wire  # pyright: ignore[reportMissingImports]
    from carla_driver_interface.contract import (  # pyright: ignore[reportMissingImports]
        CONTRACT_REVISION,
        cameras_to_revision,
        contract_metadata,
        negotiate,
    )
    from carla_driver_interface.geometry import Pose, body_to_optical  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError:
    raise ImportError(
        "drivefoundry.sim.adapters.alpasim needs AlpaSim's contract: pip install 'drivefoundry[alpasim]'"
    ) from None

from drivefoundry.sim.sensors.cameras import CameraRig
from drivefoundry.sim.sensors.suite import routes_near
from drivefoundry.sim.world import PAST, World
from drivefoundry.types import DT, PLAN_DT, PLAN_POINTS, Observation, Plan, Scene, require
from drivefoundry_car.vehicle.embodiment import CAR, FRONT, CameraSpec, Embodiment
from drivefoundry_car.vehicle.inputs import along, shift, to_ego

WAYPOINTS, ROUTE = 20, 80.0
"""Number of route waypoints sent, and their length, m."""
CAMERA = "camera_front_wide_120fov"
STEP_US = 100_000


class Egodriver:
    """The driver at `address` (host:port or unix:path), with one session per scene.

    body: its front camera's pictures are sent, as PNG; axle: distance of the rig's origin behind the box centre, m, by
    default that of the body's rear axle; timeout: of a call, s. The speed limit is sent in `renderer_data`, as
    carla-driver-interface does; lights and other road users are not sent: the driver has to see them. Ending a session,
    an empty plan and the time beyond a plan's end mean standing. ValueError if nobody answers, and with the driver's
    message if it fails.
    """

    world: World

    def __init__(self, address: str, body: Embodiment = CAR, *, axle: float | None = None, timeout: float = 60.0):
        self.address, self.body, self.timeout = address, body, timeout
        self.axle = body.rear_axle if axle is None else axle
        self._channel = grpc.insecure_channel(address, options=wire.channel_options())
        self._stub = wire.EgodriverServiceStub(self._channel)
        try:
            version, self._revision = negotiate(self._stub, timeout=timeout)
        except grpc.RpcError as error:
            raise ValueError(
                f"{address}: no driver answers there ({_why(error)}); start it, or fix the address"
            ) from None
        self.name = version.version_id
        self._sessions: list[str] = []
        self._eyes: CameraRig | None = None

    def bind(self, world: World) -> None:
        """Set the world; the driver receives only what the contract contains."""
        self.world = world

    def reset(self, scenes: list[Scene]) -> None:
        """Close the sessions of the last scenes, open one for each of these."""
        self._end()
        self._sessions = [str(uuid.uuid4()) for _ in scenes]
        camera = cameras_to_revision([declared(self.body.cameras[0], self.axle)], CONTRACT_REVISION, self._revision)
        requests = []
        for session, scene in zip(self._sessions, scenes, strict=True):
            request = wire.DriveSessionRequest(session_uuid=session)
            request.debug_info.scene_id = scene.id
            request.rollout_spec.vehicle.available_cameras.extend(camera)
            requests.append(request)
        self._ask(self._stub.start_session, requests, metadata=contract_metadata(self._revision))
        self._eyes = None

    def act(self, observation: Observation) -> Plan:
        """Make one decision for all scenes: send what happened since the last one, then ask for plans."""
        world = self.world
        now = (PAST + world.step) * STEP_US
        if self._eyes is None:
            body = replace(self.body, cameras=self.body.cameras[:1])
            self._eyes, self._told = CameraRig(world, body), world.step - PAST - 1
            self._origin = shift(world.ego[:, :3], -self.axle)
            back = body.frame_steps
            self._show(self._eyes.render_history(back)[FRONT], now - back * STEP_US)
        self._show(self._eyes.look()[FRONT], now)
        self._tell_motion(world)
        limits = self._tell_route(world, now)
        answers = self._ask(
            self._stub.drive,
            (
                wire.DriveRequest(
                    session_uuid=session,
                    time_now_us=now,
                    time_query_us=now + self.body.decision_steps * STEP_US,
                    renderer_data=wire.pack_renderer_data(wire.CarlaRendererData(speed_limit_mps=limit)),
                )
                for session, limit in zip(self._sessions, limits, strict=True)
            ),
        )
        rigs = self._local(world.ego)
        return Plan(np.stack([self._points(a, rig, now) for a, rig in zip(answers, rigs, strict=True)]))

    def close(self) -> None:
        """End the sessions and the connection."""
        self._end()
        self._channel.close()

    def _end(self) -> None:
        self._ask(self._stub.close_session, (wire.DriveSessionCloseRequest(session_uuid=s) for s in self._sessions))
        self._sessions = []

    def _ask(self, call: Any, requests: Iterable[Any], **options: Any) -> list[Any]:
        """Answers to requests, which are all sent at once."""
        under_way = [call.future(request, timeout=self.timeout, **options) for request in requests]
        try:
            return [one.result() for one in under_way]
        except grpc.RpcError as error:
            raise ValueError(f"{self.address}: the driver failed: {_why(error)}") from None

    def _local(self, ego: np.ndarray) -> np.ndarray:
        """Rig poses (S, 3) in the local frames of ego states (S, 6) in the map."""
        rigs = shift(ego[:, :3], -self.axle)
        return np.stack([to_ego(rig, origin) for rig, origin in zip(rigs, self._origin, strict=True)])

    def _show(self, frames: np.ndarray, time: int) -> None:
        requests = []
        for session, frame in zip(self._sessions, frames, strict=True):
            request = wire.RolloutCameraImage(session_uuid=session)
            image, png = request.camera_image, io.BytesIO()
            Image.fromarray(frame).save(png, "PNG", compress_level=1)
            image.logical_id, image.image_bytes = CAMERA, png.getvalue()
            image.frame_start_us = image.frame_end_us = time
            requests.append(request)
        self._ask(self._stub.submit_image_observation, requests)

    def _tell_motion(self, world: World) -> None:
        requests = [wire.RolloutEgoTrajectory(session_uuid=session) for session in self._sessions]
        for step in range(self._told + 1, world.step + 1):
            ego = world.past[step - world.step - 1]
            for request, (x, y, yaw), state in zip(requests, self._local(ego), ego, strict=True):
                vec, quat = wire.Vec3(x=x, y=y), wire.Quat(w=np.cos(yaw / 2), z=np.sin(yaw / 2))
                pose = wire.Pose(vec=vec, quat=quat)
                request.trajectory.poses.add(timestamp_us=(PAST + step) * STEP_US, pose=pose)
                _, _, _, speed, acceleration, rate = state
                request.dynamic_states.add(
                    linear_velocity=wire.Vec3(x=speed, y=-rate * self.axle),
                    angular_velocity=wire.Vec3(z=rate),
                    linear_acceleration=wire.Vec3(x=acceleration),
                )
        self._told = world.step
        self._ask(self._stub.submit_egomotion_observation, requests)

    def _tell_route(self, world: World, now: int) -> list[float]:
        """Send waypoints; return the speed limits (S,) m/s at the cars."""
        requests, limits = [], []
        ahead = np.linspace(0.0, ROUTE, WAYPOINTS)
        for session, route, ego in zip(self._sessions, routes_near(world, ROUTE + 2.0), world.ego, strict=True):
            rig = shift(ego[:3], -self.axle)
            s, at = along(route, rig)
            there = np.where(at + ahead <= s[-1], at + ahead, np.nan)
            points = np.column_stack([np.interp(there, s, route[:, 0]), np.interp(there, s, route[:, 1])])
            waypoints = [wire.Vec3(x=x, y=y) for x, y in to_ego(points, rig)]
            request = wire.RouteRequest(session_uuid=session)
            request.route.timestamp_us = now
            request.route.waypoints.extend(waypoints)
            requests.append(request)
            limits.append(float(np.interp(at, s, route[:, 2])))
        self._ask(self._stub.submit_route, requests)
        return limits

    def _points(self, answer: Any, rig: np.ndarray, now: int) -> np.ndarray:
        """The plan (8, 3) in the ego frame from a driver's answer and its rig's local pose."""
        poses = answer.trajectory.poses
        if len(poses) < 2 or answer.terminate_session:
            return np.zeros((PLAN_POINTS, 3))
        t = np.array([p.timestamp_us - now for p in poses]) / STEP_US * DT
        quats = [p.pose.quat for p in poses]
        yaw = [np.arctan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y * q.y + q.z * q.z)) for q in quats]
        local = np.column_stack([[p.pose.vec.x for p in poses], [p.pose.vec.y for p in poses], yaw])
        good = bool(np.isfinite(local).all()) and bool((np.diff(t) > 0).all())
        require(good, f"{self.address}: the driver's plan has a NaN or runs back in time")
        points = shift(to_ego(local, rig), self.axle) - [self.axle, 0.0, 0.0]
        points[:, 2] = np.unwrap(points[:, 2])
        requested = PLAN_DT * np.arange(1, PLAN_POINTS + 1)
        return np.column_stack([np.interp(requested, t, column) for column in points.T])


def declared(view: CameraSpec, axle: float) -> Any:
    """The front camera as AlpaSim's runtime declares it: a pinhole, with its optical frame relative to the rig."""
    lens = wire.OpenCVPinholeCameraParam(
        principal_point_x=view.cx, principal_point_y=view.cy, focal_length_x=view.fx, focal_length_y=view.fy
    )
    spec = wire.CameraSpec(
        opencv_pinhole_param=lens, logical_id=CAMERA, resolution_w=view.width, resolution_h=view.height,
        shutter_type=wire.ShutterType.GLOBAL,
    )  # fmt: skip
    body = Pose(np.array([view.x + axle, 0.0, view.z]), Pose.from_axis_angle(1, view.pitch).quat_xyzw)
    return wire.AvailableCamera(intrinsics=spec, rig_to_camera=body_to_optical(body).to_proto(), logical_id=CAMERA)


def _why(error: Any) -> str:
    details: Callable[[], str | None] = error.details
    return " ".join((details() or str(error.code())).split())

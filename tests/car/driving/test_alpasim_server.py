"""An engine behind AlpaSim's contract: real gRPC, a closed loop that follows its plans, and its inputs."""

import io
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("carla_driver_interface", reason="drivefoundry-car[alpasim] is not installed")

import grpc
from carla_driver_interface.driver import CameraFrame, DriveContext, SessionState
from carla_driver_interface.geometry import Pose, Trajectory
from carla_driver_interface.policies import load_policy
from carla_driver_interface.protocol import CarlaRendererData, DynamicState, Vec3
from carla_driver_interface.server import serving
from carla_driver_interface.testing import FakeCamera, FakeLoop, render_road

from drivefoundry.cli.driving.serve import ServeOptions
from drivefoundry.quantize.export import export_engine
from drivefoundry.render.camera import Rig
from drivefoundry_car.driving import alpasim_server
from drivefoundry_car.driving.alpasim_server import CAMERA, FOCAL, HORIZON, EngineDriver, motion, sampling
from drivefoundry_car.vehicle.embodiment import CAR
from drivefoundry_car.vehicle.inputs import route_features
from student import TINY, samples

IMAGE = (64, 160)
MS = 1000


class Follower:
    """An engine that steers for its route's point 10 m ahead at 6 m/s, and records its inputs."""

    def __init__(self):
        self.seen = []

    def plan(self, frames, ego, route):
        self.seen.append((frames["front"].copy(), ego.copy(), route.copy()))
        x, y = 10 * route[:, 0], 10 * route[:, 1]
        curvature = 2 * y / np.maximum(x * x + y * y, 1.0)
        s = 3.0 * np.arange(1, 9)
        yaw = curvature[:, None] * s
        out = np.stack([s * np.sinc(yaw / np.pi), 0.5 * curvature[:, None] * s**2, yaw], -1)
        return out.astype(np.float32), np.zeros((len(ego), 8), np.int64)

    def reason(self, frames, ego, route):
        return [""] * len(ego)


def ours(**change):
    """The camera that engines are trained with, as the fake loop has it: its axis is centred, so its picture is
    higher."""
    fov = math.degrees(2 * math.atan(0.5 / FOCAL))
    return FakeCamera(**{"width": 160, "height": 72, "fov_deg": fov, "x": 1.0 + CAR.rear_axle, "z": 1.5, **change})


def test_the_picture_is_the_simulators():
    [rig] = Rig.front().views
    assert (rig.fx / rig.width, rig.fy / rig.width) == (FOCAL, FOCAL)
    assert (rig.cx / rig.width, rig.cy / rig.height, rig.pitch) == (0.5, HORIZON, 0.0)


def test_a_closed_loop_over_the_wire_comes_back_to_its_lane():
    engine = Follower()
    with (
        serving(EngineDriver(engine, IMAGE), port=0, host="127.0.0.1", mode="alpasim") as port,
        FakeLoop(
            f"127.0.0.1:{port}", [ours()], initial_speed_mps=6.0, initial_lateral_offset_m=1.5, image_format="png"
        ) as loop,
    ):
        result = loop.run(60)
    assert result.steps == 60
    assert result.lateral_offsets_m[0] == 1.5
    assert np.abs(result.lateral_offsets_m[-10:]).max() < 0.15
    # The plans are of the box centre, and it is the rear axle that the loop moves: over a straight road both agree.
    np.testing.assert_allclose(np.array(result.speeds_mps[10:]), 6.0, atol=0.3)
    frames, ego, route = engine.seen[-1]
    assert frames.shape == (1, 2, *IMAGE, 3)
    np.testing.assert_allclose(ego[0, :, 0], 6.0, atol=0.3)
    assert (ego[0, :, 2] == 1.0).all()
    np.testing.assert_allclose(route[0, [0, 2, 4]], [1.0, 2.0, 4.0], atol=0.01)
    assert route[0, 6:8].tolist() == pytest.approx([1.39, 1.0])
    assert engine.seen[0][1][0, :, 2].tolist() == [0, 0, 0, 1], "at first there is no past"
    assert np.array_equal(engine.seen[5][0][0, 0], engine.seen[0][0][0, 1]), "and then pictures are 0.5 s apart"


@pytest.mark.parametrize(("k", "alike"), [(1, 0.95), (3, 0.98)])
def test_the_engines_pictures_do_not_depend_on_the_camera(k, alike):
    """A camera with k times the resolution, and a rotated one, give the engine the same picture as its own camera."""
    ego = Pose.from_xyz_yaw(0.0, 0.4, 0.0, 0.05)
    rows = slice(8, 72)  # the axis lies in row 36, the engine's in row 28

    def seen_by(camera):
        index = sampling(camera.available_camera(), IMAGE)
        return render_road(camera, ego).reshape(-1, 3)[index].mean((1, 3))

    want = render_road(ours(), ego)[rows].astype(float)
    if k == 1:
        assert np.array_equal(seen_by(ours()), want)
    for other in (
        ours(width=160 * k, height=72 * k),
        ours(width=240 * k, height=180 * k, fov_deg=110.0, pitch_down_deg=4.0, yaw_left_deg=-6.0),
    ):
        got = seen_by(other)
        assert np.abs(got - want).mean() < 6.0
        same = np.corrcoef(got.ravel(), want.ravel())[0, 1]
        assert same > alike
        for moved in (np.roll(want, 4, axis=1), np.roll(want, 3, axis=0)):
            assert np.corrcoef(got.ravel(), moved.ravel())[0, 1] < same - 0.01, "a shift would show"


def session(**fields):
    name = ours().logical_id
    return SessionState(uuid="a", seed=0, scene_id="", cameras={name: ours().available_camera()}, **fields)


def told(driver, state, now, **more):
    return driver.drive(DriveContext(state, now, now + 500 * MS, more.pop("renderer_data", None)))


def observed(state, now, speed=5.0):
    name = next(iter(state.cameras))
    png = io.BytesIO()
    Image.fromarray(render_road(ours(), Pose.identity())).save(png, "PNG")
    state.frame_history[name] = [CameraFrame(name, now, now, png.getvalue())]
    state.ego_trajectory.append(now, Pose.from_xyz_yaw(100.0, 50.0, 0.0, 2.0))
    state.dynamic_states.append(DynamicState(linear_velocity=Vec3(x=speed)))


def test_plans_are_of_the_rig_not_of_the_box_centre():
    engine, state = Follower(), session()
    driver = EngineDriver(engine, IMAGE, axle=1.5)
    driver.on_session_start(state)
    observed(state, 1000 * MS)
    bend = np.column_stack([np.arange(0.0, 60.0, 4.0), 0.01 * np.arange(0.0, 60.0, 4.0) ** 2, np.zeros(15)])
    state.route_waypoints_in_rig, state.route_timestamp_us = np.concatenate([bend, np.full((5, 3), np.nan)]), 1000 * MS
    plan = told(driver, state, 1000 * MS).trajectory_in_rig
    assert plan.timestamps_us == [1000 * MS + 100 * MS * k for k in range(1, 41)]
    points = engine.plan(*engine.seen[-1])[0][0]
    for k, (x, y, yaw) in enumerate(points):
        rear = plan.poses[5 * k + 4]
        np.testing.assert_allclose(rear.position[:2], [x + 1.5 - 1.5 * np.cos(yaw), y - 1.5 * np.sin(yaw)], atol=1e-5)
        assert rear.yaw == pytest.approx(yaw, abs=1e-6)
    want = route_features(np.column_stack([bend[:, 0] - 1.5, bend[:, 1], np.full(15, 13.9)]), np.zeros(3))
    np.testing.assert_allclose(engine.seen[-1][2][0], want, atol=1e-6)


def test_routes_of_before_late_starts_and_limits():
    engine, state = Follower(), session()
    driver = EngineDriver(engine, IMAGE, axle=1.5, speed_limit=8.0)
    driver.on_session_start(state)
    state.ego_trajectory.append(500 * MS, Pose.from_xyz_yaw(98.0, 50.0, 0.0, 0.0))
    state.dynamic_states.append(DynamicState(linear_velocity=Vec3(x=5.0)))
    observed(state, 1000 * MS)
    state.ego_trajectory.poses[-1] = Pose.from_xyz_yaw(100.0, 50.0, 0.0, 0.0)
    state.route_waypoints_in_rig = np.column_stack([np.arange(8.0, 90.0, 4.0), np.full(21, 1.0), np.zeros(21)])
    state.route_timestamp_us = 500 * MS  # 2 m ago
    told(driver, state, 1000 * MS)
    assert engine.seen[-1][2][0, 6] == pytest.approx(0.8)
    start = np.hypot(8.0 - 2.0 - 1.5, 1.0)
    np.testing.assert_allclose(engine.seen[-1][2][0, :2], [(4.5 + 10.0 - start) / 10, 0.1], atol=1e-5)
    told(driver, state, 1000 * MS, renderer_data=CarlaRendererData(speed_limit_mps=5.0))
    assert engine.seen[-1][2][0, 6] == pytest.approx(0.5)
    state.route_waypoints_in_rig = np.zeros((0, 3))
    told(driver, state, 1000 * MS)
    assert engine.seen[-1][2][0, 7:9].tolist() == [0.0, 1.0], "no route is known"


def test_before_anything_is_seen_the_car_is_held():
    driver, state = EngineDriver(Follower(), IMAGE), session()
    driver.on_session_start(state)
    state.frame_history = {ours().logical_id: []}
    assert len(told(driver, state, 0).trajectory_in_rig) == 0


def test_motion_without_dynamic_states_is_taken_from_the_poses():
    t = np.arange(0, 3.0, 0.05)
    poses = Trajectory(
        [round(x * 1e6) for x in t],
        [Pose.from_xyz_yaw(8.0 / 0.2 * np.sin(0.2 * x), 8.0 / 0.2 * (1 - np.cos(0.2 * x)), 0.0, 0.2 * x) for x in t],
    )
    speed, rate = motion(poses, [DynamicState()] * len(t), 2900 * MS)
    np.testing.assert_allclose(speed, 8.0, atol=0.01)
    np.testing.assert_allclose(rate, 0.2, atol=1e-3)
    assert len(speed) == 16
    said = [DynamicState(linear_velocity=Vec3(x=x), angular_velocity=Vec3(z=-x)) for x in t]
    speed, rate = motion(poses, said, 700 * MS)
    np.testing.assert_allclose(speed, np.arange(8) / 10, atol=1e-6)
    np.testing.assert_allclose(rate, -np.arange(8) / 10, atol=1e-6)


@pytest.mark.parametrize(
    ("camera", "cameras", "message"),
    [
        (None, [ours(fov_deg=52.0)], "misses"),
        (None, [ours(yaw_left_deg=120.0)], "misses 100%"),
        (None, [ours(height=40)], "misses"),
        (None, [ours(logical_id="a"), ours(logical_id="b")], f"no camera '{CAMERA}' among a, b"),
        ("c", [ours(logical_id="a")], "no camera 'c' among a"),
    ],
)
def test_a_session_that_does_not_show_the_road_is_refused(camera, cameras, message):
    driver = EngineDriver(Follower(), IMAGE, camera=camera)
    with (
        serving(driver, port=0, host="127.0.0.1") as port,
        FakeLoop(f"127.0.0.1:{port}", cameras) as loop,
        pytest.raises(grpc.RpcError, match=message),
    ):
        loop.run(1)


def test_among_several_cameras_the_one_that_looks_ahead_is_used():
    engine = Follower()
    with (
        serving(EngineDriver(engine, IMAGE), port=0, host="127.0.0.1") as port,
        FakeLoop(
            f"127.0.0.1:{port}", [ours(logical_id="camera_left", yaw_left_deg=90.0), ours(logical_id=CAMERA)]
        ) as loop,
    ):
        assert loop.run(2).steps == 2


def test_the_camera_that_the_docs_ask_for_is_wide_enough():
    camera = FakeCamera(width=320, height=160, fov_deg=80.0).available_camera()
    assert sampling(camera, IMAGE).shape == (64, 2, 160, 2)


def test_a_lens_that_bends_is_refused():
    camera = ours().available_camera()
    camera.intrinsics.opencv_pinhole_param.radial_coeffs.extend([0.1])
    with pytest.raises(ValueError, match="undistorted pinhole"):
        sampling(camera, IMAGE)


def test_an_address_that_is_not_ours_cannot_be_listened_on():
    nowhere = alpasim_server.serving(EngineDriver(Follower(), IMAGE), "192.0.2.1", 50051, "alpasim")
    with pytest.raises(ValueError, match="cannot listen"), nowhere:
        pass


def test_the_command_serves_an_engine_until_stopped(student, tmp_path):
    export_engine(student, tmp_path / "engine", *samples(64, seed=3)[:3], self_test=4)
    address = f"unix://{tmp_path}/driver"
    packaged = load_policy("drivefoundry_car.driving.alpasim_server:load", path=str(tmp_path / "engine"), axle=1.5)
    assert isinstance(packaged, EngineDriver)
    assert (packaged.image, packaged.axle) == (TINY.image, 1.5)
    command = [sys.executable, "-m", "drivefoundry", "serve", "--engine", str(tmp_path / "engine"), "--host", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert address in process.stdout.readline()
        with FakeLoop(address, [ours(width=48, height=40)], step_s=0.5, initial_speed_mps=5.0) as loop:
            result = loop.run(4)
        process.terminate()
        assert process.wait(timeout=60) == 0
    assert result.steps == 4
    assert len(result.ego) == 4


def test_the_commands_defaults_are_the_drivers():
    options = ServeOptions()
    driver = EngineDriver(Follower(), IMAGE)
    assert (options.speed_limit, options.rear_axle, options.camera) == (driver.speed_limit, driver.axle, driver.camera)

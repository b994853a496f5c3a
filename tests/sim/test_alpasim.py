"""AlpaSim's drivers in our simulator, over real gRPC; and our own over the same protocol."""

import numpy as np
import pytest

pytest.importorskip("carla_driver_interface", reason="drivefoundry[alpasim] is not installed")

from carla_driver_interface.driver import BaseDriver, DriveResult
from carla_driver_interface.geometry import Pose, Trajectory
from carla_driver_interface.policies import RouteFollowerPolicy
from carla_driver_interface.server import serving

from drivefoundry.judge.scores.closed_loop import score_rollout
from drivefoundry.quantize.export import export_engine
from drivefoundry.sim.adapters.alpasim import CAMERA, Egodriver
from drivefoundry.sim.drive import drive
from drivefoundry.types import AGENT_CAR, Plan
from drivefoundry_car.driving.alpasim_server import EngineDriver
from drivefoundry_car.driving.runtime import Runtime
from drivefoundry_car.engine import Engine
from drivefoundry_car.vehicle.embodiment import CAR
from situation import EAST, situation, straight
from student import BODY, TINY, samples


def turn():
    """A route from the west that turns left to the north at the crossroads, and an ego on it."""
    arc = np.linspace(-np.pi / 2, 0.0, 12)
    bend = np.column_stack([-9.0 + 10.75 * np.cos(arc), 9.0 + 10.75 * np.sin(arc)])
    west = np.column_stack([np.arange(-90.0, -9.0, 2.0), np.full(41, EAST)])
    north = np.column_stack([np.full(60, 1.75), np.arange(10.0, 130.0, 2.0)])
    return situation(straight(-60.0, EAST, 0.0, 8.0), route=np.concatenate([west, bend, north]), name="turn")


def test_the_packages_route_follower_drives_our_scenes_and_stays_on_the_road():
    scenes = [turn(), situation(straight(-60.0, EAST, 0.0, 8.0), name="straight")]
    with serving(RouteFollowerPolicy(), port=0, host="127.0.0.1", mode="alpasim") as port:
        driver = Egodriver(f"127.0.0.1:{port}")
        rollout = drive(driver, scenes, 12.0)
        driver.close()
    assert rollout.policy.startswith("route_follower")
    scores = score_rollout(rollout, scenes, np.full(2, 80.0))
    assert scores["off_road"].tolist() == [0.0, 0.0]
    assert scores["progress_m"].min() > 70.0
    assert rollout.ego[0, -1, 1] > 15.0, "it has turned to the north"
    assert np.abs(rollout.ego[1, :, 1] - EAST).max() < 0.1


class Watcher(BaseDriver):
    """Plans straight on, and keeps what it receives for each scene."""

    name = "watcher"
    frame_history_length = 50

    def __init__(self, plan=lambda now: [(now + 100_000 * k, (0.4 * k, 0.0, 0.0)) for k in range(1, 41)]):
        self.plan, self.sessions, self.closed = plan, {}, 0

    def on_session_start(self, session):
        self.sessions[session.scene_id] = session

    def on_session_close(self, session):
        self.closed += 1

    def drive(self, ctx):
        self.data = ctx.renderer_data
        out = Trajectory.empty()
        for t, pose in self.plan(ctx.time_now_us):
            out.append(t, Pose.from_xyz_yaw(pose[0], pose[1], 0.0, pose[2]))
        return DriveResult(out)


def test_a_driver_receives_what_alpasim_sends():
    scenes = [situation(straight(-60.0, EAST, 0.0, 4.0), limit=9.0, name="a"), turn()]
    watcher, view = Watcher(), CAR.cameras[0]
    with serving(watcher, port=0, host="127.0.0.1") as port:
        driver = Egodriver(f"127.0.0.1:{port}")
        rollout = drive(driver, scenes, 2.0)
        driver.close()
    assert watcher.closed == 2
    np.testing.assert_allclose(rollout.plans[0, :, :, 0], np.tile(2.0 * np.arange(1, 9), (4, 1)), atol=1e-4)
    np.testing.assert_allclose(rollout.plans[0, :, :, 1:], 0.0, atol=1e-5)
    session = watcher.sessions["a"]
    times = np.array(session.ego_trajectory.timestamps_us)
    assert np.array_equal(times, 100_000 * np.arange(31)), "1.5 s before the start to the last decision at 1.5 s"
    x = session.ego_trajectory.positions[:, 0]
    np.testing.assert_allclose(x, 0.4 * np.arange(-15, 16), atol=0.02)
    assert session.speed_mps() == pytest.approx(4.0, abs=0.02)
    frames = session.frame_history[CAMERA]
    assert [f.timestamp_us for f in frames] == [1_000_000, 1_500_000, 2_000_000, 2_500_000, 3_000_000]
    assert frames[0].as_array().shape == (view.height, view.width, 3)
    assert session.route_waypoints_in_rig.shape == (20, 3)
    np.testing.assert_allclose(session.route_waypoints_in_rig[:, 0], np.linspace(0.0, 80.0, 20), atol=1e-3)
    mount = Pose.from_proto(session.cameras[CAMERA].rig_to_camera)
    np.testing.assert_allclose(mount.position, [view.x + CAR.rear_axle, 0.0, view.z], atol=1e-6)
    np.testing.assert_allclose(mount.rotation.apply([0.0, 0.0, 1.0]), [1.0, 0.0, 0.0], atol=1e-6)
    assert watcher.data.speed_limit_mps in (9.0, 10.0)


def test_the_route_ends_in_nan():
    scene = situation(straight(-60.0, EAST, 0.0, 8.0), route=np.array([[-90.0, EAST], [-30.0, EAST]]))
    watcher = Watcher()
    with serving(watcher, port=0, host="127.0.0.1") as port:
        drive(Egodriver(f"127.0.0.1:{port}"), [scene], 0.5)
    told = watcher.sessions["situation"].route_waypoints_in_rig[:, 0]
    assert np.isfinite(told).tolist() == [x <= 30.0 + CAR.rear_axle for x in np.linspace(0.0, 80.0, 20)]


def test_plans_of_the_rear_axle_become_plans_of_the_box_centre():
    """On a circle of 20 m around a point to its left, the rear axle follows exactly; the box centre is outside of
    it."""
    radius, speed = 20.0, 5.0

    def circle(now):
        turned = [speed * 0.1 * k / radius for k in range(1, 41)]
        return [
            (now + 100_000 * (k + 1), (radius * np.sin(a), radius * (1 - np.cos(a)), a)) for k, a in enumerate(turned)
        ]

    with serving(Watcher(circle), port=0, host="127.0.0.1") as port:
        plans = drive(Egodriver(f"127.0.0.1:{port}"), [situation(straight(-60.0, EAST, 0.0, 5.0))], 0.5).plans[0, 0]
    centre = plans[:, :2] - [-CAR.rear_axle, radius]
    np.testing.assert_allclose(np.hypot(*centre.T), np.hypot(radius, CAR.rear_axle), atol=1e-3)
    np.testing.assert_allclose(plans[:, 2], speed * 0.5 * np.arange(1, 9) / radius, atol=1e-5)


@pytest.mark.parametrize("plan", [lambda now: [], lambda now: [(now - 1, (5.0, 0.0, 0.0))]])
def test_an_empty_plan_is_standing(plan):
    with serving(Watcher(plan), port=0, host="127.0.0.1") as port:
        rollout = drive(Egodriver(f"127.0.0.1:{port}"), [situation(straight(-60.0, EAST, 0.0, 5.0))], 3.0)
    assert not rollout.plans.any()
    assert rollout.ego[0, -1, 3] < 0.1


def nan_plan(now):
    return [(now + 500_000, (np.nan, 0.0, 0.0)), (now + 1_000_000, (1.0, 0.0, 0.0))]


def broken_plan(now):
    raise RuntimeError("out of coffee")


@pytest.mark.parametrize(("plan", "message"), [(nan_plan, "NaN"), (broken_plan, "out of coffee")])
def test_a_driver_that_fails_is_named(plan, message):
    with serving(Watcher(plan), port=0, host="127.0.0.1") as port:
        driver = Egodriver(f"127.0.0.1:{port}")
        with pytest.raises(ValueError, match=message) as refused:
            drive(driver, [situation(straight(-60.0, EAST, 0.0, 5.0))], 1.0)
        driver.close()
    assert f"127.0.0.1:{port}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_driver_is_reported():
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:1: no driver answers there"):
        Egodriver("127.0.0.1:1", timeout=5.0)


class Direct:
    """The car's runtime as a policy, without objects for its guard, as over the wire."""

    name = "direct"

    def __init__(self, engine):
        self.runtime = Runtime(engine, patient=True)

    def reset(self, scenes):
        self.runtime.reset()

    def act(self, observation, /):
        return Plan(self.runtime.plan(observation.frames, observation.ego, observation.route).points)


def test_an_engine_plans_the_same_over_the_wire_as_called_directly(student, tmp_path):
    export_engine(student, tmp_path, *samples(64, seed=3)[:3], self_test=4)
    engine = Engine(tmp_path)
    scenes = [
        situation(straight(-60.0, EAST, 0.0, 8.0), [(AGENT_CAR, straight(-20.0, EAST, 0.0, 5.0))], name="follow"),
        situation(straight(-75.0, EAST, 0.0, 3.0), limit=7.0, name="slow"),
        situation(straight(-40.0, EAST, 0.0, 11.0), limit=14.0, name="fast"),
    ]
    want = drive(Direct(engine), scenes, 6.0, body=BODY)
    with serving(EngineDriver(engine, TINY.image), port=0, host="127.0.0.1") as port:
        driver = Egodriver(f"127.0.0.1:{port}", BODY)
        got = drive(driver, scenes, 6.0)
        driver.close()
    assert want.plans[..., 0].std() > 1.0, "an engine that plans one thing only proves nothing"
    np.testing.assert_allclose(got.plans, want.plans, atol=2e-3)
    np.testing.assert_allclose(got.ego[..., :4], want.ego[..., :4], atol=2e-3)

"""A live city with driven cars: SUMO's drivers keep behind them, and their drives can be judged."""

import numpy as np
import pytest

from drivefoundry.fleet.sumo.live_city import bumpers, centres, open_city, with_driven_tracks
from drivefoundry.judge.scores.closed_loop import score_rollout
from drivefoundry.sim.drive import drive
from drivefoundry.sim.expert import expert_plan
from drivefoundry.sim.pack import pack
from drivefoundry.sim.policies import RouteFollower
from drivefoundry.sim.world import World, with_traffic
from drivefoundry.types import PLAN_POINTS


def test_poses_go_to_sumo_and_come_back():
    rng = np.random.default_rng(0)
    pose, half = np.column_stack([rng.normal(size=(9, 2)) * 50, rng.uniform(-3.1, 3.1, 9)]), rng.uniform(1, 6, 9)
    front = np.column_stack([bumpers(pose, half), np.ones(9)])
    assert np.allclose(centres(front, half)[:, :3], pose)
    east = bumpers(np.array([[0.0, 0.0, 0.0]]), np.array([2.0]))
    assert np.allclose(east, [[2.0, 0.0, 90.0]])


def test_a_drive_through_a_live_city_can_be_judged_and_the_city_drives_once():
    with open_city("place_d", 3, cars=6, traffic=40, pedestrians=10) as (scenes, traffic):
        rollout = drive(RouteFollower(), scenes, 15.0, simulator=with_traffic(traffic))
        with pytest.raises(ValueError, match="open another"):
            World(pack(scenes), traffic)
        whole, rollout = with_driven_tracks(scenes, traffic, rollout)
    assert rollout.ego.shape == (len(scenes), 151, 6)
    assert np.allclose(rollout.ego[:, 0, :4], [s.tracks[s.ego, s.start] for s in scenes])
    # each car is in the others' eyes where it is in its own
    for i, scene in enumerate(whole):
        assert np.array_equal(scene.tracks[scene.ego, scene.start :], rollout.ego[i, :, :4].astype(np.float32))
        assert scene.valid.shape[1] == scene.start + 151
    scores = score_rollout(rollout, whole, np.ones(len(whole)))
    assert scores["progress_m"].sum() > 100.0
    assert scores["collision"].sum() == 0
    assert len(np.unique(np.stack(traffic.lamps), axis=0)) > 1, "the lights go on"


def test_sumo_waits_behind_a_driven_car_that_stands():
    with open_city("place_d", 4, cars=8, traffic=60, pedestrians=0) as (scenes, traffic):
        world = World(pack(scenes), traffic)
        for step in range(200):
            if step % 5 == 0:
                world.follow(np.zeros((len(scenes), PLAN_POINTS, 3)))
            world.advance()
        mine = world.ego[:, :2]
        others = world.agents[0, :, :4].copy()
        others[traffic.rows] = np.inf
        gap = np.hypot(others[None, :, 0] - mine[:, None, 0], others[None, :, 1] - mine[:, None, 1])
        assert (world.ego[:, 3] < 0.1).all()
        assert gap.min() > 2.0
        assert ((gap < 12.0) & (others[None, :, 3] < 0.5)).any(), "somebody stands near one of them"


def test_every_car_asked_for_is_handed_over_with_way_for_its_whole_time():
    with open_city("place_e", 1, cars=24, traffic=200, pedestrians=0, seconds=400.0) as (scenes, _):
        assert len(scenes) == 24
        for scene in scenes:
            step = np.hypot(*np.diff(scene.route, axis=0).T)
            assert step.max() < 3.0, "no jump"
            assert step.sum() > 400.0 * scene.map.lane_speed.max()


def test_a_driver_waiting_for_a_car_that_stands_in_a_junction_passes_it_eventually():
    with open_city("place_e", 3, cars=8, traffic=200, pedestrians=0, seconds=60.0) as (scenes, traffic):
        world = World(pack(scenes), traffic)
        moved = np.zeros(world.agents.shape[1])
        for step in range(500):
            if step % 5 == 0:
                plans = expert_plan(world)
                plans[0] = 0.0  # in a roundabout from the start
                world.follow(plans)
            world.advance()
            if step > 250:
                moved = np.maximum(moved, world.agents[0, :, 3])
        gap = np.hypot(*(world.agents[0, :, :2] - world.ego[0, :2]).T)
        assert world.ego[0, 3] < 0.1
        assert (gap[world.seen[0]] < 40.0).any()
        assert (moved[world.seen[0] & (gap < 40.0)] > 0.5).all()

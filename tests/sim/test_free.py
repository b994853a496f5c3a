"""Free traffic keeps its distance, lights and lanes, and a scene's evolution depends only on the scene."""

from dataclasses import replace

import numba
import numpy as np
import pytest

from drivefoundry.sim.pack import pack
from drivefoundry.sim.world import World
from drivefoundry.types import AGENT_CAR, AGENT_PEDESTRIAN, DT, PLAN_POINTS, SIGNAL_GREEN, SIGNAL_RED
from situation import EAST, situation, straight

CAR = 4.6
FAR = straight(-140.0, 1.75, np.pi, 0.0)
"""An ego that stands out of everyone's way."""


def go(scenes, seconds, speed=0.0):
    world = World(pack(scenes), "free")
    states, seen = [world.agents.copy()], [world.seen.copy()]
    for step in range(round(seconds / DT)):
        if step % 5 == 0:
            points = np.zeros((len(scenes), PLAN_POINTS, 3))
            points[..., 0] = speed * 0.5 * np.arange(1, PLAN_POINTS + 1)
            world.follow(points)
        world.advance()
        states.append(world.agents.copy())
        seen.append(world.seen.copy())
    return np.stack(states, 2), np.stack(seen, 2)


def test_a_car_alone_speeds_up_to_what_its_lane_allows_and_stays_in_it():
    scene = situation(FAR, [(AGENT_CAR, straight(-60.0, EAST, 0.0, 5.0))])
    states, _ = go([scene], 10.0)
    assert states[0, 1, -1, 3] > 8.0
    assert np.abs(states[0, 1, :, 1] - EAST).max() < 0.1
    assert (np.diff(states[0, 1, :, 0]) > 0).all()


def test_nobody_runs_into_the_car_ahead():
    slow, fast = straight(-20.0, EAST, 0.0, 2.0), straight(-50.0, EAST, 0.0, 10.0)
    states, seen = go([situation(straight(5.0, EAST, 0.0, 0.0), [(AGENT_CAR, slow), (AGENT_CAR, fast)])], 12.0)
    there = seen[0, 1] & seen[0, 2]
    side = np.abs(states[0, 1, :, 1] - states[0, 2, :, 1]) > 2.0
    gap = states[0, 1, :, 0] - states[0, 2, :, 0] - CAR
    assert (gap[there & ~side] > 0.5).all()
    assert states[0, 1, -1, 0] < 5.0 - CAR


@pytest.mark.parametrize(("light", "stops"), [(SIGNAL_RED, True), (SIGNAL_GREEN, False)])
def test_red_stops_approaching_cars_and_green_does_not(light, stops):
    scene = situation(FAR, [(AGENT_CAR, straight(-60.0, EAST, 0.0, 8.0))], signal=light)
    states, _ = go([scene], 12.0)
    front = states[0, 1, -1, 0] + CAR / 2
    assert (front < -12.0) == stops
    if stops:
        assert front > -17.0


def test_a_lane_change_passes_a_standing_vehicle_if_a_second_lane_is_free():
    scene = situation(straight(-70.0, EAST, 0.0, 0.0), [(AGENT_CAR, straight(-120.0, EAST, 0.0, 9.0))])
    kept, _ = go([scene], 12.0)
    assert np.abs(kept[0, 1, :, 1] - EAST).max() < 0.1, "a map that names no neighbour has no second lane"
    assert kept[0, 1, -1, 0] < -70.0 - CAR
    beside = np.full(8, -1)
    beside[0] = 1
    states, _ = go([replace(scene, map=replace(scene.map, id="two lanes", lane_right=beside))], 12.0)
    assert np.abs(states[0, 1, :, 1] - EAST).max() > 3.0
    assert states[0, 1, -1, 0] > -70.0 + CAR


def test_a_walker_waits_for_the_car_that_stands_in_the_way():
    walker = straight(-20.0, -6.0, np.pi / 2, 1.4)
    blocked, _ = go([situation(straight(-20.0, EAST, 0.0, 0.0), [(AGENT_PEDESTRIAN, walker)])], 8.0)
    free, _ = go([situation(FAR, [(AGENT_PEDESTRIAN, walker)])], 8.0)
    assert blocked[0, 1, -1, 1] < EAST - 0.9
    assert free[0, 1, -1, 1] > 0.0


def test_a_scene_runs_the_same_alone_and_in_any_batch_on_any_number_of_threads():
    scenes = [
        situation(
            straight(-30.0 - 3 * i, EAST, 0.0, 6.0),
            [(AGENT_CAR, straight(-60.0 + 11 * k - i, EAST - 3.5 * (k % 2), 0.0, 4.0 + k)) for k in range(3 + i % 3)]
            + [(AGENT_PEDESTRIAN, straight(-5.0, -9.0 - i, np.pi / 2, 1.3))],
            name=str(i),
        )
        for i in range(5)
    ]
    together, _ = go(scenes, 6.0, 6.0)
    was = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        again, _ = go(scenes[::-1], 6.0, 6.0)
    finally:
        numba.set_num_threads(was)
    for i, scene in enumerate(scenes):
        alone, _ = go([scene], 6.0, 6.0)
        a = len(scene.kind)
        assert np.array_equal(alone[0, :a], together[i, :a])
        assert np.array_equal(alone[0, :a], again[len(scenes) - 1 - i, :a])

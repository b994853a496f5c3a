"""The rule-based route follower: stops when it must, goes when it may, and uses only what a camera could show."""

from itertools import pairwise

import numpy as np
import pytest

from drivefoundry.sim.drive import drive
from drivefoundry.sim.expert import DANGERS, dangers, expert_plan
from drivefoundry.sim.pack import pack
from drivefoundry.sim.policies import ConstantVelocity, RouteFollower
from drivefoundry.sim.world import World
from drivefoundry.types import AGENT_CAR, AGENT_PEDESTRIAN, SIGNAL_GREEN, SIGNAL_RED
from situation import EAST, START, situation, straight

STOP_LINE = -12.0
CAR = 4.6


def driven(scene, policy=None, seconds=12.0):
    """Ego states (T, 6) of one scene."""
    return drive(policy or RouteFollower(), [scene], seconds).ego[0]


def test_stops_behind_a_standing_car():
    ego = driven(situation(straight(-70.0, EAST, 0.0, 9.0), [(AGENT_CAR, straight(-25.0, EAST, 0.0, 0.0))]))
    gap = -25.0 - ego[:, 0] - CAR
    assert gap.min() > 1.0
    assert gap[-1] < 6.0
    assert ego[-1, 3] < 0.1
    assert ego[:, 4].min() > -4.0, "in comfort, since it was seen in time"


def test_stops_at_red_and_goes_at_green():
    waits = driven(situation(straight(-60.0, EAST, 0.0, 9.0), signal=SIGNAL_RED))
    assert STOP_LINE - 4.0 < waits[-1, 0] + CAR / 2 < STOP_LINE
    assert waits[-1, 3] < 0.1
    light = np.where(np.arange(140) < START + 70, SIGNAL_RED, SIGNAL_GREEN)
    goes = driven(situation(straight(-60.0, EAST, 0.0, 9.0), signal=light))
    assert goes[70, 0] + CAR / 2 < STOP_LINE
    assert goes[-1, 0] > STOP_LINE + 10.0
    assert driven(situation(straight(-60.0, EAST, 0.0, 9.0)))[:, 3].min() > 7.0, "at green it does not slow down"


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_keeps_its_lane_in_a_bend_and_slows_down_for_it(side):
    turn = np.linspace(0.0, np.pi / 2, 13)
    bend = np.column_stack([-20.0 + 12.0 * np.sin(turn), EAST + side * 12.0 * (1 - np.cos(turn))])
    before = np.column_stack([np.arange(-90.0, -20.0, 2.0), np.full(35, EAST)])
    after = bend[-1] + np.column_stack([np.zeros(30), side * 2.0 * np.arange(1, 31)])
    route = np.concatenate([before, bend, after])
    ego = driven(situation(straight(-60.0, EAST, 0.0, 9.0), route=route))
    fine = np.concatenate([np.linspace(a, b, 20) for a, b in pairwise(route)])
    off = np.hypot(*(ego[:, None, :2] - fine[None]).transpose(2, 0, 1)).min(1)
    assert off.max() < (3.5 - 1.9) / 2, "its sides stay in the lane"
    assert abs(ego[-1, 2] - side * np.pi / 2) < 0.1, "it went round"
    assert np.abs(ego[:, 3] * ego[:, 5]).max() < 3.5, "lateral acceleration"


def plan_with(*others):
    return expert_plan(World(pack([situation(straight(-60.0, EAST, 0.0, 8.0), others)])))[0]


def test_uses_nothing_that_the_camera_could_not_show():
    empty = plan_with()
    from_the_side = (AGENT_CAR, straight(-48.0, EAST + 15.0, -np.pi / 2, 9.0))
    far_ahead = (AGENT_CAR, straight(8.0, EAST, 0.0, 0.0))
    behind = (AGENT_CAR, straight(-68.0, EAST, 0.0, 14.0))
    for unseen in (from_the_side, far_ahead, behind):
        assert np.array_equal(plan_with(unseen), empty)
    crossing = (AGENT_CAR, straight(-35.0, EAST + 16.0, -np.pi / 2, 5.0))
    assert plan_with(crossing)[-1, 0] < empty[-1, 0] - 2.0


def test_yields_to_crossing_agents_and_continues():
    walker = straight(-10.0, EAST - 6.2, np.pi / 2, 1.2)
    scene = situation(straight(-50.0, EAST, 0.0, 8.0), [(AGENT_PEDESTRIAN, walker)])
    steps = START + np.arange(121)

    def nearest(ego):
        dx, dy = np.abs(walker[steps, :2] - ego[:, :2]).T
        return np.hypot(np.maximum(dx - CAR / 2, 0), np.maximum(dy - 0.95, 0)).min()

    ego = driven(scene)
    assert nearest(ego) > 0.8
    assert ego[-1, 0] > 0.0
    assert nearest(driven(scene, ConstantVelocity())) < 0.3, "who does not yield meets the walker"


def test_dangers_of_a_plan_are_named():
    standing = (AGENT_CAR, straight(-48.0, EAST, 0.0, 0.0))
    ahead = np.zeros((8, 3))
    ahead[:, 0] = 8.0 * 0.5 * np.arange(1, 9)
    aside = np.column_stack([ahead[:, 0], 0.5 * ahead[:, 0], np.full(8, 0.5)])
    cases = [
        (situation(straight(-60.0, EAST, 0.0, 8.0)), ahead, ""),
        (situation(straight(-60.0, EAST, 0.0, 8.0), [standing]), ahead, "collision"),
        (situation(straight(-60.0, EAST, 0.0, 8.0)), aside, "off route"),
        (situation(straight(-20.0, EAST, 0.0, 8.0), signal=SIGNAL_RED), ahead, "red light"),
        (situation(straight(-60.0, EAST, 0.0, 0.0)), np.zeros((8, 3)), "stalled"),
    ]
    for scene, plan, name in cases:
        world = World(pack([scene]))
        assert DANGERS[dangers(world, plan[None], expert_plan(world))[0]] == name

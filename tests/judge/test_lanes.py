"""Which lane a point is in."""

import numpy as np
from straight_road import ROAD, moving, road, scene

from drivefoundry.judge.scores.lanes import JUNCTION, NO_LANE, lane_at, route_lanes, stack_lanes
from drivefoundry.roadmap import make_map


def test_lanes_side_by_side():
    stack = stack_lanes([ROAD])
    at = [lane_at(stack.cells, stack.frames, 0, 50.0, y) for y in (-2.5, 0.0, 1.0, 2.2, 3.2, 6.4, 9.0)]
    assert at == [NO_LANE, 0, 0, 1, 1, 2, NO_LANE]
    assert lane_at(stack.cells, stack.frames, 0, 5000.0, 0.0) == NO_LANE


def test_crossing_lanes_and_junction_lanes_are_junction():
    cross = make_map(lanes=[np.array([[-50.0, 0], [50, 0]]), np.array([[0.0, -50], [0, 50]])])
    stack = stack_lanes([road((True, False, False)), cross])
    assert lane_at(stack.cells, stack.frames, 0, 50.0, 0.0) == JUNCTION
    assert lane_at(stack.cells, stack.frames, 0, 50.0, 3.2) == 1
    assert lane_at(stack.cells, stack.frames, 1, 0.0, 0.0) == JUNCTION
    assert lane_at(stack.cells, stack.frames, 1, 20.0, 0.0) == 0
    assert lane_at(stack.cells, stack.frames, 1, 0.0, 20.0) == 1


def test_lanes_on_the_route_take_their_neighbours_of_the_same_direction():
    assert route_lanes(scene(moving(0, 0, 8))).tolist() == [True, True, False]

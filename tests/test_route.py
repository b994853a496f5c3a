import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry import route as routes
from drivefoundry.roadmap import arc_length, make_map

EAST = np.stack([np.linspace(0, 100, 21), np.zeros(21)], 1)
LEFT = np.array([[100.0, 0], [105, 1], [109, 5], [110, 20]])
ON = np.array([[100.0, 0], [150, 0]])
BACK = np.stack([np.linspace(100, 0, 21), np.full(21, 1.5)], 1)


@pytest.fixture(scope="module")
def fork():
    return make_map(lanes=[EAST, LEFT, ON, BACK], lane_next=[[1, 2], [], [], []], lane_speed=[10.0, 5.0, 12.0, 10.0])


def test_lane_at_takes_the_lane_of_the_same_heading(fork):
    lane, at = routes.lane_at(fork, np.array([40.0, 1.0]), 0.1)
    assert lane == 0
    assert at == pytest.approx(40.0)
    assert routes.lane_at(fork, np.array([40.0, 1.0]), np.pi)[0] == 3
    assert routes.lane_at(fork, np.array([40.0, 1.0]), np.pi / 2)[0] == -1
    assert routes.lane_at(fork, np.array([40.0, 30.0]), 0.0)[0] == -1


def test_ahead_takes_the_straightest_successor(fork):
    way = routes.ahead(fork, 0, 90.0, 40.0)
    np.testing.assert_allclose(way[-1], [130.0, 0.0, 12.0])
    assert way[0].tolist() == [90.0, 0.0, 10.0]


def test_extend_follows_lanes_then_goes_straight(fork):
    begin = np.column_stack([np.linspace(50, 80, 16), np.full(16, 0.5), np.full(16, 10.0)])
    longer = routes.extend(begin, 100.0, fork)
    assert arc_length(longer)[-1] == pytest.approx(130.0, abs=0.5)
    assert abs(longer[-1, 1]) < 0.1  # the offset has faded out
    assert longer[-1, 2] == 12.0
    free = routes.extend(begin, 100.0)
    np.testing.assert_allclose(free[-1], [180.0, 0.5, 10.0], atol=1e-6)


def test_a_standing_cars_jitter_is_no_path():
    rng = np.random.default_rng(0)
    still = rng.normal(0, 0.05, (100, 2))
    route = routes.driven(still, 10.0, yaw=np.pi / 2)
    assert arc_length(route)[-1] == pytest.approx(71.0, abs=1.0)
    assert route[-1, 1] > 55


@settings(max_examples=30, deadline=None)
@given(st.floats(-0.02, 0.02), st.floats(3, 15), st.integers(0, 1000))
def test_a_driven_route_stays_on_the_path_and_reaches_beyond_it(curvature, speed, seed):
    s = np.arange(0, 100) * speed * 0.1
    yaw = curvature * s
    path = np.cumsum(np.stack([np.cos(yaw), np.sin(yaw)], 1) * speed * 0.1, axis=0)
    noisy = path + np.random.default_rng(seed).normal(0, 0.05, path.shape)
    route = routes.driven(noisy, 10.0)
    off = np.hypot(*(path[:, None] - route[None, :, :2]).transpose(2, 0, 1)).min(1)
    assert off.max() < 1.2
    assert np.hypot(*(route[-1, :2] - path[-1])) > 55
    assert np.diff(arc_length(route)).max() < 1.6

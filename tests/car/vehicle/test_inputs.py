"""Model inputs other than pixels are invariant to position and heading in the world."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry_car.vehicle.inputs import (
    LEFT,
    RIGHT,
    STRAIGHT,
    UNKNOWN,
    ego_changes,
    ego_history,
    route_features,
    to_ego,
    to_map,
)

metres = st.floats(-500.0, 500.0)
angle = st.floats(-np.pi, np.pi)


def turning(turn: float, after: float = 15.0, speed: float = 12.0) -> np.ndarray:
    """A route east that turns by `turn` rad, within 16 m, `after` m from the origin; points 2 m apart."""
    x = np.arange(-20.0, after, 2.0)
    straight = np.column_stack([x, np.zeros(len(x))])
    heading = np.linspace(0.0, turn, 9)[1:] if turn else np.zeros(8)
    rest = np.concatenate([heading, np.full(30, turn)])
    more = straight[-1] + np.cumsum(2.0 * np.column_stack([np.cos(rest), np.sin(rest)]), 0)
    xy = np.concatenate([straight, more])
    return np.column_stack([xy, np.full(len(xy), speed)])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([-1.3, 0.0, 1.3]), st.tuples(st.floats(-5, 20), st.floats(-1, 1), st.floats(-0.3, 0.3)),
    st.tuples(metres, metres, angle),
)  # fmt: skip
def test_route_features_do_not_hang_on_the_place(turn, at, to):
    route, pose, world = turning(turn, after=60.0), np.array(at), np.array(to)
    moved = route.copy()
    moved[:, :2] = to_map(route[:, :2], world)
    here, there = route_features(route, pose), route_features(moved, to_map(pose, world))
    np.testing.assert_allclose(there, here, atol=1e-5)


@given(metres, metres, angle, metres, metres, angle)
def test_there_and_back(x, y, yaw, px, py, pyaw):
    point, pose = np.array([[x, y, yaw]]), np.array([px, py, pyaw])
    back = to_map(to_ego(point, pose), pose)
    np.testing.assert_allclose(back[:, :2], point[:, :2], atol=1e-9)
    np.testing.assert_allclose(np.exp(1j * back[:, 2]), np.exp(1j * point[:, 2]), atol=1e-9)


@pytest.mark.parametrize(("turn", "command"), [(1.3, LEFT), (-1.3, RIGHT), (0.0, STRAIGHT), (0.4, STRAIGHT)])
def test_the_navigator_announces_turns(turn, command):
    features = route_features(turning(turn), np.zeros(3))
    assert features[8:].tolist() == [float(i == command) for i in range(4)]
    assert features[6] == pytest.approx(1.2)
    assert features[7] == 1.0
    assert np.sign(features[5]) == np.sign(turn)


def test_a_turn_far_away_is_not_announced_yet():
    assert route_features(turning(1.3, after=60.0), np.zeros(3))[8 + STRAIGHT] == 1.0


def test_without_a_route_only_that_is_reported():
    for route in (None, turning(0.0)[:1]):
        features = route_features(route, np.zeros(3))
        assert features[8 + UNKNOWN] == 1.0
        assert features.sum() == 1.0


def test_history_reaches_as_far_back_as_the_log():
    speed, rate = np.arange(16.0), -np.arange(16.0)
    np.testing.assert_array_equal(ego_history(speed, rate), [[0, 0, 1], [5, -5, 1], [10, -10, 1], [15, -15, 1]])
    np.testing.assert_array_equal(ego_history(speed[-8:], rate[-8:])[:, 2], [0, 0, 1, 1])
    assert not ego_history(speed[-8:], rate[-8:])[:2].any()


def test_changes_are_given_only_where_the_past_is_known():
    history = np.array([[[7.0, 0.1, 1], [8.0, 0.2, 1], [9.0, 0.2, 1], [9.0, 0.3, 1]]], np.float32)
    known = ego_changes(history)[0]
    assert (known[:3] > 0).all()
    assert (known[3:5] < 0).all()
    assert known[5] == 0
    assert (known[6:9] < 0).all()
    assert known[9:].tolist() == [1, 1, 1]
    history[0, :3] = 0.0
    forgotten = ego_changes(history)[0]
    assert np.array_equal(forgotten[:3], known[:3])
    assert not forgotten[3:].any()

"""Channels with their own clocks are resampled to the grid: interpolated where valid, otherwise left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefoundry_car.log import channels, clock, live


def ns(*t):
    return [channels.to_ns(x) for x in t]


def test_the_grid_has_no_steps_where_the_ego_is_unknown():
    t = np.concatenate([np.arange(0.0, 1.0, 0.02), np.arange(1.5, 2.0, 0.02)])
    ego = np.zeros((len(t), 7))
    ego[:, 0] = t
    ego[(t > 0.55) & (t < 0.95), 3] = np.nan
    at, states = clock.on_grid(t, ego)
    np.testing.assert_allclose(at, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.5, 1.6, 1.7, 1.8, 1.9], atol=1e-9)
    np.testing.assert_allclose(states[:, 0], at, atol=1e-9)
    with pytest.raises(ValueError, match="no ego state that has x, y, yaw and speed"):
        clock.on_grid(t, ego * np.nan)


def test_states_on_the_grid_stay_as_they_are():
    t = 17.0 + np.arange(50) * 0.1
    ego = np.random.default_rng(0).normal(size=(50, 7))
    at, states = clock.on_grid(t, ego)
    np.testing.assert_array_equal(at, t)
    np.testing.assert_array_equal(states, ego)


@given(rate=st.integers(20, 200), begin=st.floats(0, 1e6), turn=st.floats(-0.9, 0.9))
def test_a_steady_drive_is_steady_on_the_grid(rate, begin, turn):
    since = np.arange(3 * rate) / rate
    ego = np.zeros((len(since), 7))
    ego[:, 0], ego[:, 2] = 20 * since, np.arctan2(np.sin(turn * since + 3), np.cos(turn * since + 3))
    at, states = clock.on_grid(begin + since, ego)
    assert 28 <= len(at) <= 31
    np.testing.assert_allclose(np.diff(at), 0.1, atol=1e-6)
    np.testing.assert_allclose(states[:, 0], 20 * (at - begin), atol=1e-5)
    np.testing.assert_allclose(np.cos(states[:, 2] - turn * (at - begin) - 3), 1, atol=1e-9)


def test_a_flag_holds_from_the_next_step_on_and_a_flash_is_seen():
    t = np.arange(10) * 0.1
    told = [json.dumps({"takeover": v, "engaged": None}).encode() for v in (False, True, False, True, False)]
    found = live.flag(told, ns(0.0, 0.21, 0.25, 0.5, 0.8), t, "takeover")
    assert np.flatnonzero(found).tolist() == [3, 5, 6, 7]
    assert live.flag(told, ns(0.0, 0.21, 0.25, 0.5, 0.8), t, "engaged") is None


def test_signals_may_come_one_by_one():
    t = np.arange(6) * 0.1
    told = [json.dumps(m).encode() for m in ({"id": [9], "state": [1]}, {"id": [4, 9], "state": [3, 2]})]
    ids, state = live.signals(told, ns(0.1, 0.35), t)
    assert ids.tolist() == [4, 9]
    assert state.tolist() == [[0, 0, 0, 0, 3, 3], [0, 1, 1, 1, 2, 2]]


def test_a_step_takes_the_nearest_message_and_no_stale_one():
    t = np.arange(6) * 0.1
    at = [0.02, 0.08, 0.11, 0.33]

    def seen(x):
        state = np.array([[[x, 0.0, 0.0, 10.0]]], np.float32)
        size = np.array([[4.0, 2.0, 1.5]], np.float32)
        return channels.scene_updates(np.array([5]), np.array([1]), size, state, np.ones((1, 1), bool), [0])[0]

    track, kind, size, states, valid = live.objects([seen(10 * x) for x in at], ns(*at), t)
    assert (track.tolist(), kind.tolist(), size.tolist()) == ([5], [1], [[4.0, 2.0, 1.5]])
    assert valid.tolist() == [[True, True, False, True, False, False]]
    np.testing.assert_allclose(states[0, [0, 1, 3], 0], [0.0, 1.0, 3.0], atol=1e-6)

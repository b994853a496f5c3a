"""The 10 Hz clock: aligned data is unchanged, other rates are resampled, anything else is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefoundry_car.log import Drive, Objects, clock, read_drive, write_drive


def bend(t, speed=12.0, turn=0.1):
    """States of a steady left bend at times t."""
    yaw = turn * t
    x, y = speed / turn * np.sin(yaw), speed / turn * (1 - np.cos(yaw))
    yaw = np.arctan2(np.sin(yaw), np.cos(yaw))
    rest = [np.full(len(t), v) for v in (speed, 0.0, turn, np.nan)]
    return np.column_stack([x, y, yaw, *rest])


def times(rate, seconds, jitter=0.0, lost=0.0, seed=0):
    """Times of a sensor at some rate, with a maximum jitter, s, and a share of them lost."""
    rng = np.random.default_rng(seed)
    t = np.arange(1, int(rate * seconds)) / rate
    t = np.sort(t + rng.uniform(-jitter, jitter, len(t)))
    return t[rng.random(len(t)) >= lost]


@given(
    rate=st.sampled_from([5.0, 7.5, 8.0, 9.9, 10.1, 12.5, 15.0, 19.0, 20.0, 30.0, 50.0, 100.0]),
    jitter=st.floats(0, 0.1),
    begin=st.floats(0, 1e6),
    seed=st.integers(0, 99),
)
def test_every_rate_comes_onto_the_clock_where_the_car_was(rate, jitter, begin, seed):
    t = times(rate, 12.0, jitter / rate, seed=seed)
    drive = clock.onto(Drive({}, begin + t, bend(t)))
    assert len(drive.t) >= 115
    np.testing.assert_allclose(np.diff(drive.t), 0.1, atol=2e-9 * max(begin, 1))
    np.testing.assert_allclose(drive.t / 0.1, np.rint(drive.t / 0.1), atol=1e-4)
    # A chord of GAP_S at 12 m/s and 0.1 rad/s lies less than 1 cm beside the bend.
    np.testing.assert_allclose(drive.ego[:, :2], bend(drive.t - begin)[:, :2], atol=0.01)
    away = drive.ego[:, 2] - bend(drive.t - begin)[:, 2]
    np.testing.assert_allclose(np.arctan2(np.sin(away), np.cos(away)), 0, atol=1e-6)
    assert "interpolated" in drive.notes["clock"]


def test_what_is_on_the_clock_stays_bit_for_bit(make_drive):
    drive = make_drive(steps=60)
    assert clock.onto(drive) is drive
    shifted = dataclasses.replace(drive, t=drive.t + 0.037)
    assert clock.onto(shifted) is shifted
    gap = dataclasses.replace(drive, t=drive.t + 3.03 * (np.arange(60) > 30))
    assert clock.onto(gap) is gap


def test_lost_samples_are_filled_and_gaps_are_not():
    t = np.arange(100) * 0.1
    t = np.delete(t, [20, 50, 51, 52])
    drive = clock.onto(Drive({}, t, bend(t)))
    np.testing.assert_allclose(drive.t, np.delete(np.arange(100) * 0.1, [50, 51, 52]), atol=1e-9)
    np.testing.assert_allclose(drive.ego[20, :2], bend(np.array([2.0]))[0, :2], atol=0.01)
    assert clock.runs(drive.t) == [(0, 50), (50, 97)]


def test_headings_are_unwrapped_where_they_pass_half_a_turn():
    t = np.arange(40) / 15
    ego = bend(t, turn=1.2)
    drive = clock.onto(Drive({}, t, ego))
    assert np.abs(np.abs(drive.ego[:, 2]).max() - np.pi) < 0.2
    np.testing.assert_allclose(np.cos(drive.ego[:, 2] - 1.2 * drive.t), 1.0, atol=1e-9)


@pytest.mark.parametrize("rate", [3.0, 1.0])
def test_states_too_far_apart_are_refused_by_name(tmp_path, rate):
    t = np.arange(20) / rate
    write_drive(tmp_path / "slow.mcap", Drive({}, t, bend(t)))
    with pytest.raises(ValueError, match=rf"slow\.mcap: its states are {1 / rate:.2f} s apart; record one at least"):
        read_drive(tmp_path / "slow.mcap")


def test_flags_signals_and_road_users_follow_the_clock():
    t = np.arange(200) / 50  # 50 Hz
    takeover = np.zeros(200, bool)
    takeover[73] = True  # a flash between two steps, at 1.46 s
    red = np.where(t < 2.01, 1, 3).astype(np.uint8)[None]
    states = np.zeros((2, 200, 4), np.float32)
    states[0, :, 0], states[0, :, 3] = 5 + 8 * t, 8.0
    states[1, :, 0], states[1, :, 2], states[1, :, 3] = 1.0, np.where(np.arange(200) % 2, 3.1, -3.1), 2.0
    valid = np.ones((2, 200), bool)
    valid[0, 101:] = False
    seen = Objects(np.array([4, 5]), np.array([0, 3]), np.ones((2, 3), np.float32), states, valid)
    drive = clock.onto(
        Drive({}, t, bend(t), takeover=takeover, signal_id=np.array([9]), signal_state=red, objects=seen)
    )
    assert np.flatnonzero(drive.takeover).tolist() == [15]
    assert np.flatnonzero(np.diff(drive.signal_state[0])).tolist() == [20]
    assert np.flatnonzero(~drive.objects.valid[0])[0] == 21  # seen until 2.0 s
    np.testing.assert_allclose(drive.objects.states[0, :21, 0], 5 + 8 * drive.t[:21], atol=1e-5)
    assert (drive.objects.states[0, 21:] == 0).all()
    assert np.abs(drive.objects.states[1, :, 2]).min() > 3.0  # never through zero


def test_labels_may_count_steps_only_where_they_are_on_the_clock():
    t = np.arange(60) * 0.1
    t[30:] += 0.1
    ok = clock.spans(t, np.array([0, 10, 20, 29, 30, 31, 45]), back=5, ahead=10)
    assert ok.tolist() == [True, True, False, False, False, False, True]
    assert not clock.spans(np.arange(60) * 0.1005, np.array([20]), 0, 40)[0]


def test_out_of_order_is_sorted_and_a_clock_set_back_is_refused():
    t = np.arange(100) * 0.1
    ego = bend(t)
    mixed = np.random.default_rng(0).permutation(100)
    clock.check_order(t[mixed], ego[mixed])
    back = np.concatenate([t[:60], t[:40] + 2.0])
    with pytest.raises(ValueError, match=r"its clock goes back by 3.90 s at state 60"):
        clock.check_order(back, ego)
    twice = np.concatenate([t, t[50:52]])
    at, states = clock.on_grid(twice, np.vstack([ego, ego[50:52] + 1e-3]))
    np.testing.assert_array_equal(at, t)
    np.testing.assert_array_equal(states[:, :6], ego[:, :6])

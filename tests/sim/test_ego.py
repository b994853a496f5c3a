"""The tracked ego stays within its limits, follows plans, stops, and never drives in reverse."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry.sim.ego import (
    CAR_ACTUATORS,
    actuators,
    bicycle_step,
    plan_in_map,
    prepare_reference,
    simulate_plan,
    track,
)
from drivefoundry_car.vehicle.embodiment import CAR

ACCEL_MIN, ACCEL_MAX, JERK_MAX, CURVATURE_MAX, _, GRIP = CAR_ACTUATORS
T = np.arange(1, 9) * 0.5


def arc(speed: float, curvature: float = 0.0) -> np.ndarray:
    s = speed * T
    if curvature == 0.0:
        return np.stack([s, 0 * s, 0 * s], 1)
    return np.stack([np.sin(curvature * s), 1 - np.cos(curvature * s), curvature**2 * s], 1) / curvature


def driven(
    speed: float, plan: np.ndarray, start: tuple[float, float, float] = (0.0, 0.0, 0.0), limits=CAR_ACTUATORS
) -> np.ndarray:
    out = np.zeros((41, 6))
    simulate_plan(np.array([*start, speed, 0.0, 0.0]), plan, 0.1, limits, out)
    return out


@pytest.mark.parametrize("speed", [0.0, 1.0, 4.0, 8.0, 15.0])
def test_steady_driving_stays_steady(speed):
    out = driven(speed, arc(speed))
    assert np.allclose(out[:, 3], speed, atol=0.02)
    assert np.abs(out[:, 1]).max() < 1e-6
    assert out[-1, 0] == pytest.approx(4 * speed, abs=0.1)


def test_a_plan_that_stands_still_stops_the_car_for_good():
    out = driven(12.0, np.zeros((8, 3)))
    stop = 12**2 / (2 * -ACCEL_MIN) + 12 * 0.5  # braking distance and the brake's build-up
    assert out[-1, 3] == 0.0
    assert out[-1, 0] < stop
    assert (np.diff(out[:, 0]) >= 0).all()
    assert np.array_equal(out[-1, :3], out[-5, :3])


def test_it_stops_where_the_plan_stops():
    s = np.minimum(8 * T - T**2 * 1.6, 10.0)
    s[T > 2.5] = 10.0
    out = driven(8.0, np.stack([s, 0 * s, 0 * s], 1))
    assert out[-1, 3] == 0.0
    assert out[-1, 0] == pytest.approx(10.0, abs=0.5)


def test_a_plan_backwards_is_not_driven():
    out = driven(0.0, arc(-3.0))
    assert np.array_equal(out[-1], out[0])


@pytest.mark.parametrize(("speed", "radius"), [(2.0, 8.0), (4.0, 8.0), (4.0, -8.0), (10.0, 25.0), (15.0, 60.0)])
def test_circles_are_followed_when_replanning_twice_a_second(speed, radius):
    k = 1.0 / radius
    state, plan, ref = np.array([0.0, 0.0, 0.0, speed, 0.0, 0.0]), np.zeros((9, 3)), np.zeros((9, 6))
    off = []
    for step in range(120):
        if step % 5 == 0:  # the plan: back on the circle from the nearest point of it
            angle = np.arctan2(k * state[0], 1 - k * state[1])
            ahead = angle + speed * k * T
            x, y = np.sin(ahead) / k - state[0], (1 - np.cos(ahead)) / k - state[1]
            c, s = np.cos(state[2]), np.sin(state[2])
            plan_in_map(state, np.stack([c * x + s * y, -s * x + c * y, ahead - state[2]], 1), plan)
            ref[:, :3] = plan
            prepare_reference(ref, CURVATURE_MAX)
        bicycle_step(state, *track(state, ref, step % 5 * 0.1), 0.1, CAR_ACTUATORS)
        off.append(np.hypot(state[0], state[1] - 1 / k) - abs(1 / k))
    assert np.abs(off).max() < 0.3
    assert np.abs(off[60:]).max() < 0.05
    assert state[3] == pytest.approx(speed, abs=0.1)


def test_a_step_aside_settles():
    plan = arc(8.0)
    plan[:, 1] = 1.0
    out = driven(8.0, plan)
    assert out[-1, 1] == pytest.approx(1.0, abs=0.08)
    assert out[:, 1].max() < 1.15


def test_the_plan_is_driven_alike_wherever_it_starts():
    plan = arc(6.0, 0.05)
    here, there = driven(6.0, plan), driven(6.0, plan, (300.0, -40.0, 3.0))
    c, s = np.cos(3.0), np.sin(3.0)
    assert np.allclose(there[:, 0], 300 + c * here[:, 0] - s * here[:, 1])
    assert np.allclose(there[:, 1], -40 + s * here[:, 0] + c * here[:, 1])
    assert np.allclose(there[:, 3:], here[:, 3:])


def test_another_vehicle_is_driven_within_its_own_limits():
    truck = replace(CAR, limits=replace(CAR.limits, accel_min=-4.0, curvature_max=0.08))
    car, braked = driven(12.0, np.zeros((8, 3))), driven(12.0, np.zeros((8, 3)), limits=actuators(truck))
    assert car[:, 4].min() < -6.0
    assert braked[:, 4].min() == pytest.approx(-4.0, abs=0.2)
    assert braked[-1, 0] > car[-1, 0] + 3.0
    turned = driven(4.0, arc(4.0, 0.15), limits=actuators(truck))
    assert (np.abs(turned[1:, 5] / turned[1:, 3])).max() == pytest.approx(0.08, abs=1e-3)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 15), st.floats(0.1, 10))
def test_limits_hold_for_any_plan(seed, speed, wildness):
    rng = np.random.default_rng(seed)
    plan = arc(rng.uniform(0, 15), rng.uniform(-0.2, 0.2)) + rng.normal(0, wildness, (8, 3))
    out = driven(speed, plan)
    assert np.isfinite(out).all()
    assert (out[:, 3] >= 0).all()
    assert (out[:, 4] >= ACCEL_MIN).all()
    assert (out[:, 4] <= ACCEL_MAX).all()
    rolling = out[1:, 3] > 0
    assert (np.abs(np.diff(out[:, 4]))[rolling] <= JERK_MAX * 0.1 + 1e-9).all()
    assert (np.abs(out[:, 5]) <= CURVATURE_MAX * out[:, 3] + 1e-9).all()
    assert (np.abs(out[1:, 5]) * out[1:, 3] <= GRIP + 1e-6).all()

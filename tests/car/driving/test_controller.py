"""The car's controller: its commands, and that the simulator's compiled one gives the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefoundry.sim.ego import CAR_ACTUATORS, bicycle_step, plan_in_map, prepare_reference, track
from drivefoundry.types import DT
from drivefoundry_car.driving.controller import Controller
from drivefoundry_car.vehicle.codec import integrate_controls
from drivefoundry_car.vehicle.embodiment import CAR

ACCEL_MIN, ACCEL_MAX, _, CURVATURE_MAX, *_ = CAR_ACTUATORS
SPEED = st.floats(0.0, 20.0)


def plan_of(speed: float, accel: float, curvature: float) -> np.ndarray:
    """A plan (8, 3) that holds an acceleration and a curvature."""
    return integrate_controls(np.tile([accel, curvature], (1, 8, 1)), np.array([speed]))[0].astype(np.float64)


@given(SPEED, st.floats(-6.0, 2.0), st.floats(-0.2, 0.2), SPEED, st.floats(-2.0, 2.0), st.floats(-0.5, 0.5),
       st.floats(0.0, 5.0), st.integers(0, 1 << 16))  # fmt: skip
def test_the_simulators_controller_commands_the_same(speed, accel, curvature, now, off, turned, seconds, seed):
    noise = np.random.default_rng(seed).normal(0, 0.05, (8, 3))
    pose = np.array([100.0, -40.0, 2.0, now, 0.0, 0.0])
    plan = plan_of(speed, accel, curvature) + noise
    state = np.add(pose, [0.3, off, turned, 0, 0, 0])
    controller, ref = Controller(), np.zeros((9, 6))
    controller.follow(plan, pose[:3])
    plan_in_map(pose, plan, ref)
    prepare_reference(ref, CURVATURE_MAX)
    want = np.clip(track(state, ref, seconds), [ACCEL_MIN, -CURVATURE_MAX], [ACCEL_MAX, CURVATURE_MAX])
    np.testing.assert_allclose(controller.command(state, seconds), want, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("speed", "accel", "curvature"), [(10.0, 0.0, 0.0), (8.0, -1.0, 0.03), (3.0, 1.5, -0.1)])
def test_a_plan_that_can_be_driven_is_followed(speed, accel, curvature):
    state = np.array([5.0, 7.0, -1.0, speed, accel, speed * curvature])
    plan, start = plan_of(speed, accel, curvature), state.copy()
    controller = Controller()
    controller.follow(plan, state[:3])
    for k in range(20):
        bicycle_step(state, *controller.command(state, k * DT), DT, CAR_ACTUATORS)
    c, s = np.cos(start[2]), np.sin(start[2])
    want = np.add(start[:2], [c * plan[3, 0] - s * plan[3, 1], s * plan[3, 0] + c * plan[3, 1]])
    assert np.hypot(*(state[:2] - want)) < 0.25
    assert abs(state[2] - start[2] - plan[3, 2]) < 0.05


def test_commands_stay_within_the_limits_of_the_vehicle():
    truck = replace(CAR.limits, accel_min=-4.0, curvature_max=0.08)
    state, hard_left = np.array([0.0, 0.0, 0.0, 10.0]), plan_of(10.0, -7.0, 0.2)
    for limits in (CAR.limits, truck):
        controller = Controller(limits)
        controller.follow(hard_left, state[:3])
        assert controller.command(state, 1.0) == (limits.accel_min, limits.curvature_max)


def test_a_plan_that_stands_is_braked_for_and_held():
    state = np.array([0.0, 0.0, 0.0, 6.0, 0.0, 0.0])
    controller = Controller()
    controller.follow(np.zeros((8, 3)), state[:3])
    for k in range(40):
        bicycle_step(state, *controller.command(state, k * DT), DT, CAR_ACTUATORS)
    assert state[3] == 0.0
    assert controller.command(state, 4.0)[0] < 0.0

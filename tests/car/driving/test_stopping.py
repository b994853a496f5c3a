"""A stop stays on the planned path, at any rate of decisions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry_car.driving.guard import fine_path
from drivefoundry_car.driving.stopping import BRAKE, Stopping
from drivefoundry_car.vehicle.inputs import to_map


def arc(speed: float, curvature: float) -> np.ndarray:
    """A plan (1, 8, 3) of constant speed and curvature."""
    s = speed * np.arange(1, 9) * 0.5
    yaw = s * curvature
    if abs(curvature) < 1e-9:
        return np.stack([s, 0 * s, 0 * s], 1)[None]
    return np.stack([np.sin(yaw) / curvature, (1 - np.cos(yaw)) / curvature, yaw], 1)[None]


def driven(plan: np.ndarray, first: float, every: float, seconds: float, measured: float = np.nan) -> np.ndarray:
    """Follow a plan for `first` s, then request a stop at the given intervals; where the car was then (K, 3), in the
    frame of the plan. It follows what it is given."""
    stopping, all_cars = Stopping(1), np.ones(1, bool)
    stopping.keep(plan, all_cars)
    pose, poses = np.zeros(3), []
    path, dt = fine_path(plan)[0], first
    for _ in range(1 + round(seconds / every)):
        at = dt / 0.1
        k = min(int(at), 39)
        pose = to_map(path[k] + (at - k) * (path[k + 1] - path[k]), pose)
        poses.append(pose)
        expected = stopping.advance(dt)
        points = stopping.stop(np.where(np.isfinite(measured), measured, expected))
        stopping.given(points, ~all_cars, all_cars)
        path, dt = fine_path(points)[0], every
    return np.array(poses)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 35), st.floats(-0.02, 0.02), st.sampled_from([0.0, 0.5, 1.25]), st.sampled_from([0.5, 0.1]))
def test_a_stop_stays_on_its_arc_in_any_rhythm(speed, curvature, first, every):
    """Braking at 4 m/s^2 to a standstill. Points are 0.5 s apart, so a higher rate sees the mean of the next half
    second, 1 m/s below its start: the car stops that much sooner."""
    poses = driven(arc(speed, curvature), first, every, 10.0)
    moved = np.hypot(*np.diff(poses[:, :2], axis=0).T)
    assert (np.diff(moved) <= 0.05).all()
    assert moved[-1] < 1e-6
    length = speed**2 / (2 * BRAKE)
    sooner = 0.0 if every == 0.5 else 1.0 * speed / BRAKE
    assert 0.98 * length - 0.3 - sooner <= moved.sum() <= 1.02 * length + 0.3
    if speed * first + moved.sum() < 4 * speed and abs(curvature) > 1e-3:  # the planned arc ends after 4 s
        centre = np.hypot(poses[:, 0], poses[:, 1] - 1 / curvature)
        np.testing.assert_allclose(centre, 1 / abs(curvature), atol=0.3)


def test_a_plan_that_brakes_harder_stays_as_hard():
    speed = np.maximum(12.0 - 8.0 * (np.arange(8) * 0.5 + 0.25), 0.0)
    plan = np.zeros((1, 8, 3))
    plan[0, :, 0] = np.cumsum(speed * 0.5)
    end = driven(plan, 0.5, 0.5, 6.0)[-1]
    assert end[0] <= plan[0, -1, 0] + 0.1


def test_a_car_that_stands_stays():
    for plan in (np.zeros((1, 8, 3)), arc(5.0, 0.1)):
        poses = driven(plan, 0.0, 0.5, 5.0, measured=0.0)
        np.testing.assert_allclose(poses, 0, atol=1e-9)


def test_a_car_that_was_given_no_plan_brakes_straight_ahead():
    stopping = Stopping(2)
    assert np.isnan(stopping.advance(0.5)).all()
    points = stopping.stop(np.array([10.0, 0.0]))
    assert points[0, -1, 0] == pytest.approx(12.5, abs=0.05)
    np.testing.assert_allclose(points[0, :, 1:], 0, atol=1e-9)
    np.testing.assert_allclose(points[1], 0, atol=1e-9)

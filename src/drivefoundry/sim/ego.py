"""Ego dynamics: a kinematic bicycle with actuator limits, driven by the car's own controller.

State (6,): x m, y m, yaw rad (map frame, box centre), speed m/s, acceleration m/s^2, yaw rate rad/s. The bicycle is in
curvature form: yaw rate = speed x curvature, and the box centre moves along the yaw (no side slip), as in the action
codec. Plans are followed by `drivefoundry_car.driving.controller`, compiled.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from drivefoundry.geometry import wrap
from drivefoundry_car.driving import controller
from drivefoundry_car.driving.controller import ACCEL_LAG, REF_COLUMNS, REF_POINTS
from drivefoundry_car.vehicle.embodiment import CAR, Embodiment

CURVATURE_LAG = 0.05
"""Time constant of the steering, s (as in nuPlan's motion model)."""


class Actuators(NamedTuple):
    """Dynamic limits of a vehicle (`vehicle.embodiment.Limits`) in the form that compiled code takes."""

    accel_min: float
    accel_max: float
    jerk_max: float
    curvature_max: float
    curvature_rate_max: float
    grip: float


def actuators(body: Embodiment) -> Actuators:
    """The limits of a vehicle's dynamics."""
    return Actuators(*(float(getattr(body.limits, name)) for name in Actuators._fields))


CAR_ACTUATORS = actuators(CAR)

plan_in_map = njit(cache=True, nogil=True)(controller.plan_in_map)
prepare_reference = njit(cache=True, nogil=True)(controller.prepare_reference)
_along = njit(cache=True, nogil=True)(controller.along)
_foot = njit(cache=True, nogil=True)(controller.foot)
_lqr = njit(cache=True, nogil=True)(controller.lqr)


@njit(cache=True, nogil=True)
def bicycle_step(state, accel_cmd, curvature_cmd, dt, limits):
    """Advance state (6,) in place by dt s under an acceleration (m/s^2) and curvature (1/m) command.

    limits: Actuators, which bound acceleration, jerk, curvature, its rate, and lateral acceleration.
    """
    speed, accel = state[3], state[4]
    requested = min(limits.accel_max, max(limits.accel_min, accel_cmd))
    change = (requested - accel) * (1.0 - math.exp(-dt / ACCEL_LAG))
    accel += min(limits.jerk_max * dt, max(-limits.jerk_max * dt, change))
    accel = min(limits.accel_max, max(limits.accel_min, accel))

    # The state contains the yaw rate, so the wheels' curvature is known only while the car rolls.
    most = limits.curvature_max
    k_cmd = min(most, max(-most, curvature_cmd))
    if speed > 0.3:
        k = min(most, max(-most, state[5] / speed))
        change = (k_cmd - k) * (1.0 - math.exp(-dt / CURVATURE_LAG))
        k += min(limits.curvature_rate_max * dt, max(-limits.curvature_rate_max * dt, change))
    else:
        k = k_cmd

    new_speed = max(0.0, speed + accel * dt)
    if new_speed == 0.0:
        accel = -speed / dt if speed > 0.0 else 0.0
        accel = max(accel, limits.accel_min)
    hold = limits.grip / max(new_speed * new_speed, 1e-6)
    k = min(hold, max(-hold, k))

    move = 0.5 * (speed + new_speed) * dt
    turn = move * k
    # Chord of the arc, exact for small turns: the mid heading.
    mid = state[2] + 0.5 * turn
    state[0] += move * math.cos(mid)
    state[1] += move * math.sin(mid)
    state[2] = wrap(state[2] + turn)
    state[3] = new_speed
    state[4] = accel
    state[5] = new_speed * k


@njit(cache=True, nogil=True)
def track(state, ref, t):
    """Acceleration (m/s^2) and curvature (1/m) commands for a state (6,) and a prepared reference, t s after
    planning."""
    i, u = _foot(ref, state[0], state[1])
    return _lqr(state, ref, i, u, _along(ref, t), _along(ref, t + ACCEL_LAG))


@njit(cache=True, nogil=True)
def simulate_plan(state, plan, dt, limits, out):
    """Write the tracked motion of a plan (8, 3) in the ego frame of `state` to out (T, 6): out[0] = state, then every
    dt s."""
    ref = np.empty((REF_POINTS, REF_COLUMNS))
    plan_in_map(state, plan, ref)
    prepare_reference(ref, limits.curvature_max)
    out[0] = state
    for k in range(1, len(out)):
        out[k] = out[k - 1]
        accel, curvature = track(out[k], ref, (k - 1) * dt)
        bicycle_step(out[k], accel, curvature, dt, limits)

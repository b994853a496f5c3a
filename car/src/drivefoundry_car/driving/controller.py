"""LQR tracking of a plan: acceleration and curvature commands from the car's state and a plan.

The functions are plain Python on scalars and numpy arrays, 0.1 ms per command. The simulator compiles these same
functions (`drivefoundry.sim.ego`), so a simulated car follows its plan as the real one does.

State: x m, y m, yaw rad (map frame, box centre), speed m/s; further entries are not read. A reference is an array (9,
6): the pose at planning time and the 8 plan points, each with x, y, yaw, arc length, speed, and the curvature of the
segment that starts there. As in NAVSIM, the longitudinal and the lateral controller are decoupled.
"""

from __future__ import annotations

import math

import numpy as np

from drivefoundry_car.vehicle.embodiment import CAR, PLAN_DT, PLAN_POINTS, Limits

ACCEL_LAG = 0.2
"""Time constant of the drive train, s (as in nuPlan's motion model); look-ahead of the speed reference."""
PLAN_STEP = PLAN_DT
REF_POINTS, REF_COLUMNS = PLAN_POINTS + 1, 6
KP, KV = 1.0, math.sqrt(3.0)
"""LQR gains of the double integrator (position, speed) with Q = diag(1, 1), R = 1."""
STILL = 0.02
"""Segments shorter than this, m, count as standing still, since their direction is undefined."""


class Controller:
    """Follows one plan at a time, within the limits of its vehicle."""

    def __init__(self, limits: Limits = CAR.limits) -> None:
        self.limits = limits
        self._ref = np.zeros((REF_POINTS, REF_COLUMNS))

    def follow(self, points: np.ndarray, pose: np.ndarray) -> None:
        """Set the plan: points (8, 3) x, y, yaw in the ego frame of pose (3,) x, y, yaw in the map frame."""
        plan_in_map(pose, points, self._ref)
        prepare_reference(self._ref, self.limits.curvature_max)

    def command(self, state: np.ndarray, seconds: float) -> tuple[float, float]:
        """Acceleration m/s^2 and curvature 1/m to command, within the limits; state (4+,), seconds since planning."""
        i, u = foot(self._ref, state[0], state[1])
        now, soon = along(self._ref, seconds), along(self._ref, seconds + ACCEL_LAG)
        accel, curvature = lqr(state, self._ref, i, u, now, soon)
        most = self.limits
        return (
            min(most.accel_max, max(most.accel_min, float(accel))),
            min(most.curvature_max, max(-most.curvature_max, float(curvature))),
        )


def plan_in_map(pose, plan, out):
    """Write a plan (8, 3) in the ego frame of pose (3+,) to the poses of a reference, out (9, 3+), in the map frame."""
    c, s = math.cos(pose[2]), math.sin(pose[2])
    out[0, 0], out[0, 1], out[0, 2] = pose[0], pose[1], pose[2]
    for i in range(8):
        out[i + 1, 0] = pose[0] + c * plan[i, 0] - s * plan[i, 1]
        out[i + 1, 1] = pose[1] + s * plan[i, 0] + c * plan[i, 1]
        out[i + 1, 2] = pose[2] + plan[i, 2]


def prepare_reference(ref, curvature_max):
    """Fill in columns 3 to 5 of a reference whose poses are set, and unwrap its yaw.

    Motion against the heading counts as standing still, since the tracker never drives in reverse. Speeds at the points
    are limited so that arc length over time (cubic Hermite) stays monotone (Fritsch and Carlson 1980). curvature_max:
    the vehicle's, 1/m.
    """
    ref[0, 3] = 0.0
    for i in range(8):
        turn = ref[i + 1, 2] - ref[i, 2]
        ref[i + 1, 2] = ref[i, 2] + math.atan2(math.sin(turn), math.cos(turn))
        dx, dy = ref[i + 1, 0] - ref[i, 0], ref[i + 1, 1] - ref[i, 1]
        mid = 0.5 * (ref[i, 2] + ref[i + 1, 2])
        length = math.hypot(dx, dy)
        if dx * math.cos(mid) + dy * math.sin(mid) < 0.0:
            length = 0.0
        ref[i + 1, 3] = ref[i, 3] + length
        ref[i, 5] = 0.0
        if length > STILL:
            k = (ref[i + 1, 2] - ref[i, 2]) / length
            ref[i, 5] = min(curvature_max, max(-curvature_max, k))
    ref[8, 5] = ref[7, 5]
    for i in range(1, 8):
        before = (ref[i, 3] - ref[i - 1, 3]) / PLAN_STEP
        after = (ref[i + 1, 3] - ref[i, 3]) / PLAN_STEP
        ref[i, 4] = min(0.5 * (before + after), 3.0 * min(before, after))
    first, last = ref[1, 3] / PLAN_STEP, (ref[8, 3] - ref[7, 3]) / PLAN_STEP
    ref[0, 4] = min(max(0.0, 1.5 * first - 0.5 * ref[1, 4]), 3.0 * first)
    ref[8, 4] = min(max(0.0, 1.5 * last - 0.5 * ref[7, 4]), 3.0 * last)


def along(ref, t):
    """Arc length m, speed m/s and acceleration m/s^2 of the reference t s after planning; at rest after its end."""
    if t >= 8 * PLAN_STEP:
        return ref[8, 3], 0.0, 0.0
    i = int(t / PLAN_STEP)
    u = t / PLAN_STEP - i
    d = ref[i + 1, 3] - ref[i, 3]
    v0, v1 = ref[i, 4] * PLAN_STEP, ref[i + 1, 4] * PLAN_STEP
    a, b = v0 + v1 - 2.0 * d, 3.0 * d - 2.0 * v0 - v1
    place = ref[i, 3] + u * (v0 + u * (b + u * a))
    speed = (v0 + u * (2.0 * b + 3.0 * a * u)) / PLAN_STEP
    return place, speed, (2.0 * b + 6.0 * a * u) / (PLAN_STEP * PLAN_STEP)


def foot(ref, x, y):
    """Nearest place on the reference: segment (-1 if all stand still) and position along it; extrapolated at the
    ends."""
    best, best_u, best_d = -1, 0.0, math.inf
    first, last = -1, -1
    for i in range(8):
        if ref[i + 1, 3] - ref[i, 3] > STILL:
            if first < 0:
                first = i
            last = i
    for i in range(max(first, 0), last + 1):
        ex, ey = ref[i + 1, 0] - ref[i, 0], ref[i + 1, 1] - ref[i, 1]
        if ref[i + 1, 3] - ref[i, 3] <= STILL:
            continue
        rx, ry = x - ref[i, 0], y - ref[i, 1]
        u = (rx * ex + ry * ey) / (ex * ex + ey * ey)
        if i != first:
            u = max(0.0, u)
        if i != last:
            u = min(1.0, u)
        d = (rx - u * ex) ** 2 + (ry - u * ey) ** 2
        if d < best_d:
            best, best_u, best_d = i, u, d
    return best, best_u


def lqr(state, ref, i, u, now, soon):
    """Acceleration (m/s^2) and curvature (1/m) commands, before the actuators' limits.

    i, u: the car's place on the reference (`foot`); now, soon: the reference now and ACCEL_LAG later (`along`).
    Longitudinal: LQR on arc-length and speed error, with the reference's acceleration as feed-forward. Lateral: LQR of
    the error dynamics in arc length, e'' = curvature - reference curvature, with Q = diag(reach^-4, 0), R = 1, which
    has a closed-form solution (1 / reach^2, sqrt(2) / reach); reach grows with speed.
    """
    x, y, yaw, speed = state[0], state[1], state[2], state[3]
    if i < 0:  # the plan stands still: keep the wheel straight and brake
        here = (x - ref[0, 0]) * math.cos(ref[0, 2]) + (y - ref[0, 1]) * math.sin(ref[0, 2])
        return -KV * speed - KP * max(0.0, here) - 0.5, 0.0
    length = ref[i + 1, 3] - ref[i, 3]
    here = ref[i, 3] + u * length

    place, v_ref, _ = now
    _, v_soon, a_ref = soon
    accel = a_ref + KV * (v_ref - speed) + KP * (place - here)
    if v_ref < 0.1 and v_soon < 0.1 and speed < 0.3 and place - here < 0.2:
        accel = -1.0 - KV * speed  # close enough to the plan's stop: hold the brake

    # Lateral error relative to the arc through both ends, not its chord; heading follows the arc.
    share = min(1.0, max(0.0, u))
    k_here = ref[i, 5]
    ex, ey = ref[i + 1, 0] - ref[i, 0], ref[i + 1, 1] - ref[i, 1]
    chord = math.hypot(ex, ey)
    off = (ex * (y - ref[i, 1]) - ey * (x - ref[i, 0])) / chord
    off += 0.5 * k_here * length * length * share * (1.0 - share)
    turn = yaw - (ref[i, 2] + share * (ref[i + 1, 2] - ref[i, 2]))
    turn = min(1.0, max(-1.0, math.atan2(math.sin(turn), math.cos(turn))))
    reach = 1.5 + 0.5 * speed
    ahead = here + 0.25 * speed  # steering is rate-limited: use the curvature slightly ahead
    j = i
    while j < 7 and ref[j + 1, 3] < ahead:
        j += 1
    k_ref = ref[j, 5]
    return accel, k_ref - off / (reach * reach) - math.sqrt(2.0) * turn / reach

"""A plan in, the ego's motion out: kinematic bicycle with actuator limits, and the LQR tracker that follows a plan.

State (6,): x m, y m, yaw rad (map frame, box centre), speed m/s, acceleration m/s^2, yaw rate rad/s. The bicycle is in
curvature form: yaw rate = speed x curvature, and the box centre moves along the yaw (no side slip), as in the action
codec.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from drivefoundry.geometry import wrap

ACCEL_MIN, ACCEL_MAX = -8.0, 3.0
"""Full braking on dry road and full throttle, m/s^2."""
JERK_MAX = 20.0
"""m/s^3: full braking builds up in 0.4 s."""
CURVATURE_MAX = 0.2
"""1/m: a turning circle of 10 m."""
CURVATURE_RATE_MAX = 0.3
"""1/(m s): lock to straight in 0.7 s."""
GRIP = 8.0
"""Largest lateral acceleration that tyres hold, m/s^2."""
ACCEL_LAG, CURVATURE_LAG = 0.2, 0.05
"""Time constants of drive train and steering, s (those of nuPlan's motion model)."""
PLAN_STEP = 0.5
REF_POINTS, REF_COLUMNS = 9, 6
"""Shape of a tracker reference: start pose + 8 plan points; x, y, yaw, arc length, speed, curvature of the segment
from here."""

KP, KV = 1.0, math.sqrt(3.0)
"""LQR gains of the double integrator (position, speed) with Q = diag(1, 1), R = 1."""
STILL = 0.02
"""Segments shorter than this, m, are standing still: they have no direction of their own."""


@njit(cache=True, nogil=True)
def bicycle_step(state, accel_cmd, curvature_cmd, dt):
    """Advance state (6,) in place by dt s under an acceleration (m/s^2) and curvature (1/m) command."""
    speed, accel = state[3], state[4]
    wanted = min(ACCEL_MAX, max(ACCEL_MIN, accel_cmd))
    change = (wanted - accel) * (1.0 - math.exp(-dt / ACCEL_LAG))
    accel += min(JERK_MAX * dt, max(-JERK_MAX * dt, change))
    accel = min(ACCEL_MAX, max(ACCEL_MIN, accel))

    # The state holds the yaw rate, so the wheels' curvature is known only while the car rolls.
    k_cmd = min(CURVATURE_MAX, max(-CURVATURE_MAX, curvature_cmd))
    if speed > 0.3:
        k = min(CURVATURE_MAX, max(-CURVATURE_MAX, state[5] / speed))
        change = (k_cmd - k) * (1.0 - math.exp(-dt / CURVATURE_LAG))
        k += min(CURVATURE_RATE_MAX * dt, max(-CURVATURE_RATE_MAX * dt, change))
    else:
        k = k_cmd

    new_speed = max(0.0, speed + accel * dt)
    if new_speed == 0.0:
        accel = -speed / dt if speed > 0.0 else 0.0
        accel = max(accel, ACCEL_MIN)
    hold = GRIP / max(new_speed * new_speed, 1e-6)
    k = min(hold, max(-hold, k))

    move = 0.5 * (speed + new_speed) * dt
    turn = move * k
    # Exact chord of the arc for small turns: the mid heading.
    mid = state[2] + 0.5 * turn
    state[0] += move * math.cos(mid)
    state[1] += move * math.sin(mid)
    state[2] = wrap(state[2] + turn)
    state[3] = new_speed
    state[4] = accel
    state[5] = new_speed * k


@njit(cache=True, nogil=True)
def plan_in_map(pose, plan, out):
    """Pose (3+,) at planning time and plan (8, 3) in its ego frame in; the pose and the 8 points in the map frame into
    out (9, 3+)."""
    c, s = math.cos(pose[2]), math.sin(pose[2])
    out[0, 0], out[0, 1], out[0, 2] = pose[0], pose[1], pose[2]
    for i in range(8):
        out[i + 1, 0] = pose[0] + c * plan[i, 0] - s * plan[i, 1]
        out[i + 1, 1] = pose[1] + s * plan[i, 0] + c * plan[i, 1]
        out[i + 1, 2] = pose[2] + plan[i, 2]


@njit(cache=True, nogil=True)
def prepare_reference(ref):
    """Fill in a tracker reference (9, 6) whose x, y, yaw (map frame; start pose first) are set.

    Columns 3 to 5 become arc length, speed and the curvature of the segment that starts there; yaw is unwrapped. Motion
    against the heading counts as standing still: the tracker never drives backwards. Speeds at the points are limited
    so that arc length over time (cubic Hermite) stays monotone (Fritsch and Carlson 1980).
    """
    ref[0, 3] = 0.0
    for i in range(8):
        ref[i + 1, 2] = ref[i, 2] + wrap(ref[i + 1, 2] - ref[i, 2])
        dx, dy = ref[i + 1, 0] - ref[i, 0], ref[i + 1, 1] - ref[i, 1]
        mid = 0.5 * (ref[i, 2] + ref[i + 1, 2])
        length = math.hypot(dx, dy)
        if dx * math.cos(mid) + dy * math.sin(mid) < 0.0:
            length = 0.0
        ref[i + 1, 3] = ref[i, 3] + length
        ref[i, 5] = 0.0
        if length > STILL:
            k = (ref[i + 1, 2] - ref[i, 2]) / length
            ref[i, 5] = min(CURVATURE_MAX, max(-CURVATURE_MAX, k))
    ref[8, 5] = ref[7, 5]
    for i in range(1, 8):
        before = (ref[i, 3] - ref[i - 1, 3]) / PLAN_STEP
        after = (ref[i + 1, 3] - ref[i, 3]) / PLAN_STEP
        ref[i, 4] = min(0.5 * (before + after), 3.0 * min(before, after))
    first, last = ref[1, 3] / PLAN_STEP, (ref[8, 3] - ref[7, 3]) / PLAN_STEP
    ref[0, 4] = min(max(0.0, 1.5 * first - 0.5 * ref[1, 4]), 3.0 * first)
    ref[8, 4] = min(max(0.0, 1.5 * last - 0.5 * ref[7, 4]), 3.0 * last)


@njit(cache=True, nogil=True)
def _along(ref, t):
    """Arc length m, speed m/s and acceleration m/s^2 that the reference has at t s after planning; it rests at its
    end."""
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


@njit(cache=True, nogil=True)
def _foot(ref, x, y):
    """Nearest place on the reference: (segment or -1 if all stands still, share along it; past the ends it runs on)."""
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


@njit(cache=True, nogil=True)
def track(state, ref, t):
    """State (6,) and prepared reference (9, 6), t s after planning, in; (acceleration, curvature) command out.

    Longitudinal: LQR on arc-length and speed error with the reference's acceleration fed forward. Lateral: LQR of the
    error dynamics in arc length, e'' = curvature - reference curvature, with Q = diag(reach^-4, 0), R = 1, whose
    solution is closed (1 / reach^2, sqrt(2) / reach); reach grows with speed. As in NAVSIM the two are decoupled.
    """
    x, y, yaw, speed = state[0], state[1], state[2], state[3]
    i, u = _foot(ref, x, y)
    if i < 0:  # the plan stands still: hold the wheel straight and brake
        here = (x - ref[0, 0]) * math.cos(ref[0, 2]) + (y - ref[0, 1]) * math.sin(ref[0, 2])
        return -KV * speed - KP * max(0.0, here) - 0.5, 0.0
    length = ref[i + 1, 3] - ref[i, 3]
    here = ref[i, 3] + u * length

    place, v_ref, _ = _along(ref, t)
    _, v_soon, a_ref = _along(ref, t + ACCEL_LAG)
    accel = a_ref + KV * (v_ref - speed) + KP * (place - here)
    if v_ref < 0.1 and v_soon < 0.1 and speed < 0.3 and place - here < 0.2:
        accel = -1.0 - KV * speed  # close enough to where the plan stops: hold the brake

    # Lateral error against the arc through both ends rather than their chord; heading follows the arc.
    share = min(1.0, max(0.0, u))
    k_here = ref[i, 5]
    ex, ey = ref[i + 1, 0] - ref[i, 0], ref[i + 1, 1] - ref[i, 1]
    chord = math.hypot(ex, ey)
    off = (ex * (y - ref[i, 1]) - ey * (x - ref[i, 0])) / chord
    off += 0.5 * k_here * length * length * share * (1.0 - share)
    turn = wrap(yaw - (ref[i, 2] + share * (ref[i + 1, 2] - ref[i, 2])))
    turn = min(1.0, max(-1.0, turn))
    reach = 1.5 + 0.5 * speed
    ahead = here + 0.25 * speed  # steering is rate limited: look where the curve will be a moment later
    j = i
    while j < 7 and ref[j + 1, 3] < ahead:
        j += 1
    k_ref = ref[j, 5]
    return accel, k_ref - off / (reach * reach) - math.sqrt(2.0) * turn / reach


@njit(cache=True, nogil=True)
def simulate_plan(state, plan, dt, out):
    """Start state (6,) and plan (8, 3) in its ego frame in; out (T, 6) the tracked motion, out[0] = state, dt s
    apart."""
    ref = np.empty((REF_POINTS, REF_COLUMNS))
    plan_in_map(state, plan, ref)
    prepare_reference(ref)
    out[0] = state
    for k in range(1, len(out)):
        out[k] = out[k - 1]
        accel, curvature = track(out[k], ref, (k - 1) * dt)
        bicycle_step(out[k], accel, curvature, dt)

"""Rule-based guard: the last check that makes planned trajectories safe to follow.

The guard knows three things: the car's limits (acceleration, lateral acceleration, curvature), where the objects
reported by perception will be if they keep their velocity, and that braking along the planned path is the answer to a
predicted contact. Without reported objects only the kinematic limits apply. It never leaves the path and never speeds
up.

S cars are checked at once; arrays are numpy, nothing is compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drivefoundry_car.vehicle.embodiment import CAR, PLAN_DT, PLAN_POINTS, STEP_S, Embodiment

POINTS = PLAN_POINTS
FINE = round(PLAN_DT / STEP_S)
FINE_DT = PLAN_DT / FINE
"""Contacts are checked every 0.1 s."""
NO_CONTACT = POINTS * FINE + 1
SPEED_SLACK = 0.5
"""Tolerance between measured speed and the speed of the plan's first segment, m/s; beyond it, the plan is
infeasible."""
PASSES = 8
SLIP = 0.35
"""A segment at a larger angle than this to the heading cannot be driven by a car, rad."""


@dataclass(frozen=True)
class Guard:
    """Limits of one vehicle type, in SI units, and the check of plans against them."""

    length: float = CAR.length
    width: float = CAR.width
    max_accel: float = CAR.limits.guard_accel
    max_lat_accel: float = CAR.limits.guard_lateral
    max_curvature: float = CAR.limits.guard_curvature
    """1/m."""
    decision_dt: float = CAR.decision_dt
    """Time until the planner's next decision, s."""
    margin_ahead: float = 0.3
    """Margin added to the ego box at each end, m."""
    margin_beside: float = 0.2
    brakes: tuple[float, ...] = (2.5, 4.0, 6.0, 8.0)
    """Decelerations to try, mildest first, m/s^2."""
    wait_brake: float = 4.0
    """A contact is left to the planner's next decision if braking at this rate from then on still stops short of it
    ..."""
    wait_gap: float = 1.0
    """... by this distance, m."""

    @staticmethod
    def of(body: Embodiment) -> Guard:
        """The guard for a vehicle."""
        limits = body.limits
        return Guard(
            body.length, body.width, limits.guard_accel, limits.guard_lateral, limits.guard_curvature, body.decision_dt
        )

    def check(
        self, points: np.ndarray, speed: np.ndarray, objects: Sequence[np.ndarray | None] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Make plans safe; returns them and which were changed. A safe plan is returned bit-identical.

        points (S, 8, 3) x, y, yaw in the ego frame (box centre) at 0.5 .. 4.0 s; speed (S,) measured, m/s; objects:
        None (no perception), or one entry per car: None, or (n, 6+) x, y, yaw, speed, length, width in the ego frame.
        Returns points (S, 8, 3) float64 and changed (S,) bool. A plan with NaN becomes braking straight ahead.
        ValueError for wrong shapes and for objects without a finite position.
        """
        limited, changed = self.limit(points, speed)
        rows, scene = flat_objects(objects, len(limited))
        if not len(rows):
            return limited, changed
        braked, brakes = self._brake(limited, np.asarray(speed, np.float64), rows, scene)
        return braked, changed | brakes

    def limit(self, points: np.ndarray, speed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest drivable plans: forward only, within the limits of acceleration, lateral acceleration and
        curvature.

        Shapes as in `check`. Paths with too much curvature or slip are re-driven by pure pursuit (Coulter 1992) of the
        planned points at the curvature limit; segments that are too fast are slowed along the path. Braking is not
        limited here: the brakes do that.
        """
        points = np.array(points, np.float64)
        speed = np.asarray(speed, np.float64)
        if points.ndim != 3 or points.shape[1:] != (POINTS, 3) or speed.shape != (len(points),):
            raise ValueError(f"plan: must have points (S, 8, 3) and speed (S,), got {points.shape} and {speed.shape}")
        if not np.isfinite(speed).all():
            raise ValueError("plan: the measured speed is not finite; the car cannot be guarded without it")
        speed = np.maximum(speed, 0.0)
        lost = ~np.isfinite(points).all((1, 2))
        if lost.any():
            points[lost] = _straight_stop(speed[lost], self.wait_brake)
        ds, turn, slip = _stretches(points)
        redo = (self._too_tight(ds, turn) | ((np.abs(slip) > SLIP) & (np.abs(ds) > 0.5))).any(1) & ~lost
        changed = np.asarray(lost | redo)
        for _ in range(PASSES):  # slowing moves times and so the speeds allowed, which the next pass checks
            if redo.any():
                points[redo] = _pursue(points[redo], np.maximum(ds[redo], 0.0), self.max_curvature)
                ds[redo], turn[redo], _ = _stretches(points[redo])
            allowed = self._speed_limits(ds, turn, speed)
            slow = (ds > allowed * PLAN_DT + 1e-3).any(1) | (ds < -0.05).any(1)
            if not slow.any():
                break
            s = np.cumsum(allowed[slow] * PLAN_DT, 1)
            points[slow] = poses_along(fine_path(points[slow]), s)
            ds[slow], turn[slow], _ = _stretches(points[slow])
            # a long segment's curve is tighter in places than its mean, and slowing has cut out one of these
            redo = slow & self._too_tight(ds, turn).any(1)
            changed |= slow
        return points, changed

    def _too_tight(self, ds: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """(S, 8) bool: segments that turn more than the curvature limit allows, by over 0.05 rad."""
        return np.abs(turn) > self.max_curvature * np.maximum(ds, 0.0) + 0.05

    def _speed_limits(self, ds: np.ndarray, turn: np.ndarray, speed: np.ndarray) -> np.ndarray:
        """Maximum mean speed of each segment, (S, 8), m/s: lateral and forward acceleration, and braking in time."""
        planned = np.maximum(ds, 0.0) / PLAN_DT
        curvature = np.abs(turn) / np.maximum(np.abs(ds), 0.2)
        allowed = np.minimum(planned, np.sqrt(self.max_lat_accel / np.maximum(curvature, 1e-6)))
        # the mean of the first segment is at 0.25 s after the measured speed
        before = speed + SPEED_SLACK - self.max_accel * PLAN_DT / 2
        for k in range(POINTS):
            allowed[:, k] = before = np.minimum(allowed[:, k], before + self.max_accel * PLAN_DT)
        for k in range(POINTS - 2, -1, -1):  # if a later segment was slowed, real brakes must be able to reach it
            reach = allowed[:, k + 1] + self.brakes[-1] * PLAN_DT
            late = (allowed[:, k + 1] < planned[:, k + 1]) & (allowed[:, k] > reach)
            allowed[:, k] = np.where(late, reach, allowed[:, k])
        return allowed

    def _brake(
        self, points: np.ndarray, speed: np.ndarray, rows: np.ndarray, scene: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Brake along the path if a contact is predicted and the next decision would be too late."""
        fine = fine_path(points)
        first, harm = self._harm(fine, rows, scene)
        step = np.hypot(*np.moveaxis(np.diff(fine[..., :2], axis=1), -1, 0))
        run = np.concatenate([np.zeros((len(fine), 1)), np.cumsum(step, 1)], 1)
        soon = round(self.decision_dt / FINE_DT)
        next_speed = step[:, soon] / FINE_DT
        spare = run[:, soon] + next_speed**2 / (2 * self.wait_brake) + self.wait_gap
        at = np.take_along_axis(run, np.minimum(first, POINTS * FINE)[:, None], 1)[:, 0]
        act = np.flatnonzero((first < NO_CONTACT) & (at <= spare))
        changed = np.zeros(len(points), bool)
        if not len(act):
            return points, changed
        local = np.full(len(points), -1)
        local[act] = np.arange(len(act))
        mine = local[scene] >= 0
        rows, scene = rows[mine], local[scene[mine]]
        best, out = harm[act], points[act]
        for b in self.brakes:
            t = (np.arange(POINTS * FINE) + 0.5) * FINE_DT
            v = np.minimum(step[act] / FINE_DT, np.maximum(speed[act, None] - b * t, 0.0))
            s = np.cumsum(v * FINE_DT, 1)[:, FINE - 1 :: FINE]
            tried = poses_along(fine[act], s)
            _, h = self._harm(fine_path(tried), rows, scene)
            better = h < best - 1e-9  # the mildest among equals stays
            out[better], best[better] = tried[better], h[better]
            changed[act[better]] = True
        points[act] = out
        return points, changed

    def _harm(self, fine: np.ndarray, rows: np.ndarray, scene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First step of a contact of the inflated boxes (S,) and the harm (S,) on fine paths (S, 41, 3).

        Harm orders plans: first by the ego's speed at the first contact of the true boxes, then of the inflated ones; 0
        means no contact. An object that first touches with its centre behind the ego's rear end is its own driver's
        responsibility and not counted; otherwise a fast follower would make the ego brake.
        """
        cars, steps = len(fine), fine.shape[1]
        t = (np.arange(steps) * FINE_DT).astype(np.float32)
        vx, vy = rows[:, 3] * np.cos(rows[:, 2]), rows[:, 3] * np.sin(rows[:, 2])
        ego = fine.astype(np.float32)[scene]
        dx = (rows[:, 0].astype(np.float32)[:, None] + vx.astype(np.float32)[:, None] * t) - ego[..., 0]
        dy = (rows[:, 1].astype(np.float32)[:, None] + vy.astype(np.float32)[:, None] * t) - ego[..., 1]
        margin = self.margin_ahead, self.margin_beside
        reach = np.hypot(self.length / 2 + margin[0], self.width / 2 + margin[1]) + np.hypot(rows[:, 4], rows[:, 5]) / 2
        near = dx * dx + dy * dy < (reach.astype(np.float32) ** 2)[:, None]
        m, k = np.nonzero(near)
        yaw = fine[scene[m], k, 2]
        c, s = np.cos(yaw), np.sin(yaw)
        x, y = c * dx[m, k] + s * dy[m, k], c * dy[m, k] - s * dx[m, k]
        other = rows[m, 4] / 2, rows[m, 5] / 2, rows[m, 2] - yaw
        true = boxes_touch(x, y, *other, self.length / 2, self.width / 2)
        wide = boxes_touch(x, y, *other, self.length / 2 + margin[0], self.width / 2 + margin[1])
        tight = np.zeros(len(rows), bool)
        tight[m[wide & (k == 0)]] = True  # margin already violated: only the true boxes are informative
        wide = np.where(tight[m], true, wide)
        behind = x <= -self.length / 2
        speed = np.zeros((cars, steps))
        speed[:, 1:] = np.hypot(*np.moveaxis(np.diff(fine[..., :2], axis=1), -1, 0)) / FINE_DT
        harm = np.zeros(cars)
        first = np.full(cars, NO_CONTACT)
        for touch, weight in ((true, 1000.0), (wide, 1.0)):
            begin = np.full(len(rows), NO_CONTACT)
            np.minimum.at(begin, m[touch], k[touch])
            theirs = np.zeros(len(rows), bool)
            theirs[m[touch & behind & (k == begin[m])]] = True
            ours = touch & ~theirs[m] & (k > 0)
            first = np.full(cars, NO_CONTACT)
            np.minimum.at(first, scene[m[ours]], k[ours])
            hit = first < NO_CONTACT
            harm[hit] += weight * (0.1 + speed[hit, first[hit]])
        return first, harm


class Unguarded(Guard):
    """Leaves every plan unchanged, for simulations that measure the planner alone. No car drives with it."""

    def check(
        self, points: np.ndarray, speed: np.ndarray, objects: Sequence[np.ndarray | None] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same points, and (S,) False."""
        return points, np.zeros(len(points), np.bool_)


def flat_objects(objects: Sequence[np.ndarray | None] | None, cars: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (M, 6) float64 of all cars' objects, and the car of each (M,). ValueError for a wrong shape."""
    if objects is None:
        return np.zeros((0, 6)), np.zeros(0, np.int64)
    if len(objects) != cars:
        raise ValueError(f"objects: must be one array (or None) per car, got {len(objects)} for {cars} cars")
    parts = [np.zeros((0, 6)) if o is None else np.asarray(o, np.float64) for o in objects]
    for i, part in enumerate(parts):
        if part.ndim != 2 or part.shape[1] < 6:
            raise ValueError(f"objects of car {i}: must be (n, 6) x, y, yaw, speed, length, width, got {part.shape}")
    rows = np.concatenate([p[:, :6] for p in parts]) if parts else np.zeros((0, 6))
    if not np.isfinite(rows).all():
        raise ValueError("objects: NaN or infinite value; leave out objects whose state is unknown")
    return rows, np.repeat(np.arange(cars), [len(p) for p in parts])


def boxes_touch(
    x: np.ndarray, y: np.ndarray, hl: np.ndarray, hw: np.ndarray, yaw: np.ndarray, ego_hl: float, ego_hw: float
) -> np.ndarray:
    """(n,) bool: whether oriented boxes touch the ego's at the origin, by separating axes.

    x, y, yaw of the other box in the ego frame; hl, hw its half length and half width; ego_hl, ego_hw the ego's.
    """
    c, s = np.cos(yaw), np.sin(yaw)
    ac, as_ = np.abs(c), np.abs(s)
    return (
        (np.abs(x) <= ego_hl + hl * ac + hw * as_)
        & (np.abs(y) <= ego_hw + hl * as_ + hw * ac)
        & (np.abs(x * c + y * s) <= hl + ego_hl * ac + ego_hw * as_)
        & (np.abs(y * c - x * s) <= hw + ego_hl * as_ + ego_hw * ac)
    )


def _stretches(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed arc length m, turn rad and slip rad of each of the 8 segments of plans (S, 8, 3), (S, 8) each."""
    p = np.concatenate([np.zeros((len(points), 1, 3)), points], 1)
    d = np.diff(p, axis=1)
    turn = _wrap(d[..., 2])
    chord = np.hypot(d[..., 0], d[..., 1])
    slip = _wrap(np.arctan2(d[..., 1], d[..., 0]) - (p[:, :-1, 2] + turn / 2))
    back = np.abs(slip) > np.pi / 2
    half = np.abs(turn) / 2
    arc = chord * np.where(half > 1e-3, half / np.maximum(np.sin(np.minimum(half, 1.5)), 1e-9), 1.0)
    return np.where(back, -arc, arc), turn, np.where(back, _wrap(slip + np.pi), slip)


def fine_path(points: np.ndarray) -> np.ndarray:
    """Paths every 0.1 s (S, 41, 3) of plans (S, 8, 3), from the origin: cubic Hermite with the planned headings; yaw
    unwrapped.
    """
    n = len(points)
    p = np.concatenate([np.zeros((n, 1, 3)), points], 1)
    d = np.diff(p, axis=1)
    turn = _wrap(d[..., 2])
    yaw = np.concatenate([np.zeros((n, 1)), np.cumsum(turn, 1)], 1)
    chord = np.hypot(d[..., 0], d[..., 1])[..., None]
    head = np.stack([np.cos(yaw), np.sin(yaw)], -1)
    # a segment driven in reverse has reversed tangents
    way = np.where((d[..., :2] * (head[:, :-1] + head[:, 1:])).sum(-1, keepdims=True) < 0, -chord, chord)
    u = ((np.arange(FINE) + 1) / FINE)[:, None]
    h10, h01, h11 = u**3 - 2 * u**2 + u, 3 * u**2 - 2 * u**3, u**3 - u**2
    out = np.zeros((n, POINTS * FINE + 1, 3))
    xy = p[:, :-1, None, :2] + h01 * d[:, :, None, :2]
    xy = xy + h10 * (way * head[:, :-1])[:, :, None] + h11 * (way * head[:, 1:])[:, :, None]
    out[:, 1:, :2] = xy.reshape(n, -1, 2)
    out[:, 1:, 2] = (yaw[:, :-1, None] + u[:, 0] * turn[..., None]).reshape(n, -1)
    return out


def poses_along(fine: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Poses (S, 8, 3) at arc lengths (S, 8) of fine paths (S, 41, 3); beyond the end, the end."""
    step = np.hypot(*np.moveaxis(np.diff(fine[..., :2], axis=1), -1, 0))
    run = np.concatenate([np.zeros((len(fine), 1)), np.cumsum(step, 1)], 1)
    i = np.clip((run[:, None, :] <= s[..., None]).sum(-1) - 1, 0, fine.shape[1] - 2)
    take = lambda a, j: np.take_along_axis(a, j, 1)  # noqa: E731
    u = np.clip((s - take(run, i)) / np.maximum(take(step, i), 1e-9), 0.0, 1.0)[..., None]
    a = np.take_along_axis(fine, i[..., None], 1)
    b = np.take_along_axis(fine, i[..., None] + 1, 1)
    out = a + u * (b - a)
    out[..., 2] = _wrap(out[..., 2])
    return out


def _pursue(points: np.ndarray, ds: np.ndarray, max_curvature: float) -> np.ndarray:
    """Drive arcs of lengths ds (S, 8) towards each plan point in turn, within max_curvature; returns (S, 8, 3)."""
    pose = np.zeros((len(points), 3))
    out = np.empty_like(points)
    for k in range(POINTS):
        d = points[:, k, :2] - pose[:, :2]
        far = np.hypot(d[:, 0], d[:, 1])
        bearing = _wrap(np.arctan2(d[:, 1], d[:, 0]) - pose[:, 2])
        curvature = np.where(far > 0.1, 2 * np.sin(np.clip(bearing, -np.pi / 2, np.pi / 2)) / np.maximum(far, 0.1), 0.0)
        turn = np.clip(curvature, -max_curvature, max_curvature) * ds[:, k]
        chord = ds[:, k] * np.sinc(turn / 2 / np.pi)
        mid = pose[:, 2] + turn / 2
        pose = np.stack(
            [pose[:, 0] + chord * np.cos(mid), pose[:, 1] + chord * np.sin(mid), _wrap(pose[:, 2] + turn)], 1
        )
        out[:, k] = pose
    return out


def _straight_stop(speed: np.ndarray, brake: float) -> np.ndarray:
    """Plans (S, 8, 3) that brake straight ahead to a stop from speeds (S,)."""
    t = np.minimum((np.arange(POINTS) + 1) * PLAN_DT, speed[:, None] / brake)
    out = np.zeros((len(speed), POINTS, 3))
    out[..., 0] = speed[:, None] * t - brake * t**2 / 2
    return out


def _wrap(a: np.ndarray) -> np.ndarray:
    """Wrap angles to (-pi, pi]; angles already in that range are unchanged."""
    return np.where(np.abs(a) <= np.pi, a, np.arctan2(np.sin(a), np.cos(a)))

"""Derive the named signals that rules use from a Drive: (T,) arrays on the drive's own clock, SI units.

No signal looks ahead, and none looks back more than LOOKBACK_S, so a running car that derives the signals of its newest
sample from the last LOOKBACK_S (`latest`) gets the same values as `signals_of` on the stored drive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from drivefoundry_car.log.drive import Drive, Plans, cut
from drivefoundry_car.triggers.novelty import Sent, embedding
from drivefoundry_car.triggers.rules import FLAG, PLAIN, Dimension
from drivefoundry_car.triggers.watch.surroundings import around, place_on

METRES, SECONDS = (1, 0, 0), (0, 1, 0)
SIGNALS: dict[str, Dimension | str] = {
    "speed": (1, -1, 0),
    "accel": (1, -2, 0),
    "accel_lon": (1, -2, 0),
    "jerk": (1, -3, 0),
    "lat_accel": (1, -2, 0),
    "yaw_rate": (0, -1, 1),
    "steering_wheel_angle": (0, 0, 1),
    "steer_rate": (0, -1, 1),
    "ttc": SECONDS,
    "gap": METRES,
    "pedestrian_gap": METRES,
    "cyclist_gap": METRES,
    "lead_gap": METRES,
    "lead_speed": (1, -1, 0),
    "headway": SECONDS,
    "stopped_gap": METRES,
    "oncoming_gap": METRES,
    "cut_in_gap": METRES,
    "crossing_gap": METRES,
    "objects_near": PLAIN,
    "route_offset": METRES,
    "speed_limit": (1, -1, 0),
    "red_gap": METRES,
    "disagreement": METRES,
    "plan_error": METRES,
    "novelty": PLAIN,
    "takeover": FLAG,
    "engaged": FLAG,
    "pick": FLAG,
}
"""Name -> dimension (powers of metre, second, radian), or a flag."""
HOLD_S = 0.5
"""Duration of a disagreement (until the next decision) and of a pick, s."""
AGE_S = 2.0
"""Age at which a plan is compared with what the car did, s."""
LOOKBACK_S = AGE_S + 2 * HOLD_S
OFF_ROUTE = 10.0
"""Largest distance from the route at which a car is on it, m."""
RED = 3


@dataclass(frozen=True)
class SignalContext:
    """Inputs of signals beyond the drive: the stop lines (G, 4) x0, y0, x1, y1 of the map's signals, and what the fleet
    has uploaded."""

    stop_lines: np.ndarray | None = None
    sent: Sent | None = None


class SignalSource(NamedTuple):
    """The signals that a car has, and what they need beyond the drive."""

    names: Sequence[str] = tuple(SIGNALS)
    context: SignalContext | None = None


def signals_of(drive: Drive, context: SignalContext | None = None) -> dict[str, np.ndarray]:
    """Signals available in this drive: quantities (T,) float64 (NaN unknown, inf for no object), flags (T,) bool.

    speed, accel (accel_lon is the same), yaw_rate, steering_wheel_angle as recorded; lat_accel: speed times yaw rate;
    jerk, steer_rate: change of accel and steering_wheel_angle since the last sample.
    ttc: s until the ego, at both present speeds along its heading, touches an object in its own corridor; gap,
    pedestrian_gap, cyclist_gap: m to the nearest object's box (boxes widened to the ego's axes).
    On the ego's path, curved by its yaw rate, m from bumper to box: lead_gap to the road user ahead, moving or standing
    (lead_speed along the path; headway: lead_gap over speed), stopped_gap to a standing one, cut_in_gap to one that has
    entered from the side at this sample, crossing_gap to a pedestrian on the path or a pedestrian or cyclist entering
    it; oncoming_gap to oncoming traffic up to 12 m to the side. objects_near: number within 30 m.
    On the route: route_offset: m left of it; speed_limit; red_gap: m to the next stop line under a red light, down to
    minus half the ego's length when the front is over it (needs context.stop_lines).
    disagreement: largest distance (m) between the points of plan and correction, held for 0.5 s. plan_error: m between
    the car's position and the one predicted by its plan of 2 s ago. novelty: see `drivefoundry_car.triggers.novelty`
    (needs context.sent). pick: for 0.5 s from each time (s on the drive's clock) in meta["picks"], when the user asked
    for a clip.
    """
    context = context or SignalContext()
    speed, accel, yaw_rate, wheel = np.ascontiguousarray(drive.ego[:, 3:7].T, np.float64)
    out = {"speed": speed, "accel": accel, "accel_lon": accel, "yaw_rate": yaw_rate, "lat_accel": speed * yaw_rate}
    out |= {"jerk": _rate(accel, drive.t), "steering_wheel_angle": wheel, "steer_rate": _rate(wheel, drive.t)}
    # A column without any value is a missing signal, not one that is briefly unknown.
    out = {name: value for name, value in out.items() if not np.isnan(value).all()}
    if drive.objects is not None:
        out |= around(drive.ego, drive.ego_size, drive.objects)
        out["headway"] = np.divide(out["lead_gap"], speed, out=np.full(len(speed), np.inf), where=speed > HOLD_S)
    if drive.route is not None and len(drive.route) > 1:
        out |= _on_route(drive, context.stop_lines)
    if drive.takeover is not None:
        out["takeover"] = drive.takeover
    if drive.engaged is not None:
        out["engaged"] = drive.engaged
    if drive.plan is not None:
        out["plan_error"] = _plan_error(drive, drive.plan)
        if drive.correction is not None:
            out["disagreement"] = _disagreement(drive.t, drive.plan, drive.correction)
    if "picks" in drive.meta:
        out["pick"] = _picked(drive.t, drive.meta["picks"])
    if context.sent is not None:
        out["novelty"] = context.sent.distance(embedding(out))
    return out


def latest(drive: Drive, names: list[str], context: SignalContext | None = None) -> np.ndarray:
    """Named signals (S,) at the newest sample of a drive up to now, NaN for missing ones: the input of
    `trigger.Watch.push`. Only the last LOOKBACK_S are used."""
    recent = cut(drive, float(drive.t[-1]) - LOOKBACK_S, np.inf)
    values = signals_of(recent, context)
    return np.array([values[name][-1] if name in values else np.nan for name in names], np.float64)


def _picked(t: np.ndarray, picks: str) -> np.ndarray:
    """(T,) bool; picks: seconds, separated by spaces."""
    try:
        times = np.array(picks.split(), np.float64).reshape(-1, 1)
    except ValueError:
        raise ValueError(
            f"Drive.meta['picks']: must be seconds on the drive's clock, separated by spaces, got {picks!r}"
        ) from None
    near = (t >= times - 1e-6) & (t < times + HOLD_S - 1e-6)
    return np.any(near, axis=0)


def _rate(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Rate of change per second since the last sample; unknown at the first."""
    return np.concatenate([[np.nan], np.diff(x) / np.diff(t)])


def _on_route(drive: Drive, stop_lines: np.ndarray | None) -> dict[str, np.ndarray]:
    """route_offset, speed_limit and, with the map's stop lines, red_gap; NaN while the car is off its route."""
    route = drive.route
    assert route is not None
    along, left, piece = place_on(route[:, :2], drive.ego[:, :2])
    on = np.abs(left) <= OFF_ROUTE
    out = {"route_offset": np.where(on, left, np.nan), "speed_limit": np.where(on, route[piece, 2], np.nan)}
    if stop_lines is None or drive.signal_id is None or drive.signal_state is None:
        return out
    if (drive.signal_id >= len(stop_lines)).any():  # signals of another map
        return out
    red = drive.signal_state == RED
    shown = np.flatnonzero(red.any(axis=1))
    at = _crossings(route[:, :2], stop_lines[drive.signal_id[shown]])
    half = drive.ego_size[0] / 2
    gap = np.full(len(drive.t), np.inf)
    for g, where in zip(shown, at, strict=True):
        ahead = where - along - half
        gap = np.where(red[g] & (ahead >= -half), np.minimum(gap, ahead), gap)
    out["red_gap"] = np.where(on, gap, np.nan)
    return out


def _crossings(line: np.ndarray, bars: np.ndarray) -> np.ndarray:
    """Distance (G,) m along a polyline (R, 2) at which it first crosses each bar (G, 4), NaN if it does not.

    Bars are extended by a quarter at each end, because routes do not follow lane centres exactly.
    """
    step = np.diff(line, axis=0)
    start = np.concatenate([[0.0], np.cumsum(np.hypot(*step.T))])[:-1]
    end = bars[:, None, 2:] - bars[:, None, :2]
    first = line[None, :-1] - bars[:, None, :2]
    with np.errstate(divide="ignore", invalid="ignore"):
        area = step[:, 0] * end[..., 1] - step[:, 1] * end[..., 0]
        on_line = (end[..., 0] * first[..., 1] - end[..., 1] * first[..., 0]) / area
        on_bar = (step[:, 0] * first[..., 1] - step[:, 1] * first[..., 0]) / area
    meets = (on_line >= 0) & (on_line < 1) & (on_bar >= -0.25) & (on_bar <= 1.25)
    at = np.where(meets, start + on_line * np.hypot(*step.T), np.inf).min(axis=1)
    return np.where(np.isfinite(at), at, np.nan)


def _decided(t: np.ndarray, decided: np.ndarray, age: float) -> tuple[np.ndarray, np.ndarray]:
    """For each t (T,): the last decision at least `age` s old, and whether it is at most HOLD_S older than that."""
    last = np.searchsorted(decided, t - age + 1e-6, side="right") - 1
    return last, (last >= 0) & (t - age - decided[last] < HOLD_S - 1e-6)


def _disagreement(t: np.ndarray, plan: Plans, other: Plans) -> np.ndarray:
    """(T,) m; NaN without a decision in the last half second."""
    out = np.full(len(t), np.nan)
    # A decision may be missing on one side: compare those within a millisecond of each other.
    _, mine, theirs = np.intersect1d(np.round(plan.t, 3), np.round(other.t, 3), return_indices=True)
    if not len(mine):
        return out
    far = np.hypot(*np.moveaxis(plan.points[mine, :, :2] - other.points[theirs, :, :2], -1, 0)).max(axis=1)
    last, fresh = _decided(t, plan.t[mine], 0.0)
    out[fresh] = far[last[fresh]]
    return out


def _plan_error(drive: Drive, plan: Plans) -> np.ndarray:
    """(T,) m; NaN without a plan made 2 to 2.5 s ago."""
    out = np.full(len(drive.t), np.nan)
    if not len(plan.t) or plan.points.shape[1] * HOLD_S < AGE_S + HOLD_S:
        return out
    last, fresh = _decided(drive.t, plan.t, AGE_S)
    d, now = last[fresh], drive.ego[fresh]
    then_at = np.searchsorted(drive.t, plan.t[d] - 1e-6)
    then = drive.ego[then_at]
    place = (drive.t[fresh] - plan.t[d]) / HOLD_S - 1  # position among the points, which are half a second apart
    before = place.astype(np.int64)
    after = np.minimum(before + 1, plan.points.shape[1] - 1)
    part = (place - before)[:, None]
    meant = plan.points[d, before, :2] * (1 - part) + plan.points[d, after, :2] * part
    cos, sin, (dx, dy) = np.cos(then[:, 2]), np.sin(then[:, 2]), (now - then)[:, :2].T
    error = np.hypot(dx * cos + dy * sin - meant[:, 0], dy * cos - dx * sin - meant[:, 1])
    # A plan from before the start of this drive (or part) has no pose to start from.
    out[fresh] = np.where(plan.t[d] >= drive.t[0] - 1e-6, error, np.nan)
    return out

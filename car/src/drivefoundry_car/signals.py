"""A Drive in, the named signals that rules speak of out: (T,) arrays on the drive's own clock, SI units."""

from __future__ import annotations

import numpy as np

from drivefoundry_car.log import Drive
from drivefoundry_car.rules import FLAG, Dimension

SIGNALS: dict[str, Dimension | str] = {
    "speed": (1, -1, 0),
    "accel": (1, -2, 0),
    "jerk": (1, -3, 0),
    "lat_accel": (1, -2, 0),
    "yaw_rate": (0, -1, 1),
    "steering_wheel_angle": (0, 0, 1),
    "ttc": (0, 1, 0),
    "gap": (1, 0, 0),
    "pedestrian_gap": (1, 0, 0),
    "disagreement": (1, 0, 0),
    "takeover": FLAG,
    "engaged": FLAG,
}
"""Name -> dimension (powers of metre, second, radian), or a flag."""
PEDESTRIAN = 2
HOLD_S = 0.5
"""A disagreement lasts until the next decision."""


def signals_of(drive: Drive) -> dict[str, np.ndarray]:
    """The signals this drive has: quantities (T,) float64 (NaN unknown, inf for no object), flags (T,) bool.

    speed, accel, yaw_rate, steering_wheel_angle as recorded; lat_accel: speed times yaw rate; jerk: change of accel
    since the last sample; ttc: s until the ego, at both present speeds along its heading, touches an object in its own
    corridor; gap and pedestrian_gap: m to the nearest object's box (boxes widened to the ego's axes); disagreement: the
    largest distance (m) between the points of plan and correction, held 0.5 s.
    """
    speed, accel, yaw_rate, wheel = (drive.ego[:, i].astype(np.float64) for i in (3, 4, 5, 6))
    out = {"speed": speed, "accel": accel, "yaw_rate": yaw_rate, "lat_accel": speed * yaw_rate}
    out["jerk"] = np.concatenate([[0.0], np.diff(accel) / np.diff(drive.t)])
    out["steering_wheel_angle"] = wheel
    # A column that no sensor filled is a signal the drive lacks, not one that is briefly unknown.
    out = {name: value for name, value in out.items() if np.isfinite(value).any()}
    if drive.objects is not None:
        out |= _around(drive)
    if drive.takeover is not None:
        out["takeover"] = drive.takeover
    if drive.engaged is not None:
        out["engaged"] = drive.engaged
    if drive.plan is not None and drive.correction is not None:
        out["disagreement"] = _disagreement(drive)
    return out


def _around(drive: Drive) -> dict[str, np.ndarray]:
    """ttc, gap and pedestrian_gap of a drive with objects; O tracks, T steps."""
    o, ego = drive.objects, drive.ego
    assert o is not None
    steps = len(drive.t)
    cos, sin = np.cos(ego[:, 2]), np.sin(ego[:, 2])
    away = o.states[..., :2].astype(np.float64) - ego[None, :, :2]
    ahead, left = away[..., 0] * cos + away[..., 1] * sin, away[..., 1] * cos - away[..., 0] * sin
    turn = o.states[..., 2] - ego[None, :, 2]
    c, s = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    length, width = o.size[:, :1] / 2, o.size[:, 1:2] / 2
    space_x = np.abs(ahead) - (c * length + s * width) - drive.ego_size[0] / 2
    space_y = np.abs(left) - (s * length + c * width) - drive.ego_size[1] / 2
    apart = np.where(o.valid, np.hypot(np.maximum(space_x, 0), np.maximum(space_y, 0)), np.inf)
    closing = ego[None, :, 3] - o.states[..., 3] * np.cos(turn)
    in_the_way = o.valid & (ahead > 0) & (space_y < 0) & (closing > 0.1)
    until = np.where(in_the_way, np.maximum(space_x, 0) / np.where(in_the_way, closing, 1), np.inf)
    none = np.full((1, steps), np.inf)
    return {
        "ttc": np.concatenate([until, none]).min(axis=0),
        "gap": np.concatenate([apart, none]).min(axis=0),
        "pedestrian_gap": np.concatenate([apart[o.kind == PEDESTRIAN], none]).min(axis=0),
    }


def _disagreement(drive: Drive) -> np.ndarray:
    """(T,) m; NaN where no decision was made within the last half second."""
    plan, other = drive.plan, drive.correction
    assert plan is not None
    assert other is not None
    out = np.full(len(drive.t), np.nan)
    # The same decision may be missing on one side: compare those within a millisecond of each other.
    _, mine, theirs = np.intersect1d(np.round(plan.t, 3), np.round(other.t, 3), return_indices=True)
    if not len(mine):
        return out
    t = plan.t[mine]
    far = np.hypot(*np.moveaxis(plan.points[mine, :, :2] - other.points[theirs, :, :2], -1, 0)).max(axis=1)
    last = np.searchsorted(t, drive.t + 1e-6, side="right") - 1
    fresh = (last >= 0) & (drive.t - t[last] < HOLD_S - 1e-6)
    out[fresh] = far[last[fresh]]
    return out

"""Manoeuvre classes and sampling weights of drives: rare situations count more."""

from __future__ import annotations

import numpy as np

from drivefoundry_car.log import Drive

CLASSES = ("takeover", "brake", "turn left", "turn right", "stop", "start", "slow", "cruise", "stand")
"""From the rarest and most informative to the most ordinary; a clip belongs to the first that applies."""
MOST, LEAST = 4.0, 0.5
"""Bounds of a clip's weight."""


def class_of(drive: Drive) -> str:
    """Classify a drive as one of CLASSES.

    takeover: the safety driver took over; brake: harder than 3 m/s^2 for half a second; turn: over 50 degrees within 6
    s; stand: never faster than 1 m/s; stop, start: comes to, or leaves standing; slow: loses over 4 m/s; else cruise.
    """
    v, yaw = drive.ego[:, 3], np.unwrap(drive.ego[:, 2])
    if drive.takeover is not None and np.asarray(drive.takeover, bool).any():
        return "takeover"
    if len(v) > 5 and ((v[5:] - v[:-5]) / 0.5).min() < -3.0:
        return "brake"
    span = min(60, len(yaw) - 1)
    turned = yaw[span:] - yaw[: len(yaw) - span]
    most = turned[np.abs(turned).argmax()]
    if abs(most) > 0.87:
        return "turn left" if most > 0 else "turn right"
    if v.max() < 1.0:
        return "stand"
    if v.min() < 0.5:
        return "stop" if v[0] > v[-1] else "start"
    return "slow" if v[0] - v.min() > 4.0 else "cruise"


def priority(drive: Drive) -> float:
    """Priority of a drive among near-duplicates: takeovers, corrections, the hardest braking, length."""
    taken = 0.0 if drive.takeover is None else float(np.asarray(drive.takeover, bool).any())
    corrected = 0.0 if drive.correction is None else float(len(drive.correction.t) > 0)
    picked = float(drive.meta.get("trigger", "random") not in ("", "random", "all"))
    v = drive.ego[:, 3]
    braking = float(max(0.0, -((v[5:] - v[:-5]) / 0.5).min())) if len(v) > 5 else 0.0
    return 100 * taken + 50 * corrected + 20 * picked + min(braking, 10.0) + 0.01 * len(drive.t)


def weights_of(classes: list[str]) -> np.ndarray:
    """Sampling weights (N,) from the clips' classes, 1 on average before bounds.

    A class's weight falls with the square root of its count (full balancing would drown the ordinary in repeats of the
    rare), between 0.5 and 4 times the average clip's; standing clips never count more than the average.
    """
    if not classes:
        return np.zeros(0)
    names, which, count = np.unique(classes, return_inverse=True, return_counts=True)
    weight = np.sqrt(len(classes) / (len(names) * count))
    if "stand" in names:
        i = list(names).index("stand")
        weight[i] = min(weight[i], 1.0)
    out = weight[which]
    return np.clip(out / out.mean(), LEAST, MOST)


def histogram(classes: list[str]) -> dict[str, int]:
    """Count clips by class, in the order of CLASSES."""
    return {name: classes.count(name) for name in CLASSES if name in classes}

"""What tests need from the log of a city."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from drivefoundry.fleet.sumo.city import CityLog
from drivefoundry.types import AGENT_PEDESTRIAN, DT, PSPEED

HARD_BRAKE = -3.0


def contents(log: CityLog) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Field -> type, shape and bytes, for comparing two logs."""
    arrays = {f.name: np.asarray(getattr(log, f.name)) for f in fields(CityLog)}
    return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}


def figures(log: CityLog) -> dict[str, float]:
    """How the city drives: vehicles, people present, mean speed m/s, share of time standing, hard brakes a car hour."""
    drives = log.kind != AGENT_PEDESTRIAN
    speed = log.tracks[drives][:, :, PSPEED]
    hard = np.gradient(speed, DT, axis=1) < HARD_BRAKE
    onsets = int((np.diff(hard.astype(np.int8), axis=1) > 0).sum())
    hours = speed.size * DT / 3600
    return {
        "vehicles": float(drives.sum()),
        "people": float(log.valid[~drives].sum() / log.steps),
        "mean_speed": float(speed.mean()),
        "standing": float((speed < 0.3).mean()),
        "hard_brakes_per_hour": onsets / hours,
    }

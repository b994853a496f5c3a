"""A policy in, long drives through a live city out: many of its cars at once among hundreds of others.

Nothing here ends a drive: what a car did wrong counts, and it drives on. Rates are a kilometre, so that drives of any
length compare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from drivefoundry.fleet.live import driven, open_city
from drivefoundry.judge.closed_loop import measure
from drivefoundry.judge.stats import mean_interval, ratio_interval
from drivefoundry.sim.drive import drive
from drivefoundry.sim.policies import Driver
from drivefoundry.types import DT, PSPEED, Rollout, Scene

STUCK_S = 60.0
"""A car that has stood for so long at the end of its drive is stuck: no light keeps a car so long."""


@dataclass(frozen=True)
class CityDrive:
    """scenes: one a car, with all that happened; rollout: the same cars; events: name -> (S,), see `drive_city`."""

    policy: str
    scenes: list[Scene]
    rollout: Rollout
    events: dict[str, np.ndarray]


def drive_city(
    policy: Driver,
    place: str,
    seed: int,
    *,
    cars: int = 24,
    others: int = 200,
    people: int = 80,
    seconds: float = 120.0,
    on_decision: Callable[[int, int], None] | None = None,
) -> CityDrive:
    """All `cars` driven by the policy at once for `seconds`, each along a route of its own through the live city.

    SUMO moves the others and the lights; contacts, red lights and roads left are found here. Events a car: km driven;
    counts of contacts (those that happen to a standing ego are none of its) and red lights run; shares of the way off
    the road and of the time standing; 0 or 1: stuck, faultless. ValueError as `fleet.live.open_city`.
    """
    with open_city(place, seed, cars, others, people) as (scenes, traffic):
        rollout = drive(policy, scenes, seconds, traffic=traffic, on_decision=on_decision)
        scenes, rollout = driven(scenes, traffic, rollout)
    m = measure(rollout, scenes, stop=False)
    last = rollout.ego[:, -round(STUCK_S / DT) :, PSPEED]
    events = {
        "km": m["distance"] / 1000,
        "contacts": m["hit_pedestrians"] + m["hit_vehicles"] + m["hit_static"],
        "red lights": m["red_lights"],
        "off road": m["off_road_distance"] / np.maximum(m["distance"], 1.0),
        "standing": m["standing"],
        "stuck": (last.max(1) < 0.3).astype(float) if last.shape[1] * DT >= STUCK_S else np.zeros(len(scenes)),
        "faultless": ((m["at_fault_at"] == np.inf) & (m["TLC"] > 0) & (m["DAC"] > 0)).astype(float),
    }
    return CityDrive(policy.name, scenes, rollout, events)


def summary(drives: CityDrive) -> dict[str, tuple[float, float, float]]:
    """Mean and 95 % interval (bootstrap over cars) of: contacts and red lights a km, share of the way off the road,
    share of time standing, share of cars stuck, and of cars that did nothing wrong; and km driven in all, thrice."""
    e = drives.events
    km, total = e["km"], float(e["km"].sum())
    out = {f"{name} / km": ratio_interval(e[name], km) for name in ("contacts", "red lights")}
    out |= {name: mean_interval(e[name]) for name in ("off road", "standing", "stuck", "faultless")}
    return out | {"km": (total, total, total)}

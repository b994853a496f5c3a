"""Long drives of one driver through a live city: faults per kilometre, and a film.

Many of its cars drive at once among hundreds of others. Nothing ends a drive: faults are counted, and the car drives
on. Rates are per kilometre, so that drives of any length are comparable.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from drivefoundry import outputs
from drivefoundry.fleet.sumo.live_city import open_city, with_driven_tracks
from drivefoundry.geometry import project_on_polyline
from drivefoundry.judge.scores.closed_loop import measure
from drivefoundry.judge.stats import mean_interval, ratio_interval
from drivefoundry.progress import bar
from drivefoundry.render import view as pictures
from drivefoundry.render.rig import View
from drivefoundry.render.view import FILM_VIEW
from drivefoundry.roadmap import arc_length
from drivefoundry.runs import named
from drivefoundry.sim.drive import body_of, drive
from drivefoundry.sim.pack import crossings, resample
from drivefoundry.sim.policies import CarPolicy, ConstantVelocity, RouteFollower
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.sim.world import with_traffic
from drivefoundry.types import AGENT_PEDESTRIAN, DT, PLAN_DT, PSPEED, SIGNAL_GREEN, Policy, Rollout, Scene
from drivefoundry_car.driving.runtime import Runtime
from drivefoundry_car.vehicle.inputs import to_ego

STUCK_S = 60.0
"""A car that has stood for this long at the end of its drive is stuck, s: longer than any red phase."""
STILL = 0.3
"""m/s."""
NEAR, BESIDE = 8.0, 1.5
"""A road user less than NEAR ahead, m, and less than BESIDE to a side is in the way; a car that far off its route has
left its lane."""
BASELINES: dict[str, type[Policy]] = {"rules": RouteFollower, "constant-velocity": ConstantVelocity}
FILES = ("city.json", "city.mp4")
FILM_S = 40.0
ROUTE_SHOWN = 60.0
"""Route shown in a film behind its start and beyond its end, m."""
EVERY = 2
"""Steps between two pictures of a film."""


@dataclass(frozen=True)
class CityDrive:
    """scenes: one per car, with all that happened; rollout: the same cars; events: name -> (S,), see `drive_city`; why:
    why each stuck car is stuck, "" for the others, see `why_stuck`; first: (S,) s of each car's first fault, infinite
    if there is none; perception: what cars with a guard knew of other road users, in words, "" for others."""

    policy: str
    scenes: list[Scene]
    rollout: Rollout
    events: dict[str, np.ndarray]
    why: list[str]
    first: np.ndarray
    perception: str


def drive_city(
    policy: Policy,
    place: str,
    seed: int,
    *,
    cars: int = 24,
    others: int = 200,
    people: int = 80,
    seconds: float = 120.0,
    on_decision: Callable[[int, int], None] | None = None,
) -> CityDrive:
    """Drive `cars` with the policy at once for `seconds`, each along its own route through the live city.

    SUMO moves the others and the lights; contacts, red lights and road departures are detected here. Events per car: km
    driven, and along its route; counts of contacts at fault and others (see `judge.scores.motion`) and of red lights
    run; shares of the way off the road and of the time standing; 0 or 1: stuck, faultless. ValueError as
    `fleet.sumo.live_city.open_city`.
    """
    with open_city(place, seed, cars, others, people, seconds) as (scenes, traffic):
        rollout = drive(
            policy, scenes, seconds, simulator=with_traffic(traffic, body_of(policy)), on_decision=on_decision
        )
        scenes, rollout = with_driven_tracks(scenes, traffic, rollout)
    m = measure(rollout, scenes, stop=False)
    last = rollout.ego[:, -round(STUCK_S / DT) :, PSPEED]
    stuck = (last.max(1) < STILL) & (last.shape[1] * DT >= STUCK_S)
    first = np.minimum.reduce([m["at_fault_at"], m["red_light_at"], m["off_road_at"]])
    events = {
        "km": m["distance"] / 1000,
        "route km": m["progress"] / 1000,
        "contacts at fault": m["at_fault_contacts"],
        "other contacts": m["contacts"] - m["at_fault_contacts"],
        "red lights": m["red_lights"],
        "off road": m["off_road_distance"] / np.maximum(m["distance"], 1.0),
        "standing": m["standing"],
        "stuck": stuck.astype(float),
        "faultless": (first == np.inf).astype(float),
    }
    why = [why_stuck(scene, rollout, i) if stuck[i] else "" for i, scene in enumerate(scenes)]
    guarded = isinstance(policy, CarPolicy) and policy.reads_objects
    return CityDrive(policy.name, scenes, rollout, events, why, first, str(Perception()) if guarded else "")


def why_stuck(scene: Scene, rollout: Rollout, car: int) -> str:
    """What blocks a car at the end of its drive: "beside its lane", "behind a vehicle", "behind a person", "at a
    red light", "at a light that was green" while it stood, or "free way"."""
    now = rollout.ego[car, -1]
    at, off = _on_route(scene, rollout.ego[car])
    if abs(off) > BESIDE:
        return "beside its lane"
    n = len(scene.kind)
    there = to_ego(rollout.agents[car, :n, -1, :2].astype(float), now[:3])
    gap = there[:, 0] - (scene.size[:, 0] + scene.size[scene.ego, 0]) / 2
    ahead = rollout.agents_valid[car, :n, -1] & (there[:, 0] > 0) & (gap < NEAR) & (np.abs(there[:, 1]) < BESIDE)
    if ahead.any():
        nearest = np.flatnonzero(ahead)[gap[ahead].argmin()]
        return "behind a person" if scene.kind[nearest] == AGENT_PEDESTRIAN else "behind a vehicle"
    way, _ = resample(scene.route)
    stops = np.full((len(way), 2), np.inf)
    crossings(way, len(way), scene.map.stop_lines, scene.map.signal_heads, stops)
    gap = stops[:, 0] - at - scene.size[scene.ego, 0] / 2
    lights = stops[(gap > -BESIDE) & (gap < NEAR), 1].astype(int)
    if not len(lights):
        return "free way"
    green = (scene.signals[lights[0], -round(STUCK_S / DT) :] == SIGNAL_GREEN).any()
    return "at a light that was green" if green else "at a red light"


def _on_route(scene: Scene, ego: np.ndarray) -> tuple[float, float]:
    """Progress along the route and lateral offset to the left at the end of states (T, 2+), m."""
    route = np.asarray(scene.route, np.float64)
    s, at, off, foot = arc_length(route), 0.0, 0.0, -1
    for x, y in ego[:, :2]:
        at, off, foot = project_on_polyline(route, s, x, y, foot)
    return at, off


def summary(drives: CityDrive) -> dict[str, tuple[float, float, float]]:
    """Mean and 95 % interval (bootstrap over cars) of: contacts and red lights a km, share of the way off the road,
    share of time standing, shares of stuck and of faultless cars; and total km driven and along the routes, each three
    times."""
    e = drives.events
    out = {
        f"{name} / km": ratio_interval(e[name], e["km"])
        for name in ("contacts at fault", "other contacts", "red lights")
    }
    out |= {name: mean_interval(e[name]) for name in ("off road", "standing", "stuck", "faultless")}
    km, route = float(e["km"].sum()), float(e["route km"].sum())
    return out | {"km": (km, km, km), "route km": (route, route, route)}


def driver(who: str) -> Policy:
    """Make the driver named: a baseline, an engine (driven with its guard), a model or a run (its newest engine), see
    `runs.named`. ValueError if it is none of these.
    """
    if who in BASELINES:
        return BASELINES[who]()
    kind, path = named.driver(who, BASELINES)
    if kind == "model":
        from drivefoundry.model.policy import TorchPolicy

        return TorchPolicy(path, who)
    return CarPolicy(Runtime.load(path, reason_every=2, reason_cars=64, patient=True), f"car of {who}")


def drives(who: str, place: str, seed: int, cars: int, others: int, people: int, seconds: float) -> CityDrive:
    """Drive the city with the named driver; see `drive_city`."""
    policy = driver(who)
    with bar(f"{policy.name} in {place}", round(seconds / PLAN_DT)) as advance:
        return drive_city(
            policy, place, seed, cars=cars, others=others, people=people, seconds=seconds,
            on_decision=lambda done, total: advance(1),
        )  # fmt: skip


def reasons(made: CityDrive) -> dict[str, int]:
    """Reason why cars are stuck -> number of cars, most first."""
    return dict(Counter(w for w in made.why if w).most_common())


def table(made: CityDrive) -> str:
    """Means with 95 % intervals, one line each."""
    rows = summary(made)
    wide = max(len(name) for name in rows)
    km, route = rows.pop("km")[0], rows.pop("route km")[0]
    hours = len(made.scenes) * (made.rollout.ego.shape[1] - 1) * DT / 3600
    lines = [f"{made.policy}: {len(made.scenes)} cars, {hours:.2f} h, {km:.1f} km, {route:.1f} km of their routes"]
    lines += [f"  {name:{wide}}  {m:6.3f} [{a:.3f}, {b:.3f}]" for name, (m, a, b) in rows.items()]
    lines += [f"  perception of the guard: {made.perception}"] * bool(made.perception)
    why = [f"{n} {what}" for what, n in reasons(made).items()]
    return "\n".join(lines + ["  stuck: " + ", ".join(why)] * bool(why))


def write(made: CityDrive, out: Path) -> None:
    """Write out/city.json, what every car did, and out/city.mp4, the first car with a fault (or the one that went
    farthest) around its first fault. Atomic; ValueError if a file exists that was not written by this command."""
    each = {
        s.id: {k: float(v[i]) for k, v in made.events.items()} | {"why": made.why[i]} for i, s in enumerate(made.scenes)
    }
    told = {
        "policy": made.policy,
        "perception": made.perception or None,
        "summary": summary(made),
        "stuck": reasons(made),
        "cars": each,
    }
    with outputs.among(out, FILES, FILES[-1]) as aside:
        (aside / "city.json").write_text(json.dumps(told, indent=1))
        (aside / "city.mp4").write_bytes(pictures.mp4(film(made, *worst(made)), round(1 / (EVERY * DT))))


def worst(made: CityDrive) -> tuple[int, float]:
    """The first car with a fault, or else the one that went farthest, and the film's start, s: FILM_S around its first
    fault, or else the start of the drive."""
    wrong = np.flatnonzero(made.events["faultless"] < 1)
    car = int(wrong[0]) if len(wrong) else int(made.events["km"].argmax())
    lasts = (made.rollout.ego.shape[1] - 1) * DT
    return car, float(np.clip(made.first[car] - FILM_S / 2, 0.0, max(0.0, lasts - FILM_S))) if len(wrong) else 0.0


def film(
    made: CityDrive, car: int, begin: float, seconds: float = FILM_S, view: View = FILM_VIEW, every: int = EVERY
) -> list[np.ndarray]:
    """Pictures (H, W, 3) uint8 of one car's drive from `begin` s on, one per `every` steps; see `render.view.film`."""
    r, scene = made.rollout, made.scenes[car]
    first, steps = round(begin / r.decision_dt), round(r.decision_dt / DT)
    part = slice(first * steps, 1 + first * steps + round(seconds / DT))
    ego, n = r.ego[car, part], len(scene.kind)
    # Only the nearby part, since a route may pass here again.
    s, at = arc_length(np.asarray(scene.route)), _on_route(scene, r.ego[car, : part.start + 1])[0]
    near = (s > at - ROUTE_SHOWN) & (s < at + np.hypot(*np.diff(ego[:, :2], axis=0).T).sum() + ROUTE_SHOWN)
    now = replace(scene, start=scene.start + part.start, route=scene.route[near], route_speed=scene.route_speed[near])
    text = r.text[car][first:] if r.text else ()
    agents, valid = r.agents[car, :n, part], r.agents_valid[car, :n, part]
    decisions = pictures.Decisions(r.plans[car, first:], text, r.decision_dt)
    return pictures.film(now, ego, agents, valid, decisions, view, every)

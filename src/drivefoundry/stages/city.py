"""A driver and a place in, a table of its long drives through a live city out, and a film of one of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from drivefoundry.judge.city import CityDrive, drive_city, summary
from drivefoundry.ledger import Ledger
from drivefoundry.progress import bar
from drivefoundry.sim import view
from drivefoundry.sim.policies import CarPolicy, ConstantVelocity, Driver, RouteFollower
from drivefoundry.types import DT, PLAN_DT, require
from drivefoundry_car.engine import files
from drivefoundry_car.runtime import Runtime

BASELINES: dict[str, type[Driver]] = {"rules": RouteFollower, "constant-velocity": ConstantVelocity}
FILM_S = 40.0
EVERY = 2
"""Steps between two pictures of a film."""


def driver(who: str) -> Driver:
    """A baseline's name, an engine, a checkpoint, or a run directory (its last engine, guarded) in; the driver out.

    ValueError where it is none of these.
    """
    if who in BASELINES:
        return BASELINES[who]()
    path = Path(who)
    if (path / "ledger.db").exists():
        with Ledger(path) as ledger:
            engines = [a for a in ledger.history() if a.kind == "shrink"]
        require(len(engines) > 0, f"{who}: no engine in this run yet; run `drivefoundry shrink --out {who}` first")
        return CarPolicy(Runtime.load(engines[-1].path, reason_every=2, reason_cars=64, patient=True), f"car of {who}")
    if (path / files.CONTRACT).exists():
        return CarPolicy(Runtime.load(path, reason_every=2, reason_cars=64, patient=True), f"car with {who}")
    if (path / "model.safetensors").exists():
        from drivefoundry.model.policy import TorchPolicy

        return TorchPolicy(path, who)
    names = ", ".join(BASELINES)
    raise ValueError(f"{who}: no driver; give {names}, a run directory, an engine or a checkpoint directory")


def drives(who: str, place: str, seed: int, cars: int, others: int, people: int, seconds: float) -> CityDrive:
    """The driver's drives; see `judge.city.drive_city`."""
    policy = driver(who)
    with bar(f"{policy.name} in {place}", round(seconds / PLAN_DT)) as advance:
        return drive_city(
            policy, place, seed, cars=cars, others=others, people=people, seconds=seconds,
            on_decision=lambda done, total: advance(1),
        )  # fmt: skip


def table(made: CityDrive) -> str:
    """Means with 95 % intervals, one line each."""
    rows = summary(made)
    wide = max(len(name) for name in rows)
    km = rows.pop("km")[0]
    hours = len(made.scenes) * (made.rollout.ego.shape[1] - 1) * DT / 3600
    lines = [f"{made.policy}: {len(made.scenes)} cars, {hours:.2f} h, {km:.1f} km"]
    return "\n".join(lines + [f"  {name:{wide}}  {m:6.3f} [{a:.3f}, {b:.3f}]" for name, (m, a, b) in rows.items()])


def write(made: CityDrive, out: Path) -> None:
    """out/city.json: what every car did; out/city.mp4: the first car that did something wrong, or the one that went
    farthest, around its worst moment. Written whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    each = {s.id: {k: float(v[i]) for k, v in made.events.items()} for i, s in enumerate(made.scenes)}
    body = json.dumps({"policy": made.policy, "summary": summary(made), "cars": each}, indent=1)
    aside = out / ".city.part"
    aside.write_text(body)
    os.replace(aside, out / "city.json")
    aside.write_bytes(film(made))
    os.replace(aside, out / "city.mp4")


def film(made: CityDrive, car: int | None = None, seconds: float = FILM_S) -> bytes:
    """MP4 of one car's drive."""
    if car is None:
        wrong = np.flatnonzero(made.events["faultless"] < 1)
        car = int(wrong[0]) if len(wrong) else int(made.events["km"].argmax())
    part = slice(0, 1 + round(seconds / DT))
    r, scene = made.rollout, made.scenes[car]
    text = r.text[car] if r.text else None
    n = len(scene.kind)
    frames = view.film(
        scene, r.ego[car, part], r.agents[car, :n, part], r.agents_valid[car, :n, part], r.plans[car], text, every=EVERY
    )
    return view.mp4(frames, round(1 / (EVERY * DT)))

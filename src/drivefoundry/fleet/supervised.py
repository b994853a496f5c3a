"""Drives recorded by fleet cars that drive a release under a safety driver.

Each situation is one car's outing. The policy's plans, the safety driver's corrections, who was in control and
perception's tracks are recorded, as in a test car.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from drivefoundry.fleet.logger import filmed, objects_near, signals_near, steering_wheel
from drivefoundry.sim.drive import Supervision, batches, drive_supervised
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.types import DT, Policy, Rollout, Scene
from drivefoundry_car.log import Drive, Plans, write_drive
from drivefoundry_car.vehicle.embodiment import CAR, FRONT, Embodiment

BATCH = 96
"""Scenes driven at once; affects only memory and time."""


def record_supervised(
    policy: Policy,
    scenes: list[Scene],
    out: Path,
    release: str | None,
    *,
    body: Embodiment = CAR,
    perception: Perception | None = None,
    seconds: float = 18.0,
    on_drive: Callable[[int], None] | None = None,
) -> list[dict]:
    """Drive every scene under supervision and write one Drive each to `out`; returns one row of figures per drive.

    release: the one that drives; None records the policy as a human driver (nothing is engaged and nothing corrected).
    A recording of a human driver was requested explicitly, so all of it is uploaded.
    Rows: vehicle, km, takeovers, dangers by name.
    """
    rows: dict[int, dict] = {}
    for numbers in batches(scenes, BATCH):
        some = [scenes[i] for i in numbers]
        rollout, supervision = drive_supervised(policy, some, seconds, body=body, perception=perception)
        for i, number in enumerate(numbers):
            scene, steps = scenes[number], int(rollout.lengths[i])
            drive = as_drive(scene, i, rollout, supervision, body, f"car-{number % 40:02d}", release)
            write_drive(out / f"{scene.id}.mcap", drive)
            moved = np.hypot(*np.diff(rollout.ego[i, :steps, :2], axis=0).T).sum() / 1000.0
            held = supervision.takeover[i, :steps]
            grabs = 0 if release is None else int((np.diff(held.astype(int), prepend=0) > 0).sum())
            rows[number] = {"scene": scene.id, "km": float(moved), "takeovers": grabs}
        if on_drive:
            on_drive(len(numbers))
    return [rows[i] for i in range(len(scenes))]


def as_drive(
    scene: Scene,
    i: int,
    rollout: Rollout,
    supervision: Supervision,
    body: Embodiment,
    vehicle: str,
    release: str | None,
) -> Drive:
    """One scene's part of a supervised rollout as a recording. Times start at 0 with the first simulated step."""
    one, n = rollout.of(i), len(scene.kind)
    ego, steps, plans = one.ego[0], len(one.ego[0]), one.plans[0]
    decisions = np.arange(len(plans)) * body.decision_dt
    text = one.text[0] if one.text is not None else [""] * len(decisions)
    lights, states = _signals(scene, ego)
    length, width, height = (float(v) for v in scene.size[scene.ego])
    assert len(ego) == len(decisions) * body.decision_steps + 1
    videos = {c.name: filmed(supervision.frames[c.name][i, :steps], c) for c in body.cameras}
    drive = Drive(
        meta=_meta(scene, vehicle, release),
        t=np.arange(len(ego)) * DT,
        ego=np.column_stack([ego, steering_wheel(ego[:, 3], ego[:, 5], body)]),
        ego_size=(length, width, height),
        video=videos.pop(FRONT),
        others=videos,
        route=np.column_stack([scene.route[:, :2], scene.route_speed]),
        objects=objects_near(ego, one.agents[0, :n], one.agents_valid[0, :n], scene.kind, scene.size, scene.ego),
        signal_id=lights if len(lights) else None,
        signal_state=states if len(lights) else None,
        engaged=np.zeros(len(ego), np.bool_),
        takeover=np.zeros(len(ego), np.bool_),
    )
    if release is None:
        return drive
    return replace(
        drive,
        engaged=supervision.engaged[i, :steps],
        takeover=supervision.takeover[i, :steps],
        plan=Plans(decisions, plans, text),
        correction=Plans(decisions, supervision.correction[i, : len(decisions)], [""] * len(decisions)),
    )


def _meta(scene: Scene, vehicle: str, release: str | None) -> dict[str, str]:
    return {
        "vehicle": vehicle,
        "drive": scene.id,
        "source": scene.source,
        "place": scene.place,
        "map": scene.map.id,
        "seed": scene.meta.get("seed", ""),
        "release": release or "",
        "purpose": "recorded" if release is None else "fleet",
        "route_id": scene.meta.get("route_id", scene.id),
    }


def _signals(scene: Scene, ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signals near the drive and their states on its clock: ids (G,), states (G, T)."""
    if not len(scene.signals):
        return np.zeros(0, np.int64), np.zeros((0, len(ego)), np.uint8)
    ids = signals_near(scene.map, ego)
    t = np.minimum(scene.start + np.arange(len(ego)), scene.signals.shape[1] - 1)
    return ids, scene.signals[np.ix_(ids, t)]

"""Situations and a driving policy in, Drives out: fleet cars that drive a release under a safety driver, and record it.

Each situation is one car's outing. What the policy planned, what the safety driver would have done (the correction), who held
the wheel and what perception tracked go into the recording, as they would in a test car.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from drivefoundry.sim.camera import Rig
from drivefoundry.sim.drive import DECISION_STEPS, Supervision, batches, drive_supervised
from drivefoundry.types import DT, PLAN_DT, Policy, Rollout, Scene
from drivefoundry_car.log import Drive, Objects, Plans, encode_video, write_drive

RECORDED_RANGE = 80.0
"""Objects nearer than this are recorded, m."""
SIGNAL_RANGE = 120.0
WHEELBASE, STEERING_RATIO = 2.85, 14.8


def record_supervised(
    policy: Policy,
    scenes: list[Scene],
    out: Path,
    release: str,
    *,
    rig: Rig | None = None,
    seconds: float = 18.0,
    batch: int = 96,
    human: bool = False,
    on_drive: Callable[[int], None] | None = None,
) -> list[dict]:
    """Drive every scene under supervision and write one Drive each into `out`; returns a row of facts a drive.

    human=True records the policy as a human driver (no release drives, so nothing is engaged and nothing is corrected).
    Rows: vehicle, km, takeovers, dangers by name.
    """
    rig = rig or Rig()
    rows = []
    for part in batches(scenes, batch):
        rollout, supervision = drive_supervised(policy, part, seconds, rig)
        for i, scene in enumerate(part):
            drive = as_drive(scene, i, rollout, supervision, rig, f"car-{len(rows) % 40:02d}", release, human)
            write_drive(out / f"{scene.id}.mcap", drive)
            moved = np.hypot(*np.diff(rollout.ego[i, :, :2], axis=0).T).sum() / 1000.0
            held = supervision.takeover[i]
            grabs = 0 if human else int((np.diff(held.astype(int), prepend=0) > 0).sum())
            rows.append({"scene": scene.id, "km": float(moved), "takeovers": grabs})
        if on_drive:
            on_drive(len(part))
    return rows


def as_drive(
    scene: Scene, i: int, rollout: Rollout, supervision: Supervision, rig: Rig, vehicle: str, release: str, human: bool
) -> Drive:
    """One scene's share of a supervised rollout as a recording. Times start at 0 with the first simulated step."""
    ego = rollout.ego[i]
    steps = len(ego)
    t = np.arange(steps) * DT
    curvature = np.where(ego[:, 3] > 0.3, ego[:, 5] / np.maximum(ego[:, 3], 0.3), 0.0)
    steering = np.arctan(curvature * WHEELBASE) * STEERING_RATIO
    decisions = np.arange(len(rollout.plans[i])) * PLAN_DT
    text = rollout.text[i] if rollout.text is not None else [""] * len(decisions)
    near_signal, states = _signals(scene, ego)
    video = encode_video(
        supervision.frames[i], t, (rig.fx, rig.fy, rig.cx, rig.cy), (rig.x, 0.0, rig.z, rig.pitch), fps=round(1 / DT)
    )
    assert steps == (len(decisions)) * DECISION_STEPS + 1
    return Drive(
        meta={
            "vehicle": vehicle, "drive": scene.id, "source": scene.source, "place": scene.place, "map": scene.map.id,
            "seed": scene.meta.get("seed", ""), "release": release, "purpose": "fleet",
            "route_id": scene.meta.get("route_id", scene.id),
        },  # fmt: skip
        t=t,
        ego=np.column_stack([ego, steering]),
        ego_size=(float(scene.size[scene.ego, 0]), float(scene.size[scene.ego, 1]), float(scene.size[scene.ego, 2])),
        video=video,
        route=np.column_stack([scene.route[:, :2], scene.route_speed]),
        objects=_objects(scene, i, rollout),
        signal_id=near_signal if len(near_signal) else None,
        signal_state=states if len(near_signal) else None,
        engaged=np.zeros(steps, np.bool_) if human else supervision.engaged[i],
        takeover=np.zeros(steps, np.bool_) if human else supervision.takeover[i],
        plan=None if human else Plans(decisions, rollout.plans[i], text),
        correction=None if human else Plans(decisions, supervision.correction[i], [""] * len(decisions)),
    )  # fmt: skip


def _objects(scene: Scene, i: int, rollout: Rollout) -> Objects:
    n = len(scene.kind)
    states, seen = rollout.agents[i, :n], rollout.agents_valid[i, :n]
    d = np.hypot(states[..., 0] - rollout.ego[i, None, :, 0], states[..., 1] - rollout.ego[i, None, :, 1])
    seen = seen & (d < RECORDED_RANGE)
    keep = np.flatnonzero(seen.any(1))
    states = np.where(seen[keep, :, None], states[keep], 0.0).astype(np.float32)
    return Objects(
        keep.astype(np.int64),
        scene.kind[keep].astype(np.int64),
        scene.size[keep].astype(np.float64),
        states,
        seen[keep],
    )


def _signals(scene: Scene, ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signals near the drive and their states on its clock: ids (G,), states (G, T)."""
    if not len(scene.signals):
        return np.zeros(0, np.int64), np.zeros((0, len(ego)), np.uint8)
    middle = (scene.map.stop_lines[:, :2] + scene.map.stop_lines[:, 2:]) / 2
    d = np.hypot(middle[:, None, 0] - ego[None, ::10, 0], middle[:, None, 1] - ego[None, ::10, 1]).min(1)
    ids = np.flatnonzero(d < SIGNAL_RANGE)
    t = np.minimum(scene.start + np.arange(len(ego)), scene.signals.shape[1] - 1)
    return ids, scene.signals[np.ix_(ids, t)]

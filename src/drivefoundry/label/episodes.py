"""Episodes from drives: camera frames and route at each decision, and the motion that the car should have followed.

A decision is labelled with the safety driver's correction if there is one, otherwise with the car's own motion over the
next 4 s, unless the model was driving then: its own motion is not a label.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from drivefoundry import outputs
from drivefoundry.label.frames import frames_at, latest
from drivefoundry.label.reason import MANOEUVRES, TURNED, manoeuvres, plan_speeds, reasons
from drivefoundry.types import DT, PLAN_DT, PLAN_POINTS, Episodes, Scene, require
from drivefoundry_car import arrays
from drivefoundry_car.documents import read_json
from drivefoundry_car.log import Drive, Video, clock
from drivefoundry_car.vehicle.embodiment import CAR, FRONT, Embodiment
from drivefoundry_car.vehicle.inputs import ego_history, route_features, to_ego, to_map

STRIDE = round(PLAN_DT / DT)
"""Log steps between plan points."""
AHEAD = STRIDE * PLAN_POINTS
"""Log steps that a label spans."""
MAX_SPEED, MAX_ACCEL, MAX_TURN = 60.0, 12.0, 0.8
"""Kinematic bounds of a label: m/s, m/s^2 between half seconds, rad of heading per half second."""
WEIGHT = {"takeover": 3.0, "brake": 2.0, "stop": 2.0, "turn": 2.0, "start": 1.5, "correction": 1.5, "stand": 0.5}
"""Loss weight of a decision: the largest that applies, 1 if none does. takeover: correction from 3 s before to 1 s
after the safety driver took over; brake, stop, start, stand as in `reason.manoeuvres`; turn: over 0.35 rad in 4 s."""
ARRAYS = ("frame_index", "ego", "route", "future", "t", "weight", "correction")


def episodes_of(
    drive: Drive, scene: Scene | None, clip_id: str, *, phases: int = 1, body: Embodiment = CAR
) -> Episodes:
    """Label a drive; its Scene is used for the reasoning text. No decisions if the drive lacks one of the body's
    cameras or is too short.

    phases: number of offsets within the half second at which decisions start (1: 2 Hz, 5: every step). If there are
    corrections, the 2 Hz grid is aligned with their times. Steps are assumed to be 0.1 s apart, so decisions whose
    history or label includes steps off the 10 Hz clock are left out. ValueError if phases is out of range.
    """
    require(1 <= phases <= STRIDE, f"phases: must be 1 to {STRIDE}, got {phases}")
    corrected, points = _corrections(drive)
    steps = _steps(len(drive.t), corrected, phases)
    use = np.searchsorted(corrected, steps)
    is_correction = np.isin(steps, corrected)
    from_track = ~is_correction & (steps + AHEAD < len(drive.t)) & ~_model_drives(drive, steps)
    behind = body.history_steps * (body.history - 1)
    keep = (is_correction & clock.spans(drive.t, steps, behind, 0)) | (
        from_track & clock.spans(drive.t, steps, behind, AHEAD)
    )
    videos = videos_of(drive, body)
    if videos is None or not keep.any():
        return empty(body)
    shown = np.zeros((len(steps), len(videos), 2), np.int64)
    for i, video in enumerate(videos):
        for k, t in enumerate((drive.t[steps] - body.frame_dt, drive.t[steps])):
            shown[:, i, k], there = latest(video, t)
            keep &= there
    future = np.zeros((len(steps), PLAN_POINTS, 3))
    for n in np.flatnonzero(keep):
        future[n] = points[use[n]] if is_correction[n] else track_ahead(drive, int(steps[n]))
    speed = drive.ego[steps, 3]
    keep &= sane(future, speed)
    if not keep.any():
        return empty(body)
    steps, future, speed, is_correction = steps[keep], future[keep], speed[keep], is_correction[keep]
    frames, index = {}, np.empty((len(steps), len(videos), 2), np.int64)
    for i, (name, video) in enumerate(zip(body.pictures, videos, strict=True)):
        rows, where = np.unique(shown[keep, i], return_inverse=True)
        frames[name], index[:, i] = frames_at(video, rows, body.pictures[name]), where.reshape(-1, 2)
    return Episodes(
        frames=frames,
        frame_index=index,
        ego=np.stack([ego_history(drive.ego[: i + 1, 3], drive.ego[: i + 1, 5], body) for i in steps]),
        route=np.stack([route_features(drive.route, drive.ego[i, :3]) for i in steps]),
        future=future.astype(np.float32),
        text=reasons(drive, scene, steps, future),
        clip=[clip_id] * len(steps),
        t=drive.t[steps] - drive.t[0],
        weight=weights(drive, steps, future, speed, is_correction),
        correction=is_correction,
        embodiment=body,
    ).validate()


def videos_of(drive: Drive, body: Embodiment) -> list[Video] | None:
    """The videos of a body's cameras in a drive, in the body's order; None if one is missing."""
    found = {**drive.others, **({} if drive.video is None else {FRONT: drive.video})}
    return [found[name] for name in body.pictures] if body.pictures.keys() <= found.keys() else None


def empty(body: Embodiment = CAR) -> Episodes:
    """Episodes without any decisions."""
    return Episodes(
        frames={name: np.zeros((0, *size, 3), np.uint8) for name, size in body.pictures.items()},
        frame_index=np.zeros((0, len(body.cameras), 2), np.int64),
        ego=np.zeros((0, body.history, len(body.state)), np.float32),
        route=np.zeros((0, len(body.route)), np.float32),
        future=np.zeros((0, PLAN_POINTS, 3), np.float32),
        text=[],
        clip=[],
        t=np.zeros(0),
        weight=np.zeros(0, np.float32),
        correction=np.zeros(0, bool),
        embodiment=body,
    )


def track_ahead(drive: Drive, step: int) -> np.ndarray:
    """(8, 3) ego motion at 0.5 .. 4 s after a step, in the ego frame of that step."""
    ahead = step + STRIDE * np.arange(1, PLAN_POINTS + 1)
    return to_ego(drive.ego[ahead, :3], drive.ego[step, :3])


def sane(future: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """(N,) bool: whether plans (N, 8, 3) from current speeds (N,) are feasible for a car: no jumps, no reversing."""
    p = np.concatenate([np.zeros_like(future[:, :1]), future], 1)
    step = np.hypot(*np.diff(p[..., :2], axis=1).transpose(2, 0, 1)) / PLAN_DT
    accel = np.diff(np.concatenate([speed[:, None], step], 1), axis=1) / PLAN_DT
    turn = np.diff(p[..., 2], axis=1)
    turn = np.abs(np.arctan2(np.sin(turn), np.cos(turn)))
    ok = np.isfinite(future).all((1, 2)) & np.isfinite(speed)
    ok &= (step < MAX_SPEED).all(1) & (np.abs(accel) < MAX_ACCEL).all(1) & (turn < MAX_TURN).all(1)
    return ok & (plan_speeds(future) > -1.0).all(1)


def weights(
    drive: Drive, steps: np.ndarray, future: np.ndarray, speed: np.ndarray, correction: np.ndarray
) -> np.ndarray:
    """(N,) float32 loss weights by the rule of WEIGHT."""
    names = np.array(MANOEUVRES)[manoeuvres(future, speed)]
    cases = {name: names == name for name in ("brake", "stop", "start")}
    cases["turn"] = np.abs(future[:, -1, 2]) > TURNED
    cases["correction"] = correction
    cases["takeover"] = correction & _near_takeover(drive, steps)
    out = np.ones(len(steps), np.float32)
    for name, where in cases.items():
        out[where] = np.maximum(out[where], WEIGHT[name])
    out[(names == "stand") & ~correction] = WEIGHT["stand"]
    return out


def _near_takeover(drive: Drive, steps: np.ndarray) -> np.ndarray:
    if drive.takeover is None:
        return np.zeros(len(steps), bool)
    taken = np.asarray(drive.takeover, bool)
    edges = np.flatnonzero(taken & ~np.concatenate([[False], taken[:-1]]))
    since = drive.t[steps][:, None] - drive.t[edges][None]
    return np.asarray(((since >= -3.0) & (since <= 1.0)).any(1))


def _corrections(drive: Drive) -> tuple[np.ndarray, np.ndarray]:
    """Steps (C,), ascending, for which the safety driver's plan is known, and those plans (C, 8, 3)."""
    if drive.correction is None or not len(drive.correction.t):
        return np.zeros(0, int), np.zeros((0, PLAN_POINTS, 3))
    t = drive.correction.t
    step = np.searchsorted(drive.t, t + clock.JITTER_S, side="right") - 1
    # The first half second has no earlier frame; a plan made in a gap, or after the end, has no step.
    inside = np.flatnonzero((step >= STRIDE) & (t - drive.t[np.maximum(step, 0)] < DT))
    steps, first = np.unique(step[inside], return_index=True)
    points = np.array(drive.correction.points)[inside][first]
    late = t[inside][first] - drive.t[steps]
    for n in np.flatnonzero(np.abs(late) > clock.JITTER_S):
        points[n] = _earlier(points[n], drive.ego[steps[n] : steps[n] + 2, :3], float(late[n]))
    return steps, points


def _earlier(points: np.ndarray, poses: np.ndarray, late: float) -> np.ndarray:
    """Transform a plan (8, 3) made `late` s after a step, less than one step, to the ego frame of the step.

    poses (1 or 2, 3): the ego at that step and the next, between which its pose is interpolated.
    """
    turn = poses[-1, 2] - poses[0, 2]
    change = np.append(poses[-1, :2] - poses[0, :2], np.arctan2(np.sin(turn), np.cos(turn)))
    made_at = poses[0] + change * late / DT
    way = np.vstack([poses[0], made_at, to_map(points.astype(np.float64), made_at)])
    at = np.concatenate([[0.0, late], late + PLAN_DT * np.arange(1, PLAN_POINTS + 1)])
    way[:, 2] = np.unwrap(way[:, 2])
    then = PLAN_DT * np.arange(1, PLAN_POINTS + 1)
    return to_ego(np.column_stack([np.interp(then, at, c) for c in way.T]), poses[0]).astype(points.dtype)


def _steps(n: int, corrected: np.ndarray, phases: int) -> np.ndarray:
    """Decision steps, ascending: the 2 Hz grid at each phase, and every corrected step."""
    base = int(corrected[0]) % STRIDE if len(corrected) else 0
    offsets = {(base + round(STRIDE * i / phases)) % STRIDE for i in range(phases)}
    grid = [i for i in range(STRIDE, n) if i % STRIDE in offsets]
    return np.union1d(np.array(grid, int), corrected).astype(int)


def _model_drives(drive: Drive, steps: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the model was in control at any time from a decision to the end of its label."""
    if drive.engaged is None:
        return np.zeros(len(steps), bool)
    before = np.concatenate([[0], np.cumsum(np.asarray(drive.engaged, int))])
    return before[np.minimum(steps + AHEAD + 1, len(drive.t))] > before[steps]


def concatenate(parts: list[Episodes]) -> Episodes:
    """Concatenate the Episodes of several clips, in the order given. ValueError if there are none."""
    require(len(parts) > 0, "concatenate: no episodes given; label at least one clip")
    body = parts[0].embodiment
    counts = np.array([[len(f) for f in p.frames.values()] for p in parts])
    offsets = np.concatenate([np.zeros_like(counts[:1]), np.cumsum(counts, 0)[:-1]])[..., None]
    joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ARRAYS if name != "frame_index"}
    return Episodes(
        frames={name: np.concatenate([p.frames[name] for p in parts]) for name in body.pictures},
        frame_index=np.concatenate([p.frame_index + o for p, o in zip(parts, offsets, strict=True)]),
        embodiment=body,
        text=[t for p in parts for t in p.text],
        clip=[c for p in parts for c in p.clip],
        **joined,
    ).validate()


def save_shard(folder: Path | str, episodes: Episodes) -> None:
    """Write frames.safetensors, arrays.safetensors and text.json to a folder, atomically. ValueError if the folder
    holds any other files."""
    with outputs.folder(Path(folder), "text.json") as aside:
        arrays.write(aside / "frames.safetensors", episodes.frames)
        arrays.write(aside / "arrays.safetensors", {name: getattr(episodes, name) for name in ARRAYS})
        words = {"text": episodes.text, "clip": episodes.clip, "embodiment": episodes.embodiment.to_dict()}
        (aside / "text.json").write_text(json.dumps(words))


def load_shard(folder: Path | str, *, mapped: bool = True) -> Episodes:
    """Read a folder written by `save_shard`; frames stay on disk (memory-mapped) by default. ValueError if damaged."""
    folder = Path(folder)
    try:
        take = arrays.mapped if mapped else arrays.read
        held = arrays.read(folder / "arrays.safetensors", ARRAYS)
        fields = {name: held[name] for name in ARRAYS}
        words = read_json(folder / "text.json")
        body = Embodiment.of(words["embodiment"], folder / "text.json")
        shown = take(folder / "frames.safetensors", body.pictures)
        frames = {name: shown[name] for name in body.pictures}
    except (OSError, KeyError, ValueError, EOFError) as error:
        raise ValueError(f"{folder}: incomplete episode shard ({error}); label the clips again") from None
    return Episodes(frames=frames, text=words["text"], clip=words["clip"], embodiment=body, **fields).validate()

"""One short line of reasoning from facts and label: `critical object, relation | rule | decision`.

Numbers are binned and the vocabulary is small, so that a small BPE encodes a line in 8-14 tokens. The object and its
relation come from facts at or before t; only the decision comes from the label. Without a Scene, the line describes
only the ego's own motion.
"""

from __future__ import annotations

import numpy as np

from drivefoundry.label.facts import CURVE, Facts, FieldOfView, facts_at
from drivefoundry.types import (
    COMMAND_LEFT,
    COMMAND_STRAIGHT,
    PLAN_DT,
    SIGNAL_GREEN,
    SIGNAL_RED,
    SIGNAL_YELLOW,
    Scene,
)
from drivefoundry_car.log import Drive

GAP_BINS = np.array([2, 5, 10, 15, 20, 30, 40, 60])
CLOSING_BINS = np.array([2, 4, 8])
MANOEUVRES = ("stand", "start", "stop", "brake", "slow", "keep", "accelerate")
SLOWING = ("stand", "stop", "brake", "slow")
TURNED = 0.35
"""Heading change over the plan's 4 s that makes it a turn, rad."""


def plan_speeds(future: np.ndarray) -> np.ndarray:
    """Mean speed (N, 8) m/s of each half second of plans (N, 8, 3); negative in reverse."""
    start = np.zeros_like(future[:, :1])
    p = np.concatenate([start, future], 1)
    step = np.diff(p[..., :2], axis=1)
    yaw = p[:, :-1, 2] + np.arctan2(np.sin(np.diff(p[..., 2])), np.cos(np.diff(p[..., 2]))) / 2
    return (step[..., 0] * np.cos(yaw) + step[..., 1] * np.sin(yaw)) / PLAN_DT


def manoeuvres(future: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Index (N,) into MANOEUVRES of plans (N, 8, 3) at current speeds (N,).

    stand: no faster than 0.5 m/s and under 1 m in 4 s; start: from standing; stop: standing at the end; otherwise by
    the mean acceleration over 2 s: brake < -1.2, slow < -0.4, accelerate > 0.4 m/s^2, keep in between.
    """
    v = plan_speeds(future)
    gain = ((v[:, 3] + v[:, 4]) / 2 - speed) / 2.0
    far = np.hypot(future[:, -1, 0], future[:, -1, 1])
    names = [
        ("stand", (speed < 0.5) & (far < 1.0)),
        ("start", speed < 0.5),
        ("stop", (v[:, -1] < 0.4) & (speed >= 0.5)),
        ("brake", gain < -1.2),
        ("slow", gain < -0.4),
        ("accelerate", gain > 0.4),
    ]
    return np.select([where for _, where in names], [MANOEUVRES.index(n) for n, _ in names], MANOEUVRES.index("keep"))


def reasons(drive: Drive, scene: Scene | None, steps: np.ndarray, future: np.ndarray) -> list[str]:
    """N lines of reasoning for decision steps (N,) and labels (N, 8, 3) of a drive and its Scene, if known."""
    steps = np.asarray(steps, int)
    speed = drive.ego[steps, 3]
    moves = [MANOEUVRES[m] for m in manoeuvres(future, speed)]
    turned = future[:, -1, 2]
    decisions = [
        m + (" turn left" if y > TURNED else " turn right" if y < -TURNED else "")
        for m, y in zip(moves, turned, strict=True)
    ]
    if scene is None:
        return [f"{_motion(drive, int(i))} | follow road | {d}" for i, d in zip(steps, decisions, strict=True)]
    camera = FieldOfView()
    if drive.video is not None:
        camera = FieldOfView.of(drive.video.width, drive.video.intrinsics, drive.video.mount)
    facts = facts_at(scene, steps, camera)
    return [f"{critical(facts, i, moves[i])} | {decisions[i]}" for i in range(len(steps))]


def critical(facts: Facts, i: int, move: str) -> str:
    """`object relation | rule` for decision i with the given manoeuvre: the nearest fact that explains it."""
    slowing = move in SLOWING
    candidates = _reasons_to_slow(facts, i) if slowing else _reasons_to_go(facts, i, move)
    if candidates:
        return min(candidates)[1]
    if abs(facts.curve[i]) > CURVE:
        return f"curve {_side(facts.curve[i] > 0)} | {'slow for curve' if slowing else 'follow road'}"
    if slowing and facts.speed[i] > facts.limit[i] + 1.0:
        return "over limit | obey limit"
    if move == "accelerate" and facts.speed[i] < facts.limit[i] - 2.0:
        return "free road under limit | drive at limit"
    return "free road | follow road" if not np.isfinite(facts.lead_gap[i]) else "open gap | follow road"


def _reasons_to_slow(facts: Facts, i: int) -> list[tuple[float, str]]:
    """Facts that call for slowing down, with their distance; the nearest one decides."""
    out: list[tuple[float, str]] = []
    v = facts.speed[i]
    if facts.person_gap[i] < 15.0 + 2.0 * v:
        where = "on path" if facts.person_on[i] else "near path"
        out.append((facts.person_gap[i], f"person {_metres(facts.person_gap[i])} {where} | give way"))
    if facts.light[i] in (SIGNAL_RED, SIGNAL_YELLOW) and facts.light_gap[i] < 25.0 + 3.0 * v:
        out.append((facts.light_gap[i], f"{_light(facts, i)} | stop at line"))
    if _lead_matters(facts, i):
        out.append((facts.lead_gap[i], f"{_lead(facts, i)} | keep gap"))
    if facts.crossing_gap[i] < 10.0 + 2.0 * v:
        out.append((facts.crossing_gap[i], f"crossing car {_metres(facts.crossing_gap[i])} | give way"))
    if facts.turn[i] != COMMAND_STRAIGHT and facts.turn_gap[i] < 35.0 and v > 1.0:
        # A turn explains slowing only if no obstacle does.
        out.append((facts.turn_gap[i] + 100.0, f"{_turn(facts, i)} | slow for turn"))
    return out


def _reasons_to_go(facts: Facts, i: int, move: str) -> list[tuple[float, str]]:
    """Facts that explain driving on, with their distance."""
    out: list[tuple[float, str]] = []
    if _lead_matters(facts, i):
        out.append((facts.lead_gap[i], f"{_lead(facts, i)} | keep gap"))
    if move == "start" and facts.light[i] in (SIGNAL_RED, SIGNAL_YELLOW) and facts.light_gap[i] < 10.0:
        # It will change within the label's 4 s, which cannot be seen yet.
        out.append((facts.light_gap[i], f"{_light(facts, i)} | wait for green"))
    if facts.light[i] == SIGNAL_GREEN and facts.light_gap[i] < 40.0:
        out.append((facts.light_gap[i], f"{_light(facts, i)} | go"))
    if facts.turn[i] != COMMAND_STRAIGHT and facts.turn_gap[i] < 20.0:
        out.append((facts.turn_gap[i], f"{_turn(facts, i)} | follow route"))
    return out


def _lead_matters(facts: Facts, i: int) -> bool:
    """A lead counts if it is within 8 m + 2 s, or will be reached within 6 s."""
    gap, closing = facts.lead_gap[i], facts.lead_closing[i]
    return bool(gap < 8.0 + 2.0 * facts.speed[i] or (closing > 0.5 and gap < 6.0 * closing))


def _lead(facts: Facts, i: int) -> str:
    closing = facts.lead_closing[i]
    relation = f"closing {_bin(closing, CLOSING_BINS)}" if closing > 1 else "opening" if closing < -1 else "steady"
    return f"lead car {_metres(facts.lead_gap[i])} {relation}"


def _light(facts: Facts, i: int) -> str:
    colour = {SIGNAL_RED: "red", SIGNAL_YELLOW: "yellow", SIGNAL_GREEN: "green"}[int(facts.light[i])]
    return f"{colour} light {_metres(facts.light_gap[i])}"


def _turn(facts: Facts, i: int) -> str:
    return f"{_side(facts.turn[i] == COMMAND_LEFT)} turn {_metres(facts.turn_gap[i])}"


def _motion(drive: Drive, i: int) -> str:
    """Ego motion up to step i in words: curvature, and speed trend over the last second."""
    v, rate = drive.ego[i, 3], drive.ego[i, 5]
    past = drive.ego[max(0, i - 10), 3]
    curvature = rate / max(v, 2.0)
    bend = "straight" if abs(curvature) < 0.006 else f"curve {_side(curvature > 0)}"
    if v < 0.5:
        return "standing"
    trend = "steady" if abs(v - past) < 0.5 else "rising" if v > past else "falling"
    return f"{bend}, {trend} speed"


def _side(left: bool | np.bool_) -> str:
    return "left" if left else "right"


def _metres(gap: float) -> str:
    return f"{_bin(gap, GAP_BINS)} m"


def _bin(value: float, bins: np.ndarray) -> int:
    return int(bins[np.abs(bins - value).argmin()])

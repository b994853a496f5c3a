"""For each campaign of the library, what must fire it and what looks alike and must not: changes of a quiet drive.

The drive is conftest's, 60 s long: 10 m/s east along y = 0, a car 30 m ahead, an engaged model with a safety driver; a
stop line at x = 150 whose light (id 5) is green. A change works on its arrays, or gives another drive back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from drivefoundry_car.log import Drive, Objects

CAR, PEDESTRIAN, CYCLIST = 0, 2, 3
SIZES = {CAR: (4.6, 1.9, 1.6), PEDESTRIAN: (0.6, 0.6, 1.8), CYCLIST: (1.8, 0.6, 1.8)}
STOP_LINES = np.tile([900.0, -4.0, 900.0, 4.0], (6, 1))
STOP_LINES[5] = [150.0, -4.0, 150.0, 4.0]
Change = Callable[[Drive], Drive | None]


def with_object(d: Drive, kind: int, x, y, yaw=0.0, speed=0.0) -> Drive:
    """One more road user; x, y, yaw, speed: numbers, or one a sample."""
    o, steps = d.objects, len(d.t)
    assert o is not None
    state = np.stack([np.broadcast_to(v, steps) for v in (x, y, yaw, speed)], 1).astype(np.float32)
    more = Objects(
        np.append(o.track, 100 + len(o.track)),
        np.append(o.kind, kind),
        np.concatenate([o.size, [SIZES[kind]]]).astype(np.float32),
        np.concatenate([o.states, state[None]]),
        np.concatenate([o.valid, np.ones((1, steps), bool)]),
    )
    return replace(d, objects=more)


def column(index: int, value: float, first: int, last: int) -> Change:
    """Set a column of the ego at samples first .. last - 1."""

    def change(d: Drive) -> None:
        d.ego[first:last, index] = value

    return change


def all_of(*changes: Change) -> Change:
    def change(d: Drive) -> Drive:
        for c in changes:
            d = c(d) or d
        return d

    return change


def accel(value: float, first: int, last: int) -> Change:
    return column(4, value, first, last)


def speed(value: float, first: int = 0, last: int = 600) -> Change:
    return column(3, value, first, last)


def pulses(*samples: int) -> Change:
    return all_of(*(accel(1.0, s, s + 1) for s in samples))


def alone(d: Drive) -> None:
    d.objects.valid[:] = False


def lead_at(ahead: float) -> Change:
    def change(d: Drive) -> None:
        d.objects.states[0, :, 0] = d.ego[:, 0] + ahead

    return change


def lead_slows_to(value: float) -> Change:
    def change(d: Drive) -> None:
        d.objects.states[0, 100:110, 3] = np.linspace(10, value, 10)
        d.objects.states[0, 110:, 3] = value

    return change


def steers(rate: float) -> Change:
    def change(d: Drive) -> None:
        d.ego[:, 6] = 0
        d.ego[100:105, 6] = rate * 0.1 * np.arange(5)
        d.ego[105:, 6] = d.ego[104, 6]

    return change


def beside(y: float, kind: int = CAR) -> Change:
    return lambda d: with_object(d, kind, d.ego[:, 0], y, 0.0, 10.0)


def weaves(width: float) -> Change:
    def change(d: Drive) -> None:
        d.ego[:, 1] = width * np.sin(2 * np.pi * d.t / 4)

    return change


def comes_in(ahead: float, from_y: float, to_y: float) -> Change:
    """A car `ahead` m before the ego changes its lane within 2 s at 10 s."""

    def change(d: Drive) -> Drive:
        y = np.interp(d.t, [10, 12], [from_y, to_y])
        across = np.where((d.t >= 10) & (d.t < 12), (to_y - from_y) / 2, 0.0)
        return with_object(d, CAR, d.ego[:, 0] + ahead, y, np.arctan2(across, 10), np.hypot(across, 10))

    return change


def stands(kind: int, x: float, y: float) -> Change:
    return lambda d: with_object(d, kind, x, y)


def walks(x: float, pace: float, y: float) -> Change:
    """A pedestrian at y at 14 s, north at `pace`."""
    return lambda d: with_object(d, PEDESTRIAN, x, y + pace * (d.t - 14), np.pi / 2, pace)


def rides(y: float) -> Change:
    return lambda d: with_object(d, CYCLIST, 100 + 4 * d.t, y, 0.0, 4.0)


def turns_left(d: Drive) -> None:
    d.ego[100:, 2] = np.minimum(0.4 * (d.t[100:] - 10), 1.2)
    d.ego[100:130, 5] = 0.4
    d.ego[100:, 0], d.ego[100:, 3] = 100 + 4 * (d.t[100:] - 10), 6
    d.objects.valid[0, 80:] = False


def oncoming(d: Drive) -> Drive:
    return with_object(d, CAR, 130 - 10 * (d.t - 10), 3.5, np.pi, 10.0)


def gathers(people: int) -> Change:
    return all_of(*(lambda d, i=i: with_object(d, PEDESTRIAN, d.ego[:, 0] + i, 12.0) for i in range(people)))


def light(state: int) -> Change:
    def change(d: Drive) -> None:
        d.signal_state[1] = state

    return change


def moved_to(y: float) -> Change:
    return column(1, y, 100, 110)


def stops_at(*samples: int) -> Change:
    return all_of(*(speed(0.0, s, s + 20) for s in samples))


def takes_over(*samples: int) -> Change:
    def change(d: Drive) -> None:
        for s in samples:
            d.takeover[s : s + 20] = True

    return change


def drives_by_hand(d: Drive) -> None:
    d.engaged[:] = False


def corrected(first: int, last: int) -> Change:
    def change(d: Drive) -> None:
        d.correction.points[first:last, 7, 1] = 3

    return change


def leaves_its_plan(d: Drive) -> None:
    d.ego[100:, 1] = np.minimum(2 * (d.t[100:] - 10), 8)


def picked(picks: str) -> Change:
    return lambda d: replace(d, meta={**d.meta, "picks": picks})


hard = accel(-3.5, 135, 142)
SCENES: dict[str, tuple[Change, Change]] = {
    "hard_brake": (accel(-5, 100, 105), accel(-5, 100, 102)),
    "firm_brake": (accel(-2.5, 100, 108), accel(-2.5, 100, 104)),
    "phantom_brake": (all_of(alone, accel(-3, 100, 106)), accel(-3, 100, 106)),
    "harsh_start": (accel(4, 100, 108), accel(4, 100, 104)),
    "jolt": (pulses(100, 110), pulses(100, 150)),
    "hard_corner": (column(5, 0.45, 100, 106), column(5, 0.3, 100, 106)),
    "bend": (all_of(speed(12), column(5, 0.25, 100, 115)), all_of(speed(12), column(5, 0.25, 100, 106))),
    "swerve": (steers(4), all_of(steers(4), speed(5))),
    "evasion": (all_of(steers(2), beside(3.5)), steers(2)),
    "wobble": (weaves(0.5), weaves(0.2)),
    "near_miss": (all_of(lead_at(8), lead_slows_to(5)), lead_slows_to(8)),
    "cut_in": (comes_in(12, 3.5, 0), comes_in(12, 3.5, 3.4)),
    "cut_in_answered_late": (all_of(comes_in(25, 3.5, 0), accel(-3.5, 125, 130)),
                             all_of(comes_in(25, 3.5, 0), accel(-3.5, 165, 170))),
    "lead_brakes": (lead_slows_to(5), lead_slows_to(9)),
    "tailgating": (all_of(speed(12), lead_at(8)), speed(12)),
    "stalled_car": (stands(CAR, 200, 0), stands(CAR, 200, 3.5)),
    "unprotected_turn": (all_of(turns_left, oncoming), turns_left),
    "jaywalker": (walks(150, 1.5, -3), stands(PEDESTRIAN, 150, -3)),
    "pedestrian_close": (stands(PEDESTRIAN, 150, 2.5), stands(PEDESTRIAN, 150, 4)),
    "cyclist_close": (rides(2), rides(4)),
    "crowd": (gathers(15), gathers(12)),
    "light_running": (light(3), light(2)),
    "late_for_red": (all_of(light(3), hard), hard),
    "speeding": (speed(18, 100, 140), speed(15, 100, 140)),
    "lane_departure": (moved_to(1.5), moved_to(0.8)),
    "rare_manoeuvre": (column(5, -0.6, 50, 60), all_of(column(5, -0.6, 50, 60), speed(2))),
    "reversing": (speed(-1, 100, 120), speed(-0.2, 100, 120)),
    "stop_and_go": (stops_at(50, 150, 250), stops_at(50, 250)),
    "blocked": (all_of(alone, speed(0, 100, 200)), all_of(lead_at(8), speed(0, 100, 200))),
    "takeover": (takes_over(120), drives_by_hand),
    "takeover_series": (takes_over(100, 200, 400), takes_over(100, 200)),
    "disagreement": (corrected(20, 30), corrected(20, 21)),
    "shadow_disagreement": (all_of(leaves_its_plan, drives_by_hand), leaves_its_plan),
    "novelty": (all_of(gathers(12), walks(150, 1.5, -3), light(3), oncoming), speed(9.5)),
    "user_pick": (picked("12.3 48"), picked("")),
}  # fmt: skip
"""Campaign -> (fires, must not)."""

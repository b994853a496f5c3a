"""The 10 Hz clock of drives: samples on it stay unchanged, other rates are interpolated onto it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from drivefoundry_car.log.drive import Drive, Objects

DT = 0.1
"""Step of the clock, s."""
GAP_S = 0.25
"""Longest interval that is interpolated, s: beyond it the car's motion is unknown."""
JITTER_S = 1e-3
"""Tolerance for a time to be on the clock, s: at 30 m/s, 3 cm."""
EDGE_S = 1e-6
"""Rounding of times on a 0.1 s grid, s."""
FASTEST = 100.0
"""Implausible speed, m/s, that reveals two motions on one clock."""


def runs(t: np.ndarray) -> list[tuple[int, int]]:
    """Runs [start, stop) of increasing times (T,) without gaps of over GAP_S."""
    edges = [0, *(np.flatnonzero(np.diff(t) > GAP_S + EDGE_S) + 1).tolist(), len(t)]
    return [*pairwise(edges)]


def is_steady(t: np.ndarray) -> bool:
    """Whether increasing times (T,) are on the clock: DT apart within JITTER_S throughout each gapless run.

    ValueError if most intervals are gaps.
    """
    if len(t) > 1 and (median := float(np.median(np.diff(t)))) > GAP_S + EDGE_S:
        raise ValueError(f"its states are {median:.2f} s apart; record one at least every {GAP_S} s")
    return all(np.abs(t[a:b] - t[a] - DT * np.arange(b - a)).max(initial=0.0) <= JITTER_S for a, b in runs(t))


def spans(t: np.ndarray, steps: np.ndarray, back: int, ahead: int) -> np.ndarray:
    """(N,) bool: whether steps - back .. steps + ahead of increasing times (T,), where they exist, are on the clock.

    Counting steps to measure time, as labels do, is valid only there.
    """
    first, last = np.maximum(steps - back, 0), np.minimum(steps + ahead, len(t) - 1)
    bad = np.concatenate([[0], np.cumsum(np.abs(np.diff(t) - DT) > 2 * JITTER_S)])
    far = np.abs(t[last] - t[first] - DT * (last - first)) > 2 * JITTER_S
    return ~far & (bad[last] == bad[first])


def steps_of(t: np.ndarray) -> np.ndarray:
    """Multiples of DT within increasing times (T,), none within a gap."""
    parts = []
    for a, b in runs(t):
        parts.append(DT * np.arange(np.ceil(t[a] / DT - 1e-6), np.floor(t[b - 1] / DT + 1e-6) + 1))
    return np.concatenate(parts) + 0.0  # no -0.0


def interpolated(t: np.ndarray, ego: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Interpolate states ego (N, 7) at increasing times (N,) to states (T, 7) at `at`, with unwrapped heading."""
    columns = [np.interp(at, t, np.unwrap(c) if i == 2 else c) for i, c in enumerate(ego.T)]
    columns[2] = np.arctan2(np.sin(columns[2]), np.cos(columns[2]))
    return np.column_stack(columns)


def on_grid(t: np.ndarray, ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resample ego states (N, 7) at t (N,) s, in any order, to increasing times on the clock.

    States on the clock stay unchanged. States without x, y, yaw and speed are dropped. ValueError if none is left, or
    they are too far apart.
    """
    t, first = np.unique(t, return_index=True)
    ego = ego[first]
    known = np.isfinite(ego[:, :4]).all(axis=1)
    t, ego = t[known], ego[known]
    if not len(t):
        raise ValueError("no ego state that has x, y, yaw and speed; record them")
    if is_steady(t):
        return t, ego
    grid = steps_of(t)
    if not len(grid):
        raise ValueError(f"its states do not reach from one step of {DT} s to the next; record for longer")
    return grid, interpolated(t, ego, grid)


def onto(drive: Drive) -> Drive:
    """Resample a drive to the clock; one that is already on it is returned unchanged.

    Interpolated: the ego, and road users between two steps at which they are seen (else extrapolated up to DT / 2).
    Held: signals. A flag is true if it was true since the last step. Pictures and plans keep their own times.
    """
    t = drive.t
    if is_steady(t):
        return drive
    grid = steps_of(t)
    if not len(grid):
        raise ValueError(f"its states do not reach from one step of {DT} s to the next; record for longer")
    last = np.clip(np.searchsorted(t, grid + EDGE_S, side="right") - 1, 0, len(t) - 1)
    rate = 1 / float(np.median(np.diff(t))) if len(t) > 1 else 0.0
    note = f"states came about {rate:.3g} times a second; interpolated at 10 a second"
    return replace(
        drive,
        t=grid,
        ego=interpolated(t, drive.ego, grid),
        objects=None if drive.objects is None else _objects(drive.objects, t, grid, last),
        signal_state=None if drive.signal_state is None else drive.signal_state[:, last],
        engaged=None if drive.engaged is None else _flag(drive.engaged, last),
        takeover=None if drive.takeover is None else _flag(drive.takeover, last),
        notes={**drive.notes, "clock": note},
    )


def _flag(flag: np.ndarray, last: np.ndarray) -> np.ndarray:
    """(T,) whether a flag (N,) bool was true since the previous step; last (T,): last sample of each step."""
    count = np.concatenate([[0], np.cumsum(flag)])
    since = np.minimum(np.concatenate([last[:1], last[:-1] + 1]), last)
    return count[last + 1] > count[since]


def _objects(o: Objects, t: np.ndarray, grid: np.ndarray, last: np.ndarray) -> Objects:
    after = np.minimum(last + 1, len(t) - 1)
    share = np.clip((grid - t[last]) / np.maximum(t[after] - t[last], EDGE_S), 0.0, 1.0)
    share[np.abs(grid - t[last]) <= EDGE_S] = 0.0
    a, b = o.states[:, last].astype(np.float64), o.states[:, after].astype(np.float64)
    turn = b[..., 2] - a[..., 2]
    change = b - a
    change[..., 2] = np.arctan2(np.sin(turn), np.cos(turn))
    between = a + change * share[:, None]
    exact = share == 0.0
    both = o.valid[:, last] & (o.valid[:, after] | exact)
    near_a = o.valid[:, last] & (grid - t[last] <= DT / 2 + EDGE_S)
    near_b = o.valid[:, after] & (t[after] - grid <= DT / 2 + EDGE_S)
    states = np.where(near_a[..., None], _moved(a, grid - t[last]), _moved(b, grid - t[after]))
    states = np.where(both[..., None], between, states)
    valid = both | near_a | near_b
    return replace(o, states=np.where(valid[..., None], states, 0.0).astype(np.float32), valid=valid)


def _moved(states: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Extrapolate states (O, T, 4) along their headings at constant speed for `seconds` (T,)."""
    out = states.copy()
    out[..., 0] += states[..., 3] * np.cos(states[..., 2]) * seconds
    out[..., 1] += states[..., 3] * np.sin(states[..., 2]) * seconds
    return out


def check_order(t: np.ndarray, ego: np.ndarray) -> None:
    """Check recorded states ego (N, 7) for times (N,) that go back and mix two motions; else ValueError.

    Sorting restores messages that are merely out of order, but not those of a clock that was set back.
    """
    back = np.flatnonzero(np.diff(t) < 0)
    if not len(back):
        return
    order = np.argsort(t, kind="stable")
    with np.errstate(invalid="ignore"):  # ignore states without a position
        jumps = np.hypot(*np.diff(ego[order, :2], axis=0).T) > FASTEST * np.diff(t[order]) + 1.0
    if jumps.any():
        i = int(back[0])
        raise ValueError(
            f"its clock goes back by {t[i] - t[i + 1]:.2f} s at state {i + 1}, into time that is already recorded; "
            "write the two parts as two drives"
        )

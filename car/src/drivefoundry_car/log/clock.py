"""The 10 Hz clock of drives: what is on it stays as it is, what came at another rate is interpolated onto it."""

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
"""Samples further apart than this are not interpolated between: nobody knows what the car did meanwhile, s."""
JITTER_S = 1e-3
"""A time this near to its step is on the clock, s: at 30 m/s, 3 cm."""
EDGE_S = 1e-6
"""Rounding of times on a 0.1 s grid, s."""
FASTEST = 100.0
"""No car moves faster, m/s: two motions that share one clock do."""


def runs(t: np.ndarray) -> list[tuple[int, int]]:
    """Stretches (first, past the last) of rising times (T,) in which none is further than GAP_S from the next."""
    edges = [0, *(np.flatnonzero(np.diff(t) > GAP_S + EDGE_S) + 1).tolist(), len(t)]
    return [*pairwise(edges)]


def is_steady(t: np.ndarray) -> bool:
    """Whether rising times (T,) are on the clock: DT apart within JITTER_S, all along each stretch without a gap.

    ValueError where most of it is gaps.
    """
    if len(t) > 1 and (median := float(np.median(np.diff(t)))) > GAP_S + EDGE_S:
        raise ValueError(f"its states are {median:.2f} s apart; record one at least every {GAP_S} s")
    return all(np.abs(t[a:b] - t[a] - DT * np.arange(b - a)).max(initial=0.0) <= JITTER_S for a, b in runs(t))


def spans(t: np.ndarray, steps: np.ndarray, back: int, ahead: int) -> np.ndarray:
    """(N,) bool: whether steps - back .. steps + ahead of rising times (T,), as far as there are any, are on the clock.

    What counts steps to measure time, as a label does, is right only where this holds.
    """
    first, last = np.maximum(steps - back, 0), np.minimum(steps + ahead, len(t) - 1)
    bad = np.concatenate([[0], np.cumsum(np.abs(np.diff(t) - DT) > 2 * JITTER_S)])
    far = np.abs(t[last] - t[first] - DT * (last - first)) > 2 * JITTER_S
    return ~far & (bad[last] == bad[first])


def steps_of(t: np.ndarray) -> np.ndarray:
    """The multiples of DT within rising times (T,), none within a gap."""
    parts = []
    for a, b in runs(t):
        parts.append(DT * np.arange(np.ceil(t[a] / DT - 1e-6), np.floor(t[b - 1] / DT + 1e-6) + 1))
    return np.concatenate(parts) + 0.0  # no -0.0


def interpolated(t: np.ndarray, ego: np.ndarray, at: np.ndarray) -> np.ndarray:
    """States ego (N, 7) at rising times (N,) in; states (T, 7) at `at` out, heading unwrapped meanwhile."""
    columns = [np.interp(at, t, np.unwrap(c) if i == 2 else c) for i, c in enumerate(ego.T)]
    columns[2] = np.arctan2(np.sin(columns[2]), np.cos(columns[2]))
    return np.column_stack(columns)


def on_grid(t: np.ndarray, ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ego states ego (N, 7) at t (N,) s, in any order, in; rising times on the clock and the states there out.

    States on the clock stay as they are. Those without x, y, yaw and speed are left out. ValueError if none is left, or
    where they are too far apart.
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
    """Put a drive on the clock, all its fields by the rule for their kind; one that is on it comes back unchanged.

    Interpolated: the ego, and road users between two steps at which they are seen (else up to DT / 2 by their own
    speed). Held: signals. A flag counts if it was up since the last step. Pictures and plans keep their own times.
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
    """(N,) bool and the last sample of each step (T,) in; (T,) whether it was up since the step before."""
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
    """States (O, T, 4), each moved along its heading by its own speed for so long (T,)."""
    out = states.copy()
    out[..., 0] += states[..., 3] * np.cos(states[..., 2]) * seconds
    out[..., 1] += states[..., 3] * np.sin(states[..., 2]) * seconds
    return out


def check_order(t: np.ndarray, ego: np.ndarray) -> None:
    """ValueError where states ego (N, 7), as they were recorded, have times (N,) that go back and mix two motions.

    Messages out of order are one motion again once sorted; those of a clock that was set back are not.
    """
    back = np.flatnonzero(np.diff(t) < 0)
    if not len(back):
        return
    order = np.argsort(t, kind="stable")
    with np.errstate(invalid="ignore"):  # states without a position say nothing here
        jumps = np.hypot(*np.diff(ego[order, :2], axis=0).T) > FASTEST * np.diff(t[order]) + 1.0
    if jumps.any():
        i = int(back[0])
        raise ValueError(
            f"its clock goes back by {t[i] - t[i + 1]:.2f} s at state {i + 1}, into time it has recorded already; "
            "write the two parts as two drives"
        )

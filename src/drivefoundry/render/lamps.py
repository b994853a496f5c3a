"""Replayed tracks in, lamps out: who brakes, who is about to turn. Arrays (A, T, ...) at 10 Hz, as in Scene."""

from __future__ import annotations

import numpy as np

from drivefoundry.types import AGENT_CAR, AGENT_TRUCK, DT, PSPEED, PYAW

AHEAD_S, HOLD_S = 4.0, 0.5
"""An indicator blinks for a turn that lies within so many seconds ahead, or behind."""
TURN = np.deg2rad(25.0)
"""Change of heading over that time that counts as a turn; bends of a road stay below it."""


def brake_lamps(agents: np.ndarray) -> np.ndarray:
    """States (A, T, 4) in, (A, T) bool out: slowing down by more than 0.8 m/s^2, or standing."""
    slowing = np.diff(agents[..., PSPEED], axis=1, prepend=agents[:, :1, PSPEED]) < -0.8 * DT
    return slowing | (agents[..., PSPEED] < 0.2)


def indicators(agents: np.ndarray, valid: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """States (A, T, 4), valid (A, T) and kind (A,) in; (A, T) int8 out: 1 turns left soon, -1 right, 0 neither.

    Cars and trucks only. A driver is taken to know the turn 4 s before it is done; where a track ends, its last heading
    counts.
    """
    steps = agents.shape[1]
    at = np.arange(steps)
    last = np.where(valid.any(1), steps - 1 - valid[:, ::-1].argmax(1), 0)[:, None]
    first = valid.argmax(1)[:, None]
    heading = np.unwrap(np.where(valid, agents[..., PYAW], 0.0), axis=1)
    soon = np.clip(at + round(AHEAD_S / DT), first, np.maximum(first, last))
    since = np.clip(at - round(HOLD_S / DT), first, np.maximum(first, last))
    change = np.take_along_axis(heading, soon, 1) - np.take_along_axis(heading, since, 1)
    change = np.arctan2(np.sin(change), np.cos(change))
    told = valid & np.isin(kind, (AGENT_CAR, AGENT_TRUCK))[:, None] & (np.abs(change) > TURN)
    return np.where(told, np.sign(change), 0).astype(np.int8)

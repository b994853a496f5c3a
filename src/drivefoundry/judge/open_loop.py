"""Trajectory errors of plans against the logged future, for logs without a simulated scene, such as real camera drives.

Open-loop errors measure how well a model copies the driver, not how well it drives: report them beside these baselines.
"""

from __future__ import annotations

import numpy as np

from drivefoundry.judge.stats import block_interval
from drivefoundry.types import PLAN_DT, PLAN_POINTS, require

TIMES = np.arange(1, PLAN_POINTS + 1) * PLAN_DT
HORIZONS = (1.0, 2.0, 3.0, 4.0)
BLOCK = 20
"""Decisions (10 s) resampled together, because successive samples are correlated."""


def constant_velocity_plan(ego: np.ndarray) -> np.ndarray:
    """Straight plans (N, 8, 3) at the current speed, from ego history (N, 4, 3) of speed, yaw rate, valid."""
    plan = np.zeros((len(ego), PLAN_POINTS, 3))
    plan[..., 0] = ego[:, -1, 0, None].astype(np.float64) * TIMES
    return plan


def constant_yaw_rate_plan(ego: np.ndarray) -> np.ndarray:
    """Arcs (N, 8, 3) at the current speed and yaw rate, from ego history (N, 4, 3) of speed, yaw rate, valid."""
    speed, rate = ego[:, -1, 0, None].astype(np.float64), ego[:, -1, 1, None].astype(np.float64)
    turn = rate * TIMES
    plan = np.zeros((len(ego), PLAN_POINTS, 3))
    # Chord of an arc: length v t sinc(turn / 2), at half the turn.
    chord = speed * TIMES * np.sinc(turn / (2 * np.pi))
    plan[..., 0], plan[..., 1] = chord * np.cos(turn / 2), chord * np.sin(turn / 2)
    plan[..., 2] = np.arctan2(np.sin(turn), np.cos(turn))
    return plan


def open_loop_errors(plans: np.ndarray, future: np.ndarray) -> dict[str, np.ndarray]:
    """Errors (N,) by name of plans against logged futures (N, 8, 3), x, y, yaw in the ego frame.

    ade_1s .. ade_4s: mean distance over the points up to that time, m; fde_1s .. fde_4s: distance at that time, m;
    yaw_rate: mean absolute error of the yaw rate over the plan, rad/s. ValueError on wrong shapes or NaN.
    """
    require(
        plans.shape == future.shape and plans.shape[1:] == (PLAN_POINTS, 3),
        f"plans and future: must both have shape (N, {PLAN_POINTS}, 3), got {plans.shape} and {future.shape}",
    )
    require(bool(np.isfinite(plans).all()), "plans: NaN or infinite point; plans must be finite")
    off = np.hypot(plans[..., 0] - future[..., 0], plans[..., 1] - future[..., 1]).astype(np.float64)
    out = {}
    for horizon in HORIZONS:
        k = round(horizon / PLAN_DT)
        out[f"ade_{horizon:.0f}s"] = off[:, :k].mean(1)
        out[f"fde_{horizon:.0f}s"] = off[:, k - 1]
    out["yaw_rate"] = np.abs(_yaw_rates(plans) - _yaw_rates(future)).mean(1)
    return out


def _yaw_rates(plan: np.ndarray) -> np.ndarray:
    """(N, 8) mean yaw rate of each half second, rad/s."""
    turn = np.diff(plan[..., 2].astype(np.float64), axis=1, prepend=0.0)
    return np.arctan2(np.sin(turn), np.cos(turn)) / PLAN_DT


def open_loop_summary(errors: dict[str, np.ndarray], clip: list[str]) -> dict[str, tuple[float, float, float]]:
    """Mean and 95 % interval by name of errors (N,) in time order; clip: the clip of each sample.

    The bootstrap draws blocks of 10 s (at 2 Hz) within a clip, because successive samples are correlated.
    """
    labels, count, block, last = [], 0, -1, None
    for name in clip:
        if name != last or count == BLOCK:
            block, count, last = block + 1, 0, name
        labels.append(block)
        count += 1
    return {name: block_interval(values, np.array(labels)) for name, values in errors.items()}

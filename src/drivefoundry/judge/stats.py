"""Per-scene values in, means with intervals out: seeded bootstraps over scenes or over blocks of time."""

from __future__ import annotations

import numpy as np

from drivefoundry.types import require

RESAMPLES = 10_000
CHUNK = 2_000_000
"""Draws held in memory at once."""


def _bootstrap(values: np.ndarray, weights: np.ndarray, confidence: float, seed: int) -> tuple[float, float, float]:
    """Weighted mean of values (S,) and its percentile interval, resampling the S entries (Efron 1979)."""
    n = len(values)
    rng = np.random.default_rng(seed)
    means = []
    left, rows = RESAMPLES, max(1, CHUNK // n)
    while left > 0:
        pick = rng.integers(0, n, (min(left, rows), n))
        w = weights[pick]
        means.append((values[pick] * w).sum(1) / w.sum(1))
        left -= len(pick)
    low, high = np.quantile(np.concatenate(means), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float((values * weights).sum() / weights.sum()), float(low), float(high)


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    require(values.ndim == 1 and len(values) > 0, f"{name}: one value a scene wanted, got shape {values.shape}")
    require(bool(np.isfinite(values).all()), f"{name}: NaN or infinite value; leave such metrics out of the mean")
    return values


def mean_interval(values: np.ndarray, confidence: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """Values (S,), one a scene, in; mean and the low and high end of its bootstrap interval out. ValueError on NaN."""
    values = _checked(values, "values")
    return _bootstrap(values, np.ones(len(values)), confidence, seed)


def paired_difference(
    a: np.ndarray, b: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Values of two policies on the same scenes (S,) each in; mean of a - b and its interval out."""
    a, b = _checked(a, "a"), _checked(b, "b")
    require(a.shape == b.shape, f"a and b: the same scenes wanted, got {len(a)} and {len(b)} values")
    return mean_interval(a - b, confidence, seed)


def non_inferior(a: np.ndarray, b: np.ndarray, margin: float, confidence: float = 0.95, seed: int = 0) -> bool:
    """Is a, paired with b, not worse than b by more than `margin`? True where the interval of a - b lies above
    -margin."""
    require(margin >= 0.0, f"margin: {margin} is negative; give how much worse is still acceptable")
    return paired_difference(a, b, confidence, seed)[1] > -margin


def block_interval(
    values: np.ndarray, block: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of values (N,) and its interval, resampling whole blocks: block (N,) says to which stretch of time each
    belongs.

    For values that follow each other in time and are alike for it: their own bootstrap would be far too sure.
    """
    values, block = _checked(values, "values"), np.asarray(block)
    require(block.shape == values.shape, f"block: one label a value wanted, got {block.shape} for {values.shape}")
    _, inverse, counts = np.unique(block, return_inverse=True, return_counts=True)
    sums = np.bincount(inverse, values)
    return _bootstrap(sums / counts, counts.astype(np.float64), confidence, seed)

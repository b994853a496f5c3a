"""Means with intervals and paired tests of per-scene values: seeded bootstraps over scenes or blocks of time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from drivefoundry.types import require

RESAMPLES = 10_000
LEVEL = 0.05
"""Significance level of the one-sided tests."""
KEPT_DRAWS = 8_000_000
"""Maximum number of draws (resamples x scenes) made at once and cached for the next metric."""


def _draw(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """(rows, n) float64: how often each of n entries is drawn in each of `rows` resamples."""
    pick = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(pick.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


@lru_cache(maxsize=2)
def _kept_draws(n: int, seed: int) -> np.ndarray:
    return _draw(np.random.default_rng(seed), RESAMPLES, n)


def _draws(n: int, seed: int) -> Iterator[np.ndarray]:
    """The resamples of n entries, in one or more chunks."""
    if RESAMPLES * n <= KEPT_DRAWS:
        yield _kept_draws(n, seed)
        return
    rng, left, rows = np.random.default_rng(seed), RESAMPLES, max(1, KEPT_DRAWS // n)
    while left > 0:
        yield _draw(rng, min(left, rows), n)
        left -= rows


def _resampled(values: np.ndarray, weights: np.ndarray, seed: int) -> np.ndarray:
    """Weighted means (RESAMPLES,) of values (S,) over resamples of the S entries."""
    both = np.stack([values * weights, weights], 1)
    sums = np.concatenate([counts @ both for counts in _draws(len(values), seed)])
    return sums[:, 0] / sums[:, 1]


def _bootstrap(values: np.ndarray, weights: np.ndarray, confidence: float, seed: int) -> tuple[float, float, float]:
    """Weighted mean of values (S,) and its percentile interval, resampling the S entries (Efron 1979)."""
    low, high = np.quantile(_resampled(values, weights, seed), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float((values * weights).sum() / weights.sum()), float(low), float(high)


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    require(values.ndim == 1 and len(values) > 0, f"{name}: must be one value per scene, got shape {values.shape}")
    require(bool(np.isfinite(values).all()), f"{name}: NaN or infinite value; leave such metrics out of the mean")
    return values


def mean_interval(values: np.ndarray, confidence: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """Mean of values (S,), one per scene, with the low and high end of its bootstrap interval. ValueError on NaN."""
    values = _checked(values, "values")
    return _bootstrap(values, np.ones(len(values)), confidence, seed)


def ratio_interval(
    counts: np.ndarray, amounts: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Ratio of the sums of counts and amounts (S,), such as events and kilometres of each car, with its interval."""
    counts, amounts = _checked(counts, "counts"), _checked(amounts, "amounts")
    require(counts.shape == amounts.shape, f"counts and amounts: got {len(counts)} and {len(amounts)} values")
    require(bool((amounts >= 0).all()) and amounts.sum() > 0, "amounts: must be >= 0, and some > 0")
    weights = np.maximum(amounts, 1e-12)
    return _bootstrap(counts / weights, weights, confidence, seed)


@dataclass(frozen=True)
class Comparison:
    """One policy compared with another on the same scenes; higher values are better. difference, low, high: mean of
    ours - theirs with its 95 % interval. p_superior, p_non_inferior: p-values of the null hypotheses that ours is no
    better, and that it is worse by `margin` or more."""

    difference: float
    low: float
    high: float
    margin: float
    p_superior: float
    p_non_inferior: float

    @property
    def superior(self) -> bool:
        return self.p_superior < LEVEL

    @property
    def non_inferior(self) -> bool:
        return self.p_non_inferior < LEVEL


def compare_paired(ours: np.ndarray, theirs: np.ndarray, margin: float, seed: int = 0) -> Comparison:
    """Compare two policies' values (S,) on the same scenes, with an acceptable margin.

    One-sided bootstrap tests: p is the share of resampled mean differences at or below 0, or -margin, and never below
    1 / (resamples + 1). Both use the 5 % level; the test of non-inferiority follows Schuirmann (1987). ValueError on a
    negative margin or different numbers of scenes.
    """
    ours, theirs = _checked(ours, "ours"), _checked(theirs, "theirs")
    require(
        ours.shape == theirs.shape, f"ours and theirs: must have the same scenes, got {len(ours)} and {len(theirs)}"
    )
    require(margin >= 0.0, f"margin: must be >= 0, got {margin}; give how much worse is still acceptable")
    means = _resampled(ours - theirs, np.ones(len(ours)), seed)
    low, high = np.quantile(means, [0.025, 0.975])
    p_superior, p_non_inferior = ((1 + (means <= bound).sum()) / (1 + len(means)) for bound in (0.0, -margin))
    return Comparison(
        float((ours - theirs).mean()), float(low), float(high), margin, float(p_superior), float(p_non_inferior)
    )


def block_interval(
    values: np.ndarray, block: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of values (N,) and its interval, resampling whole blocks; block (N,): label of each value's stretch of time.

    For values that are correlated in time, whose plain bootstrap interval would be far too narrow.
    """
    values, block = _checked(values, "values"), np.asarray(block)
    require(block.shape == values.shape, f"block: must be one label per value, got {block.shape} for {values.shape}")
    _, inverse, counts = np.unique(block, return_inverse=True, return_counts=True)
    sums = np.bincount(inverse, values)
    return _bootstrap(sums / counts, counts.astype(np.float64), confidence, seed)

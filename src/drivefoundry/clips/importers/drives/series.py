"""Resample one sensor with its own clock to the 10 Hz grid: values and slopes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drivefoundry.types import DT, require
from drivefoundry_car.log.clock import EDGE_S, GAP_S


@dataclass(frozen=True)
class Series:
    """t (N,) s, not going back; v (N, ...) values."""

    t: np.ndarray
    v: np.ndarray

    @staticmethod
    def checked(t: np.ndarray, v: np.ndarray, name: str, path: Path) -> Series:
        """ValueError in one line that names the file, the sensor and the first sample that is wrong."""
        require(t.ndim == 1 and len(t) > 1, f"{path}: {name}: needs at least two samples, with one time each")
        require(len(v) == len(t), f"{path}: {name}: {len(v)} values for {len(t)} times; copy it again")
        bad = np.flatnonzero(~np.isfinite(t))
        require(
            not len(bad), f"{path}: {name}: time of sample {bad[0] if len(bad) else 0} is not finite; copy it again"
        )
        back = np.flatnonzero(np.diff(t) < 0) + 1
        require(not len(back), f"{path}: {name}: time goes back at sample {back[0] if len(back) else 0}; sort by time")
        return Series(t, v)

    def at(self, t: np.ndarray) -> np.ndarray:
        """Values (T,) at times, interpolated; v (N,)."""
        return np.interp(t, self.t, self.v)

    def near(self, t: np.ndarray, seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """Values and slopes per second (T,) of the least-squares line through the samples around each time.

        Samples within seconds / 2 count. A time with fewer than three samples has the interpolated value and no
        slope (NaN).
        """
        origin = self.t[0]
        x = self.t - origin
        sums = [np.concatenate([[0.0], np.cumsum(c)]) for c in (np.ones(len(x)), x, self.v, x * x, x * self.v)]
        lo = np.searchsorted(self.t, t - seconds / 2 - 1e-9)
        hi = np.searchsorted(self.t, t + seconds / 2 + 1e-9)
        n, sx, sv, sxx, sxv = (s[hi] - s[lo] for s in sums)
        few = n < 3
        n = np.where(few, 1, n)
        spread = sxx - sx * sx / n
        few |= spread <= 0
        slope = (sxv - sx * sv / n) / np.where(few, 1.0, spread)
        value = sv / n + slope * (t - origin - sx / n)
        return np.where(few, self.at(t), value), np.where(few, np.nan, slope)


def between(samples: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(T,) bool: whether a sensor with these sample times covers each time, without a gap of over GAP_S around it."""
    after = np.clip(np.searchsorted(samples, t - EDGE_S), 1, len(samples) - 1)
    near = np.minimum(np.abs(t - samples[after]), np.abs(t - samples[after - 1]))
    return (samples[after] - samples[after - 1] <= GAP_S + EDGE_S) | (near <= EDGE_S)


def grid(first: float, last: float) -> np.ndarray:
    """The multiples of 0.1 s from first to last."""
    return DT * np.arange(np.ceil(first / DT - 1e-6), np.floor(last / DT + 1e-6) + 1) + 0.0  # no -0.0


def wrapped(angle: np.ndarray) -> np.ndarray:
    """Wrap angles, rad, to (-pi, pi]."""
    return np.arctan2(np.sin(angle), np.cos(angle))

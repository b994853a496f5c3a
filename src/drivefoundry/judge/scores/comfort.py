"""Comfort of motions: nuPlan's bounds as NAVSIM applies them.

NAVSIM smooths before comparing: accelerations and jerk with one quadratic over the whole window, yaw rate and yaw
acceleration with polynomials over 5 samples (Savitzky and Golay 1964). The filters are linear, so they are small
matrices computed once.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import njit, prange

from drivefoundry.types import DT

LON_MIN, LON_MAX, LAT_MAX = -4.05, 2.40, 4.89
"""m/s^2."""
JERK_MAX, LON_JERK_MAX = 8.37, 4.13
"""m/s^3."""
YAW_RATE_MAX, YAW_ACCEL_MAX = 0.95, 1.93
"""rad/s and rad/s^2."""
EXTENDED = {"acceleration": 0.7, "jerk": 0.5, "yaw rate": 0.1, "yaw acceleration": 0.1}
"""Maximum root mean square difference between successive plans (EPDMS)."""
SAMPLES = 41
"""4 s at 10 Hz, both ends included."""
PAST = 15
"""Maximum number of history steps that history comfort uses."""


@cache
def savgol(n: int, window: int, order: int, deriv: int) -> np.ndarray:
    """(n, n) matrix of a Savitzky-Golay filter over n samples DT apart; the fits of the first and last window extend to
    the ends.

    An even window is centred half a sample late, as in SciPy, which NAVSIM uses.
    """
    window = min(window, n)
    half = window // 2
    scale = math.factorial(deriv) / DT**deriv

    def at(first: int, where: float) -> np.ndarray:
        row = np.zeros(n)
        v = np.vander(np.arange(window) - where, order + 1, increasing=True)
        row[first : first + window] = np.linalg.pinv(v)[deriv] * scale
        return row

    rows = []
    for i in range(n):
        if i < half:
            rows.append(at(0, i))
        elif i >= n - half:
            rows.append(at(n - window, i - (n - window)))
        else:
            rows.append(at(i - (window - 1) // 2, (window - 1) / 2))
    return np.array(rows)


def _operators() -> tuple[np.ndarray, np.ndarray]:
    """For each length 41 .. 56: the quadratic fit (3, n) over time in [-1, 1], and the jerk (2, n) at the first and
    last sample. The derivative of a quadratic is linear, so its extremes are at the ends.
    """
    fit = np.zeros((PAST + 1, 3, SAMPLES + PAST))
    jerk = np.zeros((PAST + 1, 2, SAMPLES + PAST))
    for h in range(PAST + 1):
        n = SAMPLES + h
        fit[h, :, :n] = np.linalg.pinv(np.vander(np.linspace(-1, 1, n), 3, increasing=True))
        jerk[h, :, :n] = (savgol(n, n, 2, 1) @ savgol(n, 8, 2, 0))[[0, -1]]
    return fit, jerk


_FIT, _JERK = _operators()
_YAW_RATE, _YAW_ACCEL = savgol(5, 5, 2, 1), savgol(5, 5, 3, 2)


@njit(cache=True, nogil=True)
def _quadratic_within(values, n, fit, low, high):
    a, b, c = 0.0, 0.0, 0.0
    for i in range(n):
        a += fit[0, i] * values[i]
        b += fit[1, i] * values[i]
        c += fit[2, i] * values[i]
    for i in range(n):
        t = 2.0 * i / (n - 1) - 1.0
        v = a + t * (b + t * c)
        if v <= low or v >= high:
            return False
    return True


@njit(cache=True, nogil=True)
def _jerk_within(values, n, jerk, bound):
    first, last = 0.0, 0.0
    for i in range(n):
        first += jerk[0, i] * values[i]
        last += jerk[1, i] * values[i]
    return abs(first) < bound and abs(last) < bound


@njit(cache=True, nogil=True)
def _yaw_within(yaw, n, rate, accel):
    for i in range(n):
        first = min(max(i - 2, 0), n - 5)
        row = i - first
        r, a = 0.0, 0.0
        for j in range(5):
            r += rate[row, j] * yaw[first + j]
            a += accel[row, j] * yaw[first + j]
        if abs(r) >= YAW_RATE_MAX or abs(a) >= YAW_ACCEL_MAX:
            return False
    return True


@njit(cache=True, nogil=True)
def _comfortable(past, h, states, fit, jerk, rate, accel):
    """Whether all six bounds hold over the last h rows of past (H, 6) followed by states (41, 6)."""
    n = h + len(states)
    lon, lat, size, yaw = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        row = past[len(past) - h + i] if i < h else states[i - h]
        lon[i], lat[i] = row[4], row[3] * row[5]
        size[i] = math.hypot(lon[i], lat[i])
        yaw[i] = row[2]
        if i > 0:
            turn = yaw[i] - yaw[i - 1]
            yaw[i] -= 2.0 * math.pi * math.floor(turn / (2.0 * math.pi) + 0.5)
    return (
        _quadratic_within(lon, n, fit[h], LON_MIN, LON_MAX)
        and _quadratic_within(lat, n, fit[h], -LAT_MAX, LAT_MAX)
        and _jerk_within(size, n, jerk[h], JERK_MAX)
        and _jerk_within(lon, n, jerk[h], LON_JERK_MAX)
        and _yaw_within(yaw, n, rate, accel)
    )


@njit(cache=True, nogil=True, parallel=True)
def _comfort(past, past_n, states, fit, jerk, rate, accel, out):
    s_n, n_n = states.shape[:2]
    for i in prange(s_n * n_n):
        s, n = i // n_n, i % n_n
        out[s, n, 0] = _comfortable(past[s], 0, states[s, n], fit, jerk, rate, accel)
        out[s, n, 1] = out[s, n, 0]
        if past_n[s] > 0:
            out[s, n, 1] = _comfortable(past[s], past_n[s], states[s, n], fit, jerk, rate, accel)


def comfort(states: np.ndarray, past: np.ndarray | None = None, past_n: np.ndarray | None = None) -> np.ndarray:
    """Comfort (S, N, 2), 0 or 1, of motions (S, N, 41, 6): of the motion alone (C), and with its history (HC).

    States are x, y, yaw, speed, acceleration, yaw rate at 10 Hz; past (S, 15, 6) holds the preceding steps, oldest
    first, of which the last past_n (S,) are known.
    """
    assert states.shape[2:] == (SAMPLES, 6), "comfort is defined over 4 s at 10 Hz"
    if past is None or past_n is None:
        past, past_n = np.zeros((len(states), 1, 6)), np.zeros(len(states), np.int64)
    out = np.zeros((*states.shape[:2], 2))
    _comfort(past, past_n, np.ascontiguousarray(states), _FIT, _JERK, _YAW_RATE, _YAW_ACCEL, out)
    return out


def extended_comfort(before: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Extended comfort (S, N), 0 or 1, of motions (S, N, T, 6) compared with the previous plan's (S, 1, T, 6) over the
    same period."""
    n = states.shape[2]

    def features(m: np.ndarray) -> tuple[np.ndarray, ...]:
        size = savgol_apply(np.hypot(m[..., 4], m[..., 3] * m[..., 5]), n, 8, 2, 0)
        yaw = np.unwrap(m[..., 2])
        return (
            size,
            savgol_apply(size, n, 15, 2, 1),
            savgol_apply(yaw, n, 5, 2, 1),
            savgol_apply(yaw, n, 5, 2, 2),
        )

    ok = np.ones(states.shape[:2], bool)
    for a, b, bound in zip(features(before), features(states), EXTENDED.values(), strict=True):
        ok &= np.sqrt(((a - b) ** 2).mean(-1)) <= bound
    return ok.astype(float)


def savgol_apply(values: np.ndarray, n: int, window: int, order: int, deriv: int) -> np.ndarray:
    """Apply `savgol` along the last axis of values (..., n)."""
    # Row by row, not as one matrix product: the rounding of BLAS depends on the number of motions in the batch.
    out = np.empty((*values.shape[:-1], n))
    for i, row in enumerate(savgol(n, window, order, deriv)):
        part = slice(max(0, i - window), i + window)
        out[..., i] = (values[..., part] * row[part]).sum(-1)
    return out

"""Sanity checks of observations, before the planner and the guard.

Masks are (S,) bool, true if car S must not be driven by this input.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drivefoundry_car.vehicle.embodiment import FRONT

TOP_SPEED, REVERSE = 100.0, 3.0
"""A measured speed above TOP_SPEED, or in reverse above REVERSE, indicates a faulty sensor, m/s."""
EGO_MOST, ROUTE_MOST = 1e3, 1e6
OBJECT_SPEED, OBJECT_SIZE, OBJECT_FAR = 150.0, 100.0, 1e5
"""Objects beyond these limits are not road users, m/s and m."""
MOVING = 0.5
"""Below this speed, m/s, successive pictures may be identical."""
FLAT = 3
"""A picture whose channels vary by at most this much shows nothing: black, white, or one colour."""
BLANK_MOST, FROZEN_MOST = 2, 3
"""Maximum number of successive decisions on blank pictures, and on identical ones while the car moves."""


@dataclass(frozen=True)
class Seen:
    """Result of the checks. cars: S; speed (S,) m/s as measured, NaN if impossible; last: the newest valid one in the
    car's history; objects: without those left_out; masks by reason: frames_bad, ego_bad, route_bad, objects_bad."""

    cars: int
    speed: np.ndarray
    last: np.ndarray
    objects: list[np.ndarray | None] | None
    left_out: int
    bad: dict[str, np.ndarray]


def inspect(frames: Any, ego: Any, route: Any, objects: Any, cars: int, cameras: Collection[str] = (FRONT,)) -> Seen:
    """Check the arguments of `Runtime.plan`, whatever they are; cars: number of cars if they do not determine it."""
    shown = next(iter(frames.values()), None) if isinstance(frames, Mapping) else None
    batches = ((ego, 3), (shown, 5), (route, 2))
    cars = next((len(a) for a, axes in batches if isinstance(a, np.ndarray) and a.ndim == axes and len(a)), cars)
    none = np.zeros(cars, bool)
    frames_fit = isinstance(frames, Mapping) and frames.keys() == set(cameras)
    frames_bad = none | (not frames_fit or not all(_pictures(f, cars) for f in frames.values()))
    ego_bad, speed, last = ~none, np.full(cars, np.nan), np.full(cars, np.nan)
    if _fits(ego, cars, 3):
        speeds = np.asarray(ego[..., 0], np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            likely = (speeds >= -REVERSE) & (speeds <= TOP_SPEED)
            ego_bad = ~((_size(ego) <= EGO_MOST).all((1, 2)) & likely[:, -1])
        speed = np.where(likely[:, -1], speeds[:, -1], np.nan)
        newest = speeds.shape[1] - 1 - np.argmax(likely[:, ::-1], 1)
        last = np.where(likely.any(1), speeds[np.arange(cars), newest], np.nan)
    route_bad = ~none
    if _fits(route, cars, 2):
        with np.errstate(invalid="ignore", over="ignore"):
            route_bad = ~(_size(route) <= ROUTE_MOST).all(1)
    clean, left_out, objects_bad = objects_of(objects, cars)
    bad = {"frames_bad": frames_bad, "ego_bad": ego_bad, "route_bad": route_bad, "objects_bad": objects_bad}
    return Seen(cars, speed, last, clean, left_out, bad)


def objects_of(objects: Any, cars: int) -> tuple[list[np.ndarray | None] | None, int, np.ndarray]:
    """Valid objects from perception, number of invalid ones, and mask of the cars whose list is not a list of objects.
    An invalid object is left out on its own; the others count."""
    if objects is None:
        return None, 0, np.zeros(cars, bool)
    if not isinstance(objects, Sequence | np.ndarray) or getattr(objects, "shape", None) == () or len(objects) != cars:
        return None, 0, np.ones(cars, bool)
    clean: list[np.ndarray | None] = []
    left_out, bad = 0, np.zeros(cars, bool)
    for i, given in enumerate(objects):
        if given is None:
            clean.append(None)
            continue
        rows = _rows(given)
        if rows is not None and not rows.size:
            clean.append(np.zeros((0, 6)))
            continue
        if rows is None or rows.ndim != 2 or np.shape(rows)[-1] < 6:
            bad[i] = True
            clean.append(None)
            continue
        size = rows[:, 4:6]
        with np.errstate(invalid="ignore"):
            fine = np.isfinite(rows[:, :6]).all(1) & (np.abs(rows[:, :2]) <= OBJECT_FAR).all(1)
            fine &= (np.abs(rows[:, 3]) <= OBJECT_SPEED) & (size >= 0).all(1) & (size <= OBJECT_SIZE).all(1)
        left_out += int((~fine).sum())
        clean.append(given if fine.all() else rows[fine])
    return clean, left_out, bad


def answer_of(answer: Any, cars: int, most: float = 1e4) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Points (S, 8, 3), tokens, and mask of the cars whose points are invalid, from a planner's answer; None if it is
    not an answer. most: maximum distance from the car, m."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        return None
    points, tokens = (_array(a) for a in answer)
    if points is None or tokens is None:
        return None
    if points.shape != (cars, 8, 3) or points.dtype.kind not in "fiu" or tokens.dtype.kind not in "iu":
        return None
    if tokens.ndim != 2 or len(tokens) != cars:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        fine = _size(points) <= most
    return points, tokens, np.asarray(~fine.all((1, 2)))


class CameraMonitor:
    """Watches the pictures of S cars across decisions."""

    def __init__(self, cars: int) -> None:
        self._last: np.ndarray | None = None
        self._blank, self._frozen = np.zeros(cars, np.int64), np.zeros(cars, np.int64)

    def look(self, frames: np.ndarray, speed: np.ndarray, again: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which of the newest pictures in frames (S, F, H, W, 3) are blank, which are identical to the previous ones
        while the car moves, and which cars have been blind for too long, (S,) bool each; speed (S,), NaN if unknown.

        again: this moment was there before. A standing car cannot tell that its camera is frozen, so the count is kept
        until the picture changes: the car does not start blindly.
        """
        newest = frames[:, -1]
        span = newest.max((1, 2)).astype(np.int64) - newest.min((1, 2))
        blank = (span <= FLAT).all(1)
        same = np.full(len(frames), again)
        if self._last is not None and self._last.shape == newest.shape:
            same |= (self._last == newest).all((1, 2, 3))
        frozen = same & ~(np.abs(speed) <= MOVING)
        self._blank = np.where(blank, self._blank + 1, 0)
        self._frozen = np.where(same, self._frozen + frozen, 0)
        self._last = newest.copy()
        return blank, frozen, (self._blank > BLANK_MOST) | (self._frozen > FROZEN_MOST)


def _pictures(array: Any, cars: int) -> bool:
    return _plain(array) and array.ndim == 5 and array.dtype == np.uint8 and len(array) == cars and array.size > 0


def _fits(array: Any, cars: int, axes: int) -> bool:
    return _plain(array) and array.ndim == axes and len(array) == cars and array.size > 0 and array.dtype.kind in "fiu"


def _plain(array: Any) -> bool:
    """Whether it is an array without masked values."""
    return isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)


def _size(array: np.ndarray) -> np.ndarray:
    """Absolute values as float64: an integer type cannot represent that of its minimum."""
    return np.abs(np.asarray(array, np.float64))


def _array(given: Any) -> np.ndarray | None:
    """The argument as an array; None if it cannot be converted."""
    if isinstance(given, np.ma.MaskedArray):
        return None
    try:
        return np.asarray(given)
    except Exception:  # the conversion calls foreign code (__array__, __len__, ...), which may raise anything
        return None


def _rows(given: Any) -> np.ndarray | None:
    """The argument as float64; None if it cannot be converted. Complex numbers and times are not coordinates."""
    array = _array(given)
    if array is None or array.dtype.kind in "cmM":
        return None
    try:
        return np.asarray(array, np.float64)
    except Exception:  # as above: __float__ of single elements
        return None


def copies(frames: Mapping[str, np.ndarray], cars: int | None = None) -> dict[str, np.ndarray]:
    return {name: f[:cars].copy() for name, f in frames.items()}


def is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


def are_texts(answer: object, most: int) -> bool:
    return isinstance(answer, list) and len(answer) <= most and all(isinstance(text, str) for text in answer)

"""Evaluate rules over samples of signals, with the same compiled code in the car and over stored drives.

A running car pushes one sample at a time; a stored drive runs through in blocks. State is carried from push to push, so
the division into blocks does not matter.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence

import numpy as np

from drivefoundry_car.triggers.rules import MAX_HZ
from drivefoundry_car.triggers.watch.library import library
from drivefoundry_car.triggers.watch.program import Program, program

__all__ = ["Program", "Rules", "program"]


class Rules:
    """R rules over S signals, in order, and their state.

    Memory is bounded by the rules' windows (`rules.cost`). For one thread at a time.
    """

    def __init__(self, made: Program, cooldown_s: Sequence[float]) -> None:
        self._lib, self.signals = library(), made.signals
        self.rules, self.operations = len(made.rules), len(made.steps)
        wait = np.ascontiguousarray(cooldown_s, np.float64)
        assert len(wait) == self.rules
        handle = self._lib.watch_new(
            made.steps.ctypes.data, len(made.steps), made.rules.ctypes.data, wait.ctypes.data, self.rules, MAX_HZ
        )
        if not handle:
            raise MemoryError(f"rules: out of memory for {self.rules} rules")
        self._handle, self._last = ctypes.c_void_p(handle), -np.inf
        weakref.finalize(self, self._lib.watch_free, self._handle)
        self._t, self._row = np.empty(1), np.empty(len(made.signals))
        self._t_at, self._row_at = self._t.ctypes.data, self._row.ctypes.data

    def reset(self) -> None:
        """Reset the state: the next sample starts another drive."""
        self._lib.watch_reset(self._handle)
        self._last = -np.inf

    def push(self, t: float, values: np.ndarray | Sequence[float]) -> list[int]:
        """Evaluate one sample at t s, values (S,) in SI (flags 0 or 1, NaN unknown); return the rules that fire.

        ValueError if t does not increase or there are not S values.
        """
        if not t > self._last:
            raise ValueError(f"t: must increase, got {t} s after {self._last} s")
        if len(values) != len(self._row):
            raise ValueError(f"values: must be one per signal ({len(self._row)}), got {len(values)}")
        self._last = self._t[0] = t
        self._row[:] = values
        count = self._lib.watch_run(self._handle, self._t_at, self._row_at, 1, None)
        return self._fired(count)[:, 0].tolist() if count else []

    def run(self, t: np.ndarray, values: np.ndarray, truth: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """Evaluate a block t (n,) s, values (S, n); return firings (F, 2) int32, rule and sample, by rule within each
        64 samples, and with truth also (R, n) bool, where each rule certainly holds. ValueError as in `push`."""
        t, values = np.ascontiguousarray(t, np.float64), np.ascontiguousarray(values, np.float64)
        if values.shape != (len(self._row), len(t)):
            raise ValueError(f"values: must have shape ({len(self._row)}, {len(t)}), got {values.shape}")
        if not len(t):
            return np.zeros((0, 2), np.int32), np.zeros((self.rules, 0), bool) if truth else None
        if not (t[0] > self._last and bool((np.diff(t) > 0).all())):
            raise ValueError("t: must increase")
        self._last = float(t[-1])
        held = np.zeros((self.rules, len(t)), bool) if truth else None
        where = None if held is None else held.ctypes.data
        count = self._lib.watch_run(self._handle, t.ctypes.data, values.ctypes.data, len(t), where)
        return self._fired(count), held

    def _fired(self, count: int) -> np.ndarray:
        """Copy of the firings (count, 2) int32, as the next run overwrites the buffer."""
        if count < 0:
            raise MemoryError("rules: out of memory for their windows")
        if not count:
            return np.zeros((0, 2), np.int32)
        at = self._lib.watch_fired(self._handle)
        return np.ctypeslib.as_array(ctypes.cast(at, ctypes.POINTER(ctypes.c_int32)), (count, 2)).copy()

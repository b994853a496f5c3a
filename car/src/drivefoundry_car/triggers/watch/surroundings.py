"""The car's surroundings at each of a drive's T samples, compiled.

A sample's result depends only on it and the previous sample; no state is kept between calls.
"""

from __future__ import annotations

import numpy as np

from drivefoundry_car.log.drive import Objects
from drivefoundry_car.triggers.watch.library import library

AROUND = (
    "gap", "ttc", "pedestrian_gap", "cyclist_gap", "lead_gap", "lead_speed", "stopped_gap", "oncoming_gap",
    "cut_in_gap", "crossing_gap", "objects_near",
)  # fmt: skip
"""Signals in the order of `Row` in around.h."""


def around(ego: np.ndarray, ego_size: tuple[float, float, float], objects: Objects) -> dict[str, np.ndarray]:
    """Signals of AROUND, each (T,), from ego (T, 7) as in Drive and its tracks (see `signals.signals_of`)."""
    ego = np.ascontiguousarray(ego, np.float64)
    kind, size = np.ascontiguousarray(objects.kind, np.int64), np.ascontiguousarray(objects.size, np.float32)
    states, valid = np.ascontiguousarray(objects.states, np.float32), np.ascontiguousarray(objects.valid, bool)
    rows = np.empty((len(AROUND), len(ego)))
    failed = library().watch_around(
        ego.ctypes.data, len(ego), ego_size[0], ego_size[1], kind.ctypes.data, size.ctypes.data, states.ctypes.data,
        valid.ctypes.data, len(kind), rows.ctypes.data,
    )  # fmt: skip
    return dict(zip(AROUND, _made(failed, rows), strict=True))


def place_on(line: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Locate points (T, 2) relative to a line (R, 2), R > 1: m along it, m to its left (NaN beyond its ends), and the
    index of the nearest segment."""
    line, xy = np.ascontiguousarray(line, np.float64), np.ascontiguousarray(xy, np.float64)
    out = np.empty((len(xy), 3))
    failed = library().watch_place(line.ctypes.data, len(line), xy.ctypes.data, len(xy), out.ctypes.data)
    along, left, piece = _made(failed, out).T
    return along, left, piece.astype(np.int64)


def nearest(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Distance (T,) of x (T, D) to the nearest column of reference (D, N), float32; inf if N is 0."""
    x, reference = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(reference, np.float32)
    out = np.empty(len(x))
    n = reference.shape[1]
    return _made(
        library().watch_nearest(x.ctypes.data, len(x), x.shape[1], reference.ctypes.data, n, out.ctypes.data), out
    )


def _made(failed: int, out: np.ndarray) -> np.ndarray:
    if failed:
        raise MemoryError(f"watch: out of memory for {len(out)} samples")
    return out

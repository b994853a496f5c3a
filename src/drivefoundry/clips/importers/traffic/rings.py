"""Outlines that were cut into pieces, put together again."""

from __future__ import annotations

import numpy as np


def closed_rings(outline: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Join the pieces of an outline, in their order, to closed rings (P, 2); also return how many pieces close none.
    Argoverse 2's rings are cut into pieces of 20 points."""
    out: list[np.ndarray] = []
    waiting: list[np.ndarray] = []
    cut = 0
    for line in outline:
        if not waiting and len(line) > 3 and (len(line) != 20 or _near(line[0], line[-1])):
            out.append(line[:, :2])  # other data sets write complete rings, some without the last point
            continue
        waiting.append(line[:, :2])
        if _near(waiting[0][0], line[-1]) and sum(map(len, waiting)) > 3:
            out.append(np.concatenate(waiting))
            waiting = []
        elif len(line) != 20:
            cut += len(waiting)
            waiting = []
    return out, cut + len(waiting)


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.hypot(*(a[:2] - b[:2])) < 0.01)

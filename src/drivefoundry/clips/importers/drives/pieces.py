"""Divide a span of time into clips."""

from __future__ import annotations

from itertools import pairwise

SHORTEST = 0.5
"""A remainder shorter than this fraction of a clip joins the previous clip."""


def pieces(start: float, end: float, seconds: float) -> list[tuple[float, float]]:
    """Divide [start, end] s into consecutive half-open [t0, t1) of `seconds`; the last one takes the rest and includes
    `end`."""
    if seconds <= 0:
        raise ValueError(f"seconds: a clip length must be > 0, got {seconds}")
    count = max(1, int((end - start) / seconds + 1.0 - SHORTEST))
    edges = [start + k * seconds for k in range(count)] + [end + 1e-3]
    return list(pairwise(edges))

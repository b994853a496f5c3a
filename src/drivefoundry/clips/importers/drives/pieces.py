"""A span of time in, spans of clip length out."""

from __future__ import annotations

from itertools import pairwise

SHORTEST = 0.5
"""A rest shorter than this share of a clip is added to the clip before it."""


def pieces(start: float, end: float, seconds: float) -> list[tuple[float, float]]:
    """[start, end] s in, consecutive half-open [t0, t1) of `seconds` out; the last one takes the rest and includes
    `end`."""
    if seconds <= 0:
        raise ValueError(f"seconds: a clip length must be > 0, got {seconds}")
    count = max(1, int((end - start) / seconds + 1.0 - SHORTEST))
    edges = [start + k * seconds for k in range(count)] + [end + 1e-3]
    return list(pairwise(edges))

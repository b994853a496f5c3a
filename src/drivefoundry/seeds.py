"""Seeds of everything random in a run, derived from the run's seed."""

from __future__ import annotations

import hashlib

MAX_SEED = 2**31 - 1
"""Largest seed that SUMO takes."""


def derive(seed: int, purpose: str, *index: int | str) -> int:
    """A seed, 0 .. MAX_SEED, for one purpose; index distinguishes its uses, such as turn and place.

    Hashed (SHA-256), so that no two purposes share random numbers, and neighbouring seeds are unrelated.
    """
    text = "/".join(map(str, (seed, purpose, *index)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") >> 1

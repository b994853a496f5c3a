"""Seeds of everything random in a run, derived from one."""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str, *index: int | str) -> int:
    """The seed, 0 .. 2^31 - 1, of one purpose; index tells its uses apart, such as turn and place.

    Hashed (SHA-256), so that no two purposes share their random numbers and neighbouring seeds have nothing in common.
    """
    text = "/".join(map(str, (seed, purpose, *index)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") >> 1

"""Translate the words for traffic-light states of any source to SIGNAL_* states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from drivefoundry.clips.importers.traffic.recording import plain_word
from drivefoundry.types import SIGNAL_GREEN, SIGNAL_OFF, SIGNAL_RED, SIGNAL_YELLOW

PREFIXES = ("lane_state_", "traffic_light_", "light_", "arrow_")
"""Words of Waymo and MetaDrive (nuPlan); arrows count like their own lanes' lights."""
STATES = {
    "go": SIGNAL_GREEN, "green": SIGNAL_GREEN,
    "caution": SIGNAL_YELLOW, "yellow": SIGNAL_YELLOW, "amber": SIGNAL_YELLOW,
    "stop": SIGNAL_RED, "red": SIGNAL_RED, "redyellow": SIGNAL_RED, "red_yellow": SIGNAL_RED,
    "unknown": SIGNAL_OFF, "off": SIGNAL_OFF, "inactive": SIGNAL_OFF, "none": SIGNAL_OFF,
    "flashing_stop": SIGNAL_OFF, "flashing_caution": SIGNAL_OFF,
}  # fmt: skip
"""A flashing light does not require waiting until it changes. None is a light that was not seen at a step."""


def states_of(words: Iterable[Any]) -> tuple[np.ndarray, Counter[str]]:
    """Translate words (T,) to states (T,) uint8 and count the unknown words; a light with an unknown word is
    unreliable."""
    out, unknown = [], Counter()
    for word in words:
        text = word.decode("latin1") if isinstance(word, bytes) else str(word)
        key = text.strip().lower()
        for prefix in PREFIXES:
            key = key.removeprefix(prefix)
        if key not in STATES:
            unknown[plain_word(text)] += 1
        out.append(STATES.get(key, SIGNAL_OFF))
    return np.array(out, np.uint8), unknown


def left_out(unknown: Counter[str]) -> Counter[str]:
    """Report entries for unknown words."""
    return Counter({f"states of lights in an unknown word, {word}": n for word, n in unknown.items()})

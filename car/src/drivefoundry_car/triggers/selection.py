"""Select which firings become clips, and what is recorded without a firing, in a car as on a stored drive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from drivefoundry_car.triggers.trigger import Campaign, Firing, campaign_rng, targets_vehicle

LENGTH_S = 20.0
"""Length of the stretches that campaigns without a rule record, s."""
EDGE_S = 1e-6


@dataclass(frozen=True)
class Request:
    """A clip of `campaign` from before_s before t to after_s after it, s; why: the rule that fired, or the pick."""

    campaign: Campaign
    t: float
    why: str
    before_s: float
    after_s: float


class Selection:
    """Shares and picks of the campaigns that target a vehicle, over one of its drives.

    Each campaign's share of its firings is selected. A campaign with pick "random" records its share of the stretches
    of LENGTH_S, one with pick "all" every stretch; during such a recording, a firing neither extends clips nor adds
    one, but it is noted in the clip that contains it.
    """

    def __init__(self, campaigns: Sequence[Campaign], meta: Mapping[str, str], seed: int = 0) -> None:
        ours = [c for c in campaigns if targets_vehicle(c, meta)]
        self._of = {c.name: (c, campaign_rng(c, meta, seed)) for c in ours}
        self._picks = [(c, rng) for c, rng in self._of.values() if c.tree is None]
        self._all = any(c.pick == "all" for c in ours)
        self._next = float("-inf")

    def interrupt(self) -> None:
        """Begin a new stretch at the next call of `at`: recording stopped in between, as at a gap in a drive."""
        self._next = float("-inf")

    def at(self, t: float, fired: Sequence[Firing]) -> Iterator[Request]:
        """Clips to record at t s (increasing from call to call), given the firings at that time."""
        if t >= self._next - EDGE_S:
            self._next = t + LENGTH_S
            for c, rng in self._picks:
                if c.pick == "all" or rng.random() < c.share:
                    yield Request(c, t, c.pick, 0.0, LENGTH_S)
        for firing in fired:
            c, rng = self._of[firing.campaign]
            if rng.random() < c.share:
                before, after = (0.0, 0.0) if self._all else (c.before_s, c.after_s)
                yield Request(c, t, c.rule, before, after)

"""Cut the clips worth sending from a stored drive, by campaigns. (A running car records its clips with `recorder`.)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from drivefoundry_car.log import clock
from drivefoundry_car.log.drive import Drive, cut
from drivefoundry_car.triggers.signals import SignalContext
from drivefoundry_car.triggers.trigger import Campaign, applies, campaign_rng, firings

LENGTH_S = 20.0
"""Length of clips that no trigger determines (random and 'all'), s."""


@dataclass(frozen=True)
class Window:
    """Samples start .. start + length - 1 of a drive, chosen for sample `at` of one campaign."""

    start: int
    length: int
    at: int
    campaign: str
    trigger: str


def clips_of(
    drive: Drive, campaigns: list[Campaign], seed: int, length_s: float = LENGTH_S, context: SignalContext | None = None
) -> list[Drive]:
    """Clips of a drive, in time order: non-overlapping windows around what the campaigns ask for.

    Higher priorities choose their windows first (before_s and after_s around the trigger), shifted to fit into the
    drive and beside windows already chosen. A firing inside a chosen window is already covered; one without enough room
    is left out. A campaign's random windows of length_s lie anywhere still free, those of pick = "all" end to end. A
    drive shorter than a window becomes one clip if any campaign asks for it; end to end, the last clip may be shorter,
    down to half. No window spans a gap in the drive. The same drive, campaigns and seed give the same clips. Each
    clip's meta gains campaign, trigger (the rule, 'random' or 'all'), trigger_t (s) and clip_index.
    """
    steps = len(drive.t)
    if not steps:
        return []
    period = float(np.median(np.diff(drive.t))) if steps > 1 else clock.DT
    runs = clock.runs(drive.t)
    if len(runs) > 1 and period <= clock.GAP_S:  # no window spans a gap
        parts = [cut(drive, float(drive.t[a]), float(drive.t[b - 1]) + period / 2) for a, b in runs]
        found = [c for part in parts for c in clips_of(part, campaigns, seed, length_s, context)]
        return [replace(c, meta={**c.meta, "clip_index": str(i)}) for i, c in enumerate(found)]
    length = min(max(1, round(length_s / period)), steps)
    fired = firings(campaigns, drive, context)
    taken: list[Window] = []
    for c in sorted((c for c in campaigns if applies(c, drive)), key=lambda c: (-c.priority, c.name)):
        rng = campaign_rng(c, drive.meta, seed)
        if c.pick == "all":
            taken += end_to_end(steps, length, taken, c.name)
        elif c.pick == "random":
            taken += at_random(steps, length, taken, c.share, c.name, rng)
        else:
            at = [int(np.searchsorted(drive.t, f.t)) for f in fired if f.campaign == c.name and rng.random() < c.share]
            clip_s = c.before_s + c.after_s
            window = min(max(1, round(clip_s / period)), steps)
            taken += around(steps, window, c.before_s / clip_s, taken, at, c.name, c.rule)
    clips = []
    for i, w in enumerate(sorted(taken, key=lambda w: w.start)):
        stop = drive.t[w.start + w.length] if w.start + w.length < steps else drive.t[-1] + period
        at = {"campaign": w.campaign, "trigger": w.trigger, "trigger_t": f"{drive.t[w.at]:.3f}", "clip_index": str(i)}
        part = cut(drive, float(drive.t[w.start]), float(stop))
        clips.append(replace(part, meta={**drive.meta, **at}))
    return clips


def free(steps: int, length: int, taken: Sequence[Window]) -> list[tuple[int, int]]:
    """Stretches (first, end) of at least `length` samples outside all windows."""
    edges = [(0, 0), *sorted((w.start, w.start + w.length) for w in taken), (steps, steps)]
    gaps = [(end, start) for (_, end), (start, _) in pairwise(edges)]
    return [(a, b) for a, b in gaps if b - a >= length]


def around(
    steps: int,
    length: int,
    before: float,
    taken: Sequence[Window],
    samples: Sequence[int],
    campaign: str,
    trigger: str,
) -> list[Window]:
    """Windows around samples, in their order, outside those taken; a share `before` of each lies before its sample,
    more or less if there is not enough room."""
    new: list[Window] = []
    for at in samples:
        for first, end in free(steps, length, [*taken, *new]):
            if first <= at < end:
                start = min(max(at - int(before * length), first), end - length)
                new.append(Window(start, length, at, campaign, trigger))
    return new


def at_random(
    steps: int, length: int, taken: Sequence[Window], share: float, campaign: str, rng: np.random.Generator
) -> list[Window]:
    """Windows at uniformly random free positions; on average a share `share` of the drive, if there is room."""
    new: list[Window] = []
    for _ in range(int(share * steps / length + rng.random())):
        room = free(steps, length, [*taken, *new])
        places = np.concatenate([np.arange(a, b - length + 1) for a, b in room]) if room else np.zeros(0, np.int64)
        if not len(places):
            break
        start = int(rng.choice(places))
        new.append(Window(start, length, start, campaign, "random"))
    return new


def end_to_end(steps: int, length: int, taken: Sequence[Window], campaign: str) -> list[Window]:
    """Windows that cover every free stretch; a remainder is kept if it is at least half a window long."""
    new = []
    for first, end in free(steps, max(1, length // 2), taken):
        for start in range(first, end, length):
            if min(length, end - start) >= max(1, length // 2):
                new.append(Window(start, min(length, end - start), start, campaign, "all"))
    return new

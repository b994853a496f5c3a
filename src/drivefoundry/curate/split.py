"""Split clips into train, val and held_out so that no drive, place and seed, or route is in two of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from drivefoundry.types import require

SPLITS = ("train", "val", "held_out")
SHARES = (0.8, 0.1, 0.1)
MOST = 2.0
"""Largest exam, as a multiple of its share, unless a single group is larger."""
ROUNDS = 1000
"""Most exchanges tried to match an exam to its source."""


@dataclass(frozen=True)
class Origin:
    """Origin of a clip: drive id, place and seed, route id (of that place; '' unknown), first and last second in its
    recording."""

    drive: str
    place: str
    route: str
    t0: float
    t1: float

    def shared(self) -> list[tuple[str, str]]:
        """Keys that clips of different splits must not share."""
        keys = [("place", self.place)]
        if self.drive:
            keys.append(("drive", self.drive))
        if self.route:
            keys.append(("route", f"{self.place.split('/')[0]}:{self.route}"))
        return keys


@dataclass(frozen=True)
class SplitRule:
    """What separates train, val and held-out clips."""

    pinned: Mapping[str, str] = field(default_factory=dict)
    """Clip -> its fixed split. Exam clips need not be among those to be split: they only prevent leaks."""
    apart: str = "auto"
    """"place", "time", or "auto": by time when all clips come from one place and none is pinned."""
    shares: Sequence[float] = SHARES
    """Of train, val and held out."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.apart in ("auto", "place", "time"), f"apart: must be auto, place or time, got {self.apart!r}")


def place_of(meta: Mapping[str, str]) -> str:
    """`place/seed` of a drive's meta, the primary key of splits."""
    place, seed = meta.get("place") or meta.get("map") or "unknown", meta.get("seed", "")
    # The place of a re-driven scene already includes the seed.
    return place if not seed or place.endswith(f"/{seed}") else f"{place}/{seed}"


def groups_of(origins: Sequence[Origin]) -> np.ndarray:
    """Group numbers (N,) of N origins: clips linked by any key, also transitively, form a group."""
    parent = list(range(len(origins)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, origin in enumerate(origins):
        for key in origin.shared():
            parent[root(i)] = root(first.setdefault(key, i))
    roots = [root(i) for i in range(len(origins))]
    return np.unique(roots, return_inverse=True)[1] if roots else np.zeros(0, int)


def by_place(
    origins: Mapping[str, Origin],
    *,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    pinned: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Assign whole groups of clips to splits, as close to the shares (of clips) as groups allow.

    pinned: clips with a fixed split (earlier turns, held-out places); their groups follow them. Deterministic per seed.
    ValueError if two pins of a group disagree or a pin names an unknown split.
    """
    require(
        len(shares) == 3 and min(shares) >= 0 and sum(shares) > 0,
        f"shares: must be three numbers >= 0, got {shares}",
    )
    ids = sorted(origins, key=lambda i: (origins[i].drive, origins[i].t0, origins[i].t1, i))
    groups = groups_of([origins[i] for i in ids])
    members: dict[int, list[str]] = {}
    for i, g in zip(ids, groups, strict=True):
        members.setdefault(int(g), []).append(i)
    target = np.array(shares, np.float64) / sum(shares) * len(ids)
    have = np.zeros(3)
    out: dict[str, str] = {}
    free = []
    for g, some in members.items():
        split = _pinned_split(some, pinned or {}, origins)
        if split is None:
            first = origins[some[0]]
            free.append((hashlib.sha256(f"{seed}:{first.drive}:{first.t0:.3f}".encode()).hexdigest(), g))
        else:
            out.update(dict.fromkeys(some, split))
            have[SPLITS.index(split)] += len(some)
    # Largest groups first, so that small ones can balance; the hash breaks ties without bias.
    for _, g in sorted(free, key=lambda f: (-len(members[f[1]]), f[0])):
        after = have + len(members[g]) * np.eye(3)
        k = int(((after - target) ** 2).sum(1).argmin())
        out.update(dict.fromkeys(members[g], SPLITS[k]))
        have[k] += len(members[g])
    check(origins, out)
    return out


def _pinned_split(some: list[str], pinned: Mapping[str, str], origins: Mapping[str, Origin]) -> str | None:
    named = {i: pinned[i] for i in some if i in pinned}
    for i, split in named.items():
        require(split in SPLITS, f"clip {i}: split {split!r} is not one of {', '.join(SPLITS)}")
    found = sorted(set(named.values()))
    if len(found) > 1:
        a, b = (next(i for i in named if named[i] == s) for s in found[:2])
        raise ValueError(
            f"split leaks: clip {a} is in {found[0]} and clip {b} in {found[1]}, but place {origins[a].place!r}, drive "
            f"{origins[a].drive!r} or route {origins[a].route!r} links them; hold out whole places"
        )
    return found[0] if found else None


def hold_out(groups: Sequence[str], strata: Sequence[str], scores: np.ndarray, *, share: float = 0.1) -> list[str]:
    """Choose whole groups to hold out, at least a `share` of the items, as similar to the source as possible.

    groups, strata and scores (N,) of the items: what must stay together, its kind, and a number 0 .. 1. The exam
    matches the source in its shares of the strata and its mean score: groups are added one by one, then exchanged while
    that helps. The result is sorted and independent of order. ValueError if there is only one group.
    """
    names = sorted(set(groups), key=lambda g: hashlib.sha256(g.encode()).hexdigest())
    require(
        len(names) > 1,
        f"all scenes are of one place ({names[0]}): give recordings of two places, to hold one out",
    )
    kinds = sorted(set(strata))
    row, column = {g: i for i, g in enumerate(names)}, {k: i for i, k in enumerate(kinds)}
    counts = np.zeros((len(names), len(kinds) + 1))
    for group, kind, score in sorted(zip(groups, strata, np.asarray(scores, np.float64).tolist(), strict=True)):
        counts[row[group], column[kind]] += 1.0
        counts[row[group], -1] += score
    source, least = counts.sum(0), share * len(groups)
    chosen = np.zeros(len(names), np.bool_)
    while counts[chosen, :-1].sum() < least:
        cost = _unlikeness(counts[chosen].sum(0) + counts, source, least, growing=True)
        chosen[int(np.where(chosen, np.inf, cost).argmin())] = True
    best = float(_unlikeness(counts[chosen].sum(0)[None], source, least)[0])
    for _ in range(ROUNDS):
        inside, outside = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        moves = [(i, o) for i in (-1, *inside) for o in (-1, *outside)]
        sums = np.array([[-1, *inside]]).T, np.array([[-1, *outside]])
        less, more = (np.where(k[..., None] < 0, 0.0, counts[k]) for k in sums)
        cost = _unlikeness((counts[chosen].sum(0) - less + more).reshape(-1, counts.shape[1]), source, least)
        k = int(cost.argmin())
        if cost[k] > best - 1e-9:
            break
        best = float(cost[k])
        for which, now in zip(moves[k], (False, True), strict=True):
            if which >= 0:
                chosen[which] = now
    return sorted(name for name, held in zip(names, chosen, strict=True) if held)


def _unlikeness(sums: np.ndarray, source: np.ndarray, least: float, *, growing: bool = False) -> np.ndarray:
    """Dissimilarity (M,) to the source of candidate exams (M, K + 1): items by stratum and the sum of their scores.

    Half the summed difference of the strata's shares, plus the difference of the mean scores, plus the excess over
    `least` as a share of the source; infinite if an exam is too small or is the entire source.
    """
    n, whole = sums[:, :-1].sum(1), source[:-1].sum()
    size = np.maximum(n, 1.0)
    shares = 0.5 * np.abs(sums[:, :-1] / size[:, None] - source[:-1] / whole).sum(1)
    cost = shares + np.abs(sums[:, -1] / size - source[-1] / whole) + np.maximum(n - least, 0.0) / whole
    cost += np.where(n > MOST * least, 10.0, 0.0)
    return np.where((n >= whole) | ((n < least) & (not growing)), np.inf, cost)


def by_time(origins: Mapping[str, Origin], *, held_out: float = 0.2, val: float = 0.0) -> dict[str, str]:
    """Split clips by time: the last share is held out, the part before it is val, the rest train.

    A share of val that no clip falls into takes the last training clip, if enough remain. For recordings that are the
    only ones of their place. Of several, each with its own clock, the one that began last
    (then by name) counts as the last part. Clips of a recording that overlap in time stay together.
    """
    require(
        0 < held_out < 1 and 0 <= val < 1 - held_out,
        f"shares: held_out {held_out} and val {val} leave nothing to train",
    )
    start: dict[str, float] = {}
    for o in origins.values():
        start[o.drive] = min(o.t0, start.get(o.drive, np.inf))
    ids = sorted(origins, key=lambda i: (start[origins[i].drive], origins[i].drive, origins[i].t0, origins[i].t1, i))
    seconds = np.array([origins[i].t1 - origins[i].t0 for i in ids])
    before = np.concatenate([[0.0], np.cumsum(seconds)[:-1]]) + seconds / 2
    share = before / max(seconds.sum(), 1e-9)
    out: dict[str, str] = {}
    latest, current, drive = -np.inf, "train", None
    for k, i in enumerate(ids):
        if origins[i].drive != drive:
            latest, drive = -np.inf, origins[i].drive
        target = "held_out" if share[k] > 1 - held_out else "val" if share[k] > 1 - held_out - val else "train"
        if origins[i].t0 > latest - 1e-6:  # an overlapping clip stays with the one before it
            current = target
        out[i] = current
        latest = max(latest, origins[i].t1)
    if val and "val" not in out.values():
        _last_of_train(ids, origins, out)
    check(origins, out, apart="time")
    return out


def _last_of_train(ids: list[str], origins: Mapping[str, Origin], split: dict[str, str]) -> None:
    """Make the last training clip, with those that overlap it, the validation part if more than half remains: clips are
    long, and of a few none lies in the middle of a small share."""
    train = [i for i in ids if split[i] == "train"]
    part: list[str] = []
    while train and (not part or any(_overlap(origins[i], origins[part[-1]]) for i in train)):
        part.append(train.pop())
    if len(train) > len(part):
        split.update(dict.fromkeys(part, "val"))


def _overlap(before: Origin, after: Origin) -> bool:
    return before.drive == after.drive and before.t1 > after.t0 + 1e-6


def check(origins: Mapping[str, Origin], split: Mapping[str, str], *, apart: str = "place") -> None:
    """Check a split for leaks; ValueError names two clips of different splits that share a key (or, with apart="time",
    seconds)."""
    if apart == "time":
        _check_time(origins, split)
        return
    seen: dict[tuple[str, str], str] = {}
    for i, name in split.items():
        for key in origins[i].shared():
            other = seen.setdefault(key, i)
            require(
                split[other] == name,
                f"split leaks: {key[0]} {key[1]!r} is in {split[other]} (clip {other}) and in {name} (clip {i})",
            )


def _check_time(origins: Mapping[str, Origin], split: Mapping[str, str]) -> None:
    ids = sorted(split, key=lambda i: (origins[i].drive, origins[i].t0))
    end, last = -np.inf, ""
    for i in ids:
        if last and origins[i].drive != origins[last].drive:
            end, last = -np.inf, ""
        require(
            not last or origins[i].t0 > end - 1e-6 or split[i] == split[last],
            f"split leaks: clip {last} ({split.get(last)}) and clip {i} ({split[i]}) overlap in time",
        )
        if origins[i].t1 > end:
            end, last = origins[i].t1, i

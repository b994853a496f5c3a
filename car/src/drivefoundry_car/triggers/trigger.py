"""Campaigns and their firings, over a stored Drive or sample by sample in a running car."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from drivefoundry_car.documents import toml_of
from drivefoundry_car.log.drive import Drive
from drivefoundry_car.note import LAST, Note
from drivefoundry_car.triggers.rules import Node, parse, signals_in
from drivefoundry_car.triggers.signals import SIGNALS, SignalContext, signals_of
from drivefoundry_car.triggers.watch import Program, Rules, program

PICKS = ("firing", "random", "all")
FLEET, LIBRARY = "campaigns.toml", "library.toml"
"""Shipped campaigns: those of the embedded fleet, and a library."""
_FIELDS: dict[str, tuple[type, ...]] = {
    "rule": (str,),
    "pick": (str,),
    "purpose": (str,),
    "priority": (int,),
    "cooldown_s": (int, float),
    "share": (int, float),
    "before_s": (int, float),
    "after_s": (int, float),
    "bytes_per_day": (int,),
    "cohort": (list,),
    "until": (date,),
}
_DAY = re.compile(r"\s*(\d{4})-?(\d{2})-?(\d{2})(?!\d)")
_WORDS = {str: "text", int: "an integer", float: "a number", list: "a list of names", date: "a date (2027-03-31)"}


@dataclass(frozen=True)
class Campaign:
    """One campaign: what to upload and when.

    rule: text of the rule, '' unless pick is 'firing'; pick: 'firing' windows around firings, 'random' windows
    anywhere, 'all' of the drive; purpose: only in drives whose meta["purpose"] is this ('' for all); share: of the
    firings, or with 'random' of the driving time, 0..1; cooldown_s: least time between firings; priority: the highest
    claims its window first; before_s, after_s: the clip's window around a firing; bytes_per_day: upload budget per car
    and day (None: only the car's total budget); cohort: names of vehicles or groups, with * and ? as wildcards (none:
    all); until: last day on which it is active.
    """

    name: str
    rule: str
    priority: int
    cooldown_s: float = 0.0
    share: float = 1.0
    pick: str = "firing"
    purpose: str = ""
    before_s: float = 12.0
    after_s: float = 8.0
    bytes_per_day: int | None = None
    cohort: tuple[str, ...] = ()
    until: date | None = None
    tree: Node | None = None
    """The parsed rule."""


@dataclass(frozen=True)
class Firing:
    """One moment at which a campaign fires: t s on the drive's clock."""

    campaign: str
    t: float
    priority: int


class Watch:
    """Campaigns' rules over a car's signals, evaluated sample by sample while it drives.

    `lacking`: campaigns whose rule needs signals that this car lacks -> those signals; they never fire.
    """

    def __init__(self, campaigns: Sequence[Campaign], signals: Sequence[str]) -> None:
        ruled = [c for c in campaigns if c.tree is not None]
        self.lacking = {c.name: lacks for c in ruled if (lacks := _lacks(c, signals))}
        self.campaigns = [c for c in ruled if c.name not in self.lacking]
        self.rules = Rules(
            _program(tuple(c.rule for c in self.campaigns), tuple(signals)), [c.cooldown_s for c in self.campaigns]
        )

    def push(self, t: float, values: np.ndarray | Sequence[float]) -> list[Firing]:
        """Evaluate one sample at t s, one value per signal (SI, flags 0 or 1, NaN unknown); return what fires, highest
        priority first. ValueError if t does not increase or a value is missing."""
        fired = self.rules.push(t, values)
        return self._as_firings((c, float(t)) for c in fired) if fired else []

    def run(self, t: np.ndarray, values: np.ndarray) -> list[Firing]:
        """Evaluate samples t (n,) s, values (S, n); return all firings in time order."""
        return self._as_firings((c, float(t[i])) for c, i in self.rules.run(t, values)[0].tolist())

    def reset(self) -> None:
        """Reset the state: the next sample starts another drive."""
        self.rules.reset()

    def _as_firings(self, fired: Iterable[tuple[int, float]]) -> list[Firing]:
        """Firings from (rule index, time) pairs, with cool-downs and priorities applied."""
        found = [Firing(self.campaigns[c].name, t, self.campaigns[c].priority) for c, t in fired]
        return sorted(found, key=lambda f: (f.t, -f.priority, f.campaign))


@lru_cache(64)
def _program(rules: tuple[str, ...], signals: tuple[str, ...]) -> Program:
    """Cached: a fleet runs the same rules over every drive."""
    return program([parse(rule, SIGNALS) for rule in rules], signals)


def load_campaigns(path: Path | str | None = None) -> list[Campaign]:
    """Read and check campaigns from a TOML file (None: FLEET; the names FLEET and LIBRARY fall back to the shipped
    files). ValueError names file, campaign, column."""
    name = FLEET if path is None else str(path)
    ships = path is None or (name in (FLEET, LIBRARY) and not os.path.exists(name))
    if not ships and not os.path.isfile(name):  # also catches names too long for a file
        raise ValueError(f"{name}: no such file")
    table = toml_of((files("drivefoundry_car.triggers") / name if ships else Path(name)).read_bytes(), name)
    try:
        return [campaign(key, entry) for key, entry in table.items()]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def campaign(name: str, entry: Any) -> Campaign:
    """Build a checked Campaign from one table of a campaigns file."""
    _check(name, entry)
    rule, tree = entry.get("rule", ""), None
    if rule:
        try:
            tree = parse(rule, SIGNALS)
        except ValueError as error:
            raise ValueError(f"campaign '{name}', rule {error}") from error
    numbers = {k: float(entry[k]) for k in ("cooldown_s", "share", "before_s", "after_s") if k in entry}
    plain = {k: entry[k] for k in ("pick", "purpose", "bytes_per_day", "until") if k in entry}
    return Campaign(name, rule, entry["priority"], cohort=tuple(entry.get("cohort", ())), tree=tree, **numbers, **plain)


def _check(name: str, entry: Any) -> None:
    """Check a campaign's fields, ValueError if invalid; the parser checks its rule."""
    if not isinstance(entry, dict):
        raise ValueError(f"'{name}' is not a campaign; start one with [{name}]")
    for field, value in entry.items():
        if field not in _FIELDS:
            raise ValueError(f"campaign '{name}': unknown field '{field}'; known are {', '.join(_FIELDS)}")
        if not isinstance(value, _FIELDS[field]) or isinstance(value, (bool, datetime)):
            raise ValueError(f"campaign '{name}': {field} must be {_WORDS[_FIELDS[field][-1]]}, got {value!r}")
    pick, share = entry.get("pick", "firing"), entry.get("share", 1.0)
    if pick not in PICKS:
        raise ValueError(f"campaign '{name}': pick must be one of {', '.join(PICKS)}, got '{pick}'")
    if not 0 <= share <= 1:
        raise ValueError(f"campaign '{name}': share must be 0 to 1, got {share}")
    if "priority" not in entry:
        raise ValueError(f"campaign '{name}': priority is missing; give an integer; the highest goes first")
    if (pick == "firing") != bool(entry.get("rule", "").strip()):
        raise ValueError(f"campaign '{name}': a rule goes with pick = \"firing\", and only with it")
    for field, least in (("cooldown_s", 0), ("before_s", 0), ("after_s", 0), ("bytes_per_day", 1)):
        if not least <= entry.get(field, least) < float("inf"):
            raise ValueError(f"campaign '{name}': {field} must be >= {least}, got {entry[field]}")
    if not 1 <= entry.get("before_s", 12.0) + entry.get("after_s", 8.0) <= 120:
        raise ValueError(f"campaign '{name}': before_s + after_s must be 1 to 120 s")
    if not all(isinstance(v, str) and v for v in entry.get("cohort", ())):
        raise ValueError(f"campaign '{name}': cohort must be {_WORDS[list]}, got {entry['cohort']!r}")


def firings(campaigns: Sequence[Campaign], drive: Drive, context: SignalContext | None = None) -> list[Firing]:
    """Firings of the campaigns in a drive, in time order, with cool-downs applied.

    context: inputs of signals beyond the drive. A rule whose signals the drive lacks does not fire (see
    `not_evaluable`).
    """
    values = signals_of(drive, context)
    watch = Watch([c for c in campaigns if applies(c, drive)], list(values))
    return watch.run(drive.t, np.array(list(values.values()), np.float64).reshape(len(values), len(drive.t)))


def applies(c: Campaign, drive: Drive) -> bool:
    """Whether a campaign applies to this drive: purpose, vehicle (meta's vehicle and space-separated groups) and day
    (meta's date, 2027-03-31, with or without a time; a drive without a date is never too late)."""
    return targets_vehicle(c, drive.meta)


def targets_vehicle(c: Campaign, meta: Mapping[str, str]) -> bool:
    """Like `applies`, for a drive with this meta."""
    names = [meta.get("vehicle", ""), *meta.get("groups", "").split()]
    ours = not c.cohort or any(fnmatchcase(n, pattern) for n in names for pattern in c.cohort)
    late = c.until is not None and _day(meta.get("date", "")) > c.until.isoformat()
    return ours and not late and c.purpose in ("", meta.get("purpose", ""))


def _day(text: str) -> str:
    """Normalise a date with or without time of day (2027-03-31, 2027-03-31T23:10:00+02:00, 20270331) to 2027-03-31; ''
    if it is not a date, so that a drive of an unknown day is never too late."""
    found = _DAY.match(text)
    return "-".join(found.groups()) if found else ""


def note_for(name: str, campaigns: Iterable[Campaign]) -> Note:
    """The outbox note for a clip of the named campaign; clips of a removed campaign go last."""
    c = next((c for c in campaigns if c.name == name), None)
    return Note(name, LAST) if c is None else Note(name, c.priority, c.bytes_per_day)


def campaign_rng(c: Campaign, meta: Mapping[str, str], seed: int) -> np.random.Generator:
    """Random generator that selects a campaign's share of firings in a drive, and its random windows."""
    return np.random.default_rng([seed, zlib.crc32(f"{meta.get('drive', '')}/{c.name}".encode())])


def not_evaluable(
    campaigns: Sequence[Campaign], drive: Drive, context: SignalContext | None = None
) -> dict[str, tuple[str, ...]]:
    """Campaigns whose rule needs signals that this drive lacks -> those signals."""
    values = signals_of(drive, context)
    lacking = {c.name: _lacks(c, values) for c in campaigns if applies(c, drive)}
    return {name: names for name, names in lacking.items() if names}


def _lacks(c: Campaign, signals: Iterable[str]) -> tuple[str, ...]:
    """The missing signals that its rule needs."""
    return tuple(sorted(signals_in(c.tree) - set(signals))) if c.tree is not None else ()

"""Campaigns and a Drive in, Firings out."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from drivefoundry_car.log import Drive
from drivefoundry_car.rules import Node, holds, parse, signals_in
from drivefoundry_car.signals import SIGNALS, signals_of

PICKS = ("firing", "random", "all")
_FIELDS: dict[str, tuple[type, ...]] = {
    "rule": (str,),
    "pick": (str,),
    "purpose": (str,),
    "priority": (int,),
    "cooldown_s": (int, float),
    "share": (int, float),
}
_WORDS = {str: "text", int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Campaign:
    """What the fleet's owner wants sent.

    rule: text of the rule, '' where pick is not 'firing'; pick: 'firing' windows around firings, 'random' windows
    anywhere, 'all' of the drive; purpose: only in drives whose meta["purpose"] is this ('' for all); share: of the
    firings, or with 'random' of the driven time, 0..1; cooldown_s: no second firing within it; priority: the higher
    takes its window first.
    """

    name: str
    rule: str
    priority: int
    cooldown_s: float = 0.0
    share: float = 1.0
    pick: str = "firing"
    purpose: str = ""
    tree: Node | None = None
    """The parsed rule."""


@dataclass(frozen=True)
class Firing:
    """One moment that a campaign wants: t s on the drive's clock."""

    campaign: str
    t: float
    priority: int


def load_campaigns(path: Path | str | None = None) -> list[Campaign]:
    """A TOML file (None: the one that ships) in, checked campaigns out. ValueError names file, campaign, column."""
    name = "campaigns.toml" if path is None else str(path)
    if path is not None and not Path(path).is_file():
        raise ValueError(f"{name}: no such file")
    text = (files("drivefoundry_car") / name if path is None else Path(path)).read_text("utf-8")
    try:
        table = tomllib.loads(text)
        return [campaign(key, entry) for key, entry in table.items()]
    except ValueError as error:  # TOMLDecodeError is one, and so is what `campaign` refuses
        raise ValueError(f"{name}: {error}") from error


def campaign(name: str, entry: Any) -> Campaign:
    """One table of a campaigns file in, the checked Campaign out."""
    if not isinstance(entry, dict):
        raise ValueError(f"'{name}' is not a campaign; begin one with [{name}]")
    for field, value in entry.items():
        if field not in _FIELDS:
            raise ValueError(f"campaign '{name}': unknown field '{field}'; known are {', '.join(_FIELDS)}")
        if not isinstance(value, _FIELDS[field]) or isinstance(value, bool):
            raise ValueError(f"campaign '{name}': {field} must be {_WORDS[_FIELDS[field][-1]]}, not {value!r}")
    pick, share, rule = entry.get("pick", "firing"), float(entry.get("share", 1.0)), entry.get("rule", "")
    if pick not in PICKS:
        raise ValueError(f"campaign '{name}': pick is one of {', '.join(PICKS)}, not '{pick}'")
    if not 0 <= share <= 1:
        raise ValueError(f"campaign '{name}': share must lie between 0 and 1, not {share}")
    if "priority" not in entry:
        raise ValueError(f"campaign '{name}': priority is missing; give a whole number, the higher goes first")
    if (pick == "firing") != bool(rule.strip()):
        raise ValueError(f"campaign '{name}': a rule goes with pick = \"firing\", and only with it")
    tree = None
    if rule:
        try:
            tree = parse(rule, SIGNALS)
        except ValueError as error:
            raise ValueError(f"campaign '{name}', rule {error}") from error
    cooldown = float(entry.get("cooldown_s", 0.0))
    return Campaign(name, rule, entry["priority"], cooldown, share, pick, entry.get("purpose", ""), tree)


def firings(campaigns: list[Campaign], drive: Drive) -> list[Firing]:
    """When each campaign's rule becomes true in the drive, in time order; cool-downs obeyed.

    A rule whose signals the drive lacks does not fire (`not_evaluable` lists these).
    """
    values, found = signals_of(drive), []
    for c in campaigns:
        if c.tree is None or not applies(c, drive) or not signals_in(c.tree) <= values.keys():
            continue
        true = holds(c.tree, drive.t, values)
        last = -np.inf
        for i in np.flatnonzero(true & ~np.concatenate([[False], true[:-1]])).tolist():
            if drive.t[i] - last >= c.cooldown_s:
                last = float(drive.t[i])
                found.append(Firing(c.name, last, c.priority))
    return sorted(found, key=lambda f: (f.t, -f.priority, f.campaign))


def applies(c: Campaign, drive: Drive) -> bool:
    """Whether a campaign is meant for drives of this purpose."""
    return c.purpose in ("", drive.meta.get("purpose", ""))


def not_evaluable(campaigns: list[Campaign], drive: Drive) -> dict[str, tuple[str, ...]]:
    """Campaigns whose rule needs what this drive lacks -> the lacking signals, by name."""
    values = signals_of(drive)
    lacking = {
        c.name: signals_in(c.tree) - values.keys() for c in campaigns if c.tree is not None and applies(c, drive)
    }
    return {name: tuple(sorted(names)) for name, names in lacking.items() if names}

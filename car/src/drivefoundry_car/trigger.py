"""Campaigns and a Drive in, Firings out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drivefoundry_car.log import Drive


@dataclass(frozen=True)
class Firing:
    """One moment that a campaign wants: t s on the drive's clock."""

    campaign: str
    t: float
    priority: int


def load_campaigns(path: Path | str | None = None) -> list[Campaign]:
    """A TOML file (None: the one that ships) in, checked campaigns out."""
    raise NotImplementedError


def firings(campaigns: list[Campaign], drive: Drive) -> list[Firing]:
    """When each campaign fires in the drive, in time order; cool-downs obeyed."""
    raise NotImplementedError


def not_evaluable(campaigns: list[Campaign], drive: Drive) -> dict[str, tuple[str, ...]]:
    """Campaigns whose rule needs a signal that this drive lacks -> the lacking signals."""
    raise NotImplementedError


@dataclass(frozen=True)
class Campaign:
    """One entry of campaigns.toml."""

    name: str
    priority: int
    cooldown_s: float
    share: float
    rule: str

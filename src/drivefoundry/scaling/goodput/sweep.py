"""Sensitivity of a cluster's goodput: vary one cause at a time and find where it falls below 90 %."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from drivefoundry.scaling.goodput.cluster import CAUSES, Cluster, Job, Outcome, mixed
from drivefoundry.scaling.goodput.simulation import simulate
from drivefoundry.types import require

BOUND = 0.90
"""Goodput that operators aim to exceed."""
NEVER = math.inf


@dataclass(frozen=True)
class Knob:
    """A varied quantity: a field of Cluster, or `share`, the large job's share."""

    field: str
    name: str
    values: tuple[float, ...]


KNOBS = (
    Knob("cards", "cards", (1_000, 3_000, 10_000, 20_000, 30_000, 50_000, 100_000)),
    Knob("card_mtbf_hours", "hours between failures of a card", (5e3, 1e4, 2e4, 3e4, 5e4, 1e5, 2e5)),
    Knob("restart_minutes", "minutes to restart", (1, 3, 5, 10, 15, 20, 30, 60)),
    Knob("checkpoint_minutes", "minutes between checkpoints", (0.5, 1, 2, 5, 10, 20, 40, 60, 120)),
    Knob("write_seconds", "seconds of stall per checkpoint", (1, 3, 10, 30, 60, 120, 300)),
    Knob("detect_minutes", "minutes until a slow module is swapped", (5, 15, 30, 60, 120, 240, NEVER)),
    Knob("spares", "share of modules kept spare", (0.0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.05, 0.1)),
    Knob("repair_hours", "hours of repair", (1, 6, 12, 24, 48, 96, 168)),
    Knob("link_seconds", "seconds of a link failure", (5, 20, 60, 120, 300, 600)),
    Knob("share", "share of the cards for one large job, small ones on the rest", (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)),
)


@dataclass(frozen=True, eq=False)
class Point:
    """Means over seeds at one value of a knob; low and high: of the goodput over seeds."""

    value: float
    scheduling: float
    runtime: float
    program: float
    goodput: float
    low: float
    high: float
    causes: dict[str, float]


@dataclass(frozen=True, eq=False)
class Turned:
    """A knob's points in ascending order, and the interpolated values at which the goodput crosses BOUND."""

    knob: Knob
    points: tuple[Point, ...]
    breaks: tuple[float, ...]


def point(c: Cluster, seeds: int, value: float = 0.0, share: float = 1.0) -> Point:
    """Means over `seeds` simulations of a cluster with a large job of `share`."""
    require(seeds >= 1, f"seeds: must be >= 1, got {seeds}")
    outcomes = [one_run(c, share, seed) for seed in range(seeds)]
    mean = lambda key: float(np.mean([getattr(o, key) for o in outcomes]))  # noqa: E731
    every = [o.goodput for o in outcomes]
    causes = {name: float(np.mean([o.causes[name] for o in outcomes])) for name in CAUSES}
    return Point(
        value, mean("scheduling"), mean("runtime"), mean("program"), mean("goodput"), min(every), max(every), causes
    )


def one_run(c: Cluster, share: float = 1.0, seed: int = 0) -> Outcome:
    """One large job on a share of the modules (1: all but the spares), small ones on the rest."""
    jobs = mixed(c, share, seed) if share < 1.0 else [Job(max(1, c.modules - round(c.spares * c.modules)))]
    return simulate(c, jobs, seed)


def turned(base: Cluster, knob: Knob, seeds: int) -> Turned:
    """Vary one knob of a cluster over its values."""
    points = []
    for value in knob.values:
        if knob.field == "share":
            points.append(point(base, seeds, value, value))
            continue
        given = None if value == NEVER else int(value) if knob.field == "cards" else float(value)
        changes = {"asynchronous": False, "snapshot_seconds": 0.0} if knob.field == "write_seconds" else {}
        points.append(point(replace(base, **{knob.field: given}, **changes), seeds, value))
    return Turned(knob, tuple(points), crossings(points))


def sweep(base: Cluster, seeds: int = 4, knobs: Sequence[Knob] = KNOBS) -> list[Turned]:
    """Vary each knob alone, the others as in `base`."""
    return [turned(base, knob, seeds) for knob in knobs]


def crossings(points: Sequence[Point]) -> tuple[float, ...]:
    """Values at which the goodput crosses BOUND, by linear interpolation (on a log scale if possible)."""
    out = []
    for a, b in pairwise(points):
        if (a.goodput - BOUND) * (b.goodput - BOUND) >= 0:
            continue
        if b.value == NEVER:
            out.append(a.value)
            continue
        at = (BOUND - a.goodput) / (b.goodput - a.goodput)
        log = a.value > 0
        out.append(a.value * (b.value / a.value) ** at if log else a.value + at * (b.value - a.value))
    return tuple(out)


def sweep_text(base: Cluster, at: Point, rows: Sequence[Turned]) -> str:
    """Format the base case and the sweep as text."""
    head = f"{base.cards:,} cards for {base.days:g} days"
    lines = [head, "=" * len(head), "", f"goodput {_pct(at.goodput)} = {_factors(at)}", "", "Where the rest goes"]
    for name, share in sorted(at.causes.items(), key=lambda kv: -kv[1]):
        lines.append(f"  {name:14}{_pct(share):>8}  {'#' * round(400 * share)}".rstrip())
    for row in rows:
        key = "" if row.knob.field == "share" else f"   (--set {row.knob.field}=)"
        lines += ["", f"{row.knob.name[0].upper()}{row.knob.name[1:]}{key}"]
        for p in row.points:
            mark = " " if p.goodput >= BOUND else "x"
            lines.append(f"  {_value(p.value, row.knob):>9} {mark} {_pct(p.goodput)} = {_factors(p)}")
        lines.append(f"  {broken(row)}")
    return "\n".join(lines)


def broken(row: Turned) -> str:
    """Say where a knob crosses 90 %."""
    first, last = row.points[0].goodput >= BOUND, row.points[-1].goodput >= BOUND
    if not row.breaks:
        return f"{'above' if first else 'below'} {_pct(BOUND, 0)} throughout"
    at = " and ".join(_value(float(f"{b:.2g}"), row.knob) for b in row.breaks)
    if len(row.breaks) > 1:
        return f"crosses {_pct(BOUND, 0)} at about {at}"
    return f"{'breaks above' if first and not last else 'needs at least'} about {at}"


def _factors(p: Point) -> str:
    return f"scheduling {_pct(p.scheduling)} x runtime {_pct(p.runtime)} x program {_pct(p.program)}"


def _pct(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _value(value: float, knob: Knob) -> str:
    if knob.field in ("spares", "share"):
        return f"{100 * value:.3g} %"
    return "never" if value == NEVER else f"{value:,.6g}"

"""Pages with figures of scaling laws and of simulated clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from drivefoundry.reports.charts import plain
from drivefoundry.reports.page import Figure, write_page
from drivefoundry.reports.plane import Axis, Series, plane
from drivefoundry.scaling.goodput.cluster import Cluster
from drivefoundry.scaling.goodput.sweep import BOUND, NEVER, Point, Turned, broken, sweep_text
from drivefoundry.scaling.law import FLOP_PER_PARAMETER_AND_TOKEN, Interval, Law, Run, ScoreLaw

BUDGETS = 6
"""Number of iso-compute curves."""
LEVELS = 8
"""Number of iso-loss curves."""
STEPS = 120
FACTORS = (("goodput", 0), ("scheduling", 1), ("runtime", 2), ("program", 3))


def write_scaling(path: Path, law: Law, score: ScoreLaw | None = None) -> Path:
    """Write the page of a law of losses and, if the runs were judged in closed loop, of scores; returns its path."""
    figures = [isoflop(law), isoloss(law), against(law)]
    facts = [(name, plain(v[0]), f"{plain(v[1])} to {plain(v[2])}") for name, v in law.coefficients().items()]
    grows = law.exponents()
    facts += [(f"best {k}", f"C^{v[0]:.2f}", f"{v[1]:.2f} to {v[2]:.2f}") for k, v in grows.items()]
    subtitle = "L = E + A / N^alpha + B / D^beta, 95 % intervals from a bootstrap over runs."
    if law.held_out is not None:
        subtitle += f" {prediction(law)}"
    if score is not None:
        figures.append(scores(score))
        subtitle += f" {score.finding()}"
    return write_page(path, f"Scaling law of {len(law.runs)} runs", subtitle, facts, figures)


def prediction(law: Law) -> str:
    """A sentence that compares the law's prediction for the largest run with the measured loss."""
    held = law.held_out
    assert held is not None
    mean, low, high = held.predicted
    return (
        f"The largest run ({held.run.parameters:.3g} parameters, {held.run.tokens:.3g} tokens) was held out: predicted "
        f"{mean:.4g} ({low:.4g} to {high:.4g}), measured {held.measured:.4g}, {100 * held.error:+.2f} %."
    )


def write_cluster(path: Path, base: Cluster, at: Point, rows: Sequence[Turned], course: np.ndarray) -> Path:
    """Write the page of a cluster: its point, the sweep and one simulated course over time; returns its path."""
    facts = [(name, f"{100 * getattr(at, name):.1f} %", "") for name, _ in FACTORS]
    figures = [_causes(at), _course(course), *(_knob(row) for row in rows)]
    subtitle = f"goodput = scheduling x runtime x program; one job on all but spare cards, {base.days:g} simulated days"
    return write_page(
        path, f"{base.cards:,} cards: what reduces goodput", subtitle, facts, figures, sweep_text(base, at, rows)
    )


def isoflop(law: Law) -> Figure:
    """Loss over size at equal compute: lines are the law, dots the runs near the budget, rings the law's optima."""
    everything = _everything(law)
    flop = np.array([run.flop for run in everything])
    budgets = np.geomspace(flop.min() * 1.2, flop.max(), BUDGETS)
    sizes = np.array([run.parameters for run in everything])
    x = Axis("parameters", sizes.min() / 2, sizes.max() * 2, log=True)
    losses = [run.loss for run in everything]
    low, high = min(losses), max(losses)
    y = Axis("loss", low - 0.08 * (high - low), high + 0.05 * (high - low))
    grid = np.geomspace(x.low, x.high, STEPS)
    series, legend = [], []
    for i, budget in enumerate(budgets):
        loss = law.at(grid, budget / FLOP_PER_PARAMETER_AND_TOKEN / grid)
        series.append(Series(list(zip(grid, loss, strict=True)), "line", i))
        near = [run for run in everything if abs(math.log(run.flop / budget)) < math.log(1.35)]
        series.append(Series([(run.parameters, run.loss) for run in near], "dots", i))
        best = law.optimum(budget)
        series.append(Series([(best["parameters"][0], best["loss"][0])], "rings", i, "best:"))
        legend.append((f"{budget:.1e} FLOP".replace("e+", "e"), i))
    return Figure("IsoFLOP", "loss over size at equal compute", plane(series, x, y, "IsoFLOP curves"), legend)


def isoloss(law: Law) -> Figure:
    """Sizes and data of equal loss, D = (B / (L - E - A / N^alpha))^(1 / beta), and the optimum for each budget."""
    everything = _everything(law)
    n, d = (np.array([getattr(r, k) for r in everything]) for k in ("parameters", "tokens"))
    x, y = (Axis(k, v.min() / 2, v.max() * 2, log=True) for k, v in (("parameters", n), ("tokens", d)))
    e, a, b, alpha, beta = law.value
    grid = np.geomspace(x.low, x.high, STEPS)
    ends = float(law.at(x.high, y.high)), float(law.at(x.low, y.low))
    series = []
    for level in np.geomspace(ends[0] * 1.02, ends[1] * 0.98, LEVELS):
        left = level - e - a * grid**-alpha
        tokens = (b / np.where(left > 0, left, np.nan)) ** (1 / beta)
        series.append(Series(list(zip(grid, tokens, strict=True)), "line", 0, f"{level:.3g}"))
    frontier = [law.optimum(c) for c in np.geomspace(6 * x.low * y.low, 6 * x.high * y.high, STEPS)]
    series.append(Series([(o["parameters"][0], o["tokens"][0]) for o in frontier], "line", 1))
    series.append(Series([(r.parameters, r.tokens) for r in law.runs], "dots", 7))
    legend = [("equal loss", 0), ("best for its compute", 1), ("runs", 7)]
    if law.held_out is not None:
        series.append(Series([(law.held_out.run.parameters, law.held_out.run.tokens)], "rings", 4, "held out:"))
        legend.append(("held out", 4))
    return Figure("IsoLoss", "sizes and data of equal loss", plane(series, x, y, "IsoLoss curves", 46), legend)


def against(law: Law) -> Figure:
    """Predicted against measured losses; the held-out run with its interval."""
    points = [(float(law.at(r.parameters, r.tokens)), r.loss) for r in law.runs]
    held = law.held_out
    every = [v for p in points for v in p] + ([held.measured, held.predicted[0]] if held else [])
    low, high = min(every), max(every)
    slack = 0.05 * (high - low)
    x, y = (Axis(k, low - slack, high + slack) for k in ("law", "measured"))
    series = [Series([(x.low, x.low), (x.high, x.high)], "dashed", 7), Series(points, "dots", 0)]
    legend = [("fitted", 0)]
    if held:
        series.append(Series([(held.predicted[0], held.measured)], "rings", 4, "held out:", [held.predicted[1:]]))
        legend.append(("held out, with the interval of its prediction", 4))
    off = 100 * float(np.abs(law.residuals()).mean())
    return Figure("Law and runs", f"{off:.2f} % apart on average", plane(series, x, y, "Law against runs"), legend)


def scores(score: ScoreLaw) -> Figure:
    """Closed-loop scores over compute, with the law's optimum if a law fits, otherwise their median."""
    runs = list(score.law.runs) + ([score.law.held_out.run] if score.law.held_out else [])
    flop = [run.flop for run in runs]
    values = [run.score or 0.0 for run in runs]
    x = Axis("FLOP", min(flop) / 2, max(flop) * 2, log=True)
    y = Axis("score", max(0.0, min(values) - 0.1), min(1.0, max(values) + 0.1))
    if score.holds:
        best = [(c, 1.0 - score.law.optimum(c)["loss"][0]) for c in np.geomspace(x.low, x.high, STEPS)]
        line, name = Series(best, "line", 1), "law: best for its compute"
    else:
        middle = float(np.median(values))
        line, name = Series([(x.low, middle), (x.high, middle)], "dashed", 1), "median: no law fits"
    drawing = plane([line, Series(list(zip(flop, values, strict=True)), "dots", 0)], x, y, "Scores over compute")
    return Figure("Closed-loop score", f"p = {score.p:.3f}", drawing, [("runs", 0), (name, 1)])


def _everything(law: Law) -> list[Run]:
    return [*law.runs, *([law.held_out.run] if law.held_out else [])]


def _knob(row: Turned) -> Figure:
    """The three factors and their product as one knob varies; dashed: what operators keep above."""
    kept = [p for p in row.points if p.value != NEVER]
    values = [p.value for p in kept]
    log = min(values) > 0 and max(values) / min(values) > 20
    x = Axis(
        row.knob.name.split(",")[0], min(values), max(values), log=log, percent=row.knob.field in ("spares", "share")
    )
    y = Axis("share of all card-time", 0.5, 1.0, percent=True)
    series = [Series([(x.low, BOUND), (x.high, BOUND)], "dashed", 7)]
    for name, colour in reversed(FACTORS):
        points = [(p.value, max(getattr(p, name), y.low)) for p in kept]
        series += [Series(points, "line", colour), Series(points if name == "goodput" else [], "dots", colour)]
    drawing = plane(series, x, y, f"Goodput over {row.knob.name}")
    return Figure(row.knob.name, broken(row), drawing, FACTORS)


def _course(course: np.ndarray) -> Figure:
    """The factors of one simulation over time."""
    days = course[:, 0]
    y = Axis("share", max(0.0, min(0.8, float(course[:, 1:].min()))), 1.0, percent=True)
    x = Axis("days", 0.0, float(days[-1]))
    series = [Series([(0.0, BOUND), (x.high, BOUND)], "dashed", 7)]
    columns = {
        "goodput": course[:, 1:].prod(1),
        "scheduling": course[:, 1],
        "runtime": course[:, 2],
        "program": course[:, 3],
    }
    for name, colour in reversed(FACTORS):
        series.append(Series(list(zip(days, columns[name], strict=True)), "line", colour))
    return Figure("Over time", "one simulation", plane(series, x, y, "Goodput over time"), FACTORS)


def _causes(at: Point) -> Figure:
    """Causes of lost card-time, as bars."""
    rows = sorted(at.causes.items(), key=lambda kv: -kv[1])
    top = max(share for _, share in rows) or 1.0
    bars = "".join(
        f'<text class="tick" x="110" y="{34 + 28 * i}" text-anchor="end">{name}</text>'
        f'<rect x="120" y="{22 + 28 * i}" height="16" width="{max(1.0, 340 * share / top):.1f}" '
        'style="fill: var(--s0)" rx="3"/>'
        f'<text class="tick" x="{128 + 340 * share / top:.1f}" y="{34 + 28 * i}">{100 * share:.2f} %</text>'
        for i, (name, share) in enumerate(rows)
    )
    drawing = Markup(f'<svg class="chart" viewBox="0 0 560 300" role="img" aria-label="Losses by cause">{bars}</svg>')
    return Figure("Where the rest goes", "share of total card-time", drawing)


def interval_text(v: Interval) -> str:
    """A value and its interval, in short form."""
    return f"{plain(v[0])} ({plain(v[1])} to {plain(v[2])})"

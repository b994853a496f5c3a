"""Render report content as one self-contained HTML file."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from drivefoundry import outputs
from drivefoundry.reports.charts import interval_bar, line_chart, percent, plain, show_bytes, show_seconds, turn_chart
from drivefoundry.reports.content import Cell, Curve, Film, ReportContent, SceneLink, StageRow, Table


def render_report(content: ReportContent, path: Path) -> Path:
    """Write a report to `path`, atomically, and return the path.

    The page is self-contained: style, script, charts and films are embedded. ValueError if the content is invalid.
    """
    content.validate()
    loader = PackageLoader("drivefoundry.reports", "templates")
    look = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    look.filters |= {"scene": _scene, "bytes": show_bytes, "seconds": show_seconds, "percent": percent, "plain": plain}
    page = look.get_template("report.html").render(
        c=content,
        turn_charts=_turn_charts(content),
        stage_groups=_stage_groups(content.stages),
        shares=_shares(content.stages),
        tables=[(table, _looks(table), _cells(table)) for table in content.tables],
        curves=[(curve, _curve(curve)) for curve in content.curves],
        films=[(film, _data_uri(film), _merged(film.text)) for film in content.films],
        notes={kind: [n for n in content.notes if n.kind == kind] for kind in ("failed", "lacks", "target")},
        parents=_parents(content),
    )
    with outputs.file(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path


def _turn_charts(content: ReportContent) -> list[tuple[str, str, Markup]]:
    """Title, reading hint and drawing of the two charts at the top."""
    if not content.turns:
        return []
    numbers = [t.number for t in content.turns]
    scores, collisions = [t.driving_score for t in content.turns], [t.collisions for t in content.turns]
    score_base = [(b.name, b.driving_score) for b in content.baselines]
    collision_base = [(b.name, b.collisions) for b in content.baselines]
    return [
        (
            "Driving score",
            "higher is better",
            turn_chart(numbers, scores, score_base, "good", False, "Driving score of each turn's release"),
        ),
        (
            "Scenes with a collision",
            "lower is better",
            turn_chart(
                numbers,
                collisions,
                collision_base,
                "bad",
                True,
                "Share of scenes with a collision, each turn's release",
            ),
        ),
    ]


def _stage_groups(stages: Sequence[StageRow]) -> list[tuple[str, list[tuple[StageRow, float, float]], float]]:
    """Per turn: heading, rows with bar lengths (wall and CPU time, % of the longest), total seconds."""
    longest = max((s.seconds for s in stages), default=0.0) or 1.0
    turns = list(dict.fromkeys(s.turn for s in stages))
    groups = []
    for turn in turns:
        rows = [s for s in stages if s.turn == turn]
        bars = [(s, 100 * s.seconds / longest, 100 * s.seconds / longest * min(1.0, s.cpu_share)) for s in rows]
        heading = f"Turn {turn}" if turn is not None else "Once for all turns" if len(turns) > 1 else ""
        groups.append((heading, bars, sum(s.seconds for s in rows)))
    return groups


def _shares(stages: Sequence[StageRow]) -> list[tuple[str, float, float]]:
    """Stage name, seconds over all turns, percentage of the total; longest first, small ones combined."""
    total = sum(s.seconds for s in stages)
    sums: dict[str, float] = {}
    for s in stages:
        sums[s.name] = sums.get(s.name, 0.0) + s.seconds
    if total <= 0:
        return []
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    shown = [(name, seconds) for i, (name, seconds) in enumerate(ordered) if i < 7 and seconds >= 0.02 * total]
    rest = total - sum(seconds for _, seconds in shown)
    if rest > 0.001 * total:
        shown.append(("the rest", rest))
    return [(name, seconds, 100 * seconds / total) for name, seconds in shown]


def _cells(table: Table) -> list[list[tuple[Markup, str]]]:
    """Every cell as (contents, CSS class)."""
    ends = [_ends([row[i] for row in table.rows]) for i in range(len(table.columns))]
    return [[_cell(cell, *ends[i]) for i, cell in enumerate(row)] for row in table.rows]


def _looks(table: Table) -> list[str]:
    """CSS class of each column: numbers are right-aligned, also if the first row has none."""
    numbers = [
        any(isinstance(row[i], (int, float)) and not isinstance(row[i], bool) for row in table.rows)
        for i in range(len(table.columns))
    ]
    return ["number" if n else "" for n in numbers]


def _ends(column: Sequence[Cell]) -> tuple[float, float]:
    """Scale of a column's interval bars."""
    intervals = [c for c in column if isinstance(c, tuple) and math.isfinite(sum(c))]
    low, high = min((c[1] for c in intervals), default=0.0), max((c[2] for c in intervals), default=1.0)
    return (0.0, 1.0) if low >= 0 and 0.3 <= high <= 1 else (min(0.0, low), high)


def _cell(cell: Cell, low: float, high: float) -> tuple[Markup, str]:
    if cell is None or (isinstance(cell, tuple) and not math.isfinite(sum(cell))):
        return Markup("–"), "none"
    if isinstance(cell, bool):
        return Markup("yes" if cell else "no"), "yes" if cell else "no"
    if isinstance(cell, SceneLink):
        return _scene(cell), "scene"
    if isinstance(cell, tuple):
        three = [f"{v:.3f}" if abs(v) < 10 else plain(v) for v in cell]
        range_ = Markup('<span class="range">{} – {}</span>').format(three[1], three[2])
        return Markup('<span class="mean">{}</span>{}{}').format(
            three[0], interval_bar(cell, low, high), range_
        ), "interval"
    if isinstance(cell, (int, float)):
        return escape(f"{cell:,}" if isinstance(cell, int) else plain(cell)), "number"
    return escape(cell), "text"


def _scene(link: SceneLink) -> Markup:
    """A scene's id, linked to its film if there is one, and the command that shows the scene."""
    name = Markup('<a class="id" href="#{}">{}</a>').format(link.film, link.id) if link.film else None
    shown = name or Markup('<span class="id">{}</span>').format(link.id)
    if not link.command:
        return shown
    return shown + Markup(' <details class="command"><summary>show</summary><code>{}</code></details>').format(
        link.command
    )


def _curve(curve: Curve) -> Markup:
    return line_chart(curve.series, curve.x_label, curve.y_label, curve.title)


def _data_uri(film: Film) -> Markup:
    return Markup("data:{};base64,{}").format(film.mime, base64.b64encode(film.data).decode())


def _merged(text: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Merge repeated consecutive sentences into one that lasts longer."""
    return [(t, s) for i, (t, s) in enumerate(text) if i == 0 or text[i - 1][1] != s]


def _parents(content: ReportContent) -> dict[str, list[str]]:
    """Artefact id -> "kind id" of its parents, as shown."""
    names = {a.id: f"{a.kind} {a.id[:8]}" for a in content.lineage}
    return {a.id: [names.get(p, p[:8]) for p in a.parents] for a in content.lineage}

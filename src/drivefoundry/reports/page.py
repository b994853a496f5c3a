"""Self-contained HTML pages of figures, other than the report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from drivefoundry import outputs


@dataclass(frozen=True)
class Figure:
    """One drawing of a page. legend: (name, index of one of the style sheet's eight colours)."""

    title: str
    note: str
    drawing: Markup
    legend: Sequence[tuple[str, int]] = ()


def write_page(
    path: Path,
    title: str,
    subtitle: str,
    facts: Sequence[tuple[str, str, str]],
    figures: Sequence[Figure],
    text: str = "",
) -> Path:
    """Write facts (name, value, description), figures and plain text as a page, atomically; missing folders are
    created. Returns the path. ValueError if there is a file at that path that was not written here."""
    loader = PackageLoader("drivefoundry.reports", "templates")
    look = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = look.get_template("figures.html").render(
        title=title, subtitle=subtitle, facts=facts, figures=figures, text=text, foot="Made by drivefoundry."
    )
    with outputs.among(path.parent, [path.name], path.name) as aside:
        (aside / path.name).write_text(page, encoding="utf-8")
    return path

"""Figures in, one self-contained HTML page out, for what is no report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from drivefoundry import outputs


@dataclass(frozen=True)
class Figure:
    """One drawing of a page. legend: (name, colour of the style sheet's eight)."""

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
    """Facts (name, figure, what it is), figures and plain text in, the path of the page out; missing folders are made,
    and the page is written aside and renamed. ValueError where a page is there that was not written here."""
    loader = PackageLoader("drivefoundry.reports", "templates")
    look = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = look.get_template("figures.html").render(
        title=title, subtitle=subtitle, facts=facts, figures=figures, text=text, foot="Made by drivefoundry."
    )
    with outputs.among(path.parent, [path.name], path.name) as aside:
        (aside / path.name).write_text(page, encoding="utf-8")
    return path

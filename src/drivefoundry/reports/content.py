"""Content of a report, independent of its look: dataclasses that a run fills in and `render_report` shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from drivefoundry.types import require

Interval = tuple[float, float, float]
"""Mean, and low and high end of its 95 % interval."""


@dataclass(frozen=True)
class SceneLink:
    """A scene by its short id. film: id of its film on the page, "" if there is none; command: shell command that shows
    the scene, "" if there is none."""

    id: str
    film: str = ""
    command: str = ""


Cell = str | int | float | bool | Interval | SceneLink | None
"""Contents of a table cell: None is shown as a dash, an Interval with a small bar on its column's scale."""


@dataclass(frozen=True)
class Fact:
    """One headline figure."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Turn:
    """One turn of the loop, judged on held-out scenes."""

    number: int
    driving_score: Interval
    """0 .. 1."""
    collisions: Interval
    """Share of scenes with a collision, 0 .. 1."""
    pdms: Interval | None
    takeovers_per_km: float | None
    """Of the cars that recorded this turn's clips; None if no model drove them."""
    clips: int
    """Clips that this turn's cars uploaded."""
    release_id: str


@dataclass(frozen=True)
class Baseline:
    """A driver that does not change from turn to turn: a dashed line in the charts of the turns."""

    name: str
    driving_score: float
    collisions: float


@dataclass(frozen=True)
class StageRow:
    """Time and results of one stage."""

    turn: int | None
    """None for stages outside the turns."""
    name: str
    seconds: float
    """Wall time of the run that built it."""
    cpu_share: float
    """CPU seconds / (wall seconds x cores), 0 .. 1."""
    results: Sequence[tuple[str, str]]
    """Names and values with units: ("clips", "412")."""
    bytes: int
    made: bool
    """False: it existed already and nothing was done."""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns. marked: index of the row to highlight, if any."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    marked: int | None = None


@dataclass(frozen=True)
class Curve:
    """Lines over one axis: series name -> (x values, y values)."""

    title: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    x_label: str
    y_label: str


@dataclass(frozen=True)
class Film:
    """Film of a drive. data: an H.264 MP4 (mime "video/mp4"), or an image; text: (second, sentence), sorted."""

    title: str
    caption: str
    mime: str
    data: bytes
    text: Sequence[tuple[float, str]] = ()
    id: str = ""
    """Target of a SceneLink, unique on the page; "" if nothing links to it."""


@dataclass(frozen=True)
class Remark:
    """A sentence for the reader. kind: "failed" (and why), "lacks" (missing in the source) or "target"."""

    kind: str
    text: str
    ok: bool | None = None
    """For a target: whether it was met."""
    scenes: Sequence[SceneLink] = ()
    """For a failure: where it happened."""


@dataclass(frozen=True)
class GateRow:
    """Result of one gate. state: passed, failed or not decided; text: bound, value, scenes."""

    name: str
    state: str
    text: str


@dataclass(frozen=True)
class Made:
    """One artefact of the ledger. parents: ids."""

    id: str
    kind: str
    parents: Sequence[str]
    bytes: int
    turn: int | None = None


@dataclass(frozen=True)
class ReportContent:
    """The whole report, in reading order. Everything but the first five fields may be empty."""

    title: str
    subtitle: str
    machine: str
    made_at: str
    """For display: "2031-05-02 14:03 UTC"."""
    recipe: str
    scenes: str = ""
    """What the turns were judged on: "240 held-out scenes of 8 s, cities unseen in training"."""
    facts: Sequence[Fact] = ()
    turns: Sequence[Turn] = ()
    baselines: Sequence[Baseline] = ()
    stages: Sequence[StageRow] = ()
    tables: Sequence[Table] = ()
    curves: Sequence[Curve] = ()
    films: Sequence[Film] = ()
    notes: Sequence[Remark] = ()
    gates: Sequence[GateRow] = ()
    lineage: Sequence[Made] = field(default_factory=tuple)

    def validate(self) -> ReportContent:
        """Check all fields; return self. ValueError names the offending field."""
        for turn in self.turns:
            for name in ("driving_score", "collisions", "pdms"):
                value = getattr(turn, name)
                require(value is None or _is_interval(value), f"Turn.{name}: must be low <= mean <= high, got {value}")
        for table in self.tables:
            for row in table.rows:
                wrong = f"Table {table.title!r}: {len(row)} cells under {len(table.columns)} columns"
                require(len(row) == len(table.columns), wrong)
        for curve in self.curves:
            for name, (x, y) in curve.series.items():
                require(
                    len(x) == len(y), f"Curve {curve.title!r}: series {name!r} has {len(x)} x for {len(y)} y values"
                )
        for film in self.films:
            require(film.mime.partition("/")[0] in ("video", "image"), f"Film {film.title!r}: mime {film.mime!r}")
            times = [t for t, _ in film.text]
            require(times == sorted(times), f"Film {film.title!r}: text must be sorted by time")
        films = [film.id for film in self.films if film.id]
        require(len(films) == len(set(films)), "Film.id: two films have the same id")
        cells = [cell for table in self.tables for row in table.rows for cell in row if isinstance(cell, SceneLink)]
        for link in [*cells, *(link for note in self.notes for link in note.scenes)]:
            require(not link.film or link.film in films, f"SceneLink {link.id!r}: no film {link.film!r}")
        for note in self.notes:
            require(
                note.kind in ("failed", "lacks", "target"), f"Note.kind: {note.kind!r} is not failed, lacks or target"
            )
        return self


def _is_interval(value: Interval) -> bool:
    mean, low, high = value
    return all(map(math.isfinite, value)) and low - 1e-6 <= mean <= high + 1e-6  # rounding of equal values

"""The report is one valid, self-contained page with all of its content, escaped."""

import base64
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefoundry.reports import charts
from drivefoundry.reports.content import (
    Baseline,
    Curve,
    Fact,
    Film,
    GateRow,
    Made,
    Remark,
    ReportContent,
    SceneLink,
    StageRow,
    Table,
    Turn,
)
from drivefoundry.reports.html import render_report

NASTY = "<b>a & b</b> \"quoted\" 'too' </script>"
VOID = {"meta", "img", "br", "input", "link", "hr"}
CSS = Path(charts.__file__).parent / "templates" / "report.css"
STEPS = list(range(1000))
NAN = float("nan")


def full() -> ReportContent:
    turns = [
        Turn(
            n,
            (0.3 + 0.2 * n, 0.2 + 0.2 * n, 0.4 + 0.2 * n),
            (0.4 / n, 0.3 / n, 0.5 / n),
            None,
            None,
            1234,
            f"r{n}-{NASTY}",
        )
        for n in (1, 2)
    ]
    return ReportContent(
        title=f"title {NASTY}",
        subtitle=NASTY,
        machine=NASTY,
        made_at="2031-05-02",
        recipe="tiny",
        facts=[Fact("clips", "1,234", NASTY)],
        turns=turns,
        baselines=[Baseline(NASTY, 0.4, 0.5)],
        stages=[
            StageRow(None, "exam", 12.0, 0.5, [("scenes", "12")], 2_500_000, True),
            StageRow(1, "fleet", 200.0, 0.9, [(NASTY, NASTY)], 12, False, NASTY),
        ],
        tables=[
            Table(
                NASTY,
                ["who", "score", "n", "ok"],
                [[NASTY, (0.5, 0.4, 0.6), 12345, True], ["b", None, None, None], ["c", (NAN, NAN, NAN), NAN, False]],
            ),
            Table("worst", ["scene"], [[SceneLink("0123456789ab", "film-1", "drivefoundry scene show 'a b'")]]),
        ],
        curves=[Curve(NASTY, {NASTY: (STEPS, [math.exp(-s / 100) for s in STEPS])}, NASTY, NASTY)],
        films=[
            Film(NASTY, NASTY, "video/mp4", b"film", [(0.0, "go"), (0.5, "go"), (1.0, NASTY)], "film-1"),
            Film("still", "", "image/png", b"p"),
        ],
        notes=[
            Remark("failed", NASTY, scenes=[SceneLink("0123456789ab", "film-1"), SceneLink("ba9876543210", "", NASTY)]),
            Remark("lacks", "no speed"),
            Remark("target", "met", True),
            Remark("target", "missed", False),
        ],
        gates=[
            GateRow("collisions", "failed", "0.1: 0.200 [0.100, 0.300] on 240 scenes: failed; worst: 3f9a2b3f9a2b"),
            GateRow(
                "driving score", "not decided", "-0.05: nothing to compare on 0 scenes: not decided, reported only"
            ),
        ],
        lineage=[Made("a" * 64, "fleet", [], 10), Made("b" * 64, "clips", ["a" * 64], 10, 1)],
    )


class Page(HTMLParser):
    """Checks that tags close in order, and collects texts, references and ids."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.seen: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "poster", "action", "data", "srcset"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def html(tmp_path):
    path = tmp_path / "report.html"
    assert render_report(full(), path) == path
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    return path.read_text()


def test_page_is_well_formed_and_loads_nothing(html):
    page = Page(html)
    assert {"svg", "video", "img", "table"} <= set(page.seen)
    for link in page.links:
        assert link.startswith(("data:", "#"))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "://" not in re.sub(r"data:[^\"]*", "", html)
    assert "@import" not in html
    assert "url(" not in html


def test_text_is_escaped_everywhere(html):
    page = Page(html)
    assert "<b>a" not in html
    assert "nan" not in html
    assert page.seen.count("script") == 1
    assert sum(NASTY in text for text in page.texts) >= 12


def test_page_shows_its_content(html):
    text = " ".join(Page(html).texts)
    for word in (
        "turn 1",
        "turn 2",
        "2.5 MB",
        "3 min 20 s",
        "existing",
        "12,345",
        "no speed",
        "missed",
        "aaaaaaaaaaaa",
    ):
        assert word in text
    assert f"data:video/mp4;base64,{base64.b64encode(b'film').decode()}" in html
    assert re.findall(r'<li data-t="([\d.]+)"', html) == ["0.00", "1.00"]  # a sentence that goes on is one sentence


def test_scenes_lead_to_their_films_and_say_how_to_see_them(html):
    assert html.count('href="#film-1"') == 2
    assert html.count('id="film-1"') == 1
    assert "drivefoundry scene show &#39;a b&#39;" in html
    assert "ba9876543210" in html


def test_films_start_on_a_click_alone(html):
    video = re.search(r"<video[^>]*>", html).group(0)
    assert "autoplay" not in video
    assert "controls" in video
    script = html[html.index("<script>") :]
    plays = [line for line in script.splitlines() if ".play()" in line]
    assert plays
    assert all('addEventListener("click"' in line for line in plays)


SCHEMES = re.findall(r":root \{(.*?)\}", CSS.read_text(), re.S)
ON_CARD = ("ink", "soft", "faint", "good", "bad", "ok", "no")


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_what_is_behind_it(dark):
    light, night = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", scheme)) for scheme in SCHEMES)
    colours = light | night if dark else light
    pairs = [(text, ground) for text in ON_CARD for ground in ("card", "paper")]
    pairs += [(text, ground) for text in ("ink", "soft", "good", "ok", "no") for ground in ("tint", "hover")]
    pairs += [("on-head", "head"), ("head-soft", "head"), ("head-faint", "head"), ("ink", "chip"), ("on-mark", "ok"),
              ("on-mark", "no"), ("faint", "tint"), ("soft", "chip")]  # fmt: skip
    poor = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in pairs}
    assert {pair: c for pair, c in poor.items() if c < 4.5} == {}


def test_bare_run_has_a_page_too(tmp_path):
    bare = ReportContent("a", "b", "c", "d", "e")
    page = Page(render_report(bare, tmp_path / "r.html").read_text())
    assert "video" not in page.seen
    assert not set(page.ids)


def test_failed_render_keeps_the_old_page(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="2 cells under 1 columns"):
        render_report(replace(full(), tables=[Table("t", ["one"], [["a", "b"]])]), path)
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"turns": [Turn(1, (0.5, 0.6, 0.7), (0, 0, 0), None, None, 0, "")]}, "Turn.driving_score"),
        ({"curves": [Curve("c", {"s": ([1, 2], [1])}, "", "")]}, "2 x for 1 y"),
        ({"films": [Film("f", "", "text/html", b"")]}, "mime 'text/html'"),
        ({"films": [Film("f", "", "video/mp4", b"", [(1, "b"), (0, "a")])]}, "sorted by time"),
        ({"notes": [Remark("rumour", "x")]}, "rumour"),
        ({"notes": [Remark("failed", "x", scenes=[SceneLink("a", "film-9")])]}, "no film 'film-9'"),
        ({"films": [Film("f", "", "video/mp4", b"", id="film-1")] * 2}, "two films have the same id"),
    ],
)
def test_content_is_checked(change, line):
    with pytest.raises(ValueError, match=line):
        replace(full(), **change).validate()


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_span_their_range_with_few_round_numbers(low, span):
    high = low + span
    if high - low < 1e-9 * max(abs(low), 1):
        return
    ticks = charts.round_numbers(low, high)
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-6 * span
    assert ticks[-1] >= high - 1e-6 * span


@given(st.lists(st.floats(0, 300), min_size=1, max_size=8))
def test_labels_do_not_touch(heights):
    placed = sorted(charts._apart(heights, 24))
    assert all(b - a >= 24 - 1e-9 for a, b in pairwise(placed))


def test_curves_survive_what_training_may_yield():
    values = [float("nan"), 1.0, float("inf"), 0.5]
    assert "nan" not in charts.line_chart({"loss": ([0, 1, 2, 3], values)}, "x", "y", "t").lower()
    assert "no values" in charts.line_chart({"loss": ([0], [float("nan")])}, "x", "y", "t")
    assert "polyline" in charts.line_chart({"flat": ([0, 1], [2.0, 2.0])}, "x", "y", "t")
    assert "polyline" in charts.line_chart({"point": ([5], [0.0])}, "x", "y", "t")


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200))
def test_smoothing_keeps_length_ends_and_range(values):
    points = [(float(i), v) for i, v in enumerate(values)]
    smooth = charts._smooth(points)
    assert [x for x, _ in smooth] == [x for x, _ in points]
    assert smooth[0] == pytest.approx(points[0], abs=1e-9)
    assert smooth[-1] == pytest.approx(points[-1], abs=1e-9)
    assert all(min(values) - 1e-6 <= y <= max(values) + 1e-6 for _, y in smooth)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.123456, "0.123"), (12.0, "12"), (1234.5, "1,234"), (1e-5, "1.0e-05")]
)
def test_plain(value, text):
    assert charts.plain(value) == text

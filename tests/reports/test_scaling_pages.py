"""Pages of laws and clusters are complete, self-contained, and show their figures."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from drivefoundry.outputs import MARK
from drivefoundry.reports.plane import Axis, Series, plane
from drivefoundry.reports.scaling import against, isoflop, isoloss, prediction, write_cluster, write_scaling
from drivefoundry.scaling.goodput.cluster import Cluster
from drivefoundry.scaling.goodput.sweep import Knob, one_run, point, turned
from drivefoundry.scaling.law import Run, fit, fit_score, value_at


def runs(score):
    rng = np.random.default_rng(0)
    return [
        Run(n, d, float(value_at(np.array([1.7, 400.0, 410.0, 0.34, 0.28]), n, d)), score(n) + 0.01 * rng.random())
        for n in np.geomspace(1e7, 1e9, 4)
        for d in np.geomspace(1e9, 1e11, 4)
    ]


GROWS = runs(lambda n: 0.9 - 30 * n**-0.25)
LAW = fit(GROWS)


def whole(path):
    page = path.read_text()
    tags = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "i", "circle", "line", "polyline", "rect"):
                tags.append(tag)

        def handle_endtag(self, tag):
            if tag in tags:
                assert tags.pop() == tag

    Reader().feed(page.replace("<i ", "<span ").replace("</i>", "</span>"))
    assert not tags
    assert not re.search(r'(src|href)="', page)
    assert not re.search(r"\bnan\b", page)
    return page


def test_a_laws_page(tmp_path):
    page = whole(write_scaling(tmp_path / "deep" / "scaling.html", LAW, fit_score(GROWS)))
    assert page.count("<svg") == 4
    assert "A law holds for the closed-loop score" in page
    assert "was held out: predicted" in page
    flat = fit_score([Run(r.parameters, r.tokens, r.loss, 0.5) for r in GROWS])
    assert "No law holds" in whole(write_scaling(tmp_path / "flat.html", LAW, flat))
    assert whole(write_scaling(tmp_path / "none.html", LAW)).count("<svg") == 3
    assert [p.name for p in tmp_path.glob(".*")] == [MARK]


def test_a_clusters_page(tmp_path):
    base = Cluster(cards=400, days=5.0)
    rows = [turned(base, Knob("detect_minutes", "minutes", (5.0, math.inf)), 1)]
    page = whole(write_cluster(tmp_path / "cluster.html", base, point(base, 1), rows, one_run(base).course))
    assert page.count("<svg") == 3
    assert "400 cards" in page
    assert "never" in page


def test_lines_of_equal_loss_have_equal_loss():
    drawing = isoloss(LAW).drawing
    (x_low, x_high), (y_low, y_high) = ((f(v) for f, v in ((lambda v: min(v) / 2, a), (lambda v: max(v) * 2, a)))
        for a in ([r.parameters for r in GROWS], [r.tokens for r in GROWS]))  # fmt: skip
    lines = re.findall(r'<polyline class="line s0" points="([^"]+)"/><text[^>]*>([\d.]+)<', drawing)
    assert len(lines) >= 4
    for points, name in lines:
        places = np.array([[float(v) for v in p.split(",")] for p in points.split()])
        n = x_low * (x_high / x_low) ** ((places[:, 0] - 52) / (560 - 46 - 52))
        d = y_low * (y_high / y_low) ** ((300 - 34 - places[:, 1]) / (300 - 34 - 28))
        assert LAW.at(n, d) == pytest.approx(float(name), rel=0.01)


def test_figures_name_what_they_show():
    assert len(isoflop(LAW).legend) == 6
    assert ("held out", 4) in isoloss(LAW).legend
    assert "held out" in str(against(LAW).drawing)
    assert "+0.00 %" in prediction(LAW) or "-0.00 %" in prediction(LAW)


def test_what_lies_outside_is_left_out_and_names_are_escaped():
    x, y = Axis("<x>", 1.0, 1e6, log=True), Axis("y", 0.0, 1.0, percent=True)
    drawing = plane([Series([(10.0, 0.5), (1e9, 0.5), (10.0, math.nan)], "dots", 0, "<a>")], x, y, '"')
    assert drawing.count("<circle") == 1
    assert "&lt;x&gt;" in drawing
    assert "<a>" not in drawing
    assert "50 %" in drawing
    assert "1e6" in drawing
    assert plane([Series([])], x, y, "").count("<polyline") == 0


@pytest.mark.parametrize(("low", "high"), [(1, 100_000), (5, 200), (5e3, 2e5), (1e8, 3e8), (2e9, 1e12)])
def test_log_axes_have_a_few_round_ticks(low, high):
    found = Axis("", low, high, log=True).ticks(6)
    assert 2 <= len(found) <= 8
    assert all(low <= t <= high for t in found)

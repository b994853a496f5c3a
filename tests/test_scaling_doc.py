"""The commands of docs/scaling.md run unchanged, and its figures agree with the code."""

import re
import shlex
from pathlib import Path

from drivefoundry import cli
from drivefoundry.scaling.chips import CHIPS, fleet_of
from drivefoundry.scaling.goodput.cluster import Cluster
from drivefoundry.scaling.goodput.sweep import point
from drivefoundry.scaling.law import FEWEST, read_runs
from drivefoundry.settings import with_settings

DOC = Path(__file__).parents[1] / "docs" / "scaling.md"


def test_commands(capsys):
    lines = re.findall(r"^    drivefoundry (plan .*)$", DOC.read_text(), re.M)
    assert len(lines) == 6
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[1] == "cluster":
            with_settings(Cluster(), [w for w in words if "=" in w]).validate()
            continue
        assert cli.main(words) == 0
        assert "cards" in capsys.readouterr().out


def test_figures():
    text = " ".join(DOC.read_text().split())
    for eflops, cards in ((1.0, "3,125"), (2.51, "7,844"), (5.39, "16,844")):
        assert f"{fleet_of(eflops, CHIPS['A800']).cards:,.0f}" == cards
        assert cards in text
    at = point(Cluster(), 8)
    told = f"{100 * at.goodput:.1f} % = {100 * at.scheduling:.1f} % scheduling x {100 * at.runtime:.1f} % runtime"
    assert told in text
    assert FEWEST == 7
    assert "Fewer than seven runs" in text


def test_the_example_run_is_read(tmp_path):
    (example,) = re.findall(r"`(\{\"parameters\".*?\})`", DOC.read_text())
    path = tmp_path / "runs.jsonl"
    path.write_text(example)
    assert read_runs(path)[0].score == 0.42

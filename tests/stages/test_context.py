"""A line stops after the requested stage, and can be read without side effects."""

import contextlib

import pytest

from drivefoundry.ledger import Ledger
from drivefoundry.recipes import tiny
from drivefoundry.stages.context import RunContext, StopAfterStage


def go(root, until=None, last=None, look=False, turns=2):
    """exam, then in every turn fleet, label, judge (two of them), car; returns the kinds made or found."""
    with Ledger(root) as ledger:
        line = RunContext(ledger, tiny(), root, until, last, look)

        def make(turn, verb, kind):
            line.make(turn, verb, kind, {}, [a for *_, a in line.done[-1:]], lambda d: {"n": len(line.done)})

        with contextlib.suppress(StopAfterStage):
            make(None, "fleet", "exam")
            for turn in range(1, turns + 1):
                make(turn, "fleet", "drives")
                make(turn, "label", "label")
                make(turn, "judge", "score")
                make(turn, "judge", "verdict")
                make(turn, "car", "car")
        return [f"{kind} {turn or ''}".strip() for turn, kind, _ in line.done], [a.made for *_, a in line.done]


@pytest.mark.parametrize(
    ("until", "last", "kinds", "ends"),
    [("fleet", 1, 2, "drives 1"), ("label", 2, 8, "label 2"), ("judge", 1, 5, "verdict 1"), (None, 2, 11, "car 2")],
)
def test_a_stage_ends_the_line_with_the_last_of_its_entries(tmp_path, until, last, kinds, ends):
    found, made = go(tmp_path, until, last)
    assert len(found) == kinds
    assert found[-1] == ends
    assert all(made)


def test_what_belongs_to_no_turn_ends_a_line_without_turns(tmp_path):
    assert go(tmp_path, "fleet", None)[0] == ["exam", "drives 1"]


def test_reading_finds_what_exists_and_builds_nothing(tmp_path):
    assert go(tmp_path, look=True) == ([], [])
    go(tmp_path, "judge", 1)
    before = sorted(tmp_path.rglob("*"))
    found, made = go(tmp_path, look=True)
    assert found == ["exam", "drives 1", "label 1", "score 1", "verdict 1"]
    assert not any(made)
    assert sorted(tmp_path.rglob("*")) == before

"""Stages are timed including child processes; without a terminal, bars print lines."""

import json
import subprocess
import sys

import pytest
from rich.console import Console

from drivefoundry import progress
from drivefoundry.stages.train import note


def test_stage_counts_children():
    with progress.stage("busy") as clock:
        subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert clock.cpu_seconds >= 0.3
    assert clock.seconds >= 0.25


def test_stage_is_timed_although_it_fails():
    clock = progress.Clock("x")
    try:
        with progress.stage("failing") as clock:
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert clock.seconds > 0


def test_plain_lines(monkeypatch, capsys):
    monkeypatch.setattr(progress, "console", Console(force_terminal=False, width=80))
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with progress.bar("cars [x]", 3) as advance:
        advance()
        advance(1, "car-2")
        advance()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", ")[0] for line in lines] == ["  cars [x]: 1/3", "  cars [x]: 2/3"]
    assert "left" not in lines[0]  # the first report tells no pace yet
    assert lines[1].endswith("s left, car-2")


def test_bars_on_a_terminal_nest_and_leave_nothing(monkeypatch, tmp_path):
    with (tmp_path / "screen").open("w") as screen:
        monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=80))
        monkeypatch.setattr(progress, "SHOWN_AFTER_S", 0.0)
        with progress.bar("outer", 2) as outer:
            with progress.bar("inner", 1) as inner:
                inner()
            outer()
        assert progress._bars is None
    shown = (tmp_path / "screen").read_text()
    assert "outer" in shown
    assert "inner" in shown
    assert "0/2" in shown


def test_a_trainings_note_fits_one_line_of_eighty_columns(monkeypatch, tmp_path):
    metrics = {"loss": 12.345, "samples_per_s": 12345.0, "mfu": 0.41, "goodput": 0.4}
    with (tmp_path / "screen").open("w") as screen:
        monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=80))
        monkeypatch.setattr(progress, "SHOWN_AFTER_S", 0.0)
        with progress.bar("pre-train", 450) as advance:
            advance(120, note(metrics))
            assert progress._bars is not None
            lines = progress.console.render_lines(progress._bars.get_renderable(), pad=False)
    (line,) = ["".join(part.text for part in parts) for parts in lines]
    assert len(line) <= 80
    assert "pre-train ━" in line
    assert "120/450" in line
    assert line.rstrip().endswith("loss 12.345 12,345/s MFU 41% goodput 40%")


def test_a_trainings_note():
    assert note({"reward": 0.5, "samples_per_s": 4.26}) == "reward 0.500 4.3/s"
    assert note({}) == ""


def ended(monkeypatch, seconds: list[float], total: int) -> list[float | None]:
    """Time left after each step, if steps take the given seconds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pace, out = progress.Pace(total), []
    for s in seconds:
        now[0] += s
        pace.advance(1)
        out.append(pace.left())
    return out


def test_time_left_leaves_out_what_compiles_and_reads_first(monkeypatch):
    left = ended(monkeypatch, [180.0, *[0.5] * 99], 520)
    assert left[0] is None
    for done, seconds in enumerate(left[1:], start=2):
        assert seconds == pytest.approx(0.5 * (520 - done))


def test_time_left_forgets_slow_steps_of_the_past(monkeypatch):
    left = ended(monkeypatch, [10.0, 60.0, 60.0, *[1.0] * 57], 160)
    assert left[-1] == pytest.approx(100.0)


def test_progress_is_in_a_file_until_the_work_ends(tmp_path):
    file = tmp_path / "progress.json"
    with progress.kept(file):
        progress.under_way("turn 2: distil")
        with progress.bar("distil", 4) as advance:
            advance(2)
            progress.under_way("turn 2: quantize")
            told = json.loads(file.read_text())
        assert told["stage"] == "turn 2: quantize"
        assert told["bars"] == [{"what": "distil", "done": 2, "total": 4, "left_s": None}]
    assert list(tmp_path.iterdir()) == []


def test_a_quiet_block_prints_nothing(monkeypatch, capsys):
    monkeypatch.setattr(progress, "console", Console(force_terminal=False, width=80))
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with progress.silent(), progress.bar("cars", 3) as advance:
        advance()
        progress.say("a line")
    progress.say("after")
    assert capsys.readouterr().out == "after\n"

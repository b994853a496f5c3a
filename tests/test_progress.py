"""Stages are timed with their children; bars say their lines where no terminal is."""

import subprocess
import sys

from rich.console import Console

from drivefoundry import progress


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
    assert lines[1].endswith("s left car-2")


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

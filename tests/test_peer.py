"""Benchmarks distinguish a peer that is not installed from one that failed, and show its last output."""

import sys

import pytest
from benchmarks.peer import last_lines, missing, not_installed


def test_absent_modules_are_named():
    assert missing(sys.executable, "json", "no_such_peer", "numpy") == ["no_such_peer"]
    assert "no_such_peer" in not_installed(sys.executable, ["no_such_peer"])


@pytest.mark.parametrize(("python", "says"), [("/no/such/python", "No such file"), ("/bin/false", "not a Python")])
def test_an_invalid_interpreter_is_refused(python, says):
    with pytest.raises(SystemExit, match=says):
        missing(python, "json")


def test_a_crashed_peer_shows_the_end_of_its_stderr(monkeypatch, tmp_path, capsys):
    from benchmarks.sim import at_once

    script = tmp_path / "peer.py"
    script.write_text("import sys\nprint('warming up', file=sys.stderr)\nraise RuntimeError('no display :7')\n")
    monkeypatch.setattr("benchmarks.sim.cores", lambda: 1)
    assert at_once([sys.executable, "-P", str(script), "1", "pictures"]) == []
    said = capsys.readouterr().err
    assert "peer.py pictures: left out: exit code 1" in said
    assert "warming up" in said
    assert "no display :7" in said


def test_last_lines_are_few():
    assert last_lines("\n".join(map(str, range(100)))).split() == [str(n) for n in range(92, 100)]

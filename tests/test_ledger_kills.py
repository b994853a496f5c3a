"""A ledger whose process is killed during a build or while publishing."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from drivefoundry.ledger import Ledger

CODE = "code"

KILLED = textwrap.dedent(
    """
    import os, sys, time
    from pathlib import Path
    from drivefoundry import ledger as module
    from drivefoundry.ledger import Ledger
    root, moment = sys.argv[1], sys.argv[2]
    stop = lambda: (print("now", flush=True), time.sleep(60))

    def slow(path):
        done = sorted(p.name for p in path.glob(".step*"))
        print("resumed from", *done, flush=True)
        for i in range(len(done), 4):
            (path / f".step{i}").write_text("")
            (path / f"part{i}.txt").write_text(str(i))
            if i == 1 and moment == "build": stop()
        return {"parts": 4}

    if moment == "sync": module.os.sync = stop
    if moment == "rename": module.os.replace = lambda a, b: stop()
    with Ledger(root) as ledger:
        first = ledger.make("first", {}, [], "code", lambda p: (p / "a").write_text("a") and None) \
            if moment in ("build", "none") else None
        made = ledger.make("slow", {}, [first] if first else [], "code", slow)
        print("made" if made.made else "there", *sorted(p.name for p in made.path.iterdir()), flush=True)
    """
)


def start(root: Path, moment: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", KILLED, str(root), moment], stdout=subprocess.PIPE, text=True)


def kill_at(root: Path, moment: str) -> None:
    with start(root, moment) as process:
        assert process.stdout is not None
        while "now" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)


def visible(root: Path) -> list[str]:
    with Ledger(root) as ledger:
        assert {a.path for a in ledger.history()} == set((root / "artefacts").iterdir())
        return [a.kind for a in ledger.history()]


def test_killed_in_a_build_then_resumed(tmp_path):
    kill_at(tmp_path, "build")
    assert visible(tmp_path) == ["first"]
    with start(tmp_path, "none") as process:
        out, _ = process.communicate()
    assert out.splitlines() == ["resumed from .step0 .step1", "made part0.txt part1.txt part2.txt part3.txt"]
    assert visible(tmp_path) == ["first", "slow"]
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("moment", ["sync", "rename"])
def test_killed_while_publishing(tmp_path, moment):
    kill_at(tmp_path, moment)
    assert visible(tmp_path) == []
    with start(tmp_path, "after") as process:
        out, _ = process.communicate()
    last = out.splitlines()[-1]
    assert last.endswith("part0.txt part1.txt part2.txt part3.txt")
    assert last.startswith(
        "there" if moment == "rename" else "made"
    )  # recorded already: only the rename was left to do
    assert visible(tmp_path) == ["slow"]


def test_lock_of_a_killed_run_is_free(tmp_path):
    kill_at(tmp_path, "build")
    with Ledger(tmp_path) as ledger:
        assert ledger.make("x", {}, [], CODE, lambda p: None).made

"""Verbs that read a run, name its artefacts or judge it: a finished run, one in progress, one with leftovers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drivefoundry import cli
from drivefoundry.judge.gate import load_verdict
from drivefoundry.ledger import Ledger
from drivefoundry.runs import inventory, links, named
from drivefoundry.scenes import show
from drivefoundry.types import short_id
from loop import SMALL, environment

TURNS = 2


def said(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    assert cli.main(argv) == code
    return capsys.readouterr().out


def told(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0):
    return json.loads(said(capsys, *argv, "--json", code=code))


def seen(run: Path) -> dict[str, tuple[int, int]]:
    files = [p for p in run.rglob("*") if not p.name.startswith("ledger.db")]
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in files if not p.is_dir()}


@pytest.fixture
def copy(ran: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ran, tmp_path / "run", symlinks=True))


def of_kind(run: Path, kind: str) -> dict[int | None, Path]:
    return {named.turn_of(a): a.path.resolve() for a in named.artefacts(run) if a.kind == kind}


def sorted_verdicts(run: Path) -> list[Path]:
    return [path / "verdict.json" for _, path in sorted(of_kind(run, "verdict").items(), key=lambda one: one[0] or 0)]


def test_links_point_at_the_last_engine_and_at_each_release(ran):
    assert (ran / "engine").resolve() == of_kind(ran, "quantize")[TURNS]
    releases = of_kind(ran, "release")
    for turn in range(1, TURNS + 1):
        assert (ran / "releases" / str(turn)).resolve() == releases[turn]
    assert (ran / "releases" / "latest").resolve() == releases[TURNS]
    assert not os.path.isabs(os.readlink(ran / "engine"))


@pytest.mark.parametrize("name", ["{}", "{}/engine", "{}:quantize", "{}:engine:2", "{}/releases/latest", "{}:car"])
def test_names_of_the_last_engine(ran, name):
    assert named.engine(name.format(ran)).resolve() == of_kind(ran, "quantize")[TURNS]


@pytest.mark.parametrize("name", ["{}:quantize:1", "{}/releases/1", "{}:release:1", "{}:verdict:1"])
def test_names_of_the_first_engine(ran, name):
    assert named.engine(name.format(ran)).resolve() == of_kind(ran, "quantize")[1]


def test_names_of_models_and_verdicts(ran):
    sft, rl = of_kind(ran, "sft"), of_kind(ran, "rl")
    assert named.model(f"{ran}:sft:1").parent.resolve() == sft[1]
    assert named.model(f"{ran}:train").parent.resolve() == sft[TURNS]
    assert named.model(sft[1]).parent.resolve() == sft[1]
    assert named.model(ran).parent.resolve() == rl[TURNS]
    assert named.model(f"{ran}:student").parent.resolve() == of_kind(ran, "distil")[TURNS]
    with Ledger.reading(ran) as ledger:
        (first,) = [a for a in ledger.history() if a.path.resolve() == sft[1]]
    assert named.model(f"{ran}:{first.id[:6]}").parent.resolve() == sft[1]
    verdicts = of_kind(ran, "verdict")
    for name, turn in ((f"{ran}", TURNS), (f"{ran}:judge:1", 1), (f"{ran}/releases/1", 1), (verdicts[1], 1)):
        assert named.verdict(name).resolve() == verdicts[turn] / "verdict.json"


@pytest.mark.parametrize(
    ("find", "name", "says"),
    [
        (named.engine, "{}:quantize:9", "this run has no such artefact; there are exam_drives, exam, fleet:1"),
        (named.engine, "{}:shrnk", "this run has no such artefact"),
        (named.engine, "{}:sft:1", "no engine (engine.json) in it"),
        (named.model, "{}:quantize", "an engine, not a model"),
        (named.engine, "{}/nothing", "no such file or directory"),
        (named.engine, "{}/clips:quantize", "clips is not a run directory"),
    ],
)
def test_names_of_nothing(ran, find, name, says):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  its text is looked at
        find(name.format(ran))
    assert says in str(caught.value)


def test_verbs_take_names(ran, tmp_path, capsys):
    shown = told(capsys, "model", "show", f"{ran}:distil:1")
    assert shown["parameters"] == sum(shown["parts"].values())
    compared = said(capsys, "judge", "compare", f"{ran}:judge:1", f"{ran}/releases/2")
    assert compared == said(capsys, "judge", "compare", *(str(p) for p in sorted_verdicts(ran)))
    out = tmp_path / "hf"
    export = ["model", "export", f"{ran}:sft:1", "--hf", str(out)]
    assert said(capsys, *export, "--dry-run") == f"would write {out}\n"
    assert not out.exists()
    assert said(capsys, *export) == f"{out}\n"
    assert (out / "config.json").exists()


def test_a_listing_names_what_it_lists(ran, capsys):
    rows = told(capsys, "ls", str(ran))
    kinds = [r["stage"] for r in rows]
    assert kinds.index("fleet") < kinds.index("sft") < kinds.index("verdict") < kinds.index("release")
    assert sum(r["stage"] == "quantize" for r in rows) == TURNS
    for row in rows:
        found = named.resolved(row["name"])
        assert found.artefact is not None
        assert found.artefact.id == row["id"]
        assert str(found.path) == row["path"]
    text = said(capsys, "ls", str(ran)).splitlines()
    assert len(text) == len(rows) + 1
    assert text[0].split() == list(inventory.COLUMNS)


def test_what_nothing_needs_is_collected(copy, capsys):
    more = ["--set", "distil.steps=5", "--until", "distil", "--loops", "1"]
    assert cli.main(["run", "--out", str(copy), *SMALL, *more]) == 0
    (copy / "work" / "sft-000000000000").mkdir()
    (copy / "work" / "sft-000000000000" / "state").write_bytes(b"x" * 1000)
    capsys.readouterr()
    before = seen(copy)
    planned = told(capsys, "gc", str(copy), "--dry-run")
    assert seen(copy) == before
    gone = {Path(r["path"]).name.partition("-")[0] for r in planned["removed"]}
    assert {"distil", "quantize", "release", "verdict", "sft"} <= gone
    assert gone.isdisjoint({"fleet", "exam", "exam_drives", "pretrain"})
    used = {r["id"] for r in told(capsys, "ls", str(copy))}
    assert told(capsys, "gc", str(copy))["bytes"] == planned["bytes"] > 1000
    with Ledger.reading(copy) as ledger:
        left = ledger.history()
        assert ledger.damaged() == []
    assert used <= {a.id for a in left}
    assert not any(Path(r["path"]).exists() for r in planned["removed"])
    assert not (copy / "engine").is_symlink()
    assert not (copy / "releases").exists()
    assert told(capsys, "gc", str(copy), "--dry-run")["bytes"] == 0


def test_links_follow_what_is_rebuilt(tmp_path):
    run = tmp_path
    for n in range(1, 5):
        (run / "artefacts" / f"release-{n}").mkdir(parents=True)
    for turn in (1, 2):
        links.link(run, "release", turn, run / "artefacts" / f"release-{turn}")
    links.link(run, "release", 1, run / "artefacts" / "release-1")
    assert {p.name for p in (run / "releases").iterdir()} == {"1", "2", "latest"}
    links.link(run, "release", 1, run / "artefacts" / "release-3")
    assert {p.name: os.readlink(p) for p in (run / "releases").iterdir()} == dict.fromkeys(
        ("1", "latest"), "../artefacts/release-3"
    )
    (run / "engine").mkdir()
    links.link(run, "quantize", 1, run / "artefacts" / "release-4")
    assert not (run / "engine").is_symlink()


STOPPED = """
import sys, time
from drivefoundry import cli
from drivefoundry.train.trainer import Trainer
real = Trainer._one_step
def step(*args, **kwargs):
    print("now", flush=True)
    time.sleep(600)
Trainer._one_step = step
cli.main(sys.argv[1:])
"""


def test_a_run_under_way_can_be_looked_at(copy, capsys):
    for kind in ("rl", "distil", "quantize", "score", "verdict", "release", "car", "report"):
        for path in (copy / "artefacts").glob(f"{kind}-*"):
            shutil.rmtree(path)
    (copy / "report.html").unlink()
    command = [sys.executable, "-c", STOPPED, "run", "--out", str(copy), *SMALL]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert any(line == "now\n" for line in process.stdout)
            before = told(capsys, "status", str(copy))
            assert before["running"]
            assert before["pid"] == process.pid
            assert before["now"]["stage"] in ("turn 1: rl", "turn 1: distil")
            assert "process" in said(capsys, "status", str(copy))
            assert said(capsys, "report", "--out", str(copy)) == f"{copy / 'report.html'}\n"
            assert "pretrain" in (copy / "report.html").read_text()
            assert len(told(capsys, "ls", str(copy))) > 5
            assert len(told(capsys, "scene", "list", str(copy))["scenes"]) > 0
            assert cli.main(["gc", str(copy)]) == 2
            assert f"process {process.pid} is running here" in capsys.readouterr().err
            assert cli.main(["run", "--out", str(copy), *SMALL]) == 2
        finally:
            process.send_signal(signal.SIGKILL)
    capsys.readouterr()
    after = told(capsys, "status", str(copy))
    assert not after["running"]
    assert after["now"] is None


def test_status_names_what_is_damaged(copy, capsys):
    assert told(capsys, "status", str(copy))["damaged"] is None
    assert told(capsys, "status", str(copy), "--verify")["damaged"] == []
    file = next((copy / "engine").resolve().rglob("weights.bin"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    (damaged,) = told(capsys, "status", str(copy), "--verify", code=1)["damaged"]
    assert file.is_relative_to(Path(damaged).resolve())
    assert f"damaged: {damaged}" in said(capsys, "status", str(copy), "--verify", code=1)


def test_looking_changes_nothing(ran, capsys):
    before = seen(ran)
    for argv in (["ls", str(ran)], ["status", str(ran)], ["gc", str(ran), "--dry-run"], ["scene", "list", str(ran)],
                 ["report", "--out", str(ran), "--dry-run"], ["report", "--out", str(ran)],
                 ["run", "--out", str(ran), *SMALL, "--dry-run"]):  # fmt: skip
        assert cli.main(argv) == 0
        assert capsys.readouterr().out != ""
    assert seen(ran) == before


def test_a_dry_run_lists_what_would_be_built(ran, copy, tmp_path, capsys):
    assert "nothing to do" in said(capsys, "run", "--out", str(ran), *SMALL, "--dry-run")
    rows = told(capsys, "run", "--out", str(ran), *SMALL, "--dry-run", "--set", "distil.steps=5")["artefacts"]
    made = {r["stage"] for r in rows if r["made"]}
    assert {"distil", "quantize", "verdict", "release"} <= made
    assert made.isdisjoint({"fleet", "exam", "exam_drives", "pretrain"})
    planned = told(capsys, "run", "--out", str(tmp_path / "new"), *SMALL, "--dry-run")["artefacts"]
    assert all(r["made"] for r in planned)
    assert not (tmp_path / "new").exists()
    there = told(capsys, "ls", str(ran))
    assert [r["stage"] for r in planned] == [r["stage"] for r in there if r["stage"] != "report"]


def test_a_run_s_scenes_by_their_short_ids(ran, tmp_path, capsys, monkeypatch):
    rows = told(capsys, "scene", "list", str(ran))["scenes"]
    assert [r["id"] for r in rows] == [short_id(r["scene"]) for r in rows]
    verdict = load_verdict(named.verdict(ran))
    assert {short_id(s) for s in verdict.scenes} <= {r["id"] for r in rows}
    page = (ran / "report.html").read_text()
    assert any(r["id"] in page for r in rows)
    read = []
    real = show.scenes_of
    monkeypatch.setattr(show, "scenes_of", lambda store, ids: read.append(ids) or real(store, ids))
    out = str(tmp_path / "scene.png")
    assert (
        told(capsys, "scene", "show", str(ran), "--scene", rows[-1]["id"][:8], "--out", out)["scene"]
        == rows[-1]["scene"]
    )
    assert read == [[rows[-1]["scene"]]]


def test_judging_what_exists(ran, tmp_path, capsys):
    before = seen(ran)
    small = ["--most", "2", "--seconds", "4"]
    judged = told(capsys, "judge", "rules", "--scenes", str(ran), *small)
    assert judged["candidate"] == "rule-based route follower"
    assert judged["passed"] is None
    assert set(judged["summary"]) == {"rule-based route follower", "constant velocity"}
    assert len(judged["scenes"]) == 2
    out = tmp_path / "verdict"
    code = cli.main(["judge", f"{ran}:quantize:1", "--out", str(out), *small])
    text = capsys.readouterr().out
    verdict = load_verdict(out / "verdict.json")
    assert text.splitlines()[-1] == str(out / "verdict.json")
    assert verdict.candidate == "int8 engine"
    assert {gate.state for gate in verdict.gates.values()} == {"not decided"}  # two scenes
    assert code == 1
    assert "on 2 scenes: not decided, holds the release" in text
    assert cli.main(["judge", f"{ran}:sft:1", *small, "--json", "--quiet"]) == 1
    assert json.loads(capsys.readouterr().out)["candidate"] == "model"
    assert seen(ran) == before


def test_a_model_s_errors_on_drives(ran, tmp_path, capsys):
    found = told(capsys, "judge", f"{ran}:sft:1", "--drives", f"{ran}:fleet:1", "--out", str(tmp_path / "out"))
    assert set(found["table"]) == {"model", "constant velocity", "constant yaw rate"}
    assert found["samples"] > 0
    assert json.loads((tmp_path / "out" / "open_loop.json").read_text()) == found
    assert cli.main(["judge", f"{ran}:quantize", "--drives", f"{ran}:fleet:1"]) == 2
    assert "an engine, not a model" in capsys.readouterr().err

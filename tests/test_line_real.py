"""The line on a small part of real recordings; skipped if the data sets are absent (DRIVEFOUNDRY_DATA)."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest

from drivefoundry import cli
from drivefoundry.clips.store import ClipStore
from drivefoundry.curate.curated import load_curated
from drivefoundry.curate.split import SPLITS
from drivefoundry.judge.gate import load_verdict
from drivefoundry.ledger import Artefact, Ledger
from drivefoundry.model.checkpoint import load_checkpoint

DATA = Path(os.environ.get("DRIVEFOUNDRY_DATA", Path(__file__).parents[2] / "shared" / "data"))
CAMERA, SCENARIOS = DATA / "udacity_ch2_001", DATA / "commonroad_ngsim"
SETTINGS = (
    "fleet.outings=6 fleet.outing_seconds=8 pretrain.steps=8 pretrain.batch=16 sft.steps=3 sft.turn_steps=3 "
    "sft.batch=16 rl.steps=1 rl.states=4 rl.samples=4 distil.steps=4 distil.turn_steps=3 distil.batch=16 "
    "judge.scenes=4 judge.seconds=8 camera.steps=8 camera.batch=16"
)
SMALL = ["--recipe", "tiny", *(word for setting in SETTINGS.split() for word in ("--set", setting))]


def last_of_each_kind(out: Path) -> dict[str, Artefact]:
    with Ledger(out) as ledger:
        return {a.kind: a for a in ledger.history()}


def link(folder: Path, place: str, most: int) -> None:
    """The largest recordings of a place, which last longest."""
    files = sorted((SCENARIOS / "scenarios").glob(f"{place}-*"), key=lambda p: (-p.stat().st_size, p.name))
    for file in files[:most]:
        (folder / file.name).symlink_to(file)


@pytest.mark.skipif(not CAMERA.is_dir(), reason="the recorded camera drive is not at hand")
def test_camera_drive(tmp_path, capsys):
    folder, out = tmp_path / "drive", tmp_path / "run"
    head, *rows = (CAMERA / "labels.csv").read_text().splitlines()
    rows = rows[:2000]  # 100 s
    frames = [row.split(",")[head.split(",").index("file")] for row in rows]
    (folder / Path(frames[0]).parent).mkdir(parents=True)
    for frame in frames:
        (folder / frame).symlink_to(CAMERA / frame)
    (folder / "labels.csv").write_text("\n".join([head, *rows]) + "\n")

    assert cli.main(["run", "--drives", str(folder), "--out", str(out), *SMALL]) == 0
    made = last_of_each_kind(out)
    table = json.loads((made["open_loop"].path / "open_loop.json").read_text())
    assert set(table["table"]) == {"model", "constant velocity", "constant yaw rate"}
    assert table["samples"] > 10
    assert load_checkpoint(made["adapt"].path / "checkpoint").config.action == "flow"
    with Ledger(out) as ledger:
        curated = load_curated(next(a for a in ledger.history() if a.kind == "curate").path / "curated")
    spans = {s: [(curated.origins[i].t0, curated.origins[i].t1) for i in curated.of(s)] for s in SPLITS}
    for before, after in pairwise(SPLITS):
        assert max(end for _, end in spans[before]) <= min(begin for begin, _ in spans[after]) + 1e-6
    assert 0.0 < made["adapt"].info["val_loss"] < 20.0
    page = (out / "report.html").read_text()
    for lack in ("derived from yaw rate and steering", "objects: absent", "scene truth: absent"):
        assert lack in page
    assert "Mean trajectory error below constant yaw rate" in page

    capsys.readouterr()
    assert cli.main(["run", "--until", "release", "--drives", str(folder), "--out", str(out), *SMALL]) == 2
    assert "camera drives have no scene truth" in capsys.readouterr().err
    assert cli.main(["run", "--drives", str(folder), "--out", str(out), *SMALL]) == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.skipif(not SCENARIOS.is_dir(), reason="recorded scenarios are not at hand")
def test_recorded_traffic(tmp_path, capsys):
    folder, out = tmp_path / "traffic", tmp_path / "run"
    folder.mkdir()
    link(folder, "USA_US101", 4)
    link(folder, "USA_Lanker", 3)
    link(folder, "USA_Peach", 2)

    assert cli.main(["run", "--scenes", str(folder), "--out", str(out), *SMALL]) == 0
    made = last_of_each_kind(out)
    exam = json.loads((made["exam"].path / "exam.json").read_text())["scenes"]
    verdict = load_verdict(made["verdict"].path / "verdict.json")
    assert set(verdict.scenes) <= set(exam)
    assert len({scene.split("-")[0] for scene in exam}) == 1
    held_out = next(iter(exam)).split("-")[0]
    assert len(set(exam.values())) == len(exam)  # no situation counts twice
    val = json.loads((made["exam"].path / "exam.json").read_text())["val"]
    assert val
    assert {name.split("-")[0] for name in val} != {held_out}
    assert 0.0 < made["pretrain"].info["val_loss"] < 20.0
    driven = set(ClipStore(out / "clips").rows(["place"])["place"].to_pylist())
    assert driven == {"USA_US101", "USA_Lanker", "USA_Peach"} - {held_out}
    assert made["car"].finished > made["release"].finished
    page = (out / "report.html").read_text()
    assert "No camera was recorded" in page
    assert f"Held out by place: {held_out}" in page

    capsys.readouterr()
    assert cli.main(["run", "--scenes", str(folder), "--out", str(out), *SMALL]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_traffic_of_one_place_is_refused(tmp_path, capsys):
    if not SCENARIOS.is_dir():
        pytest.skip("recorded scenarios are not at hand")
    folder, out = tmp_path / "traffic", tmp_path / "run"
    folder.mkdir()
    link(folder, "USA_Lanker", 2)
    assert cli.main(["run", "--scenes", str(folder), "--out", str(out), *SMALL]) == 2
    said = capsys.readouterr().err
    assert "all scenes are of one place (USA_Lanker)" in said
    assert said.count("\n") == 1

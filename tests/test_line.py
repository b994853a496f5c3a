"""The line on real parts, at the smallest size: it ends in a car that drives, does nothing twice, survives kills, and
refuses what is wrong in one line."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from drivefoundry import cli
from drivefoundry.clips.store import ClipStore
from drivefoundry.ledger import Artefact, Ledger
from loop import SMALL, environment, run

NAMED_BY_TIME = {"release", "car", "report"}
"""Kinds whose files hold a time: signatures say until when they hold, the report when it was made."""


def history(out: Path) -> list[Artefact]:
    with Ledger(out) as ledger:
        return ledger.history()


def made_after(out: Path, before: list[Artefact]) -> list[str]:
    """Kinds of artefacts made since."""
    last = max(a.finished for a in before)
    return [a.kind for a in history(out) if a.finished > last]


def assert_nothing_half_made(out: Path) -> None:
    """Check that everything visible is intact: artefacts match the ledger, byte by byte; every clip is readable."""
    with Ledger(out) as ledger:
        assert {a.path for a in ledger.history()} == set((out / "artefacts").iterdir())
        assert ledger.damaged() == []
    store = ClipStore(out / "clips")
    for clip in store.ids():
        assert store.drive(clip).video is not None


def files(out: Path) -> dict[str, tuple[int, int]]:
    """Files of a run visible to users -> size and time of change; without the ledger's internal ones."""
    seen = [p for p in out.rglob("*") if p.is_file() and p.relative_to(out).parts[0] not in ("work", "lock")]
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in seen if not p.name.startswith("ledger.db")}


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Exit code 2 and one line on stderr, which is returned."""
    assert cli.main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("drivefoundry: ")
    assert said.count("\n") == 1
    return said


@pytest.fixture
def copy(ran: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be modified."""
    return Path(shutil.copytree(ran, tmp_path / "run", symlinks=True))


def without(out: Path, *kinds: str) -> None:
    """Delete all artefacts of these kinds."""
    for kind in kinds:
        for path in (out / "artefacts").glob(f"{kind}-*"):
            shutil.rmtree(path)


def test_ends_with_an_activated_release_and_a_report(ran):
    from drivefoundry.judge.gate import load_verdict
    from drivefoundry.release import releases, rollouts, verify
    from drivefoundry.stages.ship import TEST_CARS, engine_in
    from drivefoundry_car.driving.runtime import Runtime

    assert_nothing_half_made(ran)
    done = {a.kind: a for a in history(ran)}  # the last of each kind
    assert verify(done["release"].path / "repo") > 0
    newest = releases(done["release"].path / "repo")[-1]
    assert rollouts(done["release"].path / "repo")[TEST_CARS].release == newest.id
    engine, release = engine_in(done["car"].path)
    assert release == newest.id
    assert (done["car"].path / "slots" / "current").resolve() == engine.resolve().parent
    assert (engine / "weights.bin").read_bytes() == (done["quantize"].path / "weights.bin").read_bytes()
    Runtime.load(engine)
    verdict = load_verdict(done["verdict"].path / "verdict.json")
    assert set(verdict.summary) >= {"int8 engine", "student", "RL", "previous release", "constant velocity"}
    # four scenes decide nothing, and what is not decided goes to no car without a safety driver
    assert {gate.state for gate in verdict.gates.values()} == {"not decided"}
    assert {f"driving_score_21 vs {other} >=" for other in ("previous release", "student")} < set(verdict.gates)
    assert not newest.passed
    assert newest.undecided_gates.keys() == verdict.gates.keys()
    assert set(rollouts(done["release"].path / "repo")) == {TEST_CARS}
    page = (ran / "report.html").read_text()
    assert newest.id[:12] in page
    assert "<video" in page or "data:video" in page
    assert all(name in page for name in verdict.summary)


def test_second_run_makes_nothing(ran, capsys):
    before, known = files(ran), history(ran)
    assert cli.main(["run", "--out", str(ran), *SMALL]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert files(ran) == before
    assert [a.key for a in history(ran)] == [a.key for a in known]


LEARNT = ("sft", "rl", "distil", "quantize", "score")


def test_same_inputs_give_the_same_bits_on_a_busy_machine_under_other_keys(ran, ran_again):
    """Keys and times enter releases, and nothing that is trained or judged afterwards."""
    one, other = ([(a.kind, a.id) for a in history(out) if a.kind != "report"] for out in (ran, ran_again))
    released = [kind for kind, _ in one].index("release")
    assert one[:released] == other[:released]
    assert dict(one)["release"] != dict(other)["release"]
    learnt, again = ([(kind, id) for kind, id in made if kind in LEARNT] for made in (one, other))
    assert {kind for kind, _ in learnt} == set(LEARNT)
    assert learnt == again


@pytest.mark.parametrize(
    ("gates", "state", "cohorts"),
    [
        ("judge.gates.least_scenes=1 judge.gates.over_baseline=0.9", "failed", {"safety-driver"}),
        ("judge.gates.undecided=report", "passed", {"safety-driver", "all"}),
    ],
)
def test_other_gates_judge_again_without_driving(copy, gates, state, cohorts):
    from drivefoundry.judge.gate import load_verdict
    from drivefoundry.release import releases, rollouts

    before = history(copy)
    argv = ["run", "--out", str(copy), *SMALL, "--loops", "1", *(w for g in gates.split() for w in ("--set", g))]
    assert cli.main(argv) == 0
    assert set(made_after(copy, before)) == {"verdict", "release", "car", "report"}
    done = {a.kind: a for a in history(copy)}
    verdict = load_verdict(done["verdict"].path / "verdict.json")
    repo = done["release"].path / "repo"
    assert verdict.state == state
    assert set(rollouts(repo)) == cohorts
    assert releases(repo)[-1].passed is (state == "passed")
    floor = verdict.gates["driving_score_21 vs constant velocity >="]
    assert floor.state == ("failed" if state == "failed" else "not decided")


def test_longer_training_redoes_what_learns_from_it(copy):
    before = history(copy)
    argv = ["run", "--until", "train", "--loops", "1", "--out", str(copy), *SMALL, "--set", "pretrain.steps=7"]
    assert cli.main(argv) == 0
    assert set(made_after(copy, before)) == {"pretrain", "sft", "report"}


def test_report_alone_comes_back(copy):
    page, before = (copy / "report.html").read_bytes(), history(copy)
    (copy / "report.html").unlink()
    assert cli.main(["run", "--out", str(copy), *SMALL]) == 0
    assert made_after(copy, before) == []
    assert (copy / "report.html").read_bytes() == page


KILLED = """
import os, sys, time
from pathlib import Path
from drivefoundry import cli
moment = sys.argv.pop(1)

def stop():
    print("now", flush=True)
    time.sleep(600)

def stop_after(owner, name):
    real = getattr(owner, name)
    def call(*args, **kwargs):
        out = real(*args, **kwargs)
        if out:
            stop()
        return out
    setattr(owner, name, call)

if moment == "clips landed":
    from drivefoundry.ingest.server import Running
    stop_after(Running, "flush")
if moment == "in training":
    from drivefoundry.train.trainer import Trainer
    stop_after(Trainer, "_one_step")
if moment == "engine recorded, not renamed":
    real = os.replace
    def replace(a, b):
        if Path(b).name.startswith("quantize-"):
            stop()
        real(a, b)
    os.replace = replace
cli.main(sys.argv[1:])
"""


def kill_at(out: Path, moment: str) -> None:
    """Run until the moment, then SIGKILL."""
    command = [sys.executable, "-c", KILLED, moment, "run", "--out", str(out), *SMALL]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "now\n":
                process.send_signal(signal.SIGKILL)
                return
    raise AssertionError(f"it ended before the moment {moment!r}")


def test_killed_three_times_it_ends_in_the_same_artefacts(ran, tmp_path):
    out = tmp_path / "run"
    kept: dict[str, Artefact] = {}
    for moment, there in (
        ("clips landed", "exam_drives"),
        ("in training", "label"),
        ("engine recorded, not renamed", "distil"),
    ):
        kill_at(out, moment)
        assert_nothing_half_made(out)
        now = {a.key: a for a in history(out)}
        assert kept.items() <= now.items()  # same ids, same times: none was made again
        assert there in [a.kind for a in now.values()]
        assert "quantize" not in [a.kind for a in now.values()]
        kept = now
    done = run(out)
    assert done.returncode == 0, done.stderr
    assert_nothing_half_made(out)
    assert kept.items() <= {a.key: a for a in history(out)}.items()
    assert list((out / "work").iterdir()) == []
    same = [{(a.kind, a.id) for a in history(o) if a.kind not in NAMED_BY_TIME} for o in (ran, out)]
    assert same[0] == same[1]


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that simulates a full disk."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    out = tmp_path_factory.mktemp("disk") / "full_disk.so"
    source = Path(__file__).with_name("full_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(out), str(source), "-ldl"], check=True)
    return out


@pytest.mark.parametrize(("kind", "room"), [("exam", 400_000), ("pretrain", 200_000)])
def test_full_disk(copy, full_disk, kind, room):
    without(copy, kind)
    if kind == "exam":
        shutil.rmtree(copy / "clips")
    before = [a.key for a in history(copy)]
    done = run(copy, LD_PRELOAD=str(full_disk), FULL_UNDER=str(copy), FULL_BYTES=str(room))
    assert done.returncode == 2
    assert done.stderr == (
        f"drivefoundry: {copy}: disk full while making {kind}; free some space and run again, finished work is kept\n"
    )
    assert [a.key for a in history(copy)] == before
    assert cli.main(["run", "--until", "train", "--loops", "1", "--out", str(copy), *SMALL]) == 0
    assert_nothing_half_made(copy)


def test_unknown_key(tmp_path, capsys):
    said = refused(capsys, "run", "--out", str(tmp_path / "out"), "--set", "pretrain.step=4")
    assert "unknown key 'pretrain.step': did you mean 'pretrain.steps'?" in said
    assert not (tmp_path / "out").exists()


def test_folders_of_the_wrong_kind(tmp_path, capsys):
    empty, camera, traffic = (tmp_path / name for name in ("empty", "camera", "traffic"))
    for folder in (empty, camera / "center_320x240", traffic):
        folder.mkdir(parents=True)
    (camera / "labels.csv").write_text("file,t_s\n")
    (traffic / "scene.xml").write_text('<?xml version="1.0"?><commonRoad commonRoadVersion="2018b"></commonRoad>')
    out = ["--out", str(tmp_path / "out"), *SMALL]
    assert "no camera drives (it is empty)" in refused(capsys, "run", "--drives", str(empty), *out)
    said = refused(capsys, "run", "--scenes", str(camera), *out)
    assert "scenes come from CommonRoad, WOMD, ScenarioNet files" in said
    assert "import it as scenes (--scenes)" in refused(capsys, "run", "--drives", str(traffic), *out)
    assert "give one" in refused(capsys, "run", "--drives", str(camera), "--scenes", str(traffic), *out)
    assert not (tmp_path / "out").exists()
    assert "column steering_wheel_angle_rad is missing" in refused(capsys, "run", "--drives", str(camera), *out)
    assert list((tmp_path / "out" / "artefacts").iterdir()) == []


def test_truncated_drive(ran, tmp_path, capsys):
    folder, out = tmp_path / "mine", tmp_path / "out"
    folder.mkdir()
    (recorded,) = (ran / "artefacts").glob("fleet-*/drives")
    for file in recorded.glob("*.mcap"):
        shutil.copy(file, folder)
    broken = sorted(folder.iterdir())[-1]
    broken.write_bytes(broken.read_bytes()[:-1000])
    assert cli.main(["run", "--until", "import", "--drives", str(folder), "--out", str(out), *SMALL]) == 0
    told = capsys.readouterr()
    assert f"{broken}: truncated MCAP, its footer is missing" in told.out + told.err
    vehicles = {row["vehicle"] for row in ClipStore(out / "clips").rows(["vehicle"]).to_pylist()}
    assert len(vehicles) == len(list(folder.iterdir())) - 1


def test_nothing_but_truncated_drives(ran, tmp_path, capsys):
    folder, out = tmp_path / "mine", tmp_path / "out"
    folder.mkdir()
    (recorded,) = (ran / "artefacts").glob("fleet-*/drives")
    broken = Path(shutil.copy(sorted(recorded.glob("*.mcap"))[0], folder))
    broken.write_bytes(broken.read_bytes()[:-1000])
    said = refused(capsys, "run", "--drives", str(folder), "--out", str(out), *SMALL)
    assert f"{broken}: truncated MCAP, its footer is missing" in said
    assert list((out / "artefacts").iterdir()) == []
    assert ClipStore(out / "clips").ids() == []


def test_port_in_use(copy, capsys, monkeypatch):
    from drivefoundry.stages import ingest

    without(copy, "exam")
    before = files(copy)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(ingest, "running", partial(ingest.running, port=taken.getsockname()[1]))
        said = refused(capsys, "run", "--out", str(copy), *SMALL)
    assert "ingest: cannot listen on 127.0.0.1:" in said
    assert files(copy) == before


@pytest.mark.parametrize("car_is_there", [True, False])
@pytest.mark.parametrize("part", ["targets/**/*weights.bin", "metadata/timestamp.json"])
def test_a_tampered_release_is_rebuilt(copy, capsys, part, car_is_there):
    (release,) = [a for a in history(copy) if a.kind == "release"][-1:]
    file = sorted((release.path / "repo").glob(part))[-1]
    data = bytearray(file.read_bytes())
    at = data.index(b'"version"') + 11 if file.suffix == ".json" else len(data) // 2
    data[at] ^= 1
    file.write_bytes(bytes(data))
    if not car_is_there:
        (car,) = [a for a in history(copy) if a.kind == "car"][-1:]
        shutil.rmtree(car.path)
    assert cli.main(["run", "--until", "car", "--out", str(copy), *SMALL]) == 0
    assert f"{release.path}: has changed since it was made; rebuilding it" in capsys.readouterr().out
    with Ledger(copy) as ledger:
        assert ledger.damaged() == []
    *_, remade, car, _ = history(copy)
    assert (remade.kind, car.kind) == ("release", "car")
    assert car.parents[0] == remade.id

import json
from pathlib import Path

import numpy as np
import pytest

from drivefoundry.cli import main
from drivefoundry.judge.gate import Gate, judge, save_verdict
from drivefoundry.ledger import Ledger
from drivefoundry.release import Keys, releases, rollouts, verify
from drivefoundry.release.sign import load_state
from drivefoundry.runs.links import link
from drivefoundry.stages.ship import TEST_CARS, sign_release
from drivefoundry_car.update.client import Updater


def make_engine(folder: Path, weights: bytes) -> dict:
    folder.mkdir(exist_ok=True)
    (folder / "engine.json").write_text("{}")
    (folder / "weights.bin").write_bytes(weights)
    return {}


def make_verdict(folder: Path, value: float = 0.0) -> dict:
    folder.mkdir(exist_ok=True)
    gates = (Gate("collision", at_most=0.1),)
    save_verdict(folder / "verdict.json", judge("int8", ["s"], {"int8": {"collision": np.array([value])}}, gates))
    return {}


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A repository in the current directory with turn-1 for all cars and turn-2 for a tenth; keys/ beside it."""
    monkeypatch.chdir(tmp_path)
    make_verdict(tmp_path)
    assert main(["release", "new", "repo", "--keys", "keys"]) == 0
    for turn, percent in ((1, "100"), (2, "10")):
        make_engine(tmp_path / f"engine-{turn}", f"w{turn}".encode())
        words = ["--engine", f"engine-{turn}", "--verdict", "verdict.json", "--name", f"turn-{turn}"]
        assert main(["release", "publish", "repo", *words, "--percent", percent]) == 0
    capsys.readouterr()
    return tmp_path / "repo"


def told(words: str, capsys: pytest.CaptureFixture[str]):
    """Output of `release ... --json`, as data."""
    assert main(["release", *words.split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which `release ...` is refused."""
    assert main(["release", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    return err


def test_list_and_show(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = releases(repo)
    data = told("list repo", capsys)
    assert [r["id"] for r in data["releases"]] == [one.id, two.id]
    assert data["rollouts"]["all"] == {
        "release": two.id, "rollout_percent": 10, "previous": one.id, "halted": False,
    }  # fmt: skip
    assert main(["release", "list", "repo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "turn-1" in lines[0]
    assert "the others (90 %)" in lines[0]
    assert "current, 10 %" in lines[1]
    for name in ("turn-1", one.id, one.id[:6]):
        assert told(f"show repo {name}", capsys)["engine"] == one.engine
    assert told("show repo", capsys)["id"] == two.id
    assert f"no release turn-9; it holds {one.id} (turn-1), {two.id} (turn-2)" in refused("show repo turn-9", capsys)


CHANGES = {
    "stage repo 50": lambda was: {**was, "rollout_percent": 50},
    "halt repo": lambda was: {**was, "halted": True},
    "rollback repo turn-1": lambda was: {**was, "release": was["previous"], "rollout_percent": 100, "previous": None},
    "publish repo --engine engine-1 --verdict verdict.json --name turn-1": lambda was: {
        **was, "release": was["previous"], "rollout_percent": 100, "previous": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("words", CHANGES)
def test_a_change_and_its_dry_run(repo: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run describes the result of the change, and changes no byte."""
    was = told("list repo", capsys)["rollouts"]["all"]
    before = {p: p.read_bytes() for p in repo.rglob("*") if p.is_file()}
    dry = told(f"{words} --dry-run", capsys)
    assert {p: p.read_bytes() for p in repo.rglob("*") if p.is_file()} == before
    assert dry == {**CHANGES[words](was), "dry_run": True}
    done = told(words, capsys)
    assert done == {**dry, "dry_run": False}
    assert told("list repo", capsys)["rollouts"]["all"] == CHANGES[words](was)
    verify(repo)


def test_halt_resume_and_stage(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told("halt repo", capsys)["halted"]
    assert "is halted; resume it first" in refused("stage repo 100", capsys)
    assert not told("resume repo", capsys)["halted"]
    assert told("stage repo 100", capsys)["rollout_percent"] == 100
    assert "must be 0 to 100, got 101" in refused("stage repo 101", capsys)
    for words in ("stage repo", "stage repo half", "stage repo -5"):
        assert "release stage" in refused(words, capsys)
    assert "is current for cohort 'all' already" in refused("rollback repo turn-2", capsys)
    assert "RELEASE is missing" in refused("rollback repo", capsys)
    assert "cohort 'taxis' has no release" in refused("halt repo --cohort taxis", capsys)


def test_keys_renew_and_rotate(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = told("keys repo", capsys)
    assert set(before) == {"root", "targets", "snapshot", "timestamp"}
    assert all(all(role["keys"].values()) for role in before.values())
    assert told("renew repo", capsys) == {"signed": [], "waiting": {}}
    files = sorted(repo.parent.rglob("*"))
    assert main(["release", "rotate", "repo", "--role", "online", "--dry-run"]) == 0
    assert sorted(repo.parent.rglob("*")) == files
    capsys.readouterr()
    made = told("rotate repo --role online", capsys)
    assert made["version"] == 2
    assert set(made["retired"]) == {"snapshot", "timestamp"}
    assert [Path(path).name for path in made["made"]] == ["snapshot-2.pem", "timestamp-2.pem"]
    after = told("keys repo", capsys)
    assert after["targets"] == before["targets"]
    assert not set(after["timestamp"]["keys"]) & set(before["timestamp"]["keys"])
    told("rotate repo --role targets --quorum targets=2/3", capsys)
    assert load_state(repo).root.signed.roles["targets"].threshold == 2
    assert "give ROLE=N/M" in refused("rotate repo --role root --quorum root=2", capsys)
    first = {key[:1] for role in load_state(repo).root.signed.roles.values() for key in role.keyids}
    other = min(set("0123456789abcdef") - first)
    assert f"--only {other}: 0 keys match" in refused(f"rotate repo --role root --only {other}", capsys)
    assert "give --role" in refused("rotate repo", capsys)


def test_offline_keys_stay_away(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repo.parent / "stick").mkdir()
    for role in ("root", "targets"):
        (repo.parent / "keys" / f"{role}.pem").rename(repo.parent / "stick" / f"{role}.pem")
    assert told("renew repo --online keys", capsys)["signed"] == []
    assert "no key for targets; plug in the offline medium" in refused("halt repo --dry-run", capsys)
    assert "no key for targets; plug in the offline medium" in refused("halt repo", capsys)
    assert told("halt repo --keys stick --online keys", capsys)["halted"]


def test_wrong_places_are_reported_in_one_line(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere: no such file or directory" in refused("list nowhere", capsys)
    assert "no release repository" in refused("list keys", capsys)
    assert "already exists" in refused("new repo --keys keys", capsys)
    assert "give --keys DIR" in refused("new other", capsys)
    (repo.parent / "keys").rename(repo.parent / "away")
    assert "give --keys DIR" in refused("halt repo", capsys)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in ./out with two turns' engines, verdicts and releases, as the loop makes them; the second fails."""
    monkeypatch.chdir(tmp_path)
    out, before = tmp_path / "out", None
    keys = Keys.apart(out / "keys")
    with Ledger(out) as ledger:
        for turn in (1, 2):
            recipe = {"turn": turn}
            engine = ledger.make("quantize", recipe, [], "", lambda d, t=turn: make_engine(d, f"w{t}".encode()))
            verdict = ledger.make("verdict", recipe, [], "", lambda d, t=turn: make_verdict(d, 0.5 * (t - 1)))
            ago = before.path if before else None
            parents = [engine, verdict, *([before] if before else [])]
            before = ledger.make(
                "release", recipe, parents, "",
                lambda d, e=engine, v=verdict, a=ago, t=turn: sign_release(e.path, v.path, a, keys, f"turn-{t}", d),
            )  # fmt: skip
            link(out, "release", turn, before.path)
    return out


def test_a_run_is_a_repository_to_look_at(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {r["name"] for r in told("list", capsys)["releases"]} == {"turn-1", "turn-2"}
    assert {r["name"] for r in told("list out/releases/1", capsys)["releases"]} == {"turn-1"}
    assert {r["name"] for r in told("list out:release:1", capsys)["releases"]} == {"turn-1"}
    assert told("show turn-2", capsys)["cohort"] == TEST_CARS
    assert "give the id" in refused("show turn-1", capsys)  # it went to test cars and to all
    assert not (run / "repository").exists()


def test_a_change_to_a_run_leaves_its_artefacts_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artefacts = {p: p.read_bytes() for p in (run / "artefacts").rglob("*") if p.is_file()}
    dry = told(f"halt --cohort {TEST_CARS} --dry-run", capsys)
    assert dry["halted"]
    assert not (run / "repository").exists()
    assert "do not change; name the run" in refused(f"halt out/releases/2 --keys out/keys --cohort {TEST_CARS}", capsys)
    assert told(f"halt out --cohort {TEST_CARS}", capsys)["halted"]
    assert rollouts(run / "repository")[TEST_CARS].halted
    assert told("list", capsys)["rollouts"][TEST_CARS]["halted"]
    assert {p: p.read_bytes() for p in (run / "artefacts").rglob("*") if p.is_file()} == artefacts
    assert "gates did not pass" in refused("publish out --percent 10", capsys)
    told("publish out --percent 10 --allow-failed --cohort all", capsys)
    root = (run / "repository" / "metadata" / "1.root.json").read_bytes()
    car = Updater(run.parent / "tuf", run.parent / "slots", run / "repository", root, test=lambda engine: None)
    car.update()
    now = car.slots.boot()
    assert now.name == "turn-1"  # a car without a name is not among the first tenth
    told("stage 100", capsys)
    car.update()
    assert car.slots.boot().name == "turn-2"

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from drivefoundry.judge.gate import Gate, judge, save_verdict
from drivefoundry.release import create_repository, publish, releases, renew, roll_back, rollouts, stage, verify
from drivefoundry.release.sign import LIFE, load_state
from drivefoundry_car.update.client import in_rollout


def verdict(path: Path, value: float = 0.0, gates: tuple[Gate, ...] = (Gate("collision", at_most=0.1),)) -> Path:
    """A verdict of one policy on two scenes that gives its collision rate."""
    save_verdict(path, judge("int8", ["s1", "s2"], {"int8": {"collision": np.array([value, value])}}, gates))
    return path


def engine(path: Path, weights: bytes) -> Path:
    (path / "kernels").mkdir(parents=True)
    (path / "weights.bin").write_bytes(weights)
    (path / "kernels" / "io.json").write_text("{}")
    return path


@pytest.fixture
def repo(tmp_path: Path) -> tuple[Path, Path]:
    create_repository(tmp_path / "repo", tmp_path / "keys")
    return tmp_path / "repo", tmp_path / "keys"


def test_keys_are_private_and_outside(tmp_path: Path) -> None:
    create_repository(tmp_path / "repo", tmp_path / "keys")
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert [p.stat().st_mode & 0o777 for p in (tmp_path / "keys").glob("*.pem")] == [0o600] * 4
    with pytest.raises(ValueError, match="inside the repository"):
        create_repository(tmp_path / "r2", tmp_path / "r2" / "keys")
    (tmp_path / "keys" / "targets.pem").chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        publish(*_args(tmp_path), name="turn-1")


def _args(tmp_path: Path) -> tuple[Path, Path, Path, Path]:
    e = tmp_path / "engine"
    return tmp_path / "repo", tmp_path / "keys", e if e.exists() else engine(e, b"w1"), verdict(tmp_path / "v.json")


def test_publish_round_trip(repo: tuple[Path, Path], tmp_path: Path) -> None:
    (repo[1] / "root.pem").unlink()  # it may be kept offline
    made = publish(*repo, engine(tmp_path / "e", b"w1"), verdict(tmp_path / "v.json"), "turn-1")
    assert releases(repo[0]) == [made]
    assert rollouts(repo[0])["all"].release == made.id
    assert set(made.files) == {"engine/weights.bin", "engine/kernels/io.json", "verdict.json"}
    assert verify(repo[0]) == 5  # those three, release.json and current.json


def test_same_content_is_the_same_release(repo: tuple[Path, Path], tmp_path: Path) -> None:
    args = (*repo, engine(tmp_path / "e", b"w1"), verdict(tmp_path / "v.json"))
    a, b = publish(*args, "turn-1"), publish(*args, "turn-1")
    assert a == b
    assert publish(*args, "turn-2").id != a.id
    assert len(releases(repo[0])) == 2


def test_failed_gates_stop_publication(repo: tuple[Path, Path], tmp_path: Path) -> None:
    args = (*repo, engine(tmp_path / "e", b"w1"), verdict(tmp_path / "v.json", 0.2), "turn-1")
    before = (repo[0] / "metadata" / "timestamp.json").read_bytes()
    with pytest.raises(ValueError, match=r"collision <= 0\.1: 0\.200 \[0\.200, 0\.200\] on 2 scenes: failed"):
        publish(*args)
    assert (repo[0] / "metadata" / "timestamp.json").read_bytes() == before
    forced = publish(*args, allow_failed=True)
    assert not forced.passed
    assert forced.failed_gates == {"collision <=": (0.2, 0.1)}
    assert releases(repo[0]) == [forced]


def test_a_gate_without_a_decision_holds_the_release_unless_it_is_only_reported(
    repo: tuple[Path, Path], tmp_path: Path
) -> None:
    held, reported = (Gate("collision", at_most=0.1, least_scenes=3, holds=holds) for holds in (True, False))
    args = (*repo, engine(tmp_path / "e", b"w1"), verdict(tmp_path / "v.json", gates=(held,)), "turn-1")
    with pytest.raises(ValueError, match=r"on 2 scenes: not decided, holds the release"):
        publish(*args)
    forced = publish(*args, allow_failed=True)
    assert (forced.passed, forced.failed_gates) == (False, {})
    assert forced.undecided_gates == {"collision <=": (0.0, 0.1)}
    verdict(tmp_path / "v.json", gates=(reported,))
    released = publish(*args)
    assert released.passed
    assert released.undecided_gates == {"collision <=": (0.0, 0.1)}
    assert releases(repo[0]) == [forced, released]


def test_bad_verdict_is_refused(repo: tuple[Path, Path], tmp_path: Path) -> None:
    args = (*repo, engine(tmp_path / "e", b"w"), tmp_path / "v.json", "turn-1")
    with pytest.raises(ValueError, match=r"v\.json: no such verdict"):
        publish(*args)
    for text in ("", "{}", "[]"):
        (tmp_path / "v.json").write_text(text)
        with pytest.raises(ValueError, match=r"v\.json: .*judge the release again"):
            publish(*args)
    verdict(tmp_path / "v.json", gates=())
    with pytest.raises(ValueError, match="has no gates"):  # a verdict that asked nothing lets nothing through
        publish(*args)
    assert releases(repo[0]) == []


def test_bad_engine_is_refused(repo: tuple[Path, Path], tmp_path: Path) -> None:
    good = verdict(tmp_path / "v.json")
    with pytest.raises(ValueError, match="no engine directory"):
        publish(*repo, tmp_path / "none", good, "turn-1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is empty"):
        publish(*repo, tmp_path / "empty", good, "turn-1")
    (tmp_path / "empty" / "a b").write_text("x")
    with pytest.raises(ValueError, match="'a b'"):
        publish(*repo, tmp_path / "empty", good, "turn-1")
    (tmp_path / "empty" / "a b").rename(tmp_path / "empty" / "a")
    with pytest.raises(ValueError, match=r"Release\.name"):
        publish(*repo, tmp_path / "empty", good, "../up")
    with pytest.raises(ValueError, match="rollout_percent"):
        publish(*repo, tmp_path / "empty", good, "turn-1", rollout_percent=101)
    assert releases(repo[0]) == []


def test_staging_keeps_the_previous_release_for_the_rest(repo: tuple[Path, Path], tmp_path: Path) -> None:
    v = verdict(tmp_path / "v.json")
    one = publish(*repo, engine(tmp_path / "e1", b"w1"), v, "turn-1")
    two = publish(*repo, engine(tmp_path / "e2", b"w2"), v, "turn-2", rollout_percent=10)
    assert (rollouts(repo[0])["all"].release, rollouts(repo[0])["all"].previous) == (two.id, one.id)
    three = publish(*repo, engine(tmp_path / "e3", b"w3"), v, "turn-3", rollout_percent=10)
    assert rollouts(repo[0])["all"].previous == one.id  # turn-2 was never everyone's
    assert stage(*repo, "all", 100).previous is None
    assert rollouts(repo[0])["all"].release == three.id
    with pytest.raises(ValueError, match="cohort 'taxis' has no release"):
        stage(*repo, "taxis", 10)


def test_rollout_grows_by_adding_cars() -> None:
    cars = [f"car-{i}" for i in range(500)]
    ten, fifty = ({c for c in cars if in_rollout("r", c, p)} for p in (10, 50))
    assert ten < fifty
    assert 20 < len(ten) < 90
    assert {c for c in cars if in_rollout("r", c, 100)} == set(cars)
    assert not {c for c in cars if in_rollout("r", c, 0)}


def test_roll_back_is_newer_metadata(repo: tuple[Path, Path], tmp_path: Path) -> None:
    v = verdict(tmp_path / "v.json")
    one = publish(*repo, engine(tmp_path / "e1", b"w1"), v, "turn-1")
    publish(*repo, engine(tmp_path / "e2", b"w2"), v, "turn-2")
    before = load_state(repo[0]).timestamp.signed.version
    assert roll_back(*repo, one.id) == one
    assert rollouts(repo[0])["all"].release == one.id
    assert load_state(repo[0]).timestamp.signed.version == before + 1
    with pytest.raises(ValueError, match=f"no release 'x'; it holds {one.id}"):
        roll_back(*repo, "x")


def test_a_killed_publication_is_invisible_and_harmless(repo: tuple[Path, Path], tmp_path: Path) -> None:
    v = verdict(tmp_path / "v.json")
    one = publish(*repo, engine(tmp_path / "e1", b"w1"), v, "turn-1")
    timestamp = repo[0] / "metadata" / "timestamp.json"
    kept = timestamp.read_bytes()
    publish(*repo, engine(tmp_path / "e2", b"w2"), v, "turn-2")
    timestamp.write_bytes(kept)  # all of turn-2 is on disk but for the last replacement
    assert releases(repo[0]) == [one]
    three = publish(*repo, engine(tmp_path / "e3", b"w3"), v, "turn-3")
    assert releases(repo[0]) == [one, three]
    verify(repo[0])


def test_foreign_keys_cannot_publish(repo: tuple[Path, Path], tmp_path: Path) -> None:
    create_repository(tmp_path / "other", tmp_path / "other-keys")
    before = (repo[0] / "metadata" / "timestamp.json").read_bytes()
    with pytest.raises(ValueError, match="not the repository's"):
        publish(repo[0], tmp_path / "other-keys", engine(tmp_path / "e", b"w"), verdict(tmp_path / "v.json"), "turn-1")
    assert (repo[0] / "metadata" / "timestamp.json").read_bytes() == before


def test_damage_is_named(repo: tuple[Path, Path], tmp_path: Path) -> None:
    publish(*repo, engine(tmp_path / "e", b"w1"), verdict(tmp_path / "v.json"), "turn-1")
    weights = next((repo[0] / "targets").rglob("*.weights.bin"))
    weights.write_bytes(b"w2")
    with pytest.raises(ValueError, match=r"weights\.bin: not the bytes that were signed"):
        verify(repo[0])
    snapshot = max((repo[0] / "metadata").glob("*.snapshot.json"))
    snapshot.write_bytes(snapshot.read_bytes().replace(b"sha256", b"sha257"))
    with pytest.raises(ValueError, match="damaged or not signed"):
        releases(repo[0])
    with pytest.raises(ValueError, match="no release repository"):
        releases(tmp_path)


def test_renew_signs_what_is_due(repo: tuple[Path, Path]) -> None:
    now = datetime.now(UTC)
    first = load_state(repo[0])
    assert not renew(*repo, now=now)
    assert renew(*repo, now=now + timedelta(days=4))
    second = load_state(repo[0])
    assert second.timestamp.signed.expires - first.timestamp.signed.expires >= timedelta(days=3)
    assert second.root.signed.version == 1
    assert renew(*repo, now=now + LIFE["root"] * 0.6)
    assert load_state(repo[0]).root.signed.version == 2

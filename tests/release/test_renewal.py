import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from drivefoundry.release import Keys, create_repository, renew, rotate, stage, verify
from drivefoundry.release.keys import ROLES, load_key
from drivefoundry.release.sign import LIFE, load_state
from shipping import Line, refused, running

FAR = 2**31 - 1


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """A repository with one release, and a car that has it."""
    line = Line(tmp_path)
    line.publish("one")
    line.car().update()
    return line


def versions(repo: Path) -> dict[str, int]:
    state = load_state(repo)
    return {role: getattr(state, role).signed.version for role in ROLES}


def take_away(folder: Path, *names: str) -> None:
    for name in names:
        (folder / f"{name}.pem").rename(folder.parent / f"{name}.pem")


def bring_back(folder: Path) -> None:
    for path in folder.parent.glob("*.pem"):
        path.rename(folder / path.name)


@pytest.mark.parametrize(
    ("days", "signed", "waiting"),
    [
        (1, (), ()),
        (4, ("timestamp",), ()),
        (16, ("snapshot", "timestamp"), ()),
        (100, ("snapshot", "timestamp"), ("targets",)),
        (200, ("snapshot", "timestamp"), ("root", "targets")),
    ],
)
def test_renewal_takes_the_online_keys_alone(
    line: Line, days: int, signed: tuple[str, ...], waiting: tuple[str, ...]
) -> None:
    """Only what is due gets a new version; root and targets wait for their keys, and report until when."""
    take_away(line.keys, "root", "targets")
    before = versions(line.repo)
    made = renew(line.repo, line.keys, now=datetime.now(UTC) + timedelta(days=days))
    assert made.signed == signed
    assert tuple(made.waiting) == waiting
    assert bool(made) == bool(signed)
    assert versions(line.repo) == {role: version + (role in signed) for role, version in before.items()}
    line.car().update()


def test_renewal_without_its_online_key_is_reported(line: Line) -> None:
    take_away(line.keys, "timestamp")
    with pytest.raises(ValueError, match="no key for timestamp"):
        renew(line.repo, line.keys, now=datetime.now(UTC) + timedelta(days=4))


def test_offline_roles_are_renewed_where_their_keys_are(line: Line) -> None:
    before = versions(line.repo)
    made = renew(line.repo, line.keys, now=datetime.now(UTC) + LIFE["root"] * 0.6)
    assert made.signed == ("root", "targets", "snapshot", "timestamp")
    assert versions(line.repo) == {role: version + 1 for role, version in before.items()}
    line.car().update()
    line.publish("two")
    line.car().update()
    assert running(line.car()) == "two"


def test_without_the_targets_key_nothing_is_published(line: Line) -> None:
    take_away(line.keys, "targets")
    before = sorted(line.repo.rglob("*"))
    for change in (lambda: line.publish("two"), lambda: stage(line.repo, line.keys, "all", 10)):
        with pytest.raises(ValueError, match="no key for targets; plug in the offline medium"):
            change()
    assert sorted(line.repo.rglob("*")) == before


@pytest.fixture
def sticks(tmp_path: Path) -> tuple[Line, Keys]:
    """A repository that needs two of three sticks to publish or to change the root; and its keys."""
    line = Line(tmp_path)
    shutil.rmtree(line.repo)
    shutil.rmtree(line.keys)
    keys = Keys(tuple(tmp_path / f"stick-{i}" for i in range(3)), tmp_path / "online")
    line.keys = keys
    line.root = create_repository(line.repo, keys, quorum={"root": (2, 3), "targets": (2, 3)})
    return line, keys


def only(keys: Keys, *which: int) -> Keys:
    return Keys(tuple(keys.offline[i] for i in which), keys.online)


def test_two_of_three_must_sign(sticks: tuple[Line, Keys]) -> None:
    line, keys = sticks
    assert [sorted(p.name for p in stick.iterdir()) for stick in keys.offline] == [["root.pem", "targets.pem"]] * 3
    assert sorted(p.name for p in keys.online.iterdir()) == ["snapshot.pem", "timestamp.pem"]
    line.keys = only(keys, 0)
    with pytest.raises(ValueError, match="1 of the 2 targets keys that must sign"):
        line.publish("one")
    with pytest.raises(ValueError, match="1 of the 2 root keys"):
        rotate(line.repo, only(keys, 2), ["online"])
    for pair, name in (((0, 1), "one"), ((1, 2), "two"), ((2, 0), "three")):
        line.keys = only(keys, *pair)
        line.publish(name)
        line.car().update()
        assert running(line.car()) == name


def test_a_car_refuses_too_few_signatures(sticks: tuple[Line, Keys]) -> None:
    """One stick and both online keys are not enough to make a car accept anything."""
    line, keys = sticks
    line.publish("one")
    line.car().update()
    line.publish("two")
    folder = line.repo / "metadata"
    state = load_state(line.repo)
    signature = next(iter(state.targets.signatures))
    for md, role in ((state.targets, "targets"), (state.snapshot, "snapshot"), (state.timestamp, "timestamp")):
        md.signed.version += 1
        if role == "targets":
            md.sign(load_key(keys.offline[0], "targets"))
            assert len(md.signatures) == 1
            assert signature
        else:
            meta = md.signed.meta["targets.json"] if role == "snapshot" else md.signed.snapshot_meta
            meta.version, meta.length, meta.hashes = meta.version + 1, None, None
            md.sign(load_key(keys.online, role))
    state.targets.to_file(str(folder / f"{state.targets.signed.version}.targets.json"))
    state.snapshot.to_file(str(folder / f"{state.snapshot.signed.version}.snapshot.json"))
    state.timestamp.to_file(str(folder / "timestamp.json"))
    refused(line.car(), "signature refused: targets was signed by 1/2 keys")


def test_one_lost_stick_is_replaced(sticks: tuple[Line, Keys], tmp_path: Path) -> None:
    line, keys = sticks
    line.publish("one")
    line.car().update()
    lost = [load_key(keys.offline[2], role).public_key.keyid for role in ("root", "targets")]
    new = Keys((tmp_path / "stick-new", *keys.offline[:2]), keys.online)
    made = rotate(line.repo, new, ["root", "targets"], only=lost)
    assert made.retired == {"root": (lost[0],), "targets": (lost[1],)}
    assert [path.parent.name for path in made.made] == ["stick-new"] * 2
    line.keys = Keys((keys.offline[0], keys.offline[2]), keys.online)
    with pytest.raises(ValueError, match="1 of the 2 targets keys"):
        line.publish("two")
    line.keys = Keys((keys.offline[0], tmp_path / "stick-new"), keys.online)
    line.publish("two")
    line.car().update()
    assert running(line.car()) == "two"
    with pytest.raises(ValueError, match="only: nobody: not a key of root"):
        rotate(line.repo, new, ["root"], only=["nobody"])


@pytest.mark.parametrize("roles", [["root"], ["targets"], ["online"], ["root", "targets", "online"]])
def test_cars_follow_new_keys_and_refuse_the_old(line: Line, roles: list[str]) -> None:
    old, new_car = shutil.copytree(line.keys, line.folder / "old-keys"), line.car(vehicle="new")
    made = rotate(line.repo, line.keys, roles)
    assert made.version == 2
    assert "online" not in roles or {"snapshot", "timestamp"} <= set(made.retired)
    assert set(roles) - {"online"} <= set(made.retired)
    line.publish("two")
    for car in (line.car(), new_car):
        car.update()
        assert running(car) == "two"
    with pytest.raises(ValueError, match="not the repository's"):
        rotate(line.repo, old, ["root"]) if roles == ["root"] else stage(line.repo, old, "all", 10)
    verify(line.repo)
    rotate(line.repo, line.keys, roles)  # and once more, with the keys that were made
    line.publish("three")
    line.car().update()
    assert running(line.car()) == "three"


def test_thresholds_are_raised_by_a_rotation(line: Line) -> None:
    with pytest.raises(ValueError, match="targets is not among"):
        rotate(line.repo, line.keys, ["root"], quorum={"targets": (2, 3)})
    with pytest.raises(ValueError, match="quorum of root"):
        rotate(line.repo, line.keys, ["root"], quorum={"root": (3, 2)})
    rotate(line.repo, line.keys, ["root", "targets"], quorum={"root": (2, 3), "targets": (2, 2)})
    roles = load_state(line.repo).root.signed.roles
    assert (roles["root"].threshold, len(roles["root"].keyids)) == (2, 3)
    assert (roles["targets"].threshold, len(roles["targets"].keyids)) == (2, 2)
    line.publish("two")
    line.car().update()
    assert running(line.car()) == "two"


def steal(line: Line, *roles: str) -> None:
    """With the online keys, publish versions that no honest timestamp will ever reach."""
    folder = line.repo / "metadata"
    timestamp = Metadata.from_file(str(folder / "timestamp.json"))
    if "snapshot" in roles:
        snapshot = load_state(line.repo).snapshot
        snapshot.signed.version = FAR
        snapshot.signed.meta["targets.json"].version = FAR
        snapshot.sign(load_key(line.keys, "snapshot"))
        snapshot.to_file(str(folder / f"{FAR}.snapshot.json"))
        timestamp.signed.snapshot_meta.version = FAR
        timestamp.signed.snapshot_meta.length = timestamp.signed.snapshot_meta.hashes = None
    timestamp.signed.version = FAR
    timestamp.sign(load_key(line.keys, "timestamp"))
    timestamp.to_file(str(folder / "timestamp.json"))


@pytest.mark.parametrize("roles", [("timestamp",), ("snapshot", "timestamp")])
@pytest.mark.parametrize("restored", [True, False], ids=["from a copy", "as the thief left it"])
def test_recovery_from_stolen_online_keys(line: Line, roles: tuple[str, ...], restored: bool) -> None:
    """Cars that saw the thief's versions, and those that did not, accept honest ones once the online keys are
    replaced."""
    spared = line.car(vehicle="spared")
    spared.update()
    copy = shutil.copytree(line.repo, line.folder / "copy")
    steal(line, *roles)
    try:
        line.car().update()
    except ValueError:
        assert "snapshot" in roles  # the thief has no targets key, so there is no such version
    if restored:
        shutil.rmtree(line.repo)
        copy.rename(line.repo)
        line.publish("two")
        refused(line.car(), "older than what this car has seen.*rotate the online keys")
    rotate(line.repo, line.keys, ["online"])
    verify(line.repo)
    assert max(versions(line.repo).values()) < 100
    for car in (line.car(), spared):
        car.update()
        assert running(car) == ("two" if restored else "one")
    line.publish("three")
    for car in (line.car(), spared):
        car.update()
        assert running(car) == "three"


def test_recovery_when_the_thief_shows_an_old_snapshot(line: Line) -> None:
    """The contents of the repository count, not what a stolen timestamp refers to."""
    first = json.loads((line.repo / "metadata" / "timestamp.json").read_text())["signed"]["meta"]["snapshot.json"]
    line.publish("two")
    line.car().update()
    timestamp = load_state(line.repo).timestamp
    timestamp.signed.version += 10
    for name in ("version", "length", "hashes"):
        setattr(timestamp.signed.snapshot_meta, name, first.get(name))
    timestamp.sign(load_key(line.keys, "timestamp"))
    timestamp.to_file(str(line.repo / "metadata" / "timestamp.json"))
    refused(line.car(), "older than what this car has seen")
    rotate(line.repo, line.keys, ["online"])
    line.car().update()
    assert running(line.car()) == "two"


def test_recovery_from_a_stolen_targets_key(line: Line) -> None:
    """The repository is restored from a copy; all three roles below the root get new keys."""
    copy = shutil.copytree(line.repo, line.folder / "copy")
    for _ in range(5):  # the thief publishes
        line.publish("two")
    line.car().update()
    assert running(line.car()) == "two"
    shutil.rmtree(line.repo)
    copy.rename(line.repo)
    refused(line.car(), "older than what this car has seen")
    rotate(line.repo, line.keys, ["targets", "online"])
    line.car().update()
    assert running(line.car()) == "one"


def test_a_killed_rotation_leaves_a_repository_that_works(line: Line) -> None:
    """The last step, the new root, is decisive: before it nothing has changed."""
    rotate(line.repo, line.keys, ["root", "targets", "online"])
    (line.repo / "metadata" / "2.root.json").unlink()
    line.car().update()
    verify(line.repo)
    rotate(line.repo, line.keys, ["root", "targets", "online"])
    line.publish("two")
    line.car().update()
    assert running(line.car()) == "two"


def test_a_foreign_root_is_not_believed(line: Line) -> None:
    """A publisher follows the chain of roots as a car does."""
    other = Line(line.folder / "other")
    rotate(other.repo, other.keys, ["root"])
    shutil.copy(other.repo / "metadata" / "2.root.json", line.repo / "metadata" / "2.root.json")
    with pytest.raises(ValueError, match="not signed by its own keys"):
        line.publish("two")

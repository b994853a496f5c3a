import hashlib
import json
import shutil
from pathlib import Path

import pytest

from drivefoundry.release import rotate
from drivefoundry_car.update.slots import Slots
from shipping import Line, running


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """A car that runs the second of two releases."""
    line = Line(tmp_path)
    for name in ("one", "two"):
        line.publish(name)
        line.car().update()
    return line


def swap_weights(slot: Path) -> None:
    """Other weights, with a description that has their hash."""
    (slot / "engine" / "weights.bin").write_bytes(b"evil" * 50_000)
    said = json.loads((slot / "release.json").read_text())
    said["files"]["engine/weights.bin"] = hashlib.sha256(b"evil" * 50_000).hexdigest()
    (slot / "release.json").write_text(json.dumps(said))


def change(field: str, value: object):
    """Change a value in the description, but not the files."""

    def tamper(slot: Path) -> None:
        said = json.loads((slot / "release.json").read_text())
        assert said[field] != value
        (slot / "release.json").write_text(json.dumps({**said, field: value}))

    return tamper


def take_names_file_away(slot: Path) -> None:
    """Files no longer in the description are not checked, so the list itself must be the signed one."""
    said = json.loads((slot / "release.json").read_text())
    del said["files"]["engine/weights.bin"]
    (slot / "release.json").write_text(json.dumps(said))
    (slot / "engine" / "weights.bin").write_bytes(b"evil" * 50_000)


def space(slot: Path) -> None:
    """The same description in other bytes."""
    (slot / "release.json").write_bytes((slot / "release.json").read_bytes() + b" ")


TAMPER = {
    "weights": swap_weights,
    "passed": change("passed", False),
    "name": change("name", "another"),
    "id": change("id", "0123456789abcdef"),
    "files": take_names_file_away,
    "bytes": space,
}


@pytest.mark.parametrize("what", TAMPER)
@pytest.mark.parametrize("shipped", [True, False], ids=["with root", "alone"])
def test_a_tampered_slot_neither_boots_nor_stays(line: Line, what: str, shipped: bool) -> None:
    car = line.car()
    slots = car.slots if shipped else Slots(car.slots.folder, car.slots.test)
    current = (slots.folder / "current").resolve()
    TAMPER[what](current)
    with pytest.raises(ValueError, match=r"not what was signed|no signed list"):
        slots.current()
    assert slots.boot().name == "one"
    car.update()
    assert running(car) == "two"
    assert slots.boot().name == "two"


def test_an_update_repairs_the_tampered_slot_itself(line: Line) -> None:
    """Without a boot in between, and without losing the other slot's good release."""
    car = line.car()
    slot = (car.slots.folder / "current").resolve()
    swap_weights(slot)
    car.update()
    assert running(car) == "two"
    assert (slot / "engine" / "weights.bin").read_bytes().startswith(b"two")
    assert car.slots.rollback().name == "one"


def test_no_rollback_to_a_tampered_slot(line: Line) -> None:
    car = line.car()
    swap_weights(car.slots.folder / car.slots.spare())
    with pytest.raises(ValueError, match="not what was signed"):
        car.slots.rollback()
    assert running(car) == "two"


def forge(line: Line) -> None:
    """A complete proof, signed by somebody else's keys, for the tampered release."""
    folder = line.folder / "car" / "slots"
    other = Line(line.folder / "other")
    other.publish("two")
    other.car().update()
    theirs = other.folder / "car" / "slots"
    slot = (folder / "current").resolve()
    shutil.rmtree(slot)
    shutil.copytree((theirs / "current").resolve(), slot)
    shutil.rmtree(folder / "signed")
    shutil.copytree(theirs / "signed", folder / "signed")


def remove(line: Line) -> None:
    swap_weights((line.folder / "car" / "slots" / "current").resolve())
    shutil.rmtree(line.folder / "car" / "slots" / "signed")


@pytest.mark.parametrize("attack", [forge, remove])
def test_the_shipped_root_decides(line: Line, attack) -> None:
    """Someone who can write the whole slots' folder still lacks the keys that the shipped root.json names."""
    attack(line)
    car = line.car()
    evil = (car.slots.folder / "current").resolve().name
    with pytest.raises(ValueError, match=r"not what was signed|no signed list"):
        car.slots.read(evil)
    car.update()
    assert running(car) == "two"
    assert car.slots.boot().name == "two"


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b'{"roots": []}', b'{"roots": [1], "targets": {}}', b"[" * 9999])
def test_a_damaged_proof_falls_back_and_is_repaired(line: Line, damage: bytes) -> None:
    car = line.car()
    now = car.slots.current()
    assert now is not None
    (car.slots.folder / "signed" / f"{now.release}.json").write_bytes(damage)
    assert car.slots.boot().name == "one"
    car.update()
    assert car.slots.boot().name == "two"


def test_slots_of_an_earlier_layout_are_checked_by_the_metadata_beside_them(line: Line) -> None:
    folder = line.folder / "car" / "slots"
    shutil.rmtree(folder / "signed")
    assert line.car().slots.boot().name == "two"
    shutil.rmtree(folder / "signed")
    swap_weights((folder / "current").resolve())
    assert line.car().slots.boot().name == "one"


def test_a_car_boots_before_and_after_it_has_seen_new_keys(line: Line) -> None:
    car = line.car()
    rotate(line.repo, line.keys, ["root", "targets", "online"])
    assert car.slots.boot().name == "two"
    car.update()
    assert line.car().slots.boot().name == "two"
    assert line.car().slots.rollback().name == "one"


def test_boot_needs_no_network_and_no_calendar(line: Line) -> None:
    """Everything that boot reads is in the slots' folder; its signatures may have expired since."""
    shutil.rmtree(line.repo)
    shutil.rmtree(line.folder / "car" / "tuf")
    assert line.car().slots.boot().name == "two"

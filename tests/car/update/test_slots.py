import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from drivefoundry_car.update import slots as rules
from drivefoundry_car.update.slots import ATTEMPTS, BOOTS, HEALTHY_MIN, Slots
from shipping import Line, refused, running


def ready(line: Line, *names: str) -> Slots:
    """The slots of a car that has had these releases, one after the other."""
    for name in names:
        line.publish(name)
        line.car().update()
    return slots(line)


def slots(line: Line, test: Callable[[Path], None] = lambda engine: None) -> Slots:
    return Slots(line.folder / "car" / "slots", test)


def cut_off(engine: Path) -> None:
    raise MemoryError("no room to work in")


def fails(engine: Path) -> None:
    raise ValueError(f"{engine}: wrong answer")


@pytest.fixture
def restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every boot is by an unknown process, as after a crash."""
    processes = count()
    monkeypatch.setattr("drivefoundry_car.update.records.process", lambda: f"process {next(processes)}")


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


BOOT_AND_HANG = """
import sys, time
from drivefoundry_car.update.slots import Slots
def hang(engine):
    print("testing", flush=True)
    time.sleep(60)
Slots(sys.argv[1], hang).boot()
"""


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_self_test_is_no_verdict(line: Line, way: signal.Signals) -> None:
    """The first two kills change nothing; after the third the other slot takes over, until the release is offered
    again."""
    car = ready(line, "one", "two")
    for kill in range(1, ATTEMPTS + 1):
        child = subprocess.Popen([sys.executable, "-c", BOOT_AND_HANG, str(car.folder)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"testing\n"
        child.send_signal(way)
        child.communicate()
        if kill == 1:
            assert car.boot().name == "two"  # a test that passes begins the count again
            child = subprocess.Popen([sys.executable, "-c", BOOT_AND_HANG, str(car.folder)], stdout=subprocess.PIPE)
            assert child.stdout is not None
            child.stdout.readline()
            child.send_signal(way)
            child.communicate()
    assert car.boot().name == "one"
    told = car.health()
    assert [r.what for r in told.reports] == ["rolled back"]
    assert "cut off 3 times" in told.reports[0].why
    refused(line.car(), "was refused by this car: .*publish a fixed one, or this one again")
    line.publish("two")
    line.car().update()
    assert car.boot().name == "two"
    assert not car.health().refused


@pytest.mark.parametrize("error", [MemoryError("short"), OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_the_only_release_is_never_refused(line: Line, error: BaseException) -> None:
    car = ready(line, "one")

    def cut(engine: Path) -> None:
        raise error

    for _ in range(ATTEMPTS + 2):
        with pytest.raises((ValueError, KeyboardInterrupt)):
            slots(line, cut).boot()
    assert car.boot().name == "one"


def test_of_two_cut_off_releases_one_boots(line: Line) -> None:
    car = ready(line, "one", "two")
    for _ in range(3 * ATTEMPTS):
        with pytest.raises(ValueError, match=r"cut off|must not run"):
            slots(line, cut_off).boot()
    assert car.boot().name in ("one", "two")
    line.car().update()
    assert car.boot().name == "two"


def test_the_other_slot_replaces_a_release_whose_test_is_interrupted(line: Line) -> None:
    """It drives without becoming the current one, and does not report it; the third time it takes over."""
    car = ready(line, "one", "two")
    short = slots(line, lambda engine: cut_off(engine) if b"two" in (engine / "weights.bin").read_bytes() else None)
    for _ in range(ATTEMPTS - 1):
        assert short.boot().name == "one"
        assert not short.healthy(HEALTHY_MIN)
        assert running(line.car()) == "two"
    assert not car.health().good
    assert not car.health().refused
    assert car.boot().name == "two"
    assert car.healthy(HEALTHY_MIN)
    for _ in range(ATTEMPTS + 1):
        assert short.boot().name == "one"
    assert running(line.car()) == "one"
    with pytest.raises(ValueError, match="was refused by this car") as told:
        car.rollback()
    assert str(told.value).count("was refused by this car") == 1


@pytest.mark.parametrize("error", [RuntimeError("two\nlines"), KeyError("weights"), ZeroDivisionError()])
def test_a_self_test_that_is_at_fault_itself_is_no_verdict(line: Line, error: Exception) -> None:
    car = ready(line, "one")

    def faulty(engine: Path) -> None:
        raise error

    with pytest.raises(ValueError, match=rf"cut off \({type(error).__name__}.*attempt 1") as told:
        slots(line, faulty).boot()
    assert "\n" not in str(told.value)
    assert car.boot().name == "one"
    assert not car.health().refused


def test_a_lock_or_a_proof_of_the_wrong_kind_is_named(line: Line) -> None:
    car = ready(line, "one")
    (car.folder / "b").mkdir()
    line.publish("two")
    shutil.rmtree(car.folder / "signed")
    (car.folder / "signed").write_text("")
    with pytest.raises(ValueError, match=r"signed: cannot write \(File exists\); check the file's type"):
        line.car().update()
    (car.folder / ".lock").unlink()
    (car.folder / ".lock").mkdir()
    with pytest.raises(ValueError, match=r"\.lock: cannot be opened for writing \(Is a directory\)"):
        car.boot()


def test_a_verdict_counts_at_once(line: Line) -> None:
    car = ready(line, "one", "two")
    bad = slots(line, lambda engine: fails(engine) if b"two" in (engine / "weights.bin").read_bytes() else None)
    assert bad.boot().name == "one"
    assert "wrong answer" in next(iter(car.health().refused.values()))
    with pytest.raises(ValueError, match=r"slot \w must not run .*wrong answer.*nor may slot \w .*wrong answer"):
        slots(line, fails).boot()


def test_a_test_that_hangs_is_a_failed_one(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    car = ready(line, "one", "two")
    monkeypatch.setattr(rules, "LIMIT_S", -9.5)
    go = threading.Event()
    hanging = slots(line, lambda engine: None if b"one" in (engine / "weights.bin").read_bytes() else _wait(go))
    assert hanging.boot().name == "one"
    go.set()
    assert "has not ended within 0.5 s" in next(iter(car.health().refused.values()))


def _wait(go: threading.Event) -> None:
    go.wait(30)


BOOT_AND_DIE = """
import os, sys
from drivefoundry_car.update.slots import Slots
print(Slots(sys.argv[1], lambda engine: None).boot().name, flush=True)
os.abort()
"""


def test_processes_that_die_after_boot_come_to_the_other_slot(line: Line) -> None:
    car = ready(line, "one", "two")
    command = [sys.executable, "-c", BOOT_AND_DIE, str(car.folder)]
    booted = [subprocess.run(command, capture_output=True, text=True).stdout.strip() for _ in range(BOOTS + 1)]
    assert booted == ["two"] * BOOTS + ["one"]


def test_one_process_may_boot_often(line: Line) -> None:
    car = ready(line, "one", "two")
    assert {car.boot().name for _ in range(3 * BOOTS)} == {"two"}


@pytest.mark.usefixtures("restarted")
def test_a_release_that_dies_after_boot_gives_way(line: Line) -> None:
    car = ready(line, "one", "two")
    booted = [car.boot().name for _ in range(BOOTS + 3)]
    assert booted == ["two"] * BOOTS + ["one"] * 3
    (told,) = car.health().reports
    assert (told.what, told.now) == ("rolled back", car.boot().release)
    assert f"died in each of {BOOTS} boots" in told.why
    assert [car.boot().name for _ in range(2 * BOOTS)] == ["one"] * 2 * BOOTS  # nothing else can run: it stays
    refused(line.car(), "was refused by this car: .*died in each")
    line.publish("two")
    assert line.car().update() == car.current()
    assert car.boot().name == "two"


@pytest.mark.usefixtures("restarted")
def test_a_new_car_with_one_release_keeps_it(line: Line) -> None:
    car = ready(line, "one")
    assert {car.boot().name for _ in range(BOOTS + 3)} == {"one"}


@pytest.mark.usefixtures("restarted")
def test_drives_that_end_in_order_and_long_ones_do_not_count(line: Line) -> None:
    car = ready(line, "one", "two")
    for _ in range(2 * BOOTS):
        car.boot()
        assert not car.healthy(HEALTHY_MIN / 2)
        car.ended()
    assert car.boot().name == "two"
    assert car.healthy(HEALTHY_MIN)
    assert car.health().good
    assert {car.boot().name for _ in range(BOOTS + 3)} == {"two"}


def test_staging_does_not_lift_a_refusal(line: Line) -> None:
    from drivefoundry.release import stage

    car = ready(line, "one")
    line.publish("two", percent=100)
    line.car().update()
    car.rollback()
    stage(line.repo, line.keys, "all", 100)
    refused(line.car(), "was refused by this car: rolled back")
    assert [(r.what, r.why) for r in car.health().reports] == [("rolled back", "by hand")]


DAMAGE = [b"", b"{", b"[]", b"null", b"7", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"files": 3}', b'{"id": []}']


@pytest.mark.parametrize("known", ["signed", "unsigned"])
def test_a_damaged_description_falls_back(line: Line, known: str) -> None:
    car = ready(line, "one", "two")
    for damage in DAMAGE:
        if known == "unsigned":  # slots of an earlier layout: nothing but the file itself says what it should be
            for path in (car.folder / "signed").iterdir():
                path.unlink()
            (car.folder / "signed").rmdir()
        (car.folder / "current" / "release.json").write_bytes(damage)
        assert car.boot().name == "one", damage
        line.car().update()
        assert running(line.car()) == "two", damage


@pytest.mark.parametrize("notes", ["releases.json", "reports.json", "refused.json", "testing"])
def test_damaged_notes_keep_no_car_from_driving(line: Line, notes: str) -> None:
    car = ready(line, "one", "two")
    for damage in (*DAMAGE, b'{"x": 3}', b'{"x": {"attempts": "many"}}', b'{"reports": [{"at": 1}, 2]}'):
        (car.folder / notes).write_bytes(damage)
        assert car.health().running == car.boot().release, damage
        assert car.boot().name == "two", damage
    line.publish("three")
    line.car().update()
    assert car.boot().name == "three"
    assert isinstance(json.loads((car.folder / "releases.json").read_text()), dict)


@pytest.mark.parametrize("own", [True, False], ids=["beside our own", "alone"])
def test_notes_of_an_earlier_layout_are_read(line: Line, own: bool) -> None:
    """A refusal persists, unless an interruption left it; a test in progress counts as interrupted."""
    car = ready(line, "one", "two")
    one, two = (json.loads((car.folder / slot / "release.json").read_text())["id"] for slot in "ab")
    if not own:
        (car.folder / "releases.json").unlink()
    (car.folder / "refused.json").write_text(json.dumps({one: "its self test did not come to an end", two: "a lemon"}))
    (car.folder / "testing").write_text(one)
    assert car.health().refused == {two: "a lemon"}
    assert car.boot().name == "one"
    assert not (car.folder / "refused.json").exists()
    assert not (car.folder / "testing").exists()


def test_boot_waits_for_an_activation_only_so_long(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    car = ready(line, "one", "two")
    monkeypatch.setattr(rules, "BOOT_WAIT_S", 0.1)
    with Slots(car.folder).alone():
        assert car.boot().name == "two"
        (car.folder / "current" / "engine" / "weights.bin").write_bytes(b"worn-out flash")
        with pytest.raises(ValueError, match="has changed"):
            car.boot()
    assert car.boot().name == "one"


def test_boots_and_updates_at_once_leave_whole_slots(line: Line) -> None:
    ready(line, "one")
    line.publish("two")
    names, errors = [], []

    def boots() -> None:
        try:
            names.extend(slots(line).boot().name for _ in range(15))
        except ValueError as e:
            errors.append(e)

    threads = [threading.Thread(target=boots) for _ in range(3)]
    for thread in threads:
        thread.start()
    line.car().update()
    for thread in threads:
        thread.join()
    assert not errors
    assert set(names) <= {"one", "two"}
    assert running(line.car()) in ("one", "two")


def test_what_killed_updates_leave_is_swept(line: Line) -> None:
    car = ready(line, "one")
    tuf = line.folder / "car" / "tuf"
    (car.folder / "tmpab12_x9z").mkdir()
    (car.folder / "tmpab12_x9z" / "current.json").write_text("{}")
    (tuf / "tmpq_345678").write_text("half a file")
    (car.folder / ".releases.json.77-12345.part").write_text("{")
    (car.folder / "tmp").mkdir()
    line.car().update()
    left = {p.name for p in car.folder.iterdir()}
    assert left == {"a", "current", "signed", "releases.json", ".lock", ".fetch.lock", "tmp"}
    assert not (tuf / "tmpq_345678").exists()


UPDATE_AND_DIE = """
import os, sys
from pathlib import Path
from drivefoundry_car.update.client import Updater
replace, target = os.replace, sys.argv[2]
def die(source, to):
    if Path(source).name == target or Path(to).name == target:
        os._exit(9)
    replace(source, to)
os.replace = die
folder = Path(sys.argv[1])
root = (folder / "repo" / "metadata" / "1.root.json").read_bytes()
Updater(folder / "car/tuf", folder / "car/slots", folder / "repo", root, test=lambda engine: None).update()
"""


@pytest.mark.parametrize("damaged", [False, True], ids=["next release", "mending the current slot"])
@pytest.mark.parametrize("at", ["old", "next", "current"])
def test_an_update_killed_while_it_changes_slots(line: Line, at: str, damaged: bool) -> None:
    """Killed before a slot is set aside, before the new one takes its place, or before it becomes current."""
    car = ready(line, "one", "two")
    if damaged:
        (car.folder / "current" / "engine" / "weights.bin").write_bytes(b"worn-out flash")
    else:
        line.publish("three")
    command = [sys.executable, "-c", UPDATE_AND_DIE, str(line.folder), at]
    assert subprocess.run(command).returncode == 9
    assert car.boot().name == ("two" if not damaged or at == "current" else "one")
    line.car().update()
    assert car.boot().name == ("two" if damaged else "three")

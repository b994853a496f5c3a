from pathlib import Path

import pytest

from drivefoundry.release import halt, resume, roll_back, rollouts, stage
from drivefoundry_car.update.client import in_rollout
from shipping import Line, running

CARS = [f"car-{i}" for i in range(8)]


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """All cars have "one"; "two" is out at 50 %, and the first half of the cars has fetched what it is offered."""
    line = Line(tmp_path)
    line.publish("one")
    for name in CARS:
        line.car(vehicle=name).update()
    line.two = line.publish("two", percent=50).id  # type: ignore[attr-defined]
    for name in CARS[:4]:
        line.car(vehicle=name).update()
    return line


def drive(line: Line, names: list[str] = CARS) -> dict[str, str | None]:
    """What each car runs after an update."""
    for name in names:
        line.car(vehicle=name).update()
    return {name: running(line.car(vehicle=name)) for name in names}


def test_a_halted_rollout_gets_no_further(line: Line) -> None:
    chosen = {name for name in CARS if in_rollout(line.two, name, 50)}  # type: ignore[attr-defined]
    early = chosen & set(CARS[:4])
    assert early
    assert chosen - early
    assert halt(line.repo, line.keys, "all").halted
    assert drive(line) == {name: "two" if name in early else "one" for name in CARS}
    assert line.car(vehicle="new").update().name == "one"
    with pytest.raises(ValueError, match="is halted; resume it first"):
        stage(line.repo, line.keys, "all", 100)
    with pytest.raises(ValueError, match="is already halted"):
        halt(line.repo, line.keys, "all")
    made = resume(line.repo, line.keys, "all")
    assert (made.rollout_percent, made.halted) == (50, False)
    assert drive(line) == {name: "two" if name in chosen else "one" for name in CARS}
    with pytest.raises(ValueError, match="is not halted"):
        resume(line.repo, line.keys, "all")
    stage(line.repo, line.keys, "all", 100)
    assert set(drive(line).values()) == {"two"}


def test_a_rollout_to_all_can_be_halted_as_well(line: Line) -> None:
    stage(line.repo, line.keys, "all", 100)
    early = drive(line, CARS[:2])
    before = {name: running(line.car(vehicle=name)) for name in CARS}
    halt(line.repo, line.keys, "all")
    assert drive(line) == before | early
    assert line.car(vehicle="new").update() is None  # there is nothing that everybody had before


def test_after_a_halt_comes_a_fixed_release_or_the_previous_one(line: Line) -> None:
    one = rollouts(line.repo)["all"].previous
    assert one is not None
    halt(line.repo, line.keys, "all")
    line.publish("three", percent=50)
    assert rollouts(line.repo)["all"].previous == one  # two, which was halted, is nobody's fallback
    assert not rollouts(line.repo)["all"].halted
    assert set(drive(line).values()) == {"one", "three"}
    halt(line.repo, line.keys, "all")
    roll_back(line.repo, line.keys, one)
    assert set(drive(line).values()) == {"one"}


def test_a_rollback_to_the_current_release_is_reported(line: Line) -> None:
    before = (line.repo / "metadata" / "timestamp.json").read_bytes()
    two = rollouts(line.repo)["all"].release
    with pytest.raises(ValueError, match=f"release {two} is current for cohort 'all' already .*at 50 %, stage it"):
        roll_back(line.repo, line.keys, two)
    assert (line.repo / "metadata" / "timestamp.json").read_bytes() == before
    stage(line.repo, line.keys, "all", 100)
    with pytest.raises(ValueError, match=r"already$"):
        roll_back(line.repo, line.keys, two)


def test_a_car_without_a_name_comes_last(line: Line) -> None:
    car = line.car()
    car.update()
    for percent in (99, 100):
        stage(line.repo, line.keys, "all", percent)
        car.update()
        assert running(car) == ("two" if percent == 100 else "one")

"""Long drives through a live city: faults are counted per kilometre, and none ends a drive."""

import json
from dataclasses import replace

import numpy as np
import pytest

from drivefoundry import outputs
from drivefoundry.sim.policies import ConstantVelocity, RouteFollower
from drivefoundry.trials import live_city
from drivefoundry.trials.live_city import drive_city, summary, why_stuck
from drivefoundry.types import AGENT_CAR, AGENT_PEDESTRIAN, SIGNAL_GREEN, SIGNAL_RED, Rollout
from situation import EAST, situation, straight


@pytest.fixture(scope="module")
def made():
    demand = {"cars": 5, "others": 30, "people": 10, "seconds": 20.0}
    return [drive_city(policy, "place_d", 2, **demand) for policy in (RouteFollower(), ConstantVelocity())]


def test_driving_by_the_rules_scores_better_than_driving_straight_on(made):
    rules, straight = (summary(m) for m in made)
    assert rules["faultless"][0] > straight["faultless"][0]
    assert rules["off road"][0] < straight["off road"][0]
    assert rules["contacts at fault / km"][0] <= straight["contacts at fault / km"][0]
    assert rules["route km"][0] == pytest.approx(rules["km"][0], rel=0.02), "who keeps to the route gets along it"
    assert straight["route km"][0] < straight["km"][0]
    assert all(low <= mean <= high for mean, low, high in rules.values())


def test_rates_are_sums_over_kilometres_and_the_drive_continues_after_a_fault(made):
    events, rates = made[1].events, summary(made[1])
    assert rates["km"][0] == pytest.approx(events["km"].sum())
    assert rates["red lights / km"][0] == pytest.approx(events["red lights"].sum() / events["km"].sum())
    way = np.hypot(*np.diff(made[1].rollout.ego[:, :, :2], axis=1).transpose(2, 0, 1)).sum(1)
    assert events["km"] == pytest.approx(way / 1000, rel=0.01)


def test_files_are_written_and_strangers_refused(made, tmp_path):
    assert "5 cars" in live_city.table(made[0])
    live_city.write(made[0], tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"city.json", "city.mp4", outputs.MARK}
    cars = json.loads((tmp_path / "out" / "city.json").read_text())["cars"]
    assert [*cars] == [s.id for s in made[0].scenes]
    assert all(
        {"route km", "contacts at fault", "other contacts", "red lights", "why"} <= c.keys() for c in cars.values()
    )
    with pytest.raises(ValueError, match="not a driver; give rules, constant-velocity, a run directory"):
        live_city.driver(str(tmp_path))


def standing(x, y=EAST, others=(), light=SIGNAL_RED):
    """The stated reason of a car that has been stuck at x, y for 70 s."""
    scene = situation(
        straight(x, y, 0.0, 0.0, 720), [(k, straight(*at, 0.0, 0.0, 720)) for k, at in others], signal=light
    )
    part = slice(scene.start, None)
    ego = np.zeros((1, 720 - scene.start, 6))
    ego[0, :, :4] = scene.tracks[0, part]
    valid = scene.valid[None, :, part].copy()
    valid[:, 0] = False
    plans = np.zeros((1, 1, 8, 3))
    none = np.zeros((1, 1), bool)
    return why_stuck(scene, Rollout("", [""], ego, scene.tracks[None, :, part], valid, plans, None, None, none), 0)


def test_what_keeps_a_car():
    green = np.full(720, SIGNAL_RED)
    green[500:580] = SIGNAL_GREEN
    ahead = [(AGENT_CAR, (-9.0, EAST))]
    assert standing(-15.5) == "at a red light"
    assert standing(-15.5, light=green) == "at a light that was green"
    assert standing(-15.5, others=ahead) == "behind a vehicle"
    assert standing(-15.5, others=[(AGENT_PEDESTRIAN, (-11.0, EAST)), *ahead]) == "behind a person"
    assert standing(-15.5, others=[(AGENT_CAR, (-9.0, EAST - 3.5))]) == "at a red light", "beside it is not before it"
    assert standing(-60.0) == "free way"
    assert standing(-60.0, EAST + 2.0) == "beside its lane"


def test_stuck_cars_are_reported_with_the_reason(made):
    stuck = replace(made[0], why=["free way", "", "behind a vehicle", "free way", ""])
    assert live_city.reasons(stuck) == {"free way": 2, "behind a vehicle": 1}
    assert live_city.table(stuck).endswith("stuck: 2 free way, 1 behind a vehicle")
    assert "behind" not in live_city.table(made[0]), "nobody stands for a minute in 20 s"


def test_a_film_shows_the_same_from_any_moment_on_and_the_first_fault(made):
    car, begin = live_city.worst(made[1])
    assert begin <= made[1].first[car] <= begin + live_city.FILM_S
    whole, later = live_city.film(made[1], car, 0.0, 8.0), live_city.film(made[1], car, 5.0, 3.0)
    camera = slice(0, 2 * whole[0].shape[0])  # from above the way driven so far is drawn
    assert len(later) == 16
    for a, b in zip(whole[25:], later, strict=True):
        assert np.array_equal(a[:, camera], b[:, camera])
    assert live_city.worst(replace(made[0], first=np.full(5, np.inf)))[1] == 0.0

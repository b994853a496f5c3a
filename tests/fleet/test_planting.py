"""Planted events are visible in the tracks: each kind, at its time, near its car."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from citylog import contents
from drivefoundry.fleet.places import place_map
from drivefoundry.fleet.sumo.city import CityLog, PlantedEvent, run_planted
from drivefoundry.fleet.sumo.planting import KINDS, SIGHT
from drivefoundry.types import AGENT_PEDESTRIAN, SIGNAL_RED

Made = list[tuple[CityLog, list[PlantedEvent]]]


@pytest.fixture(scope="module")
def made() -> Made:
    cities = ("place_e", "place_d")
    return [run_planted(place, 2, 150.0, 300.0, n_cars=30, n_traffic=90, n_pedestrians=20) for place in cities]


def of(made: Made, kind: str) -> list[tuple[CityLog, PlantedEvent, int]]:
    """Log, event and step of those with a few seconds on either side."""
    events = [(log, e, round(e.t * 10)) for log, events in made for e in events if e.kind == kind]
    found = [(log, e, step) for log, e, step in events if 40 <= step < log.steps - 20]
    assert found, f"no {kind} came about"
    return found


def seen(log: CityLog, e: PlantedEvent, step: int, when: int = 0) -> tuple[float, float]:
    """m ahead and left of the car at `step` at which `who` was at step + when."""
    x, y, yaw, _ = log.tracks[e.car, step].astype(float)
    dx, dy = log.tracks[e.who, step + when, :2].astype(float) - (x, y)
    return dx * np.cos(yaw) + dy * np.sin(yaw), dy * np.cos(yaw) - dx * np.sin(yaw)


def speeds(log: CityLog, row: int, step: int, before: int, after: int) -> np.ndarray:
    return log.tracks[row, step - before : step + after, 3]


def test_all_kinds_come_about_in_time_order_to_recording_cars(made):
    assert {e.kind for _, events in made for e in events} == set(KINDS)
    for log, events in made:
        assert [e.t for e in events] == sorted(e.t for e in events)
        assert {e.car for e in events} <= set(log.fleet.tolist())
        assert all(0 <= e.t < log.steps / 10 and log.valid[e.who, round(e.t * 10)] for e in events)


@pytest.mark.parametrize("kind", ["hard_brake", "cut_in", "jaywalker", "stalled_car"])
def test_the_cause_is_ahead_of_the_car_and_in_sight(made, kind):
    for log, e, step in of(made, kind):
        ahead, left = seen(log, e, step)
        assert e.who != e.car
        assert 0 < ahead < SIGHT + 10  # between centres; sight is from the front
        assert abs(left) < ahead
        assert log.tracks[e.car, step, 3] > 2.0


def test_the_car_ahead_brakes_hard(made):
    for log, e, step in of(made, "hard_brake"):
        assert np.diff(speeds(log, e.who, step, 15, 10)).min() * 10 < -4.0


def test_the_stalled_car_stands_and_drove_before(made):
    for log, e, step in of(made, "stalled_car"):
        assert log.tracks[e.who, step, 3] < 1.0
        assert speeds(log, e.who, step, 40, 0).max() > 4.0


def test_a_vehicle_that_cuts_in_comes_from_beside_the_cars_lane(made):
    for log, e, step in of(made, "cut_in"):
        lane = place_map(log.place).lanes[log.lane[log.fleet.tolist().index(e.car)][step]].astype(float)
        dense = np.concatenate([np.linspace(a, b, 20) for a, b in pairwise(lane)])
        before, after = (np.hypot(*(dense - log.tracks[e.who, step + when, :2]).T).min() for when in (-15, 10))
        assert after < 1.6 < before
        assert abs(seen(log, e, step)[1]) < 2.5


def test_the_jaywalker_walks_into_the_way_and_the_car_brakes_for_it(made):
    for log, e, step in of(made, "jaywalker"):
        assert log.kind[e.who] == AGENT_PEDESTRIAN
        assert abs(seen(log, e, step)[1]) < 2.5
        assert np.diff(speeds(log, e.car, step, 20, 20)).min() * 10 < -1.5


def test_a_phantom_brake_is_hard_and_the_cars_own(made):
    for log, e, step in of(made, "phantom_brake"):
        assert e.who == e.car
        assert np.diff(speeds(log, e.car, step, 15, 10)).min() * 10 < -3.5


def test_a_red_light_runner_enters_a_junction_while_it_is_red(made):
    states = []
    for log, e, step in of(made, "light_running"):
        road = place_map(log.place)
        lanes = log.lane[log.fleet.tolist().index(e.car)]
        signal = road.lane_signal[lanes[step - 1]]
        assert road.lane_junction[lanes[step]]
        assert signal >= 0
        states.append(int(log.signals[signal, step - 1]))
    # a lane whose links do not share a phase shows the most permissive of them
    assert states.count(SIGNAL_RED) > 0.6 * len(states)


def test_the_same_seed_makes_the_same_events():
    args = ("place_b", 3, 20.0, 600.0)
    (log, events), (again, same) = (run_planted(*args, n_cars=6, n_traffic=10, n_pedestrians=5) for _ in range(2))
    assert events == same
    assert contents(log) == contents(again)


def test_no_requested_events_is_refused():
    with pytest.raises(ValueError, match="run_planted: per_hour must be > 0, got 0"):
        run_planted("place_a", 1, 10.0, 0)

"""Perception of simulated cars: occlusion, errors of the stated size, latency, and independence of the batch."""

from dataclasses import replace

import numpy as np
import pytest

from drivefoundry.sim.drive import drive
from drivefoundry.sim.pack import pack
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.sim.sensors.perception import detector
from drivefoundry.sim.world import World
from drivefoundry.types import AGENT_CAR, AGENT_PEDESTRIAN, Plan
from drivefoundry_car.vehicle.embodiment import CAR
from situation import EAST, situation, straight

SHARP = Perception(
    latency_s=0.0, miss=0.0, small_rad=1e-9, depth_m=0.0, depth_share=0.0, bearing_rad=0.0, yaw_rad=0.0, speed_mps=0.0,
    speed_share=0.0, size_share=0.0, false_alarms=0.0,
)  # fmt: skip
"""A detector without errors, which is blind only to what is hidden."""


def person(x, y, speed=0.0, yaw=0.0):
    return AGENT_PEDESTRIAN, straight(x, y, yaw, speed)


def car(x, y, speed=0.0, yaw=0.0):
    return AGENT_CAR, straight(x, y, yaw, speed)


def scene(*others, speed=0.0, name="situation"):
    """The ego at (-60, EAST), heading east."""
    return situation(straight(-60.0, EAST, 0.0, speed), others, name=name)


def reports(scenes, perception, steps=1, body=CAR):
    """Observation.objects of each scene at each step, (step, scene) -> (n, 6)."""
    world = World(pack(scenes), "replay")
    seen = detector(world, perception, body)
    out = []
    for _ in range(steps):
        seen.watch()
        out.append(seen.read())
        world.follow(np.zeros((len(scenes), 8, 3)))
        world.advance()
    return out


def test_a_person_behind_a_parked_car_is_not_reported_and_one_beside_it_is():
    parked, hidden, visible = car(-45.0, EAST), person(-40.0, EAST), person(-40.0, EAST + 4.0)
    (found,) = reports([scene(parked, hidden, visible)], SHARP)[0]
    np.testing.assert_allclose(found[:, :2], [[15.0, 0.0], [20.0, 4.0]], atol=1e-4)
    (all_of,) = reports([scene(parked, hidden, visible)], Perception(perfect=True))[0]
    assert len(all_of) == 3


def test_a_building_hides_what_is_behind_it():
    plain = scene(person(-40.0, EAST))
    wall = np.array([[-50.0, EAST, 0.0, 1.0, 6.0, 8.0]])
    walled = replace(plain, map=replace(plain.map, buildings=wall))
    assert [len(found) for found in reports([plain, walled], SHARP)[0]] == [1, 0]


def test_the_visible_share_decides_for_who_is_half_hidden():
    parked = car(-45.0, EAST)
    offsets = np.linspace(0.0, 3.0, 13)
    for least in (0.2, 0.8):
        seen = [
            len(reports([scene(parked, car(-35.0, EAST + d))], replace(SHARP, visible=least))[0][0]) == 2
            for d in offsets
        ]
        assert not seen[0]
        assert seen[-1]
        assert seen == sorted(seen), "who moves out from behind a car is seen from then on"
        assert (least > 0.5) == (sum(seen) <= 7)


def test_occlusion_is_judged_from_the_front_camera():
    """A wall on the left ends 1 m ahead of the car's centre: only a camera in front of its end sees round it."""
    plain = scene(person(-60.0 + 4.0, EAST + 6.0))
    wall = np.array([[-62.0, EAST + 2.0, 0.0, 6.0, 0.2, 3.0]])
    walled = replace(plain, map=replace(plain.map, buildings=wall))
    found = [
        len(reports([walled], SHARP, body=replace(CAR, cameras=(replace(CAR.cameras[0], x=x),)))[0][0])
        for x in (-1.0, 2.0)
    ]
    assert found == [0, 1]


DISTANCES = np.linspace(8.0, 56.0, 8)


@pytest.fixture(scope="module")
def many():
    """Output of the default detector for one standing car: (distance, draw, 6) in the ego frame, NaN if missed."""
    perception = replace(Perception(), false_alarms=0.0)
    scenes = [scene(car(-60.0 + d, EAST), name=f"{d}/{k}") for d in DISTANCES for k in range(60)]
    draws = reports(scenes, perception, 111)[::10]
    rows = np.array([[o[0] if len(o) else np.full(6, np.nan) for o in draw] for draw in draws])
    return perception, rows.reshape(len(draws), len(DISTANCES), -1, 6).swapaxes(0, 1).reshape(len(DISTANCES), -1, 6)


def test_errors_have_the_size_that_the_parameters_state(many):
    perception, found = many
    d = DISTANCES[:, None]
    deep = (found[..., 0] - d) / (perception.depth_m + perception.depth_share * d)
    beside = found[..., 1] / (perception.bearing_rad * d)
    size = (found[..., 4:] / [4.6, 1.9] - 1.0) / perception.size_share
    for error in (deep, beside, found[..., 2] / perception.yaw_rad, size):
        assert abs(np.nanmean(error)) < 0.06
        assert 0.95 < np.nanstd(error) < 1.05


def test_misses_grow_with_distance_and_have_the_stated_rate(many):
    perception, found = many
    missed = np.isnan(found[..., 0]).mean(1)
    angle = np.sqrt(0.5 * (4.6 + 1.9) * 1.6) / DISTANCES
    np.testing.assert_allclose(missed, perception.miss + np.exp(-angle / perception.small_rad), atol=0.03)
    assert missed[-1] > 3.0 * missed[0]


def test_false_alarms_come_at_the_stated_rate_and_last_a_second():
    perception = replace(SHARP, false_alarms=0.3)
    steps = reports([scene(name=f"s{i}") for i in range(200)], perception, 30)
    counts = np.array([[len(o) for o in step] for step in steps])
    assert abs(counts.mean() - 0.3) < 0.04
    changes = np.flatnonzero((np.diff(counts, axis=0) != 0).any(1)) + 1
    assert len({*(changes % 10).tolist()}) == 1


def test_reports_are_late_and_moved_on_by_the_estimated_speed():
    """A pedestrian seen before walking behind a car is still reported; an agent at constant speed is reported
    correctly."""
    crossing = person(-30.0, EAST + 30.0, speed=5.0, yaw=-np.pi / 2)
    for lag in (0.0, 0.3):
        for k, (rows,) in enumerate(reports([scene(crossing)], replace(SHARP, latency_s=lag), 10)):
            np.testing.assert_allclose(rows[0, :2], [30.0, 30.0 - 0.5 * k], atol=1e-3)
    parked, walker = car(-45.0, EAST), person(-40.0, EAST + 1.7, speed=4.0, yaw=-np.pi / 2)
    first = {}
    for lag in (0.0, 0.3):
        counts = [len(rows) for (rows,) in reports([scene(parked, walker)], replace(SHARP, latency_s=lag), 12)]
        assert counts[0] == 2
        first[lag] = counts.index(1)
    assert first[0.3] == first[0.0] + 3


def test_a_report_depends_on_scene_step_and_seed_alone():
    crowd = [car(-60.0 + 6.0 * k, EAST + 5.0 * (-1) ** k, speed=1.0) for k in range(2, 9)]
    scenes = [scene(*crowd, name=f"s{i}") for i in range(3)]
    together = reports(scenes, Perception(), 12)
    alone = reports(scenes[1:2], Perception(), 12)
    for step, lone in zip(together, alone, strict=True):
        np.testing.assert_array_equal(step[1], lone[0])
    same = [all(len(a) == len(b) and np.allclose(a, b) for a, b in [(s[0], s[1])]) for s in together]
    assert not all(same), "scenes of other names get errors of their own"
    other = reports(scenes[1:2], Perception(seed=2), 12)
    assert any(len(a[0]) != len(b[0]) or not np.allclose(a[0], b[0]) for a, b in zip(alone, other, strict=True))


def test_errors_change_smoothly_as_those_of_a_tracker_do():
    rows = np.array([r[0] for (r,) in reports([scene(car(-40.0, EAST))], replace(Perception(), false_alarms=0.0), 40)])
    steps = np.abs(np.diff(rows[:, 0]))
    assert rows[:, 0].std() > 0.1
    assert steps.max() < 0.5 * np.ptp(rows[:, 0])


class Braker:
    """Stands if anything is reported within 30 m ahead, as a guard does."""

    name = "braker"

    def reset(self, scenes):
        pass

    def act(self, observation):
        ahead = [bool(((o[:, 0] > 0) & (o[:, 0] < 30.0) & (np.abs(o[:, 1]) < 1.5)).any()) for o in observation.objects]
        points = np.zeros((len(ahead), 8, 3))
        points[..., 0] = np.where(ahead, 0.0, 8.0)[:, None] * 0.5 * np.arange(1, 9)
        return Plan(points)


def test_what_perception_hides_changes_how_a_car_drives():
    """A person behind a parked car: with ground truth, the car stops before anyone could see the person."""
    hidden = scene(car(-33.0, EAST + 1.7), person(-28.0, EAST + 1.3), speed=8.0)
    honest, perfect = (
        drive(Braker(), [hidden], 3.0, perception=p).ego[0, -1, 0] for p in (SHARP, Perception(perfect=True))
    )
    assert honest > perfect + 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency_s": 0.25}, "latency_s: must be a multiple of 0.1, got 0.25"),
        ({"miss": 1.5}, "miss: must be from 0 to 1, got 1.5"),
        ({"depth_m": -1.0}, "depth_m: must be from 0 to 10, got -1.0"),
        ({"range_m": 0.0}, "range_m: must be > 0 and at most 1,000, got 0.0"),
    ],
)
def test_a_wrong_parameter_is_named(change, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        Perception(**change).validate()

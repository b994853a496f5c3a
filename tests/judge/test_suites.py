"""Which suites a scene belongs to, on hand-made scenes."""

import numpy as np
from straight_road import ROAD, START, STEPS, moving, road, scene

from drivefoundry.judge.suites import RULES, suites_of
from drivefoundry.types import AGENT_PEDESTRIAN


def of(one) -> set[str]:
    return {name for name, ids in suites_of([one]).items() if one.id in ids}


def braking(x: float, y: float, speed: float, loss: float) -> np.ndarray:
    """A vehicle that loses `loss` m/s within the second after step 30."""
    out = moving(x, y, speed)
    out[:, 3] = speed - np.clip((np.arange(STEPS) - 30) / 10, 0, 1) * loss
    out[:, 0] = x + np.cumsum(out[:, 3] * 0.1) - np.sum(out[: START + 1, 3] * 0.1)
    return out


def test_every_suite_is_named_and_an_empty_road_is_in_none():
    assert suites_of([scene(moving(0, 0, 8))]) == {name: [] for name in RULES}


def test_lights():
    assert of(scene(moving(0, 0, 8), red=True)) == {"lights"}
    assert of(scene(moving(0, 0, 8))) == set()  # green
    assert of(scene(moving(70, 0, 8), red=True)) == set()  # past the stop line
    assert of(scene(moving(-55, 0, 1), red=True)) == set()  # never comes near it


def test_pedestrians():
    walker = moving(40, 3, 1, yaw=-np.pi / 2)
    assert of(scene(moving(0, 0, 8), walker, kinds=(AGENT_PEDESTRIAN,))) == {"pedestrians"}
    assert of(scene(moving(0, 0, 8), walker)) == set()  # a vehicle
    far = moving(40, 30, 0)
    assert of(scene(moving(0, 0, 8), far, kinds=(AGENT_PEDESTRIAN,))) == set()


def test_lead_braking():
    assert of(scene(moving(0, 0, 8), braking(20, 0, 8, 4))) == {"lead braking"}
    assert of(scene(moving(0, 0, 8), braking(20, 0, 8, 1))) == set()
    assert of(scene(moving(0, 0, 8), braking(20, 3.2, 8, 4))) == set()  # in the other lane
    assert of(scene(moving(0, 0, 8), braking(-20, 0, 8, 4))) == set()  # behind


def test_junctions():
    crossing = road(junction=(True, False, False))
    whole = moving(-60, 0, 52)  # along all of the lane that lies in the junction
    assert of(scene(whole, map=crossing)) == {"junctions"}
    assert of(scene(whole, map=ROAD)) == set()
    assert of(scene(moving(0, 0, 8), map=road(junction=(False, True, True)))) == set()

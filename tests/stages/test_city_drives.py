"""Long drives through a live city: what went wrong is counted a kilometre, and nothing ends a drive."""

import numpy as np
import pytest

from drivefoundry.sim.policies import ConstantVelocity, RouteFollower
from drivefoundry.stages import city
from drivefoundry.stages.city import drive_city, summary


@pytest.fixture(scope="module")
def made():
    demand = {"cars": 5, "others": 30, "people": 10, "seconds": 20.0}
    return [drive_city(policy, "place_d", 2, **demand) for policy in (RouteFollower(), ConstantVelocity())]


def test_who_drives_by_the_rules_does_less_wrong_than_who_drives_straight_on(made):
    rules, straight = (summary(m) for m in made)
    assert rules["faultless"][0] > straight["faultless"][0]
    assert rules["off road"][0] < straight["off road"][0]
    assert rules["contacts / km"][0] <= straight["contacts / km"][0]
    assert all(low <= mean <= high for mean, low, high in rules.values())


def test_rates_are_sums_over_kilometres_and_the_drive_goes_on_after_a_fault(made):
    events, rates = made[1].events, summary(made[1])
    assert rates["km"][0] == pytest.approx(events["km"].sum())
    assert rates["red lights / km"][0] == pytest.approx(events["red lights"].sum() / events["km"].sum())
    way = np.hypot(*np.diff(made[1].rollout.ego[:, :, :2], axis=1).transpose(2, 0, 1)).sum(1)
    assert events["km"] == pytest.approx(way / 1000, rel=0.01)


def test_files_are_written_and_strangers_refused(made, tmp_path):
    assert "5 cars" in city.table(made[0])
    city.write(made[0], tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"city.json", "city.mp4"}
    with pytest.raises(ValueError, match="no driver; give rules, constant-velocity, a run directory"):
        city.driver(str(tmp_path))

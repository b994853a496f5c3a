"""Rewards of plans and of drives: better driving earns more."""

import numpy as np
import pytest

from drivefoundry.judge.scores.pdm import pdm_scores
from drivefoundry.rl.reward import ClosedLoopReward, PdmReward
from drivefoundry.sim.drive import drive
from drivefoundry.sim.policies import ConstantVelocity, RouteFollower
from drivefoundry.types import AGENT_CAR, Plan
from situation import EAST, START, situation, straight


class Stander:
    """Brakes and stays where it is."""

    name = "stander"

    def reset(self, scenes):
        pass

    def act(self, observation, /):
        return Plan(np.zeros((len(observation.ego), 8, 3)))


def scenes():
    others = [(AGENT_CAR, straight(-20.0, EAST, 0.0, 0.0))]
    return [
        situation(straight(-60.0, EAST, 0.0, 8.0), others, name="blocked"),
        situation(straight(-60.0, EAST, 0.0, 8.0), name="free"),
    ]


def test_a_drive_earns_what_it_achieves_and_loses_what_it_breaks():
    reward = ClosedLoopReward.of(scenes(), 8.0)
    rules, straight_on, standing = (
        reward(drive(policy, scenes(), 8.0), scenes()) for policy in (RouteFollower(), ConstantVelocity(), Stander())
    )
    np.testing.assert_array_equal(rules, 1.0)  # it is the measure
    assert straight_on[0] < 0.7, "it hits the car"
    assert straight_on[1] > 0.75, "the road is free"
    assert standing[1] < 0.2
    for values in (rules, straight_on, standing):
        assert ((values >= 0.0) & (values <= 1.0)).all()
    other = [situation(straight(-60.0, EAST, 0.0, 8.0), name="other")]
    rollout = drive(Stander(), other, 2.0)
    with pytest.raises(ValueError, match="other"):
        reward(rollout, other)


def test_a_plan_is_scored_at_its_own_row():
    rows, at = np.array([1, 0]), np.array([START + 5, START + 20])
    on = np.zeros((2, 2, 8, 3))
    on[:, 0, :, 0] = 8.0 * 0.5 * np.arange(1, 9)
    got = PdmReward(scenes(), at, "PDMS")(rows, on)
    want = pdm_scores(scenes()[::-1], at[::-1], on)["PDMS"]
    np.testing.assert_array_equal(got, want)
    assert got[0, 0] > got[0, 1] + 0.2, "standing on a free road is worse than driving"
    assert got[1, 0] < got[1, 1], "driving into a car is worse than standing"

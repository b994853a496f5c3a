"""The referee's events equal the judge's: the same drives, watched step by step and judged afterwards."""

import numpy as np
import pytest

from drivefoundry.judge.scores.closed_loop import score_rollout
from drivefoundry.sim.adapters.gym import held
from drivefoundry.sim.drive import drive
from drivefoundry.sim.pack import pack
from drivefoundry.sim.referee import CONTACT, OFF_ROAD, RED_LIGHT, Referee
from drivefoundry.sim.world import World, with_traffic
from drivefoundry.types import AGENT_CAR, AGENT_PEDESTRIAN, DT, SIGNAL_GREEN, SIGNAL_RED, Plan
from situation import EAST, situation, straight


class Weaver:
    """Drives at random, a little to the left or right."""

    name = "weaver"

    def bind(self, world):
        self.world = world

    def reset(self, scenes):
        self.rng = np.random.default_rng(len(scenes))
        self.plans = []

    def act(self, observation, /):
        world = self.world
        controls = self.rng.normal([0.3, 0.0], [2.0, 0.006], (len(world.ego), 2))
        self.plans.append(held(controls, world.ego[:, 3]))
        return Plan(self.plans[-1])


def crowded(seed):
    """Cars that stand or creep and people on the road, one of them where the ego starts; the light changes."""
    rng = np.random.default_rng(seed)
    spots = [(-30.0, EAST), (-5.0, EAST - 3.5), (20.0, EAST), (35.0, EAST - 3.5)]
    cars = [(AGENT_CAR, straight(x + rng.uniform(-8, 8), y, 0.0, rng.uniform(0, 2))) for x, y in spots]
    on_foot = [(AGENT_PEDESTRIAN, straight(rng.uniform(-40, 40), -9.0, np.pi / 2, rng.uniform(0, 1))) for _ in range(4)]
    under = [(AGENT_PEDESTRIAN, straight(-69.0, EAST, 0.0, 0.0))]
    light = np.where((np.arange(140) + 10 * seed) // 30 % 2, SIGNAL_GREEN, SIGNAL_RED)
    return situation(
        straight(-70.0, EAST, 0.0, rng.uniform(6, 12)), cars[seed % 3 :] + on_foot + under, signal=light, name=str(seed)
    )


@pytest.mark.parametrize("kind", ["replay", "reactive"])
def test_events_are_the_judges(kind):
    scenes, weaver = [crowded(i) for i in range(40)], Weaver()
    rollout = drive(weaver, scenes, 11.0, simulator=with_traffic(kind))
    scores = score_rollout(rollout, scenes, np.ones(40))
    world = World(pack(scenes), kind)
    referee = Referee(world)
    start = referee.s.copy()
    first, s = np.full((40, 3), np.inf), [start]
    for step in range(rollout.ego.shape[1] - 1):
        if step % 5 == 0:
            world.follow(weaver.plans[step // 5])
        world.advance()
        referee.clear()
        referee.watch()
        first = np.where(referee.events, np.minimum(first, (step + 1) * DT), first)
        s.append(referee.s.copy())
    assert np.array_equal(world.ego, rollout.ego[:, -1])
    counted = first <= scores["end"][:, None] + 1e-6  # the judge's drive ends with a collision at fault
    for column, name in ((CONTACT, "collision"), (OFF_ROAD, "off_road"), (RED_LIGHT, "red_light")):
        assert np.array_equal(counted[:, column], scores[name] == 1.0), name
        assert 4 < counted[:, column].sum() < 36, "a measure that never differs proves nothing"
    end = np.round(scores["end"] / DT).astype(int)
    progress = np.stack(s, 1)[np.arange(40), end] - start
    np.testing.assert_allclose(progress, scores["progress_m"], atol=0.01)


def test_an_ego_that_starts_beside_the_road_must_reach_it_before_leaving_it():
    away = straight(-60.0, -30.0, np.pi / 2, 8.0)
    route = np.column_stack([np.full(60, -60.0), np.arange(-40.0, 80.0, 2.0)])
    world = World(pack([situation(away, route=route)]))
    referee, events = Referee(world), []
    points = np.zeros((1, 8, 3))
    points[0, :, 0] = 4.0 * np.arange(1, 9)
    for step in range(90):
        if step % 5 == 0:
            world.follow(points)
        world.advance()
        referee.watch()
        events.append(bool(referee.events[0, OFF_ROAD]))
        referee.clear()
    front = world.size[0, 0, 0] / 2
    assert events.index(True) == pytest.approx((37.0 - front) / 0.8, abs=3), "its front leaves on the other side"

"""The closed loop: what policies see, what is recorded, and when the safety driver takes over."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry.sim.drive import batches, drive, drive_supervised
from drivefoundry.sim.pack import pack
from drivefoundry.sim.policies import ConstantVelocity, LogReplay, RouteFollower
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.sim.sensors.suite import policy_inputs
from drivefoundry.sim.world import World
from drivefoundry.types import AGENT_CAR, Plan
from situation import EAST, START, situation, straight

LENGTH = 4.6
DECISION_STEPS = 5


def blocked():
    """A car stands 40 m ahead; beside it a scene with a free road."""
    others = [(AGENT_CAR, straight(-20.0, EAST, 0.0, 0.0))]
    return [
        situation(straight(-60.0, EAST, 0.0, 8.0), others, name="blocked"),
        situation(straight(-60.0, EAST, 0.0, 8.0), name="free"),
    ]


@pytest.fixture(scope="module")
def supervised():
    return drive_supervised(ConstantVelocity(), blocked(), 9.0)


def test_the_safety_driver_takes_over_before_harm_is_done(supervised):
    rollout, seen = supervised
    alone = drive(ConstantVelocity(), blocked(), 9.0)
    assert (-20.0 - alone.ego[0, :, 0] - LENGTH).min() < 0.0, "left alone, the policy drives into the car"
    assert (-20.0 - rollout.ego[0, :, 0] - LENGTH).min() > 0.5
    assert seen.takeover[0].any()
    assert not seen.takeover[1].any()
    np.testing.assert_array_equal(rollout.ego[1], alone.ego[1])
    first = int(np.argmax(seen.takeover[0]))
    assert first % DECISION_STEPS == 0
    assert seen.danger[0, first // DECISION_STEPS] == 1
    assert rollout.ego[0, first, 3] > 7.0


def test_flags_corrections_and_frames_line_up(supervised):
    rollout, seen = supervised
    n, steps = rollout.ego.shape[:2]
    decisions = (steps - 1) // DECISION_STEPS
    assert rollout.plans.shape == seen.correction.shape == (n, decisions, 8, 3)
    assert seen.frames["front"].shape[:2] == seen.takeover.shape == (n, steps)
    assert np.array_equal(seen.engaged, ~seen.takeover)
    held = seen.takeover[:, :-1].reshape(n, decisions, DECISION_STEPS)
    assert np.array_equal(held.all(2), held.any(2)), "the wheel changes hands at decisions only"
    # Where nobody took over the car did what the policy planned; where somebody did, what the correction says.
    scene, k = 0, int(np.argmax(held[0, :, 0]))
    for decision, plan in ((0, rollout.plans), (k + 1, seen.correction)):
        now, then = rollout.ego[scene, decision * DECISION_STEPS], rollout.ego[scene, (decision + 1) * DECISION_STEPS]
        assert then[0] - now[0] == pytest.approx(plan[scene, decision, 0, 0], abs=0.6)
    assert seen.correction[0, k, -1, 0] < rollout.plans[0, k, -1, 0] - 5.0


def test_the_expert_needs_no_correction():
    rollout, seen = drive_supervised(RouteFollower(), blocked(), 9.0)
    assert np.array_equal(rollout.plans, seen.correction)
    assert not seen.takeover.any()


def test_log_replay_follows_the_recorded_way():
    scene = situation(straight(-60.0, EAST, 0.0, 8.0))
    ego = drive(LogReplay(), [scene], 8.0).ego[0]
    np.testing.assert_allclose(ego[:, :2], scene.tracks[0, START : START + 81, :2], atol=0.3)


class Watcher:
    """Drives on at 5 m/s and keeps its observations."""

    name = "watcher"

    def reset(self, scenes):
        self.seen = []

    def act(self, observation, /):
        self.seen.append(observation)
        points = np.zeros((len(observation.ego), 8, 3))
        points[..., 0] = 5.0 * 0.5 * np.arange(1, 9)
        k = len(self.seen)
        return Plan(points, np.full((len(points), 8), k), [f"{k}"] * len(points), np.full(len(points), k == 2))


def test_a_policy_sees_the_past_the_present_and_its_route():
    watcher = Watcher()
    rollout = drive(watcher, blocked(), 2.0, perception=Perception(perfect=True))
    assert len(watcher.seen) == 4
    for before, after in pairwise(watcher.seen):
        assert np.array_equal(before.frames["front"][:, 1], after.frames["front"][:, 0])
    o = watcher.seen[0]
    assert not np.array_equal(o.frames["front"][:, 0], o.frames["front"][:, 1])
    np.testing.assert_allclose(o.ego[:, :, 0], 8.0, atol=1e-5)
    assert (o.ego[:, :, 2] == 1).all()
    np.testing.assert_allclose(o.route[:, :6], [[1.0, 0, 2.0, 0, 4.0, 0]] * 2, atol=1e-5)
    assert o.objects is not None
    np.testing.assert_allclose(o.objects[0], [[40.0, 0, 0, 0, 4.6, 1.9]], atol=1e-5)
    assert o.objects[1].shape == (0, 6)
    assert rollout.tokens is not None
    assert rollout.tokens[1, :, 0].tolist() == [1, 2, 3, 4]
    assert rollout.text == [["1", "2", "3", "4"]] * 2
    assert rollout.guarded.tolist() == [[False, True, False, False]] * 2


def test_what_drives_without_seeing_has_no_tokens_and_no_text():
    told = []
    rollout = drive(ConstantVelocity(), blocked(), 60.0, on_decision=lambda k, of: told.append((k, of)))
    steps = (140 - START - 1) // DECISION_STEPS
    assert rollout.ego.shape[1] == DECISION_STEPS * steps + 1, "cut to the log"
    assert told == [(k + 1, steps) for k in range(steps)]
    assert rollout.tokens is None
    assert rollout.text is None
    assert not rollout.guarded.any()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(30, 90), min_size=0, max_size=12), st.integers(1, 5))
def test_batches_hold_every_scene_once_and_alike_logs(lengths, most):
    scenes = [situation(straight(-60.0, EAST, 0.0, 8.0, n), name=str(i)) for i, n in enumerate(lengths)]
    parts = batches(scenes, most)
    assert sorted(i for part in parts for i in part) == [*range(len(scenes))]
    for part in parts:
        span = [lengths[i] for i in part]
        assert len(part) <= most
        assert max(span) - min(span) < 10
    if lengths and max(lengths) - min(lengths) < 10:
        assert [i for part in parts for i in part] == [*range(len(scenes))]


def test_the_navigator_speaks_of_the_lane_that_the_car_is_in_though_the_route_turns_back_beside_it():
    turn = np.linspace(-np.pi / 2, np.pi / 2, 9)
    there = np.column_stack([np.arange(-90.0, -20.0), np.full(70, EAST)])
    round_ = np.column_stack([-20.0 + 1.75 * np.cos(turn), 1.75 * np.sin(turn)])
    route = np.concatenate([there, round_, there[::-1] * [1.0, -1.0]])
    world = World(pack([situation(straight(-60.0, EAST, 0.0, 5.0), route=route)]))
    plan = np.zeros((1, 8, 3))
    plan[0, :, 0], plan[0, :, 1] = 2.5 * np.arange(1, 9), 3.0
    world.follow(plan)
    for _ in range(20):
        world.advance()
    assert world.ego[0, 1] > 0.0, "it has strayed over the middle"
    _, told_route = policy_inputs(world)
    assert told_route[0, 0] > 0.9, "10 m ahead is ahead"

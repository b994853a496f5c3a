"""Traffic is the log until the ego disturbs it; then it brakes, waits and obeys the lights."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry.sim.pack import crossings, pack
from drivefoundry.sim.world import KINDS, PAST, World
from drivefoundry.types import AGENT_CAR, AGENT_PEDESTRIAN, DT, PLAN_POINTS, SIGNAL_GREEN, SIGNAL_RED
from situation import EAST, START, situation, straight, town

STOP_LINE = -12.0
CAR = 4.6


def go(world, speed, seconds):
    """Let the ego drive straight on at speed(t) m/s; states (S, A, T, 4) of the agents and (S, T, 6) of the ego."""
    agents, ego = [world.agents.copy()], [world.ego.copy()]
    for step in range(round(seconds / DT)):
        if step % 5 == 0:
            points = np.zeros((len(world.ego), PLAN_POINTS, 3))
            points[..., 0] = speed(step * DT) * 0.5 * np.arange(1, PLAN_POINTS + 1)
            world.follow(points)
        world.advance()
        agents.append(world.agents.copy())
        ego.append(world.ego.copy())
    return np.stack(agents, 2), np.stack(ego, 1)


def stand(t):
    return 0.0


def varying(x, y, speeds):
    """An eastbound track through `speeds` m/s, one a second."""
    v = np.interp(np.arange(140) * DT, np.arange(len(speeds)), speeds)
    s = np.cumsum(v) * DT
    return np.column_stack([x + s - s[START], np.full(140, y), np.zeros(140), v])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.floats(0.0, 9.0), min_size=4, max_size=14), min_size=1, max_size=4))
def test_undisturbed_agents_match_the_log_bit_for_bit(speeds):
    others = [(AGENT_CAR, varying(-30.0 + 9 * i, -5.25, v)) for i, v in enumerate(speeds)]
    scene = situation(straight(-140.0, 1.75, np.pi, 0.0), others)
    agents, _ = go(World(pack([scene])), stand, 8.0)
    assert np.array_equal(agents[0, 1:], scene.tracks[1:, START : START + 81].astype(np.float64))


def test_followers_stop_short_of_a_standing_ego():
    scene = situation(straight(0.0, EAST, 0.0, 0.0), [(AGENT_CAR, straight(-45.0, EAST, 0.0, 9.0))])
    agents, ego = go(World(pack([scene])), stand, 11.0)
    gap = ego[0, :, 0] - agents[0, 1, :, 0] - CAR
    assert gap.min() > 0.5
    assert agents[0, 1, -1, 3] < 0.05
    assert gap[-1] < 6.0
    ghosts, _ = go(World(pack([scene]), "replay"), stand, 11.0)
    assert np.array_equal(ghosts[0, 1], scene.tracks[1, START : START + 111].astype(np.float64))


def test_pedestrians_are_replayed_regardless_of_obstacles():
    scene = situation(straight(0.0, EAST, 0.0, 0.0), [(AGENT_PEDESTRIAN, straight(0.0, -8.0, np.pi / 2, 1.4))])
    agents, _ = go(World(pack([scene])), stand, 8.0)
    assert np.array_equal(agents[0, 1], scene.tracks[1, START : START + 81].astype(np.float64))


@pytest.mark.parametrize(("light", "passes"), [(SIGNAL_GREEN, True), (SIGNAL_RED, False)])
def test_a_delayed_car_obeys_the_light_that_it_meets(light, passes):
    """The log crosses at green; held up for some seconds by the ego, the car arrives after the light has changed."""
    signal = np.where(np.arange(180) < START + 60, SIGNAL_GREEN, light)
    follower = (AGENT_CAR, straight(-60.0, EAST, 0.0, 9.0, 180))
    scene = situation(straight(-40.0, EAST, 0.0, 0.0, 180), [follower], signal=signal)
    agents, _ = go(World(pack([scene])), lambda t: 0.0 if t < 4.0 else 11.0, 16.0)
    x, v = agents[0, 1, :, 0], agents[0, 1, :, 3]
    assert (v[:50] < 0.5).any(), "the ego held it up"
    if passes:
        assert x[-1] > 20.0
    else:
        assert STOP_LINE - 5.0 < x[-1] + CAR / 2 < STOP_LINE
        assert v[-1] < 0.1


def crowd(n, steps=140):
    others = [(AGENT_CAR, straight(-70.0 - 9 * i, EAST, 0.0, 7.0 + i, steps)) for i in range(n)]
    return situation(straight(-55.0, EAST, 0.0, 5.0, steps), others, name=f"crowd-{n}")


def test_a_scene_does_not_notice_what_else_is_in_the_batch():
    scenes = [crowd(1), crowd(4, 170), crowd(2), situation(straight(-30.0, EAST, 0.0, 3.0))]
    together = go(World(pack(scenes)), lambda t: 2.0, 8.0)
    for i, scene in enumerate(scenes):
        agents, ego = go(World(pack([scene])), lambda t: 2.0, 8.0)
        assert np.array_equal(ego[0], together[1][i])
        assert np.array_equal(agents[0], together[0][i, : len(scene.kind)])
        assert not together[0][i, len(scene.kind) :].any()


def test_padding_and_the_ego_are_never_seen():
    world = World(pack([crowd(1), crowd(4)]))
    for _ in range(3):
        assert world.seen.tolist() == [[False, True, False, False, False], [False, True, True, True, True]]
        world.advance()


def course(world, points, steps):
    """Evolution of the scenes over `steps` along one plan: a list of (ego, agents, seen, brake, past) of each step."""
    out = []
    for step in range(steps):
        if step % 5 == 0:
            world.follow(points)
        world.advance()
        past = np.stack(world.past, 1)
        out.append([x.copy() for x in (world.ego, world.agents, world.seen, world.brake, past, world.signals_now())])
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_restarted_scene_drives_as_a_fresh_one_and_the_others_continue(kind):
    walker = (AGENT_PEDESTRIAN, straight(-30.0, -8.0, np.pi / 2, 1.4))
    light = np.where(np.arange(140) < START + 20, SIGNAL_RED, SIGNAL_GREEN)
    scenes = [
        situation(straight(-55.0, EAST, 0.0, 5.0), [(AGENT_CAR, straight(-70.0, EAST, 0.0, 9.0)), walker]),
        situation(
            straight(-55.0, EAST, 0.0, 5.0), [(AGENT_CAR, straight(-40.0, EAST, 0.0, 8.0)), walker], signal=light
        ),
        crowd(4, 170),
    ]
    points = np.zeros((3, PLAN_POINTS, 3))
    points[..., 0] = 2.0 * np.arange(1, PLAN_POINTS + 1)
    world, calm = World(pack(scenes), kind), World(pack(scenes), kind)
    course(world, points, 35)
    course(calm, points, 35)
    for _ in range(2):  # once after 3.5 s, once after 3 s more
        world.restart(np.array([1]))
        got, undisturbed = course(world, points, 30), course(calm, points, 30)
        fresh = course(World(pack(scenes[1:2]), kind), points[1:2], 30)
        for step, alone in enumerate(fresh):
            for a, b, c in zip(got[step], alone, undisturbed[step], strict=True):
                n = b.shape[1]
                assert np.array_equal(a[1, :n], b[0])
                assert np.array_equal(a[[0, 2]], c[[0, 2]])


def round_and_round(times=3):
    """A route along EAST, round a block and back, several times over."""
    corners = [(-60.0, EAST), (60.0, EAST), (60.0, 60.0), (-60.0, 60.0)]
    return np.concatenate([np.linspace(a, b, 60, endpoint=False) for a, b in pairwise(corners * times + corners[:1])])


def test_a_route_that_comes_back_has_its_stop_line_each_time_and_begins_on_the_first_pass():
    packed = pack([situation(straight(-50.0, EAST, 0.0, 8.0), route=round_and_round())])
    stops = packed.route_stops[0]
    assert stops[stops[:, 1] >= 0, 0] == pytest.approx([48.0, 48.0 + 363.5, 48.0 + 2 * 363.5], abs=1.0)
    late = np.add(round_and_round(), [0.0, 0.4])
    late[180:, 1] -= 0.4  # the first pass is not the nearest
    world = World(pack([situation(straight(-50.0, EAST, 0.0, 8.0), route=late)]))
    assert world.along[0] < 363.5


def test_a_path_that_trembles_on_a_stop_line_crosses_it_once():
    x = np.concatenate([np.linspace(-40, -12.1, 30), [-11.9, -12.1, -11.9], np.linspace(-11.8, 30, 40)])
    out = np.full((6, 2), np.inf)
    crossings(np.column_stack([x, np.full(len(x), EAST)]), len(x), town().stop_lines, town().signal_heads, out)
    assert np.isfinite(out[:, 0]).sum() == 1


def test_a_world_remembers_no_more_than_its_readers_look_at():
    world = World(pack([crowd(1)]))
    before = [p.copy() for p in world.past]
    for step in range(1, 41):
        world.advance()
        before.append(world.ego.copy())
        assert np.array_equal(np.stack(world.past), np.stack(before[-PAST - 1 :])), step

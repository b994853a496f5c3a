"""A scene's scores depend only on the scene and the policy; log replay equals the log."""

from dataclasses import replace

import numpy as np
import pytest

from drivefoundry.fleet.places import place_map
from drivefoundry.fleet.record import situations
from drivefoundry.fleet.sumo.city import run_city
from drivefoundry.judge.evaluate import evaluate, tracking_error, yardstick
from drivefoundry.judge.scores.pdm_closed import PdmClosed
from drivefoundry.model.policy import ROWS, TorchPolicy
from drivefoundry.quantize.export import export_engine
from drivefoundry.sim.policies import CarPolicy, ConstantVelocity, LogReplay, RouteFollower
from drivefoundry.types import AGENT_CAR, AGENT_PEDESTRIAN, SIGNAL_RED, Scene
from drivefoundry_car.driving.runtime import Runtime
from situation import EAST, START, situation, straight
from student import BODY, make_student, samples


def lasting(scene: Scene, steps: int) -> Scene:
    """The scene with a shorter log."""
    part = slice(steps)
    return replace(scene, tracks=scene.tracks[:, part], valid=scene.valid[:, part], signals=scene.signals[:, part])


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """A city's scenes, and crossroads whose logs end within one second of each other; some with long routes."""
    log = run_city("place_d", seed=1, seconds=20, n_cars=4, n_traffic=30, n_pedestrians=10)
    city = situations(log, place_map("place_d"), seconds=10.0)[:4]
    out = [lasting(s, s.start + 1 + n) for s, n in zip(city, (23, 27, 31, 58), strict=True)]
    for i, steps in enumerate((37, 41, 46, 90)):
        others = [
            (AGENT_CAR, straight(-35.0 + 3 * i, EAST, 0.0, 4.0, steps)),
            (AGENT_PEDESTRIAN, straight(-20.0 + 2 * i, -8.0, np.pi / 2, 1.2, steps)),
        ]
        ego = straight(-60.0, EAST, 0.0, 9.0, steps)
        out.append(situation(ego, others[: i % 3], signal=SIGNAL_RED if i % 2 else 1, name=f"cross-{i}"))
    return out


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("student"), steps=30)


@pytest.fixture(scope="module", params=["straight", "rules", "log", "tracked log", "proposals", "engine", "model"])
def policy(request, student, tmp_path_factory):
    if request.param == "engine":
        engine = tmp_path_factory.mktemp("engine")
        export_engine(student, engine, *samples(64, seed=3)[:3], self_test=4)
        return CarPolicy(Runtime.load(engine, reason_every=0), "engine")
    return {
        "straight": ConstantVelocity,
        "rules": RouteFollower,
        "log": LogReplay,
        "tracked log": lambda: LogReplay(exact=False),
        "proposals": PdmClosed,
        "model": lambda: TorchPolicy(student, "model"),
    }[request.param]()


def test_scores_are_the_same_alone_and_in_any_batch_and_order(scenes, policy, monkeypatch):
    learnt = isinstance(policy, TorchPolicy)
    seconds, stages = (1.5, False) if learnt else (4.0, True)
    scenes = scenes[:5] if learnt else scenes
    goal = np.linspace(10.0, 60.0, len(scenes))
    whole = evaluate(policy, scenes, seconds, reference=goal, body=BODY, two_stages=stages)
    assert learnt or len({len(r.ego[0]) for r in whole.rollouts}) > 3, "logs of one length prove nothing"
    rng = np.random.default_rng(7)
    for batch in (1, 4):
        order = rng.permutation(len(scenes))
        some = [scenes[i] for i in order]
        monkeypatch.setattr("drivefoundry.judge.evaluate.BATCH", batch)
        other = evaluate(policy, some, seconds, reference=goal[order], body=BODY, two_stages=stages)
        for name, values in whole.scores.items():
            assert np.array_equal(values[order], other.scores[name]), (name, batch)
        for i, rollout in zip(order, other.rollouts, strict=True):
            agents = len(scenes[i].kind)
            for name in ("ego", "plans", "tokens"):
                assert np.array_equal(getattr(whole.rollouts[i], name), getattr(rollout, name)), (name, batch)
            assert np.array_equal(whole.rollouts[i].agents[:, :agents], rollout.agents[:, :agents])


def test_every_scene_is_driven_to_the_end_of_its_own_log(scenes):
    whole = evaluate(ConstantVelocity(), scenes, 6.0, two_stages=False)
    for scene, rollout in zip(scenes, whole.rollouts, strict=True):
        decisions = min(60, scene.valid.shape[1] - 1 - scene.start) // 5
        assert rollout.ego.shape[1] == 5 * decisions + 1
        assert rollout.plans.shape[1] == decisions
    assert whole.scenes == [s.id for s in scenes]
    assert np.array_equal(yardstick(scenes, 6.0), evaluate(RouteFollower(), scenes, 6.0, two_stages=False).progress)


def test_what_comes_last_in_a_longer_log_counts():
    """A car stands where only the longest of three logs, which end within a second of each other, arrives."""
    wall = [(AGENT_CAR, straight(-17.0, EAST, 0.0, 0.0, START + 48))]
    ends = [situation(straight(-60.0, EAST, 0.0, 9.0, START + n), name=f"{n}") for n in (41, 43)]
    last = situation(straight(-60.0, EAST, 0.0, 9.0, START + 48), wall, name="last")
    assert evaluate(ConstantVelocity(), [*ends, last]).scores["collision"].tolist() == [0.0, 0.0, 1.0]


def u_turn(radius: float = 4.0, speed: float = 4.0) -> Scene:
    """Tighter (0.25 1/m) than the simulated car can turn."""
    s = speed * 0.1 * np.arange(110)
    turn = np.clip((s - 15.0) / radius, 0.0, np.pi)
    x = np.minimum(s, 15.0) + radius * np.sin(turn) - np.maximum(s - 15.0 - np.pi * radius, 0.0)
    y = radius * (1.0 - np.cos(turn))
    ego = np.column_stack([x - 60.0, y + EAST, turn, np.full(110, speed)])
    return situation(ego, route=ego[::4, :2], name="u-turn")


def test_log_replay_is_the_log_where_the_car_could_not_follow_it():
    turn, jump = u_turn(), straight(-60.0, EAST, 0.0, 8.0)
    jump[60:, 0] += 3.0  # as where a tracker has lost somebody for a moment
    for scene in (turn, situation(jump, name="jump")):
        (rollout,) = evaluate(LogReplay(), [scene]).rollouts
        steps = rollout.ego.shape[1]
        logged = scene.tracks[scene.ego, scene.start : scene.start + steps]
        assert np.array_equal(rollout.ego[0, :, :4].astype(np.float32), logged)
        np.testing.assert_allclose(rollout.ego[0, 1:, 4], np.diff(logged[:, 3].astype(float)) / 0.1, atol=1e-9)
    found = evaluate(LogReplay(), [turn, situation(straight(-60.0, EAST, 0.0, 8.0), name="straight")]).scores
    assert found["tracking_max"][0] > 0.3
    assert found["tracking_max"][0] > found["tracking_mean"][0] > 0.05
    assert found["tracking_max"][1] < 0.1
    assert np.array_equal(
        found["tracking_mean"], tracking_error([turn, situation(straight(-60.0, EAST, 0.0, 8.0))])["tracking_mean"]
    )


def test_log_replay_meets_the_log_of_the_others():
    """A follower 3 m behind would brake for the ego if it reacted; in the log it does not."""
    tail = [(AGENT_CAR, straight(-67.6, EAST, 0.0, 9.0))]
    scene = situation(straight(-60.0, EAST, 0.0, 9.0), tail)
    (rollout,) = evaluate(LogReplay(), [scene]).rollouts
    steps = rollout.agents.shape[2]
    assert np.array_equal(rollout.agents[0, 1], scene.tracks[1, START : START + steps])


def test_a_model_is_asked_in_groups_of_one_size(student, scenes, monkeypatch):
    sizes = []
    policy = TorchPolicy(student, "model")
    plan = policy.model.plan
    monkeypatch.setattr(
        policy.model, "plan", lambda frames, *more: sizes.append(len(frames["front"])) or plan(frames, *more)
    )
    evaluate(policy, scenes[-3:], 1.0, body=BODY, two_stages=False)
    assert set(sizes) == {ROWS}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda s: evaluate(ConstantVelocity(), []), "none given"),
        (lambda s: evaluate(ConstantVelocity(), [lasting(s, s.start + 8)]), "0.7 s to drive; must be at least 1.0 s"),
        (lambda s: evaluate(ConstantVelocity(), [s], 0.3, two_stages=False), "0.3 s to drive; must be at least 0.5 s"),
        (lambda s: evaluate(ConstantVelocity(), [s], reference=np.zeros(2)), r"reference: must have shape \(1,\)"),
    ],
)
def test_refusals(wrong, message):
    with pytest.raises(ValueError, match=message) as refused:
        wrong(situation(straight(-60.0, EAST, 0.0, 9.0)))
    assert "\n" not in str(refused.value)

"""The Gymnasium environment: its contract, events as the judge defines them, and resets of single scenes."""

import subprocess
import sys
from dataclasses import replace

import numba
import numpy as np
import pytest
from gymnasium.utils import env_checker
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

from drivefoundry.sim.adapters.gym import OBJECTS, Driving
from drivefoundry.sim.drive import drive
from drivefoundry.sim.expert import expert_plan
from drivefoundry.sim.policies import RouteFollower
from drivefoundry.sim.sensors.perception import PerfectDetector
from drivefoundry.types import AGENT_CAR, AGENT_PEDESTRIAN, DT, SIGNAL_GREEN, SIGNAL_RED, SIGNAL_YELLOW, Plan
from drivefoundry_car.vehicle.embodiment import CAR
from situation import EAST, START, situation, straight

GO = np.array([0.0, 0.0])
LEFT, BRAKE = np.array([0.0, 0.15]), np.array([-8.0, 0.0])


def scenes():
    """Free road; a standing car 30 m ahead; a red light 28 m ahead of the front; a longer log with pedestrians."""
    stands = [(AGENT_CAR, straight(-25.0, EAST, 0.0, 0.0))]
    people = [(AGENT_PEDESTRIAN, straight(-20.0 + 2 * i, -8.0, np.pi / 2, 1.0, 170)) for i in range(20)]
    return [
        situation(straight(-60.0, EAST, 0.0, 8.0), name="free"),
        situation(straight(-60.0, EAST, 0.0, 8.0), stands, name="blocked"),
        situation(straight(-42.3, EAST, 0.0, 8.0), signal=SIGNAL_RED, name="red"),
        situation(straight(-60.0, EAST, 0.0, 8.0, 170), people, name="people"),
    ]


def actions(*rows):
    return np.stack(rows)


@pytest.mark.parametrize("body", [None, CAR])
@pytest.mark.parametrize("action", ["controls", "plan"])
def test_it_keeps_gymnasiums_contract(action, body):
    env = Driving(scenes(), "free", action=action, body=body)
    env_checker.check_reset_return_type(env)  # pyright: ignore[reportArgumentType]
    env_checker.check_reset_seed_determinism(env)  # pyright: ignore[reportArgumentType]
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert env.action_space.shape == (4, *env.single_action_space.shape)
    env.action_space.seed(0)
    told = [env.reset()]
    for _ in range(40):
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert obs in env.observation_space
        assert not any(env_checker.data_shares_objects((obs, info), earlier) for earlier in told[-3:])
        told.append((obs, info))
        assert {k: v.dtype for k, v in obs.items()} == {k: env.observation_space[k].dtype for k in obs}
        assert reward.shape == terminated.shape == truncated.shape == (4,)
        assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.bool_, np.bool_)
        assert all(info[f"_{k}"].all() for k in info if not k.startswith("_"))
    env.close()


def test_gymnasiums_wrappers_take_it():
    env = DictInfoToList(RecordEpisodeStatistics(Driving(scenes(), seconds=2.0)))
    env.reset(seed=1)
    total = 0.0
    for _ in range(4):
        _, reward, *_, infos = env.step(actions(GO, GO, GO, GO))
        total += reward[0]
    assert isinstance(infos, list)
    assert infos[0]["episode"]["r"] == pytest.approx(total, abs=1e-4)
    assert infos[0]["seconds"] == pytest.approx(2.0)


def test_events_reward_and_ends_of_episodes():
    env = Driving(scenes(), seconds=5.0)
    env.reset()
    progress, seen = np.zeros(4), []
    for k in range(10):
        _, reward, terminated, truncated, info = env.step(actions(LEFT, GO, GO, GO))
        progress += info["progress"]
        events = (info["contact"], info["off_road"], info["red_light"])
        np.testing.assert_allclose(reward, info["progress"] / 10 - events[0] - events[1] - events[2] / 2)
        assert np.array_equal(terminated, events[0] | events[1])
        seen += [(k, scene, e) for e, hit in enumerate(events) for scene in np.flatnonzero(hit)]
        if k == 0:
            np.testing.assert_allclose(info["progress"][1:], 4.0, atol=0.05)
        if terminated.any():
            break
    assert not truncated.any()
    assert seen[-1][1:] == (0, 1), "the first leaves the road to the left"
    for later in range(k + 1, 10):
        _, reward, terminated, truncated, info = env.step(actions(GO, GO, GO, GO))
        events = (info["contact"], info["off_road"], info["red_light"])
        seen += [(later, scene, e) for e, hit in enumerate(events) for scene in np.flatnonzero(hit)]
        assert truncated[2:].tolist() == [later == 9] * 2
    assert (1, 0) in [s[1:] for s in seen], "the second drives into who stands"
    red = [s for s in seen if s[2] == 2]
    assert red == [(6, 2, 2)], "the third runs the light after 28 m at 8 m/s, once"


def test_an_episode_lasts_as_long_as_its_own_log():
    env = Driving(scenes())
    env.reset()
    ends = {}
    for k in range(1, 40):
        _, _, _, truncated, info = env.step(actions(BRAKE, BRAKE, BRAKE, BRAKE))
        for scene in np.flatnonzero(truncated):
            ends.setdefault(int(scene), (k, round(float(info["seconds"][scene]), 6)))
    steps = [(140 - START - 1) // 5, (170 - START - 1) // 5]
    assert ends == {i: (n, n * 0.5) for i, n in enumerate([steps[0]] * 3 + [steps[1]])}


@pytest.mark.parametrize("kind", ["replay", "reactive", "free"])
@pytest.mark.parametrize("body", [None, CAR])
def test_an_ended_scene_restarts_at_the_next_step_while_the_others_continue(kind, body):
    env = Driving(scenes(), kind, body=body)
    first, _ = env.reset()
    act = actions(GO, GO, GO, GO)
    fresh = [first] + [env.step(act)[0] for _ in range(3)]
    rng = np.random.default_rng(0)
    env.reset()
    over, ages, reborn = np.zeros(4, bool), np.full(4, 0), 0
    for _ in range(30):
        wild = act + rng.normal(size=act.shape) * [2.0, 0.02] * (rng.random() < 0.3)
        obs, reward, terminated, truncated, info = env.step(np.where(ages[:, None] < 4, act, wild))
        ages = np.where(over, 0, ages + 1)
        assert (reward[over] == 0).all()
        assert not (terminated | truncated)[over].any()
        assert (info["seconds"][over] == 0).all()
        assert (info["progress"][over] == 0).all()
        reborn += over.sum()
        for i in np.flatnonzero(ages < 4):
            for name, value in obs.items():
                assert np.array_equal(value[i], fresh[ages[i]][name][i])
        over = terminated | truncated
    assert reborn >= 3


def test_some_of_the_scenes_can_be_reset():
    env = Driving(scenes(), body=CAR)
    first, _ = env.reset()
    for _ in range(3):
        obs = env.step(actions(GO, GO, GO, GO))[0]
    mask = np.array([True, False, False, True])
    again, info = env.reset(options={"reset_mask": mask})
    for name, value in again.items():
        assert np.array_equal(value[mask], first[name][mask])
    assert np.array_equal(
        again["frames_front"], np.where(mask[:, None, None, None, None], first["frames_front"], obs["frames_front"])
    )
    assert info["seconds"].tolist() == [0.0, 1.5, 1.5, 0.0]
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": np.ones(3, bool)})


def test_the_same_actions_give_the_same_bytes_on_any_number_of_threads():
    def bytes_of(threads):
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        env = Driving(scenes() * 3, "free", body=replace(CAR, cameras=(CAR.cameras[0].scaled(80, 32),)))
        env.action_space.seed(5)
        out = [env.reset(seed=3)]
        out += [env.step(env.action_space.sample()) for _ in range(12)]
        numba.set_num_threads(before)
        return out

    one, all_of_them = bytes_of(1), bytes_of(numba.config.NUMBA_NUM_THREADS)
    assert env_checker.data_equivalence(one, all_of_them, exact=True)


def test_plans_are_driven_as_drive_does_and_frames_are_what_policies_see():
    class Watcher:
        name = "watcher"

        def reset(self, scenes):
            self.seen = []

        def act(self, observation, /):
            self.seen.append(observation)
            return Plan(ahead)

    ahead = np.zeros((4, 8, 3))
    ahead[..., 0] = 3.5 * np.arange(1, 9)
    watcher, env = Watcher(), Driving(scenes(), action="plan", body=CAR)
    drive(watcher, scenes(), 3.0)
    obs, _ = env.reset()
    for want in watcher.seen:
        assert np.array_equal(obs["frames_front"], want.frames["front"])
        assert all(np.array_equal(obs[name], getattr(want, name)) for name in ("ego", "route"))
        obs, *_ = env.step(ahead)
    env = Driving(scenes(), action="plan")
    env.reset()
    rollout = drive(RouteFollower(), scenes(), 6.0)
    for k in range(1, 13):
        env.step(expert_plan(env.world))
        assert np.array_equal(env.world.ego, rollout.ego[:, 5 * k])


def test_controls_are_held_for_the_decision():
    env = Driving([scenes()[0]] * 3)
    env.reset()
    env.step(actions([1.0, 0.0], [-2.0, 0.0], [0.0, 0.02]))
    speed, yaw = env.world.ego[:, 3], env.world.ego[:, 2]
    np.testing.assert_allclose(speed, [8.5, 7.0, 8.0], atol=0.3)
    assert yaw[2] == pytest.approx(0.02 * 8.0 * 0.5, rel=0.5)
    assert (yaw[:2] == 0).all()


def test_objects_are_the_nearest_within_range():
    env = Driving(scenes(), "replay")
    obs, _ = env.reset()
    for _ in range(4):
        obs, *_ = env.step(actions(GO, BRAKE, GO, GO))
    want = PerfectDetector(env.world).read()
    assert obs["objects_valid"].sum(1).tolist() == [0, 1, 0, OBJECTS]
    for i, near in enumerate(want):
        near = near[np.argsort(np.hypot(near[:, 0], near[:, 1]), kind="stable")][:OBJECTS]
        np.testing.assert_allclose(obs["objects"][i, : len(near)], near, atol=1e-5)
        assert not obs["objects"][i, len(near) :].any()


@pytest.mark.parametrize("light", [SIGNAL_GREEN, SIGNAL_YELLOW, SIGNAL_RED])
def test_the_next_stop_line_and_its_light_are_observed(light):
    env = Driving([situation(straight(-60.0, EAST, 0.0, 8.0), signal=light)])
    obs, _ = env.reset()
    gaps = [obs["stop"][0, 0]]
    for _ in range(12):
        obs, *_ = env.step(GO[None])
        gaps.append(obs["stop"][0, 0])
        near = gaps[-1] < 60.0
        assert obs["stop"][0, 1:].tolist() == np.eye(4)[light if near else 0].tolist()
    np.testing.assert_allclose(gaps[:12], 45.7 - 4.0 * np.arange(12), atol=0.1)
    assert gaps[12] == 60.0, "behind it"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Driving([]), "scenes"),
        (lambda: Driving(scenes(), "fast"), "traffic 'fast'"),
        (lambda: Driving(scenes(), action="pedals"), "action 'pedals'"),
        (lambda: Driving(scenes(), seconds=0.1), "seconds 0.1"),
        (lambda: Driving([situation(straight(-60.0, EAST, 0.0, 8.0, START + 4))]), "too few, 5 are needed"),
        (lambda: Driving(scenes()).step(np.zeros((4, 3))), r"must have shape \(4, 2\)"),
        (lambda: Driving(scenes()).step(np.full((4, 2), np.nan)), "NaN"),
    ],
)
def test_refusals(wrong, message):
    with pytest.raises(ValueError, match=message) as refused:
        wrong()
    assert "\n" not in str(refused.value)


def test_without_gymnasium_only_the_environment_is_missing():
    code = (
        "import sys; sys.modules['gymnasium'] = None; import drivefoundry.sim.drive\n"
        "try:\n    import drivefoundry.sim.adapters.gym\nexcept ImportError as e:\n    print(e)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out == "drivefoundry.sim.adapters.gym needs Gymnasium: pip install 'drivefoundry[gym]'\n"


def test_a_long_life_needs_no_more_memory():
    env = Driving(scenes()[:1])
    env.reset()
    for _ in range(30):
        env.step(GO[None])
    assert len(env.world.past) == 16
    assert env.world.step * DT == pytest.approx(15.0)

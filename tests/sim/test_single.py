"""One car for Gymnasium: passes its checks, is registered, seeds choose the scene, pictures show it."""

import subprocess
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import drivefoundry
from drivefoundry.sim.adapters.gym import Driving, physical
from drivefoundry.sim.adapters.single import DrivingOne
from drivefoundry.types import AGENT_CAR
from drivefoundry_car.vehicle.embodiment import CAR
from situation import EAST, situation, straight

ID = "drivefoundry/City-v0"
GO = np.zeros(2, np.float32)

SMALL = replace(CAR, cameras=(CAR.cameras[0].scaled(80, 32),))


def scenes():
    stands = [(AGENT_CAR, straight(-25.0, EAST, 0.0, 0.0))]
    ways = [(-60.0, ()), (-60.0, stands), (-50.0, ())]
    return [situation(straight(x, EAST, 0.0, 8.0), others, name=f"{i}") for i, (x, others) in enumerate(ways)]


@pytest.mark.parametrize("options", [{}, {"action": "plan"}, {"body": SMALL, "traffic": "free"}])
def test_gymnasiums_checks_pass_without_a_warning(options):
    """Warnings are errors here."""
    assert drivefoundry.__version__
    env = gymnasium.make(ID, scenes=scenes(), render_mode="rgb_array", **options)
    check_env(env.unwrapped)
    env.close()


def test_it_drives_as_one_of_many_does():
    one = DrivingOne(scenes(), seconds=5.0)
    many = Driving(scenes(), action="normalised", seconds=5.0)
    first, _ = many.reset()
    for i in range(3):
        obs, info = one.reset(options={"scene": i})
        assert info["scene"] == f"{i}"
        assert all(np.array_equal(obs[name], first[name][i]) for name in obs)
    one.reset(options={"scene": 1})
    many.reset()
    for _ in range(10):
        obs, reward, terminated, truncated, _ = one.step(GO)
        all_of = many.step(np.zeros((3, 2)))
        assert np.array_equal(obs["ego"], all_of[0]["ego"][1])
        assert (reward, terminated, truncated) == (all_of[1][1], all_of[2][1], all_of[3][1])
        if terminated:
            break
    assert terminated, "a car stands in the way"
    with pytest.raises(ValueError, match="call reset first"):
        one.step(GO)


def test_a_seed_gives_the_same_scenes_again():
    env = DrivingOne(scenes())

    def drawn(seed):
        return [env.reset(seed=seed if i == 0 else None)[1]["scene"] for i in range(8)]

    assert drawn(3) == drawn(3)
    assert len({tuple(drawn(s)) for s in range(6)}) > 1
    assert set(drawn(0) + drawn(1) + drawn(2)) == {"0", "1", "2"}


def test_pictures_follow_the_car():
    env = DrivingOne(scenes(), render_mode="rgb_array")
    with pytest.raises(ValueError, match="call reset first"):
        env.render()
    env.reset(options={"scene": 1})
    before = env.render()
    env.step(GO)
    after = env.render()
    assert before is not None
    assert after is not None
    assert before.shape == after.shape == (400, 400, 3)
    assert before.dtype == np.uint8
    assert not np.array_equal(before, after)
    assert DrivingOne(scenes()).render() is None


def test_normalised_actions_are_pedals_and_wheel():
    acts = np.array([[0.0, 0.0], [1.0, 1.0], [-1.0, -1.0], [0.5, -0.5], [9.0, 9.0]])
    want = [[0.0, 0.0], [3.0, 0.2], [-8.0, -0.2], [1.5, -0.1], [3.0, 0.2]]
    np.testing.assert_allclose(physical(acts, CAR.limits), want)


@pytest.mark.parametrize(
    "first", ["import drivefoundry, gymnasium", "import gymnasium, drivefoundry", "import gymnasium"]
)
def test_names_are_found_in_any_import_order(first):
    name = ID if "drivefoundry" in first else f"drivefoundry:{ID}"
    code = f"{first}\nenv = gymnasium.make({name!r}, count=2)\nvec = gymnasium.make_vec({name!r}, num_envs=2)\n" \
        "print(env.reset(seed=1)[1]['seconds'], vec.reset()[0]['ego'].shape, vec.spec.id)"  # fmt: skip
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert out.stdout == f"0.0 (2, 4, 3) {ID}\n", out.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: DrivingOne([]), "none given"),
        (lambda: DrivingOne(scenes(), render_mode="human"), "render_mode 'human'"),
        (lambda: DrivingOne(scenes()).reset(options={"scene": 3}), "a number from 0 to 2"),
        (lambda: gymnasium.make_vec(ID, num_envs=4, scenes=scenes()), "3 for 4 environments"),
    ],
)
def test_refusals(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()

"""Hand-worked open-loop errors and baselines."""

import numpy as np
import pytest

from drivefoundry.judge.open_loop import (
    constant_velocity_plan,
    constant_yaw_rate_plan,
    open_loop_errors,
    open_loop_summary,
)


def history(speed: float, rate: float) -> np.ndarray:
    ego = np.zeros((1, 4, 3), np.float32)
    ego[0, :, 0], ego[0, :, 1], ego[0, :, 2] = speed, rate, 1
    ego[0, :3] *= 0.5  # only the present counts
    return ego


def test_constant_velocity_runs_straight():
    plan = constant_velocity_plan(history(10, 0.3))
    assert plan.shape == (1, 8, 3)
    assert plan[0, :, 0] == pytest.approx(np.arange(1, 9) * 5.0)
    assert not plan[0, :, 1:].any()


def test_constant_yaw_rate_runs_on_a_circle():
    plan = constant_yaw_rate_plan(history(10, 0.5))[0]  # radius 20 m to the left
    t = np.arange(1, 9) * 0.5
    assert plan[:, 0] == pytest.approx(20 * np.sin(0.5 * t), rel=1e-6)
    assert plan[:, 1] == pytest.approx(20 * (1 - np.cos(0.5 * t)), rel=1e-6)
    assert plan[:, 2] == pytest.approx(0.5 * t)
    assert np.array_equal(constant_yaw_rate_plan(history(10, 0.0)), constant_velocity_plan(history(10, 0.0)))


def test_errors():
    truth = constant_velocity_plan(history(10, 0))
    plan = truth.copy()
    plan[0, :, 1] = np.arange(1, 9)  # k m aside at point k
    plan[0, :, 2] = 0.1 * np.arange(1, 9) * 0.5  # turning at 0.1 rad/s
    e = {k: float(v[0]) for k, v in open_loop_errors(plan, truth).items()}
    assert (e["fde_1s"], e["fde_2s"], e["fde_3s"], e["fde_4s"]) == (2, 4, 6, 8)
    assert (e["ade_1s"], e["ade_2s"], e["ade_3s"], e["ade_4s"]) == (1.5, 2.5, 3.5, 4.5)
    assert e["yaw_rate"] == pytest.approx(0.1)


def test_yaw_wraps_around():
    truth, plan = np.zeros((1, 8, 3)), np.zeros((1, 8, 3))
    truth[0, :, 2] = 0.5 * np.arange(1, 9)
    plan[0, :, 2] = np.arctan2(np.sin(truth[0, :, 2]), np.cos(truth[0, :, 2]))
    assert open_loop_errors(plan, truth)["yaw_rate"][0] == pytest.approx(0.0, abs=1e-9)


def test_summary_draws_blocks_of_one_clip():
    rng = np.random.default_rng(0)
    level = np.repeat(rng.normal(5, 1, 10), 20)
    clips = [f"c{i // 40}" for i in range(200)]
    mean, low, high = open_loop_summary({"ade_4s": level}, clips)["ade_4s"]
    assert mean == pytest.approx(level.mean())
    assert high - low > 3 * 2 * 1.96 * level.std() / np.sqrt(200) / 1.5


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="plans and future"):
        open_loop_errors(np.zeros((2, 8, 3)), np.zeros((3, 8, 3)))
    with pytest.raises(ValueError, match="NaN"):
        open_loop_errors(np.full((1, 8, 3), np.nan), np.zeros((1, 8, 3)))

"""Two-stage EPDMS: hand-worked weights and starts, and what the second stage measures."""

from dataclasses import replace

import numpy as np
import pytest
from straight_road import START, moving, scene

from drivefoundry.judge.scores.comfort import SAMPLES
from drivefoundry.judge.scores.two_stage import SPREAD, STARTS, kernel_weights, second_starts, two_stage
from drivefoundry.sim.drive import drive
from drivefoundry.sim.policies import ConstantVelocity, RouteFollower


def test_weights_are_a_gaussian_of_the_distance():
    # exp(0) = 1, exp(-0.2 / 0.2) = 1 / e, exp(-0.8 / 0.2) = 1 / e^4.
    w = kernel_weights(np.sqrt([0.0, 0.2, 0.8]))
    total = 1 + np.exp(-1) + np.exp(-4)
    assert w == pytest.approx([1 / total, np.exp(-1) / total, np.exp(-4) / total])


def test_starts_that_are_all_far_count_alike():
    assert kernel_weights(np.array([50.0, 60.0])).tolist() == [0.5, 0.5]


def straight_motion(speed: float) -> np.ndarray:
    out = np.zeros((SAMPLES, 6))
    out[:, 0], out[:, 3] = speed * 0.1 * np.arange(SAMPLES), speed
    return out


def test_second_starts_lie_near_the_end_with_the_past_that_led_there():
    one = scene(moving(0, 0, 8), moving(60, 0, 0))
    starts = second_starts(one, straight_motion(8), "ours")
    assert len(starts) == STARTS
    for second, distance in starts:
        assert second.start == START + 40
        x, y, yaw, speed = second.tracks[0, second.start]
        assert np.hypot(x - 32, y) == pytest.approx(distance, abs=1e-5)
        assert distance <= 2 * np.hypot(*SPREAD[:2])
        assert abs(yaw) <= 2 * SPREAD[2]
        assert speed == 8
        # Moved as a whole: 0.8 m a step, heading the way it went.
        step = np.diff(second.tracks[0, : second.start + 1, :2], axis=0)
        assert np.hypot(*step.T) == pytest.approx(0.8, abs=1e-4)
        assert np.arctan2(step[:, 1], step[:, 0]) == pytest.approx(float(yaw), abs=1e-4)
        assert np.array_equal(second.tracks[1], one.tracks[1])
    assert len({d for _, d in starts}) == STARTS


def test_starts_hang_on_the_scene_alone():
    one = scene(moving(0, 0, 8))
    ours, theirs = (second_starts(one, straight_motion(v), p) for v, p in ((8, "ours"), (4, "theirs")))
    assert [d for _, d in ours] == [d for _, d in theirs]
    assert [d for _, d in ours] != [d for _, d in second_starts(replace(one, id="t"), straight_motion(8), "ours")]


def test_a_log_that_ends_continues():
    one = scene(moving(0, 0, 8), moving(60, 3.2, 5))
    short = replace(one, **{k: getattr(one, k)[:, : START + 30] for k in ("tracks", "valid", "signals")})
    second, _ = second_starts(short, straight_motion(8), "ours")[0]
    # At constant velocity from step 29 on; in single precision.
    assert second.tracks[1, second.start, 0] == pytest.approx(60 + 5 * 4.0, abs=1e-3)
    assert second.valid.shape[1] >= second.start + 11


def both_stages(policy, *scenes):
    rollout = drive(policy, list(scenes), 2.0)
    return two_stage(rollout, list(scenes), lambda some, seconds: drive(policy, some, seconds))


def test_the_score_is_the_product_of_both_stages():
    s = both_stages(RouteFollower(), scene(moving(0, 0, 8)), scene(moving(0, 0, 8), moving(40, 0, 6), id="lead"))
    assert s["epdms"] == pytest.approx(s["epdms_one"] * s["epdms_two"])
    assert (s["epdms_one"] > 0.8).all()
    assert (s["epdms_two"] > 0.5).all()


def test_the_second_stage_sees_what_lies_beyond_the_first():
    # At 8 m/s the standing car at 45 m is out of reach for the first 4 s (32 m + 4.6 m), and hit in the next 4 s.
    free, blocked = scene(moving(0, 0, 8)), scene(moving(0, 0, 8), moving(45, 0, 0), id="blocked")
    s = both_stages(ConstantVelocity(), free, blocked)
    assert s["epdms_one"][1] > 0.5
    assert (s["epdms_two"][1], s["epdms"][1]) == (0, 0)
    assert s["epdms"][0] > 0.5


def test_groups_of_starts_do_not_change_the_score():
    scenes = [scene(moving(0, 0, 6 + i), moving(30, 0, 5), id=f"s{i}") for i in range(3)]
    policy = ConstantVelocity()
    rollout = drive(policy, scenes, 1.0)
    together, apart = (two_stage(rollout, scenes, lambda s, t: drive(policy, s, t), most) for most in (128, 2))
    assert np.array_equal(together["epdms"], apart["epdms"])


def test_one_decision_is_not_enough():
    one = scene(moving(0, 0, 8))
    with pytest.raises(ValueError, match="rollout: a scene has 1 decisions"):
        two_stage(drive(ConstantVelocity(), [one], 0.5), [one], lambda s, t: drive(ConstantVelocity(), s, t))

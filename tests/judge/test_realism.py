"""Hand-worked realism: distances, likelihoods and each feature; and logs are more realistic than straight lines."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from straight_road import START, cruise, moving, rollout, scene

from drivefoundry.geometry import boxes_overlap
from drivefoundry.judge.scores.realism import (
    FEATURES,
    GROUPS,
    Feature,
    box_distance,
    likelihood,
    realism,
    replayed,
    rollout_realism,
    squared_distance,
    straight_on,
)
from drivefoundry.types import AGENT_PEDESTRIAN, Scene

T = 41


def logged(one: Scene) -> tuple[np.ndarray, np.ndarray]:
    return replayed(one, T)


def of_log(one: Scene) -> dict[str, float]:
    return realism(one, *logged(one))


def test_weights_sum_to_one_and_every_feature_has_a_group():
    assert sum(f.weight for f in FEATURES.values()) == pytest.approx(1.0)
    assert sorted(n for names in GROUPS.values() for n in names) == sorted(FEATURES)


def test_likelihood_of_a_histogram():
    # Ten simulated values, 7 in the first bin and 3 in the second of ten; with 0.1 each: 7.1, 3.1 and 8 x 0.1 of 11.
    feature = Feature(1.0, 0.0, 10.0, 10)
    sims = np.array([[[0.5] * 7 + [1.5] * 3]])
    assert likelihood(feature, np.array([[0.2]]), sims) == pytest.approx(7.1 / 11)
    assert likelihood(feature, np.array([[0.2, 1.9]]), sims) == pytest.approx(math.sqrt(7.1 * 3.1) / 11)
    assert likelihood(feature, np.array([[99.0]]), sims) == pytest.approx(0.1 / 11)  # clipped into the last bin
    assert likelihood(feature, np.array([[0.2, np.nan]]), sims) == pytest.approx(7.1 / 11)
    assert math.isnan(likelihood(feature, np.full((1, 2), np.nan), sims))


def test_likelihood_of_a_yes_or_no():
    # Of 32 rollouts 8 collide: 24.001 and 8.001 of 32.002. The log of the first agent does not, of the second does.
    hits = (np.arange(32) < 8).astype(float)[:, None, None]
    sims = np.concatenate([hits, hits], 1)
    feature = FEATURES["collision"]
    assert likelihood(feature, np.array([[0.0]]), hits) == pytest.approx(24.001 / 32.002)
    assert likelihood(feature, np.array([[0.0], [1.0]]), sims) == pytest.approx(math.sqrt(24.001 * 8.001) / 32.002)


def test_a_car_alone_replayed():
    # It drives evenly in the middle of the lane: every feature is in one bin at all 40 steps (kinematics of the last or
    # the last two are not known), so n of n + 10 (11) bins x 0.1.
    r = of_log(scene(moving(0, 0, 8)))
    assert r["linear_speed"] == pytest.approx(39.1 / 40)
    assert r["linear_acceleration"] == pytest.approx(38.1 / 39.1)
    assert r["angular_speed"] == pytest.approx(39.1 / 40.1)
    assert r["angular_acceleration"] == pytest.approx(38.1 / 39.1)
    for name in ("distance_to_nearest_object", "time_to_collision", "distance_to_road_edge"):
        assert r[name] == pytest.approx(40.1 / 41), name
    for name in ("collision", "off_road", "red_light"):
        assert r[name] == pytest.approx(1.001 / 1.002), name
    assert r["realism"] == pytest.approx(sum(FEATURES[n].weight * r[n] for n in FEATURES))
    assert r["map_based"] == pytest.approx((0.05 * 40.1 / 41 + 0.30 * 1.001 / 1.002) / 0.35)


def test_standing_where_the_log_drove():
    # 8 m/s is in the fourth bin of 2.5 m/s, standing in the first: 0.1 of 40. The first step's central difference
    # reaches back to the start, so its speed is half of it: it moved from -0.8 m to 0 in 0.2 s.
    one = scene(moving(0, 0, 8))
    states, valid = logged(one)
    states[:] = states[:, :, :1]
    assert realism(one, states, valid)["linear_speed"] == pytest.approx(0.1 / 40)


def test_collision_off_road_and_red_light_that_the_log_has_not():
    one = scene(moving(0, 0, 16), moving(90, 0, 16), red=True)
    one.tracks[0, START:, 0] = 0.0  # the ego waits at x = 0, the other drives away
    states, valid = logged(one)
    through = states.copy()
    through[0, 0, :, 0] = 1.6 * np.arange(T)  # runs the light at 60 m, in step 38
    r = realism(one, through, valid)
    assert r["red_light"] == pytest.approx(math.sqrt(0.001 * 1.001) / 1.002)  # one of two vehicles
    assert r["collision"] == r["off_road"] == pytest.approx(1.001 / 1.002)
    aside = states.copy()
    aside[0, 0, :, 1] -= 3.0
    assert realism(one, aside, valid)["off_road"] == pytest.approx(math.sqrt(0.001 * 1.001) / 1.002)
    onto = states.copy()
    onto[0, 1, :, 0] = 3.0
    assert realism(one, onto, valid)["collision"] == pytest.approx(0.001 / 1.002)  # both collide


def test_time_to_collision_with_the_one_ahead():
    # 10 m/s behind a standing car, gap 30 - 4.6 - 1.0 * k: above 5 s never, 2.44 s at step 1 .. 0 when they meet.
    one = scene(moving(0, 0, 2), moving(30, 0, 0))
    # Log at 2 m/s: (25.4 - 0.2 k) / 2 > 5 s until k = 77: always in the last bin. Simulated at 10 m/s: 2.44 s and less.
    states, valid = logged(one)
    states[0, 0, :, 0] = 1.0 * np.arange(T)
    r = realism(one, states, valid)
    # Ego: the last step has no speed, nor is anything ahead from step 26 on (the front is past the rear): 5 s for
    # k = 26 .. 40, 15 of 40 in the last bin. The standing car follows nobody: 40.1 of 41.
    log = 39 * math.log(15.1 / 41) + math.log(15.1 / 41) + 40 * math.log(40.1 / 41)
    assert r["time_to_collision"] == pytest.approx(math.exp(log / 80))


def test_only_vehicles_have_a_time_to_collision():
    walker = scene(moving(0, 0, 1), kinds=())
    walker.kind[0] = AGENT_PEDESTRIAN
    r = of_log(walker)
    assert math.isnan(r["time_to_collision"])
    assert math.isnan(r["red_light"])
    known = [n for n in FEATURES if n not in ("time_to_collision", "red_light")]
    assert r["realism"] == pytest.approx(
        sum(FEATURES[n].weight * r[n] for n in known) / sum(FEATURES[n].weight for n in known)
    )


def weaving(x: float, y: float, speed: float, seed: int) -> np.ndarray:
    """A track that brakes, speeds up and sways as human drivers do."""
    rng = np.random.default_rng(seed)
    out = moving(x, y, speed)
    t = (np.arange(len(out)) - START) * 0.1
    v = speed * (1 + 0.5 * np.sin(0.9 * t + rng.uniform(0, 6)))
    out[:, 0] = x + np.cumsum(v) * 0.1 - np.cumsum(v)[START] * 0.1
    out[:, 1] = y + 0.5 * np.sin(0.7 * t + rng.uniform(0, 6))
    out[:, 2] = np.gradient(out[:, 1]) / np.maximum(v * 0.1, 0.05)
    out[:, 3] = v
    return out


@pytest.mark.parametrize("seed", range(4))
def test_the_log_is_more_real_than_straight_lines(seed):
    others = [weaving(20.0 * i - 40, 3.2 * (i % 2), 6 + i, seed + i) for i in range(1, 5)]
    one = scene(weaving(0, 0, 8, seed), *others)
    states, valid = logged(one)
    assert realism(one, states, valid)["realism"] > realism(one, *straight_on(one, T))["realism"] + 0.02


def test_beyond_the_map_the_road_is_far():
    one = scene(moving(0, 0, 8), moving(30, 3.2, 8))
    states, valid = logged(one)
    states[0, 1, :, 1] = 500.0
    r = realism(one, states, valid)
    assert r["off_road"] == pytest.approx(math.sqrt(0.001 * 1.001) / 1.002)


def test_rollouts_judge_the_ego_as_it_drove():
    one = scene(moving(0, 0, 8), moving(30, 3.2, 8))
    r = rollout_realism([one], [rollout([one], cruise(8, T)[None])])
    assert r["realism"][0] == pytest.approx(of_log(one)["realism"])
    with pytest.raises(ValueError, match="not the rollout's scenes"):
        rollout_realism([scene(moving(0, 0, 8), id="other")], [rollout([one], cruise(8, T)[None])])


def test_bad_shapes_are_refused():
    one = scene(moving(0, 0, 8))
    with pytest.raises(ValueError, match="simulated: must have shape"):
        realism(one, np.zeros((1, 2, T, 4)), np.zeros((1, 2, T), bool))


def test_distance_between_boxes():
    # 4 x 2 m boxes. Side by side 3 m apart: 1 m between; nose to tail 5 m: 1 m; overlapping by 0.5 m: -0.5.
    assert box_distance(0, 0, 0, 4, 2, 0, 3, 0, 4, 2) == pytest.approx(1.0)
    assert box_distance(0, 0, 0, 4, 2, 5, 0, 0, 4, 2) == pytest.approx(1.0)
    assert box_distance(0, 0, 0, 4, 2, 3.5, 0, 0, 4, 2) == pytest.approx(-0.5)
    assert box_distance(0, 0, 0, 4, 2, 7, 6, 0, 4, 2) == pytest.approx(5.0)  # corners (2, 1) and (5, 5)
    # A corner of a box turned by 45 degrees points at a side: its half diagonal is sqrt(2).
    assert box_distance(0, 0, 0, 4, 2, 5, 0, np.pi / 4, 2, 2) == pytest.approx(3 - math.sqrt(2))


@given(st.integers(0, 10_000))
def test_boxes_overlap_where_their_distance_is_not_positive(seed):
    rng = np.random.default_rng(seed)
    one = (*rng.uniform(-4, 4, 2), rng.uniform(-3, 3), *rng.uniform(0.5, 6, 2))
    other = (*rng.uniform(-4, 4, 2), rng.uniform(-3, 3), *rng.uniform(0.5, 6, 2))
    d = box_distance(*one, *other)
    assert d == pytest.approx(box_distance(*other, *one))
    assert (d <= 0) == boxes_overlap(*one, *other)


@given(st.integers(0, 10_000))
def test_squared_distances_are_those_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    marked = rng.random(rng.integers(2, 12, 2)) < 0.2
    marked.flat[rng.integers(marked.size)] = True
    at = np.argwhere(marked)
    for r, c in np.ndindex(marked.shape):
        assert squared_distance(marked)[r, c] == ((at - (r, c)) ** 2).sum(1).min()

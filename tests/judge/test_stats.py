"""Bootstraps: agreement with theory, seeds, and wider intervals for blocks than for single samples."""

import numpy as np
import pytest

from drivefoundry.judge import stats
from drivefoundry.judge.stats import block_interval, compare_paired, mean_interval


def test_interval_of_a_mean_is_the_normal_one_for_many_values():
    x = np.random.default_rng(1).normal(3.0, 2.0, 400)
    mean, low, high = mean_interval(x)
    assert mean == pytest.approx(x.mean())
    half = 1.96 * x.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.02)


def test_seeded():
    x = np.random.default_rng(1).random(50)
    assert mean_interval(x) == mean_interval(x.copy())
    assert mean_interval(x, seed=1) != mean_interval(x)


def test_pieces_give_the_same_kind_of_interval(monkeypatch):
    x = np.random.default_rng(1).random(50)
    whole = mean_interval(x)
    monkeypatch.setattr(stats, "KEPT_DRAWS", 100_000)
    assert mean_interval(x) == pytest.approx(whole, abs=0.005)


def test_no_spread_no_interval():
    assert mean_interval(np.ones(20)) == (1.0, 1.0, 1.0)


def test_pairs_are_sharper_than_the_two_means():
    rng = np.random.default_rng(2)
    scene = rng.normal(0, 1, 100)
    a, b = scene + 0.1 + rng.normal(0, 0.05, 100), scene + rng.normal(0, 0.05, 100)
    mean, low, high = mean_interval(a - b)
    assert 0.07 < low < mean < high < 0.13
    assert mean_interval(a)[1] < mean_interval(b)[2]


def test_non_inferiority_needs_the_whole_interval():
    rng = np.random.default_rng(3)
    b = rng.normal(0, 1, 200)
    a = b - 0.02 + rng.normal(0, 0.05, 200)  # worse by 0.02 with a standard error of 0.05 / sqrt(200) = 0.0035
    assert compare_paired(a, b, margin=0.05).non_inferior
    near = compare_paired(a, b, margin=0.02)
    assert not near.non_inferior
    assert not near.superior
    assert near.high < 0.0
    with pytest.raises(ValueError, match="margin"):
        compare_paired(a, b, margin=-1)


def test_p_is_the_share_of_resamples_beyond_the_bound():
    # One scene of two gains 1, the other nothing: a resample holds no gain in 1 of 4, (2500 + 1) / (10000 + 1).
    c = compare_paired(np.array([1.0, 0.0]), np.zeros(2), margin=0.1)
    assert c.difference == 0.5
    assert c.p_superior == pytest.approx(0.25, abs=0.015)
    assert c.p_non_inferior == pytest.approx(1 / 10_001)  # no resample lies at -0.1 or below
    assert (c.superior, c.non_inferior) == (False, True)
    assert (c.low, c.high) == (0.0, 1.0)


def test_equal_policies_are_no_better_and_no_worse():
    x = np.random.default_rng(5).random(30)
    c = compare_paired(x, x, margin=0.01)
    assert (c.difference, c.p_superior) == (0.0, 1.0)
    assert c.non_inferior
    assert compare_paired(x, x, margin=0.0).p_non_inferior == 1.0


def test_superiority():
    rng = np.random.default_rng(6)
    b = rng.random(50)
    assert compare_paired(b + 0.1 + rng.normal(0, 0.02, 50), b, 0.0).superior
    assert not compare_paired(b - 0.1, b, 0.0).superior


def test_blocks_of_alike_values_are_less_sure():
    levels = np.random.default_rng(4).normal(0, 1, 20)
    x, block = np.repeat(levels, 10), np.repeat(np.arange(20), 10)
    mean, low, high = block_interval(x, block)
    assert mean == pytest.approx(x.mean())
    _, low1, high1 = mean_interval(x)
    assert (high - low) / (high1 - low1) == pytest.approx(np.sqrt(10), rel=0.15)


def test_blocks_of_different_length_weigh_by_their_length():
    assert block_interval(np.array([0.0, 0.0, 0.0, 1.0]), np.array([0, 0, 0, 1]))[0] == 0.25


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        mean_interval(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="one value per scene"):
        mean_interval(np.zeros(0))
    with pytest.raises(ValueError, match="same scenes"):
        compare_paired(np.ones(3), np.ones(4), 0.1)

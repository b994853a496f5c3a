"""Known laws are recovered, the largest run is predicted, and the absence of a law is reported."""

import json
import math

import numpy as np
import pytest

from drivefoundry.scaling import law, minimise
from drivefoundry.scaling.law import Run, fit, fit_score, read_runs, value_at

CHINCHILLA = np.array([1.69, 406.4, 410.7, 0.34, 0.28])
"""Hoffmann et al. 2022, equation 10."""


def grid(noise, seed=0, side=5, coefficients=CHINCHILLA, scores=None):
    rng = np.random.default_rng(seed)
    runs = []
    for n in np.geomspace(4e7, 1e10, side):
        for d in np.geomspace(1e9, 5e11, side):
            loss = float(value_at(coefficients, n, d) * np.exp(noise * rng.standard_normal()))
            runs.append(Run(n, d, loss, None if scores is None else float(np.clip(scores(n, d, rng), 0, 1))))
    return runs


@pytest.mark.parametrize("true", [CHINCHILLA, np.array([0.6, 30.0, 4000.0, 0.25, 0.5])])
def test_a_law_without_noise_is_found_exactly(true):
    found = fit(grid(0.0, coefficients=true))
    assert found.value == pytest.approx(true, rel=1e-4)
    assert found.held_out is not None
    assert abs(found.held_out.error) < 1e-6


def test_intervals_hold_the_truth():
    inside = []
    for seed in range(3):
        found = fit(grid(0.005, seed), seed=seed)
        inside += [
            low <= t <= high for t, (_, low, high) in zip(CHINCHILLA, found.coefficients().values(), strict=True)
        ]
        best = found.exponents()["parameters"]
        inside.append(best[1] <= 0.28 / 0.62 <= best[2])
        assert found.held_out is not None
        inside.append(found.held_out.predicted[1] <= found.held_out.measured <= found.held_out.predicted[2])
    assert np.mean(inside) >= 0.8  # of 95 % intervals, by a bootstrap of 24 runs


def test_the_largest_run_is_held_out_and_predicted():
    runs = grid(0.004, 3)
    found = fit(runs[::-1])
    assert found.held_out is not None
    assert found.held_out.run == runs[-1]
    assert runs[-1] not in found.runs
    mean, low, high = found.held_out.predicted
    assert low < mean < high
    of_the_law = found.predict(found.held_out.run.parameters, found.held_out.run.tokens)
    assert high - low > of_the_law[2] - of_the_law[1]  # a single run scatters, too
    assert mean == pytest.approx(runs[-1].loss, rel=0.02)
    assert fit(runs, hold_out=False).held_out is None


def test_the_order_of_the_runs_does_not_matter():
    runs = grid(0.01, 5)
    shuffled = [runs[i] for i in np.random.default_rng(1).permutation(len(runs))]
    assert fit(runs).value == pytest.approx(fit(shuffled).value, rel=1e-9)


def test_one_bad_run_moves_the_law_little():
    runs = grid(0.001, 2)
    broken = [*runs[:7], Run(runs[7].parameters, runs[7].tokens, runs[7].loss * 1.5), *runs[8:]]
    assert fit(broken).value[3:] == pytest.approx(fit(runs).value[3:], rel=0.05)


def test_the_optimum_is_the_least_loss_of_its_budget():
    found = fit(grid(0.0))
    flop = 1e22
    best = found.optimum(flop)
    n, loss = best["parameters"][0], best["loss"][0]
    assert 6 * n * best["tokens"][0] == pytest.approx(flop)
    for other in (0.5 * n, 0.9 * n, 1.1 * n, 2 * n):
        assert found.at(other, flop / 6 / other) > loss
    # the published law's own optimum for Gopher's budget
    assert found.optimum(5.76e23)["parameters"][0] == pytest.approx(3.2e10, rel=0.02)
    assert found.exponents()["parameters"][0] == pytest.approx(0.28 / 0.62, rel=1e-3)


def test_the_hubers_slope_is_that_of_its_loss():
    r = np.array([-0.5, -2e-4, 0.0, 3e-4, 0.2])
    step = 1e-8
    slope = (minimise.huber(r + step) - minimise.huber(r - step)) / (2 * step)
    assert slope == pytest.approx(np.clip(r, -minimise.DELTA, minimise.DELTA), abs=1e-9)


def test_a_score_that_follows_size_has_a_law():
    found = fit_score(grid(0.01, scores=lambda n, d, rng: 0.9 - 300 * n**-0.35 + 0.02 * rng.standard_normal()))
    assert found.holds
    assert found.explained > 0.7
    assert found.finding().startswith("A law holds")
    held = found.law.held_out
    assert held is not None
    assert held.predicted[0] == pytest.approx(held.measured, abs=0.08)


@pytest.mark.parametrize(
    "scores",
    [
        lambda n, d, rng: 0.5 + 0.05 * rng.standard_normal(),
        lambda n, d, rng: 0.2 + 3 * n**-0.15 + 0.02 * rng.standard_normal(),
        lambda n, d, rng: 0.4,
    ],
    ids=["noise", "worse with size", "all alike"],
)
def test_the_absence_of_a_law_is_reported(scores):
    found = fit_score(grid(0.01, scores=scores))
    assert not found.holds
    assert found.finding().startswith("No law holds")


@pytest.mark.parametrize(
    ("runs", "line"),
    [
        ([], "scaling law: 0 runs to fit, at least 6 are needed"),
        (grid(0.0)[:5], "scaling law: 4 runs to fit and one held out, at least 6 are needed"),
        ([Run(1e8, d, 3.0) for d in np.geomspace(1e9, 1e11, 9)], "1 different parameters, at least 3 are needed"),
        ([Run(n, 1e9, 3.0) for n in np.geomspace(1e7, 1e9, 9)], "1 different tokens, at least 3 are needed"),
        ([Run(1e8, 1e9, math.nan)], "run.loss: must be a number > 0, got nan"),
        ([Run(1e8, 1e9, 2.0, 1.5, "big")], "big.score: must be 0 to 1, got 1.5"),
    ],
)
def test_runs_that_tell_no_law_are_refused(runs, line):
    with pytest.raises(ValueError, match=line):
        fit(runs)


@pytest.mark.parametrize("loss", [lambda r: 3.0, lambda r: 2 + r.random(), lambda r: np.exp(r.standard_normal())])
def test_runs_without_a_law_give_finite_numbers(loss):
    rng = np.random.default_rng(0)
    found = fit([Run(n, d, float(loss(rng))) for n in (1e5, 1e6, 4e6) for d in (1e6, 5e6, 3e7)])
    best = found.optimum(1e14)
    assert all(math.isfinite(v) for value in (*best.values(), *found.coefficients().values()) for v in value)
    assert 1 <= best["parameters"][0] <= 1e14 / 6


def test_runs_are_read_from_lines(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"parameters": 1e6, "tokens": 2e7, "loss": 2.5, "score": 0.5, "name": "a"}\n\n')
    assert read_runs(path) == [Run(1e6, 2e7, 2.5, 0.5, "a")]
    for text, line in (
        ("{", "line 1: not JSON"),
        ("3", "line 1: must be an object"),
        ('{"parameters": 1, "tokens": 2}', "line 1: loss: must be a number"),
        ('{"parameters": 1, "tokens": 2, "loss": -3}', "line 1.loss: must be a number > 0"),
        ('{"parameters": 1, "tokens": 2, "loss": 3, "score": "x"}', "line 1: score: must be a number"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"runs.jsonl, {line}"):
            read_runs(path)


def test_a_law_as_json():
    told = json.loads(fit(grid(0.002)).to_json())
    assert [*told["coefficients"]] == list(law.COEFFICIENTS)
    assert len(told["runs"]) == 24
    assert abs(told["held_out"]["error"]) < 0.02

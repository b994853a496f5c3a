"""Fit the scaling law L = E + A / N^alpha + B / D^beta to runs, with intervals and a prediction of the largest run.

Hoffmann et al., "Training Compute-Optimal Large Language Models" (2022), approach 3: a Huber loss of the log residuals,
from many starts; intervals by bootstrap over runs, as in Besiroglu et al., "Chinchilla Scaling: A Replication Attempt"
(2024). A law has five numbers in the order of COEFFICIENTS; arrays of laws are (S, 5) or end in 5.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from drivefoundry.scaling import minimise
from drivefoundry.types import require
from drivefoundry_car.documents import decoded, json_of, read_bytes

COEFFICIENTS = ("E", "A", "B", "alpha", "beta")
FLOP_PER_PARAMETER_AND_TOKEN = 6.0
FEWEST = 7
"""Least number of runs: five coefficients, one residual, one held out."""
BOOTSTRAPS = 400
PERMUTATIONS = 400
LEVEL = 0.05
"""Permutations of the test of a law against a constant."""

Interval = tuple[float, float, float]
"""Value, low and high end of its 95 % interval."""


@dataclass(frozen=True)
class Run:
    """One training run: parameters N, training tokens D, final loss, and closed-loop score if it drove."""

    parameters: float
    tokens: float
    loss: float
    score: float | None = None
    """In 0 .. 1, higher is better."""
    name: str = ""

    @property
    def flop(self) -> float:
        return FLOP_PER_PARAMETER_AND_TOKEN * self.parameters * self.tokens

    def validate(self) -> Run:
        name = self.name or "run"
        for key in ("parameters", "tokens", "loss"):
            value = getattr(self, key)
            require(np.isfinite(value) and value > 0, f"{name}.{key}: must be a number > 0, got {value}")
        require(self.score is None or 0.0 <= self.score <= 1.0, f"{name}.score: must be 0 to 1, got {self.score}")
        return self


@dataclass(frozen=True)
class HeldOut:
    """The held-out largest run, and the law's prediction with the interval of a single run."""

    run: Run
    measured: float
    predicted: Interval

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted[0] / self.measured - 1.0


@dataclass(frozen=True, eq=False)
class Law:
    """A fitted law. value (5,) coefficients; samples (S, 5) bootstrap coefficients; runs: the fitted runs."""

    value: np.ndarray
    samples: np.ndarray
    runs: tuple[Run, ...]
    held_out: HeldOut | None

    def coefficients(self) -> dict[str, Interval]:
        """Each coefficient with its interval."""
        return {name: _interval(self.value[i], self.samples[:, i]) for i, name in enumerate(COEFFICIENTS)}

    def at(self, parameters: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        """Loss at N and D of the same shape."""
        return value_at(self.value, np.asarray(parameters, float), np.asarray(tokens, float))

    def predict(self, parameters: float, tokens: float) -> Interval:
        """Loss at N and D with the law's interval, without the scatter of single runs."""
        return _interval(
            float(self.at(parameters, tokens)), value_at(self.samples, np.array(parameters), np.array(tokens))
        )

    def optimum(self, flop: float) -> dict[str, Interval]:
        """Compute-optimal parameters, tokens and loss for a budget of 6 N D = flop, with intervals."""
        require(flop > FLOP_PER_PARAMETER_AND_TOKEN, f"flop: must be a budget > 6, got {flop}")
        best, others = _optimum(self.value, flop), _optimum(self.samples, flop)
        return {key: _interval(float(best[key]), others[key]) for key in best}

    def exponents(self) -> dict[str, Interval]:
        """How the optimum grows with compute: N ~ C^parameters, D ~ C^tokens."""
        both = {"parameters": (4, 3), "tokens": (3, 4)}
        share = lambda v, i, j: v[..., i] / (v[..., 3] + v[..., 4])  # noqa: E731
        return {k: _interval(float(share(self.value, i, j)), share(self.samples, i, j)) for k, (i, j) in both.items()}

    def residuals(self) -> np.ndarray:
        """(runs,) log of the measured loss minus the log of the law's."""
        n, d, loss = _columns(self.runs, "loss")
        return np.log(loss) - np.log(self.at(n, d))

    def to_json(self) -> str:
        held = self.held_out
        body = {
            "law": "L = E + A / N^alpha + B / D^beta",
            "coefficients": self.coefficients(),
            "optimum_grows_as_compute_to_the": self.exponents(),
            "held_out": None if held is None else asdict(held) | {"error": held.error},
            "runs": [asdict(run) for run in self.runs],
        }
        return json.dumps(body, indent=1)


@dataclass(frozen=True, eq=False)
class ScoreLaw:
    """Dependence of the closed-loop score on size and data. law: of 1 - score, whether it holds or not.

    explained: share of the spread (Huber) around the best constant that the law explains; p: how often it explains as
    much when the scores are permuted over the runs.
    """

    law: Law
    explained: float
    p: float

    @property
    def holds(self) -> bool:
        return self.p < LEVEL

    def finding(self) -> str:
        """The finding in one sentence."""
        share = f"{100 * self.explained:.0f} % of the scores' spread, p = {self.p:.3f} by {PERMUTATIONS} permutations"
        if self.holds:
            held, said = self.law.held_out, f"A law holds for the closed-loop score: it explains {share}."
            if held is None:
                return said
            mean, low, high = (1.0 - v for v in held.predicted)
            predicted = f"predicted {mean:.3f} ({high:.3f} to {low:.3f}), measured {1 - held.measured:.3f}"
            return f"{said} The largest run's score was held out: {predicted}."
        return f"No law holds for the closed-loop score: a constant does as well (the law explains {share})."


def read_runs(path: Path) -> list[Run]:
    """Read a file of JSON lines, one run each with the fields of Run. ValueError names line and field."""
    runs = []
    for number, line in enumerate(decoded(read_bytes(path), path).splitlines(), 1):
        if not line.strip():
            continue
        raw = json_of(line, f"{path}, line {number}")
        require(isinstance(raw, dict), f"{path}, line {number}: must be an object with parameters, tokens and loss")
        missing = [key for key in ("parameters", "tokens", "loss") if type(raw.get(key)) not in (int, float)]
        require(not missing, f"{path}, line {number}: {', '.join(missing)}: must be a number")
        score = raw.get("score")
        require(score is None or type(score) in (int, float), f"{path}, line {number}: score: must be a number")
        name = f"{path}, line {number}"
        run = Run(float(raw["parameters"]), float(raw["tokens"]), float(raw["loss"]), score, name).validate()
        runs.append(Run(run.parameters, run.tokens, run.loss, run.score, str(raw.get("name", ""))))
    return runs


def fit(runs: Sequence[Run], hold_out: bool = True, seed: int = 0) -> Law:
    """Fit a Law to runs; with hold_out the run with the most compute is held out and predicted, in any order of runs.

    ValueError if there are too few runs or sizes for five coefficients.
    """
    kept, held = _split(runs, hold_out)
    return _fit(kept, held, "loss", seed)


def fit_score(runs: Sequence[Run], hold_out: bool = True, seed: int = 0) -> ScoreLaw:
    """Fit the same law to 1 - score of closed-loop driving, and test whether it holds at all.

    The permutation test (Fisher 1935) permutes the scores over the runs PERMUTATIONS times and refits. Runs that did
    not drive are left out.
    """
    kept, held = _split([run for run in runs if run.score is not None], hold_out)
    law = _fit(kept, held, "score", seed)
    n, d, missing = _columns(kept, "score")
    target = np.log(missing)
    flat = minimise.huber(target - np.median(target)).sum()
    rng = np.random.default_rng(seed + 1)
    dealt = np.stack([rng.permutation(target) for _ in range(PERMUTATIONS)])
    every = np.concatenate([target[None], dealt])
    reached, *by_chance = minimise.best(np.log(n), np.log(d), every, np.ones_like(every), few=True)[1]
    if flat < 1e-12:  # all scores equal: nothing to explain
        return ScoreLaw(law, 0.0, 1.0)
    p = (1 + int((np.array(by_chance) <= reached).sum())) / (1 + PERMUTATIONS)
    return ScoreLaw(law, float(max(0.0, 1.0 - reached / flat)), float(p))


def value_at(value: np.ndarray, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Losses of coefficients (..., 5) at N, D that broadcast with the leading axes."""
    e, a, b, alpha, beta = np.moveaxis(value, -1, 0)
    return e + a * n**-alpha + b * d**-beta


def _optimum(value: np.ndarray, flop: float) -> dict[str, np.ndarray]:
    """Least loss on 6 N D = flop: where alpha A / N^alpha = beta B / D^beta, with N and D at least 1."""
    _, a, b, alpha, beta = np.moveaxis(value, -1, 0)
    product = flop / FLOP_PER_PARAMETER_AND_TOKEN
    log_n = (np.log(alpha * a) - np.log(beta * b) + beta * np.log(product)) / (alpha + beta)
    n = np.exp(np.clip(log_n, 0.0, np.log(product)))
    return {"parameters": n, "tokens": product / n, "loss": value_at(value, n, product / n)}


def _interval(value: float | np.ndarray, samples: np.ndarray) -> Interval:
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(value), float(low), float(high)


def _columns(runs: Sequence[Run], what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N, D and the target: the loss, or 1 - score (at least 0.001)."""
    table = np.array([[r.parameters, r.tokens, r.loss, 1.0 if r.score is None else r.score] for r in runs], float)
    n, d, loss, score = table.T
    return n, d, loss if what == "loss" else np.maximum(1.0 - score, 1e-3)


def _split(runs: Sequence[Run], hold_out: bool) -> tuple[list[Run], Run | None]:
    runs = sorted((run.validate() for run in runs), key=lambda r: (r.flop, r.parameters, r.loss))
    held = runs.pop() if hold_out and runs else None
    fewest = FEWEST - 1
    require(
        len(runs) >= fewest,
        f"scaling law: {len(runs)} runs to fit{' and one held out' if held else ''}, at least {fewest} are needed; "
        "train more sizes or more data",
    )
    for key in ("parameters", "tokens"):
        different = len({getattr(run, key) for run in runs})
        require(different >= 3, f"scaling law: {different} different {key}, at least 3 are needed; widen the grid")
    return runs, held


def _fit(kept: Sequence[Run], held: Run | None, what: str, seed: int) -> Law:
    n, d, target = _columns(kept, what)
    logs = np.log(n), np.log(d), np.log(target)
    value = minimise.best(*logs[:2], logs[2][None], np.ones((1, len(kept))))[0][0]
    weights = _resamples(n, d, np.random.default_rng(seed))
    samples = minimise.best(*logs[:2], np.broadcast_to(logs[2], weights.shape), weights, few=True, start=value)[0]
    law = Law(value, samples, tuple(kept), None)
    if held is None:
        return law
    measured = float(_columns([held], what)[2][0])
    return Law(value, samples, law.runs, HeldOut(held, measured, _predicted(law, held, logs, seed)))


def _predicted(law: Law, run: Run, logs: tuple[np.ndarray, ...], seed: int) -> Interval:
    """Prediction for one more run, with the scatter of single runs in its interval (widened for five fitted
    coefficients)."""
    off = logs[2] - np.log(law.at(np.exp(logs[0]), np.exp(logs[1])))
    off = off * np.sqrt(len(off) / (len(off) - len(COEFFICIENTS)))
    scatter = np.random.default_rng(seed + 2).choice(off, len(law.samples))
    n, d = np.array(run.parameters), np.array(run.tokens)
    return _interval(float(law.at(n, d)), value_at(law.samples, n, d) * np.exp(scatter))


def _resamples(n: np.ndarray, d: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(BOOTSTRAPS, runs): how often each run is drawn; draws with fewer than 3 sizes or amounts of data are redrawn."""
    out: list[np.ndarray] = []
    while len(out) < BOOTSTRAPS:
        counts = np.bincount(rng.integers(0, len(n), len(n)), minlength=len(n))
        if min(len(np.unique(n[counts > 0])), len(np.unique(d[counts > 0]))) >= 3:
            out.append(counts.astype(float))
    return np.stack(out)


def laws(runs: Sequence[Run]) -> tuple[Law, ScoreLaw | None]:
    """The law of the losses, with the largest run held out, and that of the driving scores if enough runs drove."""
    drove = [run for run in runs if run.score is not None]
    return fit(runs), fit_score(drove) if len(drove) >= FEWEST else None

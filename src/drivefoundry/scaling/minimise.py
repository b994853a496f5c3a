"""Fit E + A / N^alpha + B / D^beta to log losses, many problems at once.

Each problem is started from a grid of (alpha, beta), where E, A and B follow by non-negative least squares (variable
projection, Golub and Pereyra 1973), and polished by Levenberg-Marquardt on reweighted residuals (Huber 1964) in the
log-sum-exp parameters log E, log A, log B, log alpha, log beta. Axes: P problems, S starts, R runs.

Written out because it works on all problems at once: the 500 bootstraps of a law of 30 runs take 1.6 s on two cores,
`scipy.optimize.least_squares` on one after the other from the same three starts some 70 s (20 of them took 2.8 s).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

DELTA = 1e-3
"""Huber threshold, in log loss (Hoffmann et al. 2022)."""
EXPONENTS = (0.08, 0.2, 0.35, 0.6, 1.0)
"""Starting values of alpha and beta."""
STEPS, ROUND = 180, 15
GAIN = 1e-5
"""Relative gain per round below which a start has converged."""
MOST_AT_ONCE = 400_000
"""Residuals per chunk."""
LARGEST = 60.0
"""Lower bound on the logs of E, A N^-alpha and B D^-beta, for terms that the runs do not determine."""
SMALLEST = -12.0
"""Log of the smallest E, A N^-alpha or B D^-beta of a start, relative to the loss."""


def huber(residual: np.ndarray) -> np.ndarray:
    """Huber loss of residuals, same shape."""
    size = np.abs(residual)
    return np.where(size <= DELTA, 0.5 * size**2, DELTA * (size - 0.5 * DELTA))


def best(
    log_n: np.ndarray,
    log_d: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    few: bool = False,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit coefficients (P, 5) E, A, B, alpha, beta to log losses and weights (P, R) at log N, log D (R,); also return
    the summed Huber losses (P,). few: polish only the best three starts of each problem; start (5,): an additional
    start."""
    rows = max(1, MOST_AT_ONCE // (len(log_n) * 25))
    parts = [
        _best(log_n, log_d, target[i : i + rows], weight[i : i + rows], 3 if few else 25, start)
        for i in range(0, len(target), rows)
    ]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _best(log_n, log_d, target, weight, polished, start):
    # centre N and D: decouples the exponents from A and B
    mid_n, mid_d = log_n.mean(), log_d.mean()
    x = np.stack([log_n - mid_n, log_d - mid_d])
    theta = _starts(x, target, weight)
    if start is not None:
        e, a, b, alpha, beta = np.maximum(start, 1e-300)
        given = np.log(e), np.log(a) - alpha * mid_n, np.log(b) - beta * mid_d, np.log(alpha), np.log(beta)
        theta = np.concatenate([theta, np.broadcast_to(given, (len(theta), 1, 5))], 1)
    goal, w = target[:, None], weight[:, None]
    first = (w * huber(_model(theta, x)[0] - goal)).sum(-1)
    order = np.argsort(first, 1)[:, :polished]
    theta, loss = _polish(np.take_along_axis(theta, order[..., None], 1), x, goal, w)
    at = np.argmin(loss, 1)[:, None]
    theta, loss = np.take_along_axis(theta, at[..., None], 1)[:, 0], np.take_along_axis(loss, at, 1)[:, 0]
    alpha, beta = np.exp(theta[:, 3]), np.exp(theta[:, 4])
    a, b = np.exp(theta[:, 1] + alpha * mid_n), np.exp(theta[:, 2] + beta * mid_d)
    return np.stack([np.exp(theta[:, 0]), a, b, alpha, beta], 1), loss


def _starts(x, target, weight):
    """(P, S, 5) log parameters: for each pair of exponents the non-negative E, A, B of least squared relative error."""
    level = target.mean(1)
    loss = np.exp(target - level[:, None])
    out = []
    for alpha in EXPONENTS:
        for beta in EXPONENTS:
            basis = np.stack([np.ones_like(x[0]), np.exp(-alpha * x[0]), np.exp(-beta * x[1])], 1)
            parts = _nonnegative(basis, loss, weight)
            logs = np.log(np.maximum(parts, np.exp(SMALLEST))) + level[:, None]
            rest = np.broadcast_to(np.log([alpha, beta]), (len(logs), 2))
            out.append(np.concatenate([logs, rest], 1))
    return np.stack(out, 1)


def _nonnegative(basis, loss, weight):
    """(P, 3): least squares of basis (R, 3) to loss (P, R), relative to the loss, over all sets of positive parts."""
    scaled = basis[None] * (np.sqrt(weight) / loss)[..., None]
    goal = np.sqrt(weight)
    out = np.zeros((len(loss), 3))
    least = np.full(len(loss), np.inf)
    for size in (3, 2, 1):
        for chosen in combinations(range(3), size):
            part = scaled[..., chosen]
            square = np.einsum("pri,prj->pij", part, part)
            square += 1e-10 * np.trace(square, axis1=1, axis2=2)[:, None, None] * np.eye(size)
            found = np.linalg.solve(square, np.einsum("pri,pr->pi", part, goal)[..., None])[..., 0]
            error = ((np.einsum("pri,pi->pr", part, found) - goal) ** 2).sum(1)
            better = (found > 0).all(1) & (error < least)
            least[better] = error[better]
            out[better] = 0.0
            out[np.ix_(better, chosen)] = found[better]
    return out


def _model(theta, x):
    """Log loss (..., R) and its derivatives (..., R, 5) at theta (..., 5)."""
    alpha, beta = np.exp(theta[..., 3:4]), np.exp(theta[..., 4:5])
    terms = np.stack(
        np.broadcast_arrays(
            theta[..., 0:1] + 0.0 * x[0], theta[..., 1:2] - alpha * x[0], theta[..., 2:3] - beta * x[1]
        ),
        -1,
    )
    top = terms.max(-1, keepdims=True)
    share = np.exp(terms - top)
    total = share.sum(-1, keepdims=True)
    share /= total
    rates = np.stack([-alpha * x[0] * share[..., 1], -beta * x[1] * share[..., 2]], -1)
    return (top + np.log(total))[..., 0], np.concatenate([share, rates], -1)


def _polish(theta, x, goal, weight):
    """Levenberg-Marquardt with Huber weights, each start with its own damping: theta (P, S, 5) and losses (P, S).

    Every ROUND steps, starts that no longer improve are dropped."""
    problems, starts = theta.shape[:2]
    out, loss = theta.reshape(-1, 5), np.zeros(problems * starts)
    left = np.arange(len(out))
    damping = np.full(len(out), 1e-2)
    before = np.full(len(out), np.inf)
    for _ in range(STEPS // ROUND):
        of = left // starts
        out[left], loss[left], damping[left] = _steps(out[left], x, goal[of, 0], weight[of, 0], damping[left])
        left = left[before[left] - loss[left] > GAIN * loss[left] + 1e-18]
        before[left] = loss[left]
        if not len(left):
            break
    return out.reshape(theta.shape), loss.reshape(problems, starts)


def _steps(theta, x, goal, weight, damping):
    """Take ROUND steps of all starts (S, 5) with goals and weights (S, R); return theta, losses and damping (S,)."""
    value, rate = _model(theta, x)
    residual = value - goal
    loss = (weight * huber(residual)).sum(-1)
    eye = np.eye(5)
    for _ in range(ROUND):
        w = weight * DELTA / np.maximum(np.abs(residual), DELTA)
        slope = np.einsum("sri,sr->si", rate, w * residual)
        curve = np.matmul(np.swapaxes(rate * w[..., None], -1, -2), rate)
        scale = np.einsum("sii->si", curve) + 1e-9 * np.trace(curve, axis1=-2, axis2=-1)[..., None] + 1e-300
        step = np.linalg.solve(curve + damping[:, None, None] * scale[..., None] * eye, slope[..., None])[..., 0]
        tried = theta - np.clip(step, -1.5, 1.5)
        tried[:, :3] = np.clip(tried[:, :3], -LARGEST, LARGEST)
        tried[:, 3:] = np.clip(tried[:, 3:], np.log(1e-3), np.log(5.0))
        value, new_rate = _model(tried, x)
        new = (weight * huber(value - goal)).sum(-1)
        better = new < loss
        theta = np.where(better[:, None], tried, theta)
        residual = np.where(better[:, None], value - goal, residual)
        rate = np.where(better[:, None, None], new_rate, rate)
        loss = np.where(better, new, loss)
        damping = np.clip(np.where(better, damping / 4, damping * 5), 1e-9, 1e9)
    return theta, loss, damping

"""Action codec: a plan as 8 tokens, each one of K (acceleration, curvature) pairs held for half a second.

Axes: N samples, K codes, 8 plan points 0.5 s apart. Plans are (N, 8, 3) x m, y m, yaw rad in the ego frame (x forward,
y left); codebooks (K, 2) acceleration m/s^2 and curvature 1/m (left positive); speed (N,) m/s now. A unicycle driven
by one code moves on an exact arc; its speed never falls below 0, so a standing car stays where it is, whatever the
curvature. Sources: Trajeglish (Philion 2024) for k-disk vocabularies; the pair (acceleration, curvature) as in
Alpamayo-R1 (2025).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from drivefoundry_car.vehicle.embodiment import PLAN_DT, PLAN_POINTS

STEP_S, STEPS = PLAN_DT, PLAN_POINTS
"""An action holds from one plan point to the next."""

HEADING_M = 4.0
"""Position error, m, that costs as much as a heading error of 1 rad (about a car's length)."""
SPEED_S = 0.25
"""Position error, m, that costs as much as a speed error of 1 m/s: without it, greedy codes brake and accelerate in
turn."""
VOTE_M = 0.15
"""Scale of the distance, m, within which codes support each other; see `votes`."""
VOTE_SPEEDS, VOTE_STEP = 41, 0.5
"""Number of speeds, and m/s between them, for which votes are tabulated: 0 to 20 m/s."""
A_SCALE, CURVATURE_SCALE = 0.5, 0.012
"""Units in which distances between codes are measured (curvature on an asinh scale: fine near straight, coarse near
0.2)."""
_MUST = [
    (0.0, 0.0),
    (-6.0, 0.0),
    (-3.0, 0.0),
    (-1.5, 0.0),
    (1.0, 0.0),
    (2.0, 0.0),
    (-8.0, 0.0),
    (-4.5, 0.0),
    (0.5, 0.0),
]
_MUST_TURN = [(0.0, 0.2), (-3.0, 0.2), (1.5, 0.2), (0.0, 0.1), (-3.0, 0.1), (1.5, 0.1), (-6.0, 0.05), (0.0, 0.02)]


def advance(state: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Advance states (..., 4) x, y, yaw, speed by codes (..., 2) for half a second; shapes broadcast."""
    v, a, curvature = state[..., 3], code[..., 0], code[..., 1]
    v1 = np.maximum(v + a * STEP_S, 0.0)
    stops = v + a * STEP_S < 0
    s = np.where(stops, 0.5 * v * v / np.maximum(-a, 1e-6), 0.5 * (v + v1) * STEP_S)
    turn = curvature * s
    half = 0.5 * turn
    chord = s * (1.0 - half * half / 6.0 * (1.0 - half * half / 20.0))  # s sin(half)/half, to 1e-6 for |half| < 0.7
    mid = state[..., 2] + half
    return np.stack(
        [state[..., 0] + chord * np.cos(mid), state[..., 1] + chord * np.sin(mid), state[..., 2] + turn, v1], -1
    )


def decode(tokens: np.ndarray, codebook: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Plan points (N, 8, 3) float32 of tokens (N, 8) int, driven from speeds (N,) m/s; codebook (K, 2)."""
    if tokens.size and (int(tokens.min()) < 0 or int(tokens.max()) >= len(codebook)):
        raise ValueError(
            f"tokens: codes must lie in 0..{len(codebook) - 1}, got {int(tokens.min())}..{int(tokens.max())}"
        )
    return integrate_controls(codebook[tokens], speed)


def integrate_controls(controls: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Plan points (N, 8, 3) float32 of controls (N, 8, 2), acceleration m/s^2 and curvature 1/m for half a second each,
    driven from speeds (N,) m/s."""
    state = np.zeros((len(controls), 4))
    state[:, 3] = np.maximum(speed, 0.0)
    out = np.empty((len(controls), STEPS, 3), np.float32)
    for k in range(STEPS):
        state = advance(state, controls[:, k])
        out[:, k] = state[:, :3]
    return out


def speeds(future: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Speed at each plan point, (N, 8) m/s >= 0, by central differences of the path length (one-sided at the end)."""
    p = np.concatenate([np.zeros_like(future[:, :1, :2]), future[:, :, :2]], 1)
    way = np.hypot(*np.moveaxis(np.diff(p, axis=1), -1, 0))
    v = np.empty(way.shape)
    v[:, :-1] = (way[:, 1:] + way[:, :-1]) / (2 * STEP_S)
    v[:, -1] = np.maximum(1.5 * way[:, -1] - 0.5 * way[:, -2], 0.0) / STEP_S
    return v


def encode(future: np.ndarray, codebook: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Tokens (N, 8) int64 of plans (N, 8, 3) from speeds (N,) m/s; codebook (K, 2).

    Greedy and closed loop: each step takes the code whose arc, from where the codes so far have led, ends closest to
    the plan (position, heading and speed), so that errors do not accumulate. Ties (a standing car) go to the gentlest
    code.
    """
    out = np.empty((len(future), STEPS), np.int64)
    for part, k, cost in _costs(future, codebook, speed):
        out[part, k] = cost.argmin(1)
    return out


def soft_targets(future: np.ndarray, codebook: np.ndarray, speed: np.ndarray, tolerance: float) -> np.ndarray:
    """Soft labels (N, 8, K) float16 for `encode`: how well each code fits, as shares that sum to 1.

    A code that ends e metres farther from the plan than the best one has weight exp(-(e / tolerance)^2). So codes that
    make no difference (curvatures at walking pace) share the target, where a single one would be label noise.
    """
    out = np.empty((len(future), STEPS, len(codebook)), np.float16)
    for part, k, cost in _costs(future, codebook, speed):
        share = np.exp((cost.min(1, keepdims=True) - cost) / np.float32(tolerance**2))
        out[part, k] = share / share.sum(1, keepdims=True)
    return out


def _costs(
    future: np.ndarray, codebook: np.ndarray, speed: np.ndarray, chunk: int = 2048
) -> Iterator[tuple[slice, int, np.ndarray]]:
    """For each chunk of samples and each step: squared error of each code, m^2, (chunk, K) float32."""
    book = codebook.astype(np.float32)
    tie = 1e-4 * (np.abs(book[:, 0]) + 10.0 * np.abs(book[:, 1]))
    target_v = speeds(future, speed).astype(np.float32)
    for lo in range(0, len(future), chunk):
        part = slice(lo, min(lo + chunk, len(future)))
        plan = np.asarray(future[part], np.float32)
        state = np.zeros((len(plan), 4), np.float32)
        state[:, 3] = np.maximum(speed[part], 0.0)
        for k in range(STEPS):
            reach = advance(state[:, None], book[None])
            off = reach[..., :3] - plan[:, None, k]
            yaw = (off[..., 2] + np.pi) % (2 * np.pi) - np.pi
            dv = reach[..., 3] - target_v[part, k, None]
            cost = off[..., 0] ** 2 + off[..., 1] ** 2 + (HEADING_M * yaw) ** 2 + (SPEED_S * dv) ** 2 + tie
            yield part, k, cost
            state = reach[np.arange(len(plan)), cost.argmin(1)]


def votes(codebook: np.ndarray, tolerance: float = VOTE_M) -> np.ndarray:
    """(VOTE_SPEEDS, K, K) float32: how much a vote for code j also counts for code i, at each speed; codebook (K, 2).

    The most likely code is the mode over codes, not over what they do: at walking pace sixty codes all stop the car and
    share the probability of stopping, while one of a few that roll on comes out on top. Multiplying the probabilities
    by this kernel, exp(-(d / tolerance)^2) of the distance d (as in `encode`) between the ends of two codes, puts the
    mode where it belongs (minimum Bayes risk decoding, Kumar and Byrne 2004). What is driven is not the selected code
    itself but the mean of all codes, weighted by probability and by closeness to the selected one: a step of mean shift
    (Fukunaga and Hostetler 1975), which removes the quantisation by the codebook.
    """
    book = codebook.astype(np.float64)
    out = np.empty((VOTE_SPEEDS, len(book), len(book)), np.float32)
    for i in range(VOTE_SPEEDS):
        ends = advance(np.array([[0.0, 0.0, 0.0, i * VOTE_STEP]]), book) * [1.0, 1.0, HEADING_M, SPEED_S]
        out[i] = np.exp(-((ends[:, None] - ends[None]) ** 2).sum(-1) / tolerance**2)
    return out


def controls(future: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """The (N, 8, 2) acceleration m/s^2 and curvature 1/m of plans (N, 8, 3) from speeds (N,); curvature 0 when
    standing."""
    v = np.concatenate([np.asarray(speed, np.float64)[:, None], speeds(future, speed)], 1)
    p = np.concatenate([np.zeros_like(future[:, :1]), future], 1)
    way = np.hypot(*np.moveaxis(np.diff(p[..., :2], axis=1), -1, 0))
    turn = (np.diff(p[..., 2], axis=1) + np.pi) % (2 * np.pi) - np.pi
    curvature = np.where(way > 0.3, turn / np.maximum(way, 0.3), 0.0)
    return np.stack([np.diff(v, axis=1) / STEP_S, np.clip(curvature, -0.25, 0.25)], -1)


def warp(codes: np.ndarray) -> np.ndarray:
    """Map codes (..., 2) to coordinates (..., 2) in which their distances are measured."""
    return np.stack([codes[..., 0] / A_SCALE, np.arcsinh(codes[..., 1] / CURVATURE_SCALE)], -1)


def _disks(pool: np.ndarray, radius: float, limit: int) -> list[int]:
    """k-disk sampling: the first point of the pool, then each next one outside all disks so far, up to `limit`."""
    free = np.ones(len(pool), bool)
    taken: list[int] = []
    at = 0
    while len(taken) < limit and at < len(pool):
        taken.append(at)
        free &= ((pool - pool[at]) ** 2).sum(1) >= radius * radius
        left = np.flatnonzero(free[at + 1 :])
        if not len(left):
            break
        at += 1 + int(left[0])
    return taken


def fit_codebook(futures: np.ndarray, speed: np.ndarray, k: int = 128, seed: int = 0) -> np.ndarray:
    """Fit a codebook (K, 2) of acceleration m/s^2 and curvature 1/m to plans (N, 8, 3) from speeds (N,). Code 0 is (0,
    0).

    k-disk: codes are sampled from the controls of the plans such that no two are closer than a radius, the largest that
    still gives K. So rare manoeuvres get codes, too, whereas k-means would spend all of them on driving straight on.
    Always included: standing and constant speed straight on (one code: 0, 0), braking to -8 m/s^2, curvature +-0.2, and
    a sparse grid where there is no data. The codebook is symmetric: with (a, c) it contains (a, -c); see `mirror`.
    ValueError unless k is even and >= 32.
    """
    if k < 32 or k % 2:
        raise ValueError(f"k: must be an even number >= 32, got {k}")
    rng = np.random.default_rng(seed)
    seen = controls(futures, speed).reshape(-1, 2) if len(futures) else np.zeros((0, 2))
    seen = seen[(seen[:, 0] > -8.5) & (seen[:, 0] < 4.5)]
    seen[:, 1] = np.abs(seen[:, 1])
    seen = seen[rng.permutation(len(seen))[:20_000]]
    a, c = np.meshgrid(np.linspace(-6.0, 3.0, 13), [0.0, 0.004, 0.01, 0.02, 0.035, 0.06, 0.09, 0.13, 0.2])
    grid = np.stack([a.ravel(), c.ravel()], 1)
    grid = grid[rng.permutation(len(grid))]

    straight, n_straight = np.array(_MUST), max(len(_MUST) + 1, k // 6)
    n_straight += n_straight % 2  # leaves an even number: the others come in mirrored pairs
    pool = np.concatenate([straight, seen[seen[:, 1] < 0.003] * [1.0, 0.0], grid[grid[:, 1] == 0], _dense_line(4 * k)])
    straight = _pick(pool, len(straight), n_straight)
    turning = np.array(_MUST_TURN)
    pool = np.concatenate([turning, seen[seen[:, 1] >= 0.003], grid[grid[:, 1] > 0], _dense_line(4 * k, 0.03)])
    turning = _pick(pool, len(turning), (k - n_straight) // 2)
    book = np.concatenate([straight, turning, turning * [1.0, -1.0]]).astype(np.float32)
    assert len(np.unique(book, axis=0)) == k
    return book


def _dense_line(n: int, curvature: float = 0.0) -> np.ndarray:
    return np.stack([np.linspace(-7.9, 3.9, n), np.full(n, curvature)], 1)


def _pick(pool: np.ndarray, must: int, n: int) -> np.ndarray:
    """The first `must` points of the pool and n - must more, far from those and from each other."""
    fixed, rest = pool[:must], pool[must:]
    rest = rest[np.sort(np.unique(np.round(rest, 5), axis=0, return_index=True)[1])]
    far = np.sqrt(((warp(rest)[:, None] - warp(fixed)[None]) ** 2).sum(-1)).min(1)
    lo, hi = 0.0, 8.0
    best = np.zeros(0, np.int64)
    for _ in range(16):  # the same radius keeps points off the fixed codes and off each other
        mid = 0.5 * (lo + hi)
        candidates = np.flatnonzero(far >= max(mid, 1e-6))
        got = _disks(warp(rest[candidates]), mid, n - must) if len(candidates) else []
        if len(got) >= n - must:
            lo, best = mid, candidates[got[: n - must]]
        else:
            hi = mid
    assert len(best) == n - must, "the grid alone holds enough codes"
    return np.concatenate([fixed, rest[best]])


def mirror(codebook: np.ndarray) -> np.ndarray:
    """(K,) int: each code's mirror image (curvature negated). Flipping a plan left to right permutes its tokens
    accordingly."""
    far = ((codebook[:, None] - codebook[None] * [1.0, -1.0]) ** 2 * [1.0, 1e4]).sum(-1)
    twin = far.argmin(1)
    if far[np.arange(len(twin)), twin].max() > 1e-6:
        raise ValueError("codebook: not symmetric; fit it with fit_codebook")
    return twin

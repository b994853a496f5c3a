"""Judge a policy on scenes: drive each one and compute every metric.

The loop, the benchmarks and the public API all score policies through this module. A scene's scores depend only on the
scene and the policy, not on the other scenes, their order or the batch size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from drivefoundry.judge.scores.closed_loop import route_progress, score_rollout
from drivefoundry.judge.scores.two_stage import two_stage
from drivefoundry.judge.stats import mean_interval
from drivefoundry.sim.drive import batches, drive
from drivefoundry.sim.policies import LogReplay, RouteFollower
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.sim.world import with_traffic
from drivefoundry.types import DT, PLAN_DT, Policy, Rollout, Scene, require
from drivefoundry_car.vehicle.embodiment import Embodiment

BATCH = 128
"""Scenes driven at once; bounds the memory of a rollout."""
SECONDS = 18.0
LEAST_S = 1.0
"""Two decisions; the two-stage score is undefined below that."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one policy on S scenes, in the order given."""

    policy: str
    scenes: list[str]
    """S ids."""
    scores: dict[str, np.ndarray]
    """Metric -> (S,) values, as defined in `judge.scores.closed_loop.score_rollout` and `judge.scores.two_stage`."""
    progress: np.ndarray
    """(S,) distance along the route before the first at-fault collision, m."""
    rollouts: list[Rollout]
    """S rollouts of one scene each."""

    @property
    def mean(self) -> dict[str, float]:
        """Metric -> mean over the scenes, for metrics that are finite in all of them."""
        return {name: float(v.mean()) for name, v in self.scores.items() if np.isfinite(v).all()}

    def interval(self, metric: str) -> tuple[float, float, float]:
        """Mean of a metric over the scenes, and the ends of its 95 % bootstrap interval."""
        return mean_interval(self.scores[metric])


def evaluate(
    policy: Policy,
    scenes: list[Scene],
    seconds: float = SECONDS,
    *,
    reference: np.ndarray | None = None,
    two_stages: bool = True,
    body: Embodiment | None = None,
    perception: Perception | None = None,
    on_scenes: Callable[[int], None] | None = None,
) -> Evaluation:
    """Drive every scene among reactive traffic for `seconds`, or until its log ends, and score it.

    reference: (S,) progress that counts as 1, m; defaults to that of the rule-based route follower in these scenes.
    two_stages: also compute EPDMS, which needs scenes of at least 1 s. body: the vehicle to drive; defaults to the one
    that the policy was made for. perception: what the car knows of other road users, see `sim.drive.drive`.
    on_scenes(n): called after each batch with the number of scenes that it drove.

    An exact log replay drives among replayed traffic, and its scores include two more metrics, `tracking_max` and
    `tracking_mean` (see `tracking_error`). ValueError if there are no scenes, or one is too short.
    """
    require(len(scenes) > 0, "scenes: none given; give at least one")
    shortest = min(scenes, key=_seconds)
    least = LEAST_S if two_stages else PLAN_DT
    require(
        min(seconds, _seconds(shortest)) >= least - 1e-9,
        f"scene {shortest.id}: {min(seconds, _seconds(shortest)):.1f} s to drive; must be at least {least} s",
    )
    parts: list[tuple[list[int], Rollout]] = []
    for numbers in batches(scenes, BATCH):
        parts.append((numbers, drive(policy, [scenes[i] for i in numbers], seconds, body=body, perception=perception)))
        if on_scenes:
            on_scenes(len(numbers))
    progress = _joined([(n, {"m": route_progress(r, [scenes[i] for i in n])}) for n, r in parts])["m"]
    if reference is None and not isinstance(policy, RouteFollower):
        reference = yardstick(scenes, seconds)
    goal = progress if reference is None else np.asarray(reference, np.float64)
    require(goal.shape == (len(scenes),), f"reference: must have shape ({len(scenes)},), got {goal.shape}")
    scored = []

    def again(others: list[Scene], s: float) -> Rollout:
        return drive(_off_the_log(policy), others, s, body=body, perception=perception)

    for numbers, rollout in parts:
        some = [scenes[i] for i in numbers]
        one = score_rollout(rollout, some, goal[numbers])
        if two_stages:
            one |= two_stage(rollout, some, again, BATCH)
        scored.append((numbers, one))
    scores = _joined(scored)
    if isinstance(policy, LogReplay) and policy.exact:
        scores |= tracking_error(scenes, seconds)
    rollouts = dict(pair for numbers, r in parts for pair in zip(numbers, map(r.of, range(len(numbers))), strict=True))
    return Evaluation(policy.name, [s.id for s in scenes], scores, progress, [rollouts[i] for i in range(len(scenes))])


def yardstick(scenes: list[Scene], seconds: float = SECONDS) -> np.ndarray:
    """(S,) distance that the rule-based route follower drives along each route, m: the progress that counts as 1."""
    pieces = []
    for numbers in batches(scenes, BATCH):
        some = [scenes[i] for i in numbers]
        pieces.append((numbers, {"m": route_progress(drive(RouteFollower(), some, seconds), some)}))
    return _joined(pieces)["m"]


def tracking_error(scenes: list[Scene], seconds: float = SECONDS) -> dict[str, np.ndarray]:
    """Deviation of a simulated car from the log that it tracks: what the vehicle dynamics cannot follow.

    Returns "tracking_max" and "tracking_mean" (S,), m, over the steps of each scene. Exact replay is not affected.
    """
    pieces = []
    for numbers in batches(scenes, BATCH):
        some = [scenes[i] for i in numbers]
        replay = with_traffic("replay")
        logged, tracked = (drive(LogReplay(exact=e), some, seconds, simulator=replay) for e in (True, False))
        off = np.hypot(*(logged.ego[..., :2] - tracked.ego[..., :2]).transpose(2, 0, 1))
        # Row by row: the rounding of a padded row's sum would depend on the length of the padding.
        of_each = [row[:n] for row, n in zip(off, logged.lengths, strict=True)]
        found = {"tracking_max": [o.max() for o in of_each], "tracking_mean": [o.mean() for o in of_each]}
        pieces.append((numbers, {name: np.array(values) for name, values in found.items()}))
    return _joined(pieces)


def _off_the_log(policy: Policy) -> Policy:
    """The policy to drive scenes that begin away from the log: log replay must steer back to it."""
    return LogReplay(exact=False) if isinstance(policy, LogReplay) else policy


def _seconds(scene: Scene) -> float:
    return (scene.valid.shape[1] - 1 - scene.start) * DT


def _joined(pieces: list[tuple[list[int], dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    """Concatenate batches of (scene indices, name -> values (n,)) into name -> values (S,) in scene order."""
    order = np.argsort(np.concatenate([numbers for numbers, _ in pieces]))
    return {name: np.concatenate([values[name] for _, values in pieces])[order] for name in pieces[0][1]}

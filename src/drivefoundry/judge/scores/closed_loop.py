"""Score whole closed-loop drives: collisions, rules, comfort, PDMS and CARLA driving scores of each scene.

A drive ends with its first at-fault collision, as a real drive would: progress and distance stop there, and nothing
after it counts. Everything is computed from the simulated motion, with the terms of the PDM score taken over the whole
drive.
"""

from __future__ import annotations

import numpy as np

from drivefoundry.judge.scores.comfort import SAMPLES, comfort
from drivefoundry.judge.scores.motion import FIELDS, AgentTracks, judge_motions
from drivefoundry.judge.scores.pdm import pdms, progress_ratio
from drivefoundry.judge.scores.surroundings import signal_states, surroundings
from drivefoundry.types import DT, Rollout, Scene, require

TIMES = ("collision_at", "at_fault_at", "off_road_at", "red_light_at")
COMFORT_EVERY = 10
"""Comfort is judged over 4 s windows; one starts every second."""
FACTOR_20 = {"hit_pedestrians": 0.5, "hit_vehicles": 0.6, "hit_static": 0.65, "red_lights": 0.7}
COST_21 = {"hit_pedestrians": 1.0, "hit_vehicles": 0.7, "hit_static": 0.6, "red_lights": 0.4}
"""CARLA's penalties: in leaderboard 2.0 each infraction multiplies, in 2.1 costs add up. Our maps have no stop
signs."""


def score_rollout(rollout: Rollout, scenes: list[Scene], reference_progress: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics (S,) float64 of a rollout of `scenes` (in its order), by name.

    reference_progress: (S,) the expert's progress, m (see `route_progress`).

    collision: any contact with an agent that did not overlap at the start; at_fault_collision: by nuPlan's rules;
    off_road: a corner was more than 0.2 m off the drivable area, on ground known not to be road; red_light: ran one;
    ttc_ok: time to collision never below 1 s; comfort: share of 4 s windows within bounds; progress: route completion
    as a share of the expert's, at most 1 (and 1 if the expert makes 5 m or less); pdms: PDM score of NAVSIM v1 with NC,
    DAC, TTC, EP = progress and C = comfort over the whole drive; driving_score_20 and driving_score_21: route
    completion x penalty of CARLA's leaderboards (only 2.1 subtracts off-road distance), where collisions count once per
    agent, and not at all if the ego is standing or hit from behind; off_road_share: by distance; unmapped_share: by
    distance, on ground that the map does not classify; stalled: share of time standing; collision_at, at_fault_at,
    off_road_at, red_light_at: time of the first one, s, infinite if none; first_infraction: the earliest of the last
    three; progress_m and distance: m; end: time until the drive ended, s.
    """
    m = measure(rollout, scenes)
    require(
        np.shape(reference_progress) == (len(scenes),),
        f"reference_progress: must have shape ({len(scenes)},), one per scene, got {np.shape(reference_progress)}",
    )
    progress = progress_ratio(m["progress"], np.asarray(reference_progress, np.float64))
    share = np.where(m["distance"] > 0, m["off_road_distance"] / np.maximum(m["distance"], 1e-9), 1.0 - m["DAC"])
    comfortable = _comfort_share(rollout.ego, m["end"])
    infractions = np.stack([m[name] for name in TIMES[1:]])
    return {
        "collision": (m["collision_at"] < np.inf).astype(float),
        "at_fault_collision": (m["at_fault_at"] < np.inf).astype(float),
        "off_road": 1.0 - m["DAC"],
        "red_light": 1.0 - m["TLC"],
        "ttc_ok": m["TTC"],
        "comfort": comfortable,
        "progress": progress,
        "pdms": pdms({**m, "EP": progress, "C": comfortable}),
        "driving_score_20": driving_score_20(progress, m),
        "driving_score_21": driving_score_21(progress, m, share),
        "off_road_share": share,
        "unmapped_share": m["unmapped_distance"] / np.maximum(m["distance"], 1e-9),
        "stalled": m["standing"],
        "first_infraction": infractions.min(0),
        **{name: m[name] for name in TIMES},
        "progress_m": m["progress"],
        "distance": m["distance"],
        "end": m["end"],
    }


def route_progress(rollout: Rollout, scenes: list[Scene]) -> np.ndarray:
    """(S,) distance of each drive along its route before its first at-fault collision, m."""
    return measure(rollout, scenes)["progress"]


def driving_score_20(completion: np.ndarray, counts: dict[str, np.ndarray]) -> np.ndarray:
    """CARLA leaderboard 2.0: completion x product of a factor per infraction."""
    penalty = np.ones_like(completion)
    for name, factor in FACTOR_20.items():
        penalty = penalty * factor ** counts[name]
    return completion * penalty


def driving_score_21(completion: np.ndarray, counts: dict[str, np.ndarray], off_road: np.ndarray) -> np.ndarray:
    """CARLA leaderboard 2.1: completion x (1 - off-road share) / (1 + sum of costs)."""
    cost = sum(c * counts[name] for name, c in COST_21.items())
    return completion * (1.0 - off_road) / (1.0 + cost)


def measure(rollout: Rollout, scenes: list[Scene], stop: bool = True) -> dict[str, np.ndarray]:
    """Events by name (FIELDS of `.motion`), (S,) each; with `stop`, a drive ends at its first at-fault collision."""
    require(
        rollout.scenes == [s.id for s in scenes],
        "scenes: not the rollout's scenes in the rollout's order; pass the list that was driven",
    )
    steps = rollout.ego.shape[1]
    n, a = rollout.agents_valid.shape[:2]
    sizes, kinds = np.ones((n, a, 2)), np.zeros((n, a), np.int64)
    for i, scene in enumerate(scenes):
        k = len(scene.kind)
        sizes[i, :k], kinds[i, :k] = scene.size[:, :2], scene.kind
    traffic = AgentTracks(
        np.ascontiguousarray(rollout.agents, np.float64),
        np.ascontiguousarray(rollout.agents_valid),
        sizes,
        kinds,
        signal_states(scenes, np.array([s.start for s in scenes]), steps),
    )
    ego_size = np.array([s.size[s.ego, :2] for s in scenes], np.float64)
    out = judge_motions(rollout.ego[:, None], ego_size, traffic, surroundings(scenes), stop, rollout.lengths)[:, 0]
    return {name: out[:, i] for i, name in enumerate(FIELDS)}


def _comfort_share(ego: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(S,) share of comfortable windows of drives (S, T, 6) that ended at `end` (S,) s; 1 if no window is complete."""
    if ego.shape[1] < SAMPLES:
        return np.ones(len(ego))
    first = np.arange(0, ego.shape[1] - SAMPLES + 1, COMFORT_EVERY)
    ok = comfort(ego[:, first[:, None] + np.arange(SAMPLES)])[..., 0]
    counts = (first + SAMPLES - 1)[None] <= np.round(end / DT)[:, None]
    return np.where(counts.any(1), (ok * counts).sum(1) / np.maximum(counts.sum(1), 1), 1.0)

"""Speed of the judge: proposals per second with the full PDM score, and of its parts; prints one line of JSON.

    python -m benchmarks.judge [--quick]

64 scenes of up to 32 agents on curved four-lane roads that cross, 256 proposals each: 4 s of LQR-tracked bicycle at
10 Hz, then every term of PDMS and EPDMS. Best of several, on one thread and on all; checks that scores do not depend on
the number of threads. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numba
import numpy as np

from benchmarks.figures import report
from drivefoundry.judge.scores.comfort import comfort
from drivefoundry.judge.scores.motion import judge_motions
from drivefoundry.judge.scores.pdm import prepare, score, simulate
from drivefoundry.roadmap import lane_polygon, make_map, offset_line
from drivefoundry.types import SIGNAL_GREEN, SIGNAL_RED, RoadMap, Scene

TARGET = 50_000
"""Proposals per second on two cores."""
RL_TARGET = 20_000
"""The same in batches as in reinforcement learning: 32 situations with 8 plans each, prepared for each batch."""
START, STEPS = 15, 75
LANE = 3.2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer scenes, proposals and repetitions")
    asked = parser.parse_args()
    scenes, each, times = (8, 32, 2) if asked.quick else (64, 256, 7)
    rng = np.random.default_rng(0)
    maps = [crossing(rng) for _ in range(min(8, scenes))]
    made = [situation(maps[i % len(maps)], rng, f"scene{i}") for i in range(scenes)]
    plans = np.stack([proposals(s, rng, each) for s in made])
    figures = {"scenes": scenes, "proposals_each": each, "agents": int(np.mean([len(s.kind) for s in made]))}
    figures |= measure(made, plans, times)
    differs = figures.pop("differs")
    targets = {
        "proposals_per_s": (figures["proposals_per_s"], TARGET, figures["proposals_per_s"] >= TARGET),
        "rl_plans_per_s": (figures["rl_plans_per_s"], RL_TARGET, figures["rl_plans_per_s"] >= RL_TARGET),
        "same_on_any_threads": (differs, 0.0, differs == 0.0),
    }
    print(report(figures, targets), flush=True)
    return 0 if all(met for *_, met in targets.values()) else 1


def measure(scenes: list[Scene], plans: np.ndarray, times: int) -> dict[str, float]:
    """Rates of the whole on one thread and on all, and microseconds of its parts on one."""
    at = np.full(len(scenes), START)
    situations, count = prepare(scenes, at), plans.shape[0] * plans.shape[1]
    few, small = scenes[:32], plans[:32, :8]
    rates = {}
    every = numba.get_num_threads()
    scores = {}
    for threads in (1, every):
        numba.set_num_threads(threads)
        scores[threads] = score(situations, plans)  # also compiles
        rates[threads] = count / best(lambda: score(situations, plans), times)
    states = simulate(situations.start, plans)
    batch = small.shape[0] * small.shape[1]
    rl = batch / best(lambda: score(prepare(few, at[: len(few)]), small), 4 * times)
    numba.set_num_threads(1)
    judging = lambda: judge_motions(states, situations.size, situations.traffic, situations.where, False)  # noqa: E731
    whole = best(lambda: score(situations, plans), times, time.thread_time)
    parts = {
        "simulate": best(lambda: simulate(situations.start, plans), times),
        "judge": best(judging, times),
        "comfort": best(lambda: comfort(states, situations.past, situations.past_n), times),
    }
    differs = max(float(np.abs(scores[1][k] - scores[every][k]).max()) for k in scores[1])
    return {
        "proposals_per_s_one_thread": rates[1],
        "proposals_per_s": rates[every],
        "threads": every,
        "cpu_us_a_proposal": 1e6 * whole / count,
        "rl_plans_per_s": rl,
        **{f"{name}_us_one_thread": 1e6 * seconds / count for name, seconds in parts.items()},
        "prepare_us_a_scene": 1e6 * best(lambda: prepare(scenes, at), times) / len(scenes),
        "mean_epdms": float(scores[1]["EPDMS"].mean()),
        "differs": differs,
    }


def best(do: Callable[[], object], times: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the fastest of several runs."""
    seconds = []
    for _ in range(times):
        begun = clock()
        do()
        seconds.append(clock() - begun)
    return min(seconds)


def crossing(rng: np.random.Generator) -> RoadMap:
    """Two curved roads, two lanes in each direction, that cross at the origin, with stop lines."""
    lanes, signals, stops, heads = [], [], [], []
    for road in range(2):
        x = np.arange(-160.0, 161.0, 4.0)
        axis = np.stack([x, 0.0008 * rng.uniform(-1, 1) * x * x], 1)
        turn = np.pi / 2 * road + rng.uniform(-0.2, 0.2)
        axis = axis @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        for k in (-1.5, -0.5, 0.5, 1.5):
            line = offset_line(axis, k * LANE)[:: 1 if k < 0 else -1]
            before = line[: len(line) // 2 - 3]  # up to 12 m before the crossing
            heading = before[-1] - before[-2]
            heading /= np.hypot(*heading)
            left = np.array([-heading[1], heading[0]]) * LANE / 2
            signals += [len(stops), -1]
            stops.append([*(before[-1] - left), *(before[-1] + left)])
            heads.append([*line[len(line) // 2], 5.0, np.arctan2(-heading[1], -heading[0])])
            lanes += [before, line[len(before) - 1 :]]
    road = [lane_polygon(line, LANE) for line in lanes]
    return make_map(
        lanes=lanes, lane_width=[LANE] * len(lanes), lane_signal=signals, drivable=road, stop_lines=stops,
        signal_heads=heads,
    )  # fmt: skip


def along(line: np.ndarray, s0: float, speed: float) -> np.ndarray:
    """A track (STEPS, 4) at constant speed on a line, s0 m along it at START."""
    s = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    at = np.clip(s0 + speed * 0.1 * (np.arange(STEPS) - START), 0.0, s[-1] - 0.1)
    x, y = np.interp(at, s, line[:, 0]), np.interp(at, s, line[:, 1])
    ahead = np.minimum(at + 0.1, s[-1])
    yaw = np.arctan2(np.interp(ahead, s, line[:, 1]) - y, np.interp(ahead, s, line[:, 0]) - x)
    return np.stack([x, y, yaw, np.where(np.diff(at, append=at[-1]) > 0, speed, 0.0)], 1).astype(np.float32)


def situation(road_map: RoadMap, rng: np.random.Generator, name: str) -> Scene:
    """An ego and 16 to 31 others on the lanes of a crossing."""
    ways = [np.concatenate([road_map.lanes[i], road_map.lanes[i + 1][1:]]) for i in range(0, len(road_map.lanes), 2)]
    mine = ways[rng.integers(len(ways))]
    tracks = [along(mine, rng.uniform(60, 130), rng.uniform(3, 13))]
    for _ in range(rng.integers(16, 32)):
        tracks.append(along(ways[rng.integers(len(ways))], rng.uniform(20, 280), rng.uniform(0, 13)))
    n = len(tracks)
    state = np.where(rng.random(len(road_map.stop_lines)) < 0.5, SIGNAL_RED, SIGNAL_GREEN).astype(np.uint8)
    return Scene(
        id=name, source="benchmark", place="crossing", map=road_map, tracks=np.stack(tracks),
        valid=np.ones((n, STEPS), bool), size=np.tile(np.array([4.6, 1.9, 1.6], np.float32), (n, 1)),
        kind=np.zeros(n, np.int64), ego=0, start=START, route=mine, route_speed=np.full(len(mine), 13.9),
        signals=np.repeat(state[:, None], STEPS, 1),
    ).validate()  # fmt: skip


def proposals(scene: Scene, rng: np.random.Generator, n: int) -> np.ndarray:
    """Plans (n, 8, 3): steady changes of speed, curvature and lateral offset around the ego's own motion."""
    t = np.arange(1, 9) * 0.5
    speed = scene.tracks[0, START, 3]
    accel, bend = rng.uniform(-4, 2, (n, 1)), rng.normal(0, 0.01, (n, 1))
    stop = np.minimum(t, np.where(accel < 0, speed / np.maximum(-accel, 1e-6), np.inf))
    s = speed * stop + 0.5 * accel * stop**2
    out = np.zeros((n, 8, 3))
    out[..., 0] = s * np.sinc(bend * s / 2 / np.pi) * np.cos(bend * s / 2)
    out[..., 1] = s * np.sinc(bend * s / 2 / np.pi) * np.sin(bend * s / 2) + rng.normal(0, 1, (n, 1)) * np.minimum(
        t / 3, 1
    )
    out[..., 2] = bend * s
    return out


if __name__ == "__main__":
    sys.exit(main())

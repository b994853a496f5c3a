"""Steps per second of highway-env on one core: its highway and its intersection, observed as numbers or as a picture.

    python highway.py SECONDS numbers|pictures

Set up like the simulator it is compared with: a step is 0.1 s with a decision at each step, and there are 32 vehicles
on the highway (its intersection has as many as it spawns). The picture is its own grey bird's-eye view, 256x128, one
per step. The ego idles or takes no action; resets are not counted.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import os
import sys
import time
import warnings
from importlib.metadata import version

os.environ["SDL_VIDEODRIVER"] = "dummy"
warnings.filterwarnings("ignore")
import gymnasium  # noqa: E402
import highway_env  # noqa: E402

TENTH = dict(simulation_frequency=10, policy_frequency=10)
GREY = dict(type="GrayscaleObservation", observation_shape=(256, 128), stack_size=1, weights=[0.2989, 0.5870, 0.1140])
RUNS = {
    "numbers": {
        "highway": ("highway-v0", TENTH | dict(vehicles_count=31)),
        "highway_intersection": ("intersection-v1", TENTH),
    },
    "pictures": {
        "highway_pictures": ("highway-v0", TENTH | dict(vehicles_count=31, observation=GREY)),
        "highway_intersection_pictures": ("intersection-v1", TENTH | dict(observation=GREY)),
    },
}


def rate(name: str, config: dict, seconds: float) -> tuple[float, float]:
    """Steps per second and CPU seconds of one step, best of three runs; resets are not counted."""
    env = gymnasium.make(name, config=config, disable_env_checker=True)
    env.reset(seed=0)
    action = 1 if isinstance(env.action_space, gymnasium.spaces.Discrete) else [0.0, 0.0]
    runs = []
    for _ in range(3):
        steps, spent, busy = 0, 0.0, 0.0
        while spent < seconds / 3:
            begun, worked = time.perf_counter(), time.process_time()
            *_, over, cut, _ = env.step(action)
            spent, busy = spent + time.perf_counter() - begun, busy + time.process_time() - worked
            steps += 1
            if over or cut:
                env.reset()
        runs.append((steps / spent, busy / steps))
    env.close()
    return max(run[0] for run in runs), min(run[1] for run in runs)


def main() -> None:
    gymnasium.register_envs(highway_env)
    figures = {as_: rate(name, config, float(sys.argv[1])) for as_, (name, config) in RUNS[sys.argv[2]].items()}
    print(json.dumps({"figures": figures, "versions": {"highway-env": version("highway-env")}}))


if __name__ == "__main__":
    main()

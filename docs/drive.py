"""Redraw docs/images/city.webp: 24 s of one of many cars that the rule-based driver drives at once in a live city.

.venv/bin/python docs/drive.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

from drivefoundry.fleet.places import LONG_DRIVES, PlaceNet, place_net
from drivefoundry.render.rig import View
from drivefoundry.sim.policies import RouteFollower
from drivefoundry.trials.live_city import CityDrive, drive_city, film
from drivefoundry.types import DT

SECONDS, EVERY = 24.0, 1
"""Length of the film, s, and steps between pictures."""
VIEW = View().scaled(544, 272)
STRIDE = 5


def liveliest(made: CityDrive, net: PlaceNet) -> tuple[int, float]:
    """Car and start time, s, with the most activity: roundabouts, lights, turns and road users around, and little
    standing."""
    steps, points = round(SECONDS / DT), net.map.lanes.points[:, :2]
    best, found = -np.inf, (0, 0.0)
    for car, scene in enumerate(made.scenes):
        ego, n = made.rollout.ego[car, ::STRIDE], len(scene.kind)
        nearest = [int(np.argmin(((points - xy) ** 2).sum(1))) for xy in ego[:, :2]]
        lanes = np.searchsorted(net.map.lanes.offsets, nearest, "right") - 1
        round_ = np.array([net.edge[lane][:1] == "o" for lane in lanes])
        lights = net.map.lane_signal[lanes]
        apart = np.hypot(*(made.rollout.agents[car, :n, ::STRIDE, :2] - ego[:, :2]).transpose(2, 0, 1))
        near = ((apart < 40.0) & made.rollout.agents_valid[car, :n, ::STRIDE]).sum(0)
        for first in range(0, len(ego) - steps // STRIDE, 4):
            part = slice(first, first + steps // STRIDE)
            turned = np.abs(np.diff(np.unwrap(ego[part, 2]))).sum()
            score = 4.0 * round_[part].any() + 2.0 * min(2, len(set(lights[part]) - {-1})) + min(turned, 4.0)
            score += 0.15 * near[part].mean() + 0.04 * np.clip(ego[part, 3], 0, 6).sum()
            if score > best:
                best, found = score, (car, first * STRIDE * DT)
    return found


if __name__ == "__main__":
    made = drive_city(RouteFollower(), LONG_DRIVES, 1, cars=24, others=200, people=120, seconds=150.0)
    frames = film(made, *liveliest(made, place_net(LONG_DRIVES)), SECONDS, VIEW, EVERY)
    first, *others = [Image.fromarray(f) for f in frames]
    first.save(
        Path(__file__).parent / "images" / "city.webp", save_all=True, append_images=others,
        duration=round(1000 * EVERY * DT), loop=0, quality=40, method=4,
    )  # fmt: skip

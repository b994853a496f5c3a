"""Redraw docs/images/wall.png: one moment of the embedded city as every camera, hour and weather shows it.

.venv/bin/python docs/wall.py
"""

from pathlib import Path

import numpy as np

from drivefoundry.fleet.places import place_map
from drivefoundry.fleet.record import situations
from drivefoundry.fleet.sumo.city import run_city
from drivefoundry.render.view import wall


def busiest(place: str = "place_a", seed: int = 7):
    """The situation with a moving ego and the most road users close ahead of it at the start."""
    log = run_city(place, seed, 40.0, 16, 130, 80)
    best, most = None, -1
    for scene in situations(log, place_map(place), None, 10.0):
        now = scene.tracks[:, scene.start]
        d = now[:, :2] - now[scene.ego, :2]
        yaw = now[scene.ego, 2]
        ahead, left = d @ (np.cos(yaw), np.sin(yaw)), d @ (-np.sin(yaw), np.cos(yaw))
        near = scene.valid[:, scene.start] & (ahead > 8) & (ahead < 45) & (np.abs(left) < 0.7 * ahead)
        if now[scene.ego, 3] > 2.0 and near.sum() + 3 * len(set(scene.kind[near])) > most:
            best, most = scene, near.sum() + 3 * len(set(scene.kind[near]))
    return best


if __name__ == "__main__":
    picture = wall(busiest())
    picture.save(Path(__file__).parent / "images" / "wall.png", optimize=True)

"""Gymnasium environments by name: `drivefoundry/City-v0`, a car in the embedded city (`sim.adapters`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from drivefoundry.fleet.places import place_map
from drivefoundry.fleet.record import situations
from drivefoundry.fleet.sumo.city import run_city
from drivefoundry.sim.adapters.gym import Driving
from drivefoundry.sim.adapters.single import DrivingOne
from drivefoundry.types import Scene, require

SECONDS = 20.0
"""Length of a scene's log including its history, s."""
CARS = 40
"""Most cars of one city that become egos."""
TRAFFIC, PEOPLE = 60, 40


@lru_cache(maxsize=4)
def city_scenes(place: str = "place_a", seed: int = 1, count: int = 16) -> tuple[Scene, ...]:
    """Simulate a city and cut `count` scenes of 20 s from it, deterministically."""
    require(count > 0, f"scenes: {count}; give at least one")
    cars = min(count, CARS)
    log = run_city(place, seed, SECONDS * -(-count // cars), cars, TRAFFIC, PEOPLE)
    found = situations(log, place_map(place), seconds=SECONDS)
    require(len(found) >= count, f"{place}: seed {seed} gives {len(found)} scenes, fewer than the {count} requested")
    return tuple(found[:count])


class City(DrivingOne):
    """A car in scenes of the embedded city, or in `scenes` if given. See `city_scenes`, `DrivingOne`."""

    def __init__(
        self,
        scenes: Sequence[Scene] | None = None,
        *,
        place: str = "place_a",
        seed: int = 1,
        count: int = 16,
        render_mode: str | None = None,
        **options: Any,
    ):
        super().__init__(
            city_scenes(place, seed, count) if scenes is None else scenes, render_mode=render_mode, **options
        )


def cities(
    num_envs: int = 1,
    scenes: Sequence[Scene] | None = None,
    *,
    place: str = "place_a",
    seed: int = 1,
    **options: Any,
) -> Driving:
    """A vector environment of `num_envs` scenes, the first ones of `scenes` if given."""
    some = list(city_scenes(place, seed, num_envs) if scenes is None else scenes)
    require(len(some) >= num_envs, f"scenes: {len(some)} for {num_envs} environments; give as many")
    return Driving(some[:num_envs], **{"action": "normalised", **options})

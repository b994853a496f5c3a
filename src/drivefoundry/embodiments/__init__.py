"""Vehicles that recipes can name: one file each, or a .json file provided by the user."""

from __future__ import annotations

from pathlib import Path

from drivefoundry.embodiments import car
from drivefoundry.types import require
from drivefoundry_car.documents import read_bytes
from drivefoundry_car.vehicle.embodiment import Embodiment, from_json

EMBODIMENTS = {car.EMBODIMENT.name: car.EMBODIMENT}


def named(name: str) -> Embodiment:
    """An embodiment by name, or from a .json file (as `Embodiment.to_dict` writes it). ValueError lists the known
    names, or names the invalid field of the file."""
    if name.endswith(".json"):
        return from_json(read_bytes(Path(name)), name)
    require(name in EMBODIMENTS, f"{name!r} is not one of {', '.join(EMBODIMENTS)}, nor a .json file")
    return EMBODIMENTS[name]

"""The vehicles that recipes can be for: one file each, or a .json file of the user's own."""

from __future__ import annotations

from pathlib import Path

from drivefoundry.embodiments import car
from drivefoundry.types import require
from drivefoundry_car.documents import read_bytes
from drivefoundry_car.vehicle.embodiment import Embodiment, from_json

EMBODIMENTS = {car.EMBODIMENT.name: car.EMBODIMENT}


def named(name: str) -> Embodiment:
    """The embodiment of that name, or in the .json file of that name (as `Embodiment.to_dict` writes it). ValueError
    names the known ones, or the file's field that is wrong."""
    if name.endswith(".json"):
        return from_json(read_bytes(Path(name)), name)
    require(name in EMBODIMENTS, f"{name!r} is not one of {', '.join(EMBODIMENTS)}, nor a .json file")
    return EMBODIMENTS[name]

"""`city`: drive many cars of a live city at once; faults per kilometre and a film."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import Creates, Quiet
from drivefoundry.cli.verbs import Outcome


@dataclass(frozen=True)
class CityOptions(Quiet, Creates):
    """What `city` takes."""

    who: Annotated[tyro.conf.Positional[str], arg(metavar="DRIVER")]
    """rules, constant-velocity, or a run directory, an engine or a checkpoint directory."""
    place: Annotated[str, arg(metavar="NAME")] = "place_e"
    """A city that comes with the package."""
    seed: int = 1
    """Random seed of the city."""
    cars: int = 24
    """Number of cars that the driver drives."""
    others: int = 200
    """Vehicles that SUMO drives."""
    people: int = 80
    """Number of pedestrians."""
    seconds: float = 120.0
    """Seconds to drive."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("city")
    """Directory for city.json (what each car did) and city.mp4."""


def run(options: CityOptions) -> Outcome:
    """`city`: faults per kilometre of many cars at once."""
    if min(options.cars, options.seconds) < 1 or min(options.others, options.people, options.seed) < 0:
        raise ValueError("city: needs at least one car and one second, and no negative numbers")
    files = [options.out / "city.json", options.out / "city.mp4"]
    if options.dry_run:
        text = (
            f"would drive {options.cars} cars of {options.who} in {options.place} and write {files[0]} and {files[1]}"
        )
        return Outcome(text, {"would_write": files})
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from drivefoundry import outputs
    from drivefoundry.trials import live_city

    outputs.check_among(options.out, live_city.FILES)
    made = live_city.drives(
        options.who, options.place, options.seed, options.cars, options.others, options.people, options.seconds
    )
    live_city.write(made, options.out)
    return Outcome(f"{live_city.table(made)}\n{files[1]}", json.loads(files[0].read_text()) | {"film": files[1]})

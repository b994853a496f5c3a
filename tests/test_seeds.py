"""Seeds are derived by purpose."""

from dataclasses import fields, is_dataclass, replace
from itertools import product

import pytest

from drivefoundry.fleet.config import FleetConfig
from drivefoundry.recipes import named
from drivefoundry.seeds import MAX_SEED, derive
from drivefoundry.stages import record
from drivefoundry_car.vehicle.embodiment import CAR


def test_purposes_turns_and_neighbouring_seeds_have_seeds_of_their_own():
    uses = list(product(range(50), ("fleet", "evaluation", "validation", "outings", "sft"), range(1, 21)))
    seeds = {derive(*use) for use in uses}
    assert len(seeds) == len(uses)
    assert all(0 <= seed <= MAX_SEED for seed in seeds), "as SUMO and torch take them"
    assert max(seeds) > 2_000_000_000, "the last 7 % too"
    assert derive(1, "sft", 2) == 1400311820, "another value would change every run"


def with_seed(config, seed):
    """The configuration with every `seed` in it replaced, and how many there were."""
    changes, count = {}, 0
    for f in fields(config):
        value = getattr(config, f.name)
        if f.name == "seed":
            changes[f.name], count = seed, count + 1
        elif is_dataclass(value):
            changes[f.name], n = with_seed(value, seed)
            count += n
    return replace(config, **changes), count


def test_every_configuration_takes_every_derived_seed():
    recipe, count = with_seed(named("default"), MAX_SEED)
    assert count >= 8
    recipe.validate()
    with pytest.raises(ValueError, match="seed: must be from 0 to"):
        replace(recipe, seed=MAX_SEED + 1).validate()


def test_no_two_recordings_of_a_run_share_a_city(monkeypatch):
    asked = []
    monkeypatch.setattr(record, "pmap", lambda function, cities, **options: asked.extend(cities) or [])
    fleet = FleetConfig(places=("place_a",), seed=3)
    for purpose in ("fleet", "evaluation", "validation"):
        record._lives(fleet, CAR, fleet.places, 60.0, purpose)
    for turn in range(2, 30):
        record._lives(fleet, CAR, fleet.places, 60.0, "outings", turn)
    assert len({city.seed for city in asked}) == len(asked) == 31

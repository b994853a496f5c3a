"""Seeds are derived by purpose."""

from itertools import product

from drivefoundry.fleet.config import FleetConfig
from drivefoundry.seeds import derive
from drivefoundry.stages import record
from drivefoundry_car.vehicle.embodiment import CAR


def test_purposes_turns_and_neighbouring_seeds_have_seeds_of_their_own():
    uses = list(product(range(50), ("fleet", "evaluation", "validation", "outings", "sft"), range(1, 21)))
    seeds = {derive(*use) for use in uses}
    assert len(seeds) == len(uses)
    assert all(0 <= seed < 2**31 for seed in seeds), "as SUMO and torch take them"
    assert derive(1, "sft", 2) == 1400311820, "another value would change every run"


def test_no_two_recordings_of_a_run_share_a_city(monkeypatch):
    asked = []
    monkeypatch.setattr(record, "pmap", lambda function, cities, **options: asked.extend(cities) or [])
    fleet = FleetConfig(places=("place_a",), seed=3)
    for purpose in ("fleet", "evaluation", "validation"):
        record._lives(fleet, CAR, fleet.places, 60.0, purpose)
    for turn in range(2, 30):
        record._lives(fleet, CAR, fleet.places, 60.0, "outings", turn)
    assert len({city.seed for city in asked}) == len(asked) == 31

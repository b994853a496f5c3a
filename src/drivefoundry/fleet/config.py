"""Configuration of the embedded fleet."""

from __future__ import annotations

from dataclasses import dataclass

from drivefoundry.bounds import distinct, in_range, one_of
from drivefoundry.seeds import MAX_SEED
from drivefoundry.types import require


@dataclass(frozen=True)
class FleetConfig:
    """The embedded fleet: SUMO cities, numbers of vehicles and durations."""

    places: tuple[str, ...] = ("place_a", "place_b", "place_c")
    held_out: str = "place_d"
    val: str = "place_e"
    """Place of the validation samples for training."""
    val_cars: int = 4
    val_seconds: int = 60
    cars: int = 24
    """Recording cars per place."""
    seconds: int = 140
    """Recorded driving per car, s. Less than a clip (20 s) gives no clips."""
    held_out_seconds: int = 200
    traffic: int = 65
    """Other vehicles per place."""
    pedestrians: int = 100
    seed: int = 0
    outings: int = 320
    """Number of situations that the last release drives under a safety driver in each later turn."""
    outing_seconds: float = 18.0
    """Duration of each, s; curation drops clips under 6 s."""

    def validate(self) -> FleetConfig:
        from drivefoundry.fleet.places import PLACES

        in_range(self, 1, 1000, "cars", "val_cars")
        in_range(self, 20, 3600, "seconds", "held_out_seconds", "val_seconds")
        in_range(self, 0, 10_000, "traffic", "pedestrians")
        in_range(self, 0, MAX_SEED, "seed")
        in_range(self, 1, 100_000, "outings")
        in_range(self, 6, 600, "outing_seconds")
        distinct(self, PLACES, "places")
        one_of(self, PLACES, "held_out", "val")
        apart = self.held_out not in self.places
        require(apart, f"held_out: {self.held_out!r} is one of fleet.places; hold out another")
        apart = self.val not in (*self.places, self.held_out)
        require(apart, f"val: {self.val!r} is trained on or examined; name another")
        return self

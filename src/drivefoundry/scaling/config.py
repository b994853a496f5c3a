"""Configuration of the grid of trainings from which the scaling law is fitted."""

from __future__ import annotations

from dataclasses import dataclass

from drivefoundry.bounds import distinct, in_range, positive
from drivefoundry.seeds import MAX_SEED
from drivefoundry.types import require


@dataclass(frozen=True)
class GridConfig:
    """A grid of model sizes and amounts of data; each model sees its samples once."""

    sizes: tuple[str, ...] = ("0.1M", "0.3M", "1M", "4M", "16M")
    samples: tuple[int, ...] = (1_250, 2_500, 5_000, 10_000, 20_000)
    batch: int = 64
    lr: float = 4e-3
    """Peak learning rate of the 4M model; others multiply it by the square root of 320 / width."""
    scenes: int = 64
    """Number of held-out scenes that each model drives."""
    seed: int = 0

    def validate(self) -> GridConfig:
        from drivefoundry.model.presets import FROM_NOTHING

        distinct(self, FROM_NOTHING, "sizes")
        distinct(self, None, "samples")
        in_range(self, 1, 65_536, "batch")
        positive(self, 1, "lr")
        in_range(self, 1, 1_000_000, "scenes")
        in_range(self, 0, MAX_SEED, "seed")
        least, most = self.batch, 1_000_000_000
        for n in self.samples:
            require(least <= n <= most, f"samples: each must be from batch ({least}) to {most:,}, got {n:,}")
        return self

"""Configuration of the step from clips to training samples."""

from __future__ import annotations

from dataclasses import dataclass

from drivefoundry.bounds import in_range, positive


@dataclass(frozen=True)
class CurateConfig:
    duplicate_similarity: float = 0.92
    """Cosine similarity above which one of two clips is dropped as a duplicate."""
    phases: int = 2
    """Number of decision grids labelled per clip, shifted within the 0.5 s between decisions."""

    def validate(self) -> CurateConfig:
        positive(self, 1, "duplicate_similarity")
        in_range(self, 1, 5, "phases")
        return self

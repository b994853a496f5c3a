"""Configuration of the judge: scenes, durations and release gates."""

from __future__ import annotations

from dataclasses import dataclass, field

from drivefoundry.bounds import in_range, validate_parts
from drivefoundry.judge.release_gates import ReleaseGates


@dataclass(frozen=True)
class JudgeConfig:
    scenes: int = 240
    """Maximum number of held-out scenes."""
    seconds: float = 18.0
    """Maximum duration of a drive in a scene, s; a single plan covers 4 s."""
    films: int = 4
    worst: int = 6
    """Number of worst scenes of each release that the report lists and shows."""
    float_scenes: int = 128
    """Number of these that teacher and float student drive in each turn, for the gates of compression."""
    gates: ReleaseGates = field(default_factory=ReleaseGates)

    def validate(self) -> JudgeConfig:
        in_range(self, 1, 1_000_000, "scenes", "float_scenes")
        in_range(self, 4, 600, "seconds")
        in_range(self, 0, 100, "films", "worst")
        validate_parts(self)
        return self

"""The gates of a release: bounds on the exam, policies to compare with, and the effect of undecided gates."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from drivefoundry.bounds import in_range
from drivefoundry.judge.gate import Gate
from drivefoundry.judge.suites import RULES
from drivefoundry.judge.worst import SCORE
from drivefoundry.types import require

FLOOR, PREVIOUS = "constant velocity", "previous release"
TEACHER, STUDENT = "RL", "student"
AT_FAULT = "at_fault_collision"
Undecided = Literal["hold", "report"]


@dataclass(frozen=True)
class ReleaseGates:
    """Bounds of a release, whose engine drives without its guard. A margin is how much worse is still accepted."""

    collisions: float = 0.10
    """Maximum share of scenes with a collision, whoever is at fault."""
    over_baseline: float = 0.0
    """Minimum lead in driving score over constant velocity."""
    previous: float = 0.05
    """Margin of the driving score against the previous release."""
    previous_collisions: float = 0.05
    """Margin of the share of scenes with an at-fault collision against the previous release."""
    suites: tuple[str, ...] = tuple(RULES)
    """Suites of scenes (judge.suites) in which the driving score is also compared with the previous release."""
    suite: float = 0.08
    """Margin of the driving score in each suite."""
    distil: float = 0.05
    """Margin of the driving score of the float student against its teacher."""
    distil_collisions: float = 0.08
    quantise: float = 0.03
    """Margin of the driving score of the int8 engine against the float student."""
    quantise_collisions: float = 0.04
    least_scenes: int = 30
    """Minimum number of scenes for a decision: a bootstrap interval over fewer says too little about other scenes."""
    undecided: Undecided = "hold"
    """Effect of an undecided gate on the release: "hold" (test cars only) or "report" (all cars; it is recorded)."""
    undecided_suites: Undecided = "report"
    """The same for the gates on suites, of which an exam may contain few scenes."""

    def validate(self) -> ReleaseGates:
        margins = ("previous", "previous_collisions", "suite", "distil", "distil_collisions", "quantise",
                   "quantise_collisions")  # fmt: skip
        in_range(self, 0, 1, "collisions", *margins)
        in_range(self, -1, 1, "over_baseline")
        in_range(self, 1, 1_000_000, "least_scenes")
        for suite in self.suites:
            require(suite in RULES, f"suites: {suite!r} is not one of {', '.join(RULES)}")
        return self


def release_gates(
    bounds: ReleaseGates, candidate: str, scored: Collection[str], suites: Collection[str]
) -> Iterator[Gate]:
    """Yield the gates that apply to the scored policies: those against a previous release only if there is one, those
    of compression only if student and teacher were scored."""
    make = partial(Gate, least_scenes=bounds.least_scenes, holds=bounds.undecided == "hold")
    yield make("collision", at_most=bounds.collisions)
    yield make(SCORE, at_least=bounds.over_baseline, against=FLOOR)
    pairs = (
        (candidate, PREVIOUS, bounds.previous, bounds.previous_collisions),
        (STUDENT, TEACHER, bounds.distil, bounds.distil_collisions),
        (candidate, STUDENT, bounds.quantise, bounds.quantise_collisions),
    )
    for subject, against, margin, collisions in pairs:
        if subject in scored and against in scored:
            who = None if subject == candidate else subject
            yield make(SCORE, at_least=-margin, against=against, subject=who)
            yield make(AT_FAULT, at_most=collisions, against=against, subject=who)
    if PREVIOUS in scored:
        held = bounds.undecided_suites == "hold"
        for name in bounds.suites:
            if name in suites:
                yield make(SCORE, at_least=-bounds.suite, against=PREVIOUS, suite=name, holds=held)

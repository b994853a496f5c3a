"""A stage's recipe, parents and code in, its artefact out: how every stage of the line enters the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drivefoundry import embodiments, progress
from drivefoundry.ledger import Artefact, Ledger
from drivefoundry.recipes import Recipe
from drivefoundry.seeds import derive
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.sources import code_hash
from drivefoundry_car.vehicle.embodiment import Embodiment


class StopAfterStage(Exception):
    """The last stage that the user asked for is made, or an artefact is missing and must not be made."""


@dataclass
class RunContext:
    """What one run has at hand, and what it has made so far: (turn, kind, artefact) in order."""

    ledger: Ledger
    recipe: Recipe
    out: Path
    until: str | None = None
    """The last stage to run, by its name on the command line; None for all."""
    last: int | None = None
    """The turn in which that stage is the last; None where it belongs to no turn."""
    look: bool = False
    """Make nothing: go on as far as everything is there."""
    dry: bool = False
    """Make nothing: an artefact that is not there gets one without an id in its place, and so do its children."""
    track: str = ""
    """Tracker that also receives training metrics, see `tracking`; artefacts do not depend on it."""
    done: list[tuple[int | None, str, Artefact]] = field(default_factory=list)
    on_done: Callable[[RunContext], None] | None = None
    """Called after each artefact that was made or found, the last of `done`."""
    reached: bool = False

    @property
    def store(self) -> str:
        """Where the clips are: a local directory."""
        return str(self.out / "clips")

    @property
    def body(self) -> Embodiment:
        """The vehicle that this run is for."""
        return embodiments.named(self.recipe.embodiment)

    @property
    def perception(self) -> Perception:
        """Of the recipe, with the seed of this run."""
        p = self.recipe.perception
        return replace(p, seed=self.seed("perception", p.seed))

    def seed(self, purpose: str, *index: int) -> int:
        """The seed of one purpose in this run, see `seeds.derive`."""
        return derive(self.recipe.seed, purpose, *index)

    def make(
        self,
        turn: int | None,
        verb: str,
        kind: str,
        recipe: Any,
        parents: Sequence[Artefact | None],
        build: Callable[[Path], dict[str, Any] | None],
    ) -> Artefact:
        """Make one ledger entry and report it to the user; `verb` is its name on the command line. Parents may be None.

        What `build` can run is part of what the entry is made from (`sources.code_hash`): change it, and it is redone.

        Raises StopAfterStage where the entry lies beyond the last stage to make, or is missing and must not be made.
        """
        if self.reached and verb != self.until:
            raise StopAfterStage
        there = [p for p in parents if p is not None]
        made_from = {"turn": turn, "recipe": recipe}
        code = code_hash(build)
        if self.dry:
            artefact = self._expected(kind, made_from, there, code)
        elif self.look:
            artefact = self.ledger.find(kind, made_from, there, code)
            if artefact is None:
                raise StopAfterStage
        else:
            progress.under_way(f"turn {turn}: {kind}" if turn else kind)
            artefact = self.ledger.make(kind, made_from, there, code, build)
        self.done.append((turn, kind, artefact))
        if self.on_done:
            self.on_done(self)
        if artefact.made and not self.dry:
            name = f"{kind.replace('_', ' ')} {artefact.info.get('policy', '')}"
            when = f"turn {turn}" if turn else ""
            progress.say(f"{when:7}{name:<34}{artefact.seconds:6.1f} s   {_told(artefact.info)}")
        self.reached |= verb == self.until and turn == self.last
        return artefact

    def _expected(self, kind: str, made_from: dict[str, Any], there: list[Artefact], code: str) -> Artefact:
        """The artefact that is there, or one without an id in place of what would be made."""
        found = self.ledger.find(kind, made_from, there, code) if all(p.id for p in there) else None
        if found is not None:
            return found
        path = self.ledger.root / "artefacts" / f"{kind}-"
        recipe = made_from["recipe"]
        info = {"policy": recipe["policy"]} if isinstance(recipe, dict) and "policy" in recipe else {}
        return Artefact("", "", kind, path, (), info, made=True, seconds=0.0, cpu_seconds=0.0, bytes=0, finished=0.0)


def _told(info: dict[str, Any]) -> str:
    """The first plain figures that an artefact gives."""
    plain = {k.replace("_", " "): v for k, v in info.items() if type(v) in (int, float, str) and k != "policy"}
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in list(plain.items())[:6])

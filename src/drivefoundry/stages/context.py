"""The context in which stages enter the ledger: a stage's recipe, parents and code determine its artefact."""

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
    """Raised once the last requested stage is built, or if an artefact is missing and may not be built."""


@dataclass
class RunContext:
    """State of one run, including the artefacts so far: (turn, kind, artefact) in order."""

    ledger: Ledger
    recipe: Recipe
    out: Path
    until: str | None = None
    """The last stage to run, by its command-line name; None for all."""
    last: int | None = None
    """The turn in which that stage is the last; None if it is outside the turns."""
    look: bool = False
    """Build nothing: continue as long as artefacts exist."""
    dry: bool = False
    """Build nothing: a missing artefact, and each of its children, is replaced by one without an id."""
    track: str = ""
    """Tracker that also receives training metrics, see `tracking`; artefacts do not depend on it."""
    done: list[tuple[int | None, str, Artefact]] = field(default_factory=list)
    on_done: Callable[[RunContext], None] | None = None
    """Called after each artefact that was built or found, which is then the last one in `done`."""
    reached: bool = False

    @property
    def store(self) -> str:
        """The clip store: a local directory."""
        return str(self.out / "clips")

    @property
    def body(self) -> Embodiment:
        """The vehicle of this run."""
        return embodiments.named(self.recipe.embodiment)

    @property
    def perception(self) -> Perception:
        """The recipe's perception, with a seed derived for this run."""
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
        """Build one ledger entry and report it to the user; `verb` is its command-line name. Parents may be None.

        The key includes the code that `build` can reach (`sources.code_hash`), so a change there rebuilds the entry.

        Raises StopAfterStage if the entry is beyond the last stage to run, or is missing and may not be built.
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
            progress.say(f"{when:7}{name:<34}{artefact.seconds:6.1f} s   {_figures(artefact.info)}")
        self.reached |= verb == self.until and turn == self.last
        return artefact

    def _expected(self, kind: str, made_from: dict[str, Any], there: list[Artefact], code: str) -> Artefact:
        """The existing artefact, or one without an id in place of what would be built."""
        found = self.ledger.find(kind, made_from, there, code) if all(p.id for p in there) else None
        if found is not None:
            return found
        path = self.ledger.root / "artefacts" / f"{kind}-"
        recipe = made_from["recipe"]
        info = {"policy": recipe["policy"]} if isinstance(recipe, dict) and "policy" in recipe else {}
        return Artefact("", "", kind, path, (), info, made=True, seconds=0.0, cpu_seconds=0.0, bytes=0, finished=0.0)


def _figures(info: dict[str, Any]) -> str:
    """The first few scalar figures of an artefact, as text."""
    plain = {k.replace("_", " "): v for k, v in info.items() if type(v) in (int, float, str) and k != "policy"}
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in list(plain.items())[:6])

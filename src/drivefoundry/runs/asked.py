"""run.json: the last request of a run directory (recipe, source) and the artefacts it used, in order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivefoundry.ledger import Artefact
from drivefoundry.recipes import Recipe, default
from drivefoundry.settings import canonical, with_values
from drivefoundry.types import require
from drivefoundry_car.durable import write_text

FILE = "run.json"
Done = Sequence[tuple[int | None, str, Artefact]]


@dataclass(frozen=True)
class Asked:
    """drives, scenes: absolute paths, at most one of them."""

    recipe: Recipe
    drives: Path | None = None
    scenes: Path | None = None


def remember(out: Path, asked: Asked, done: Done = ()) -> None:
    """Write out/run.json atomically. While the line repeats what the file already lists for the same recipe and source,
    the file is not touched."""
    places = {k: None if p is None else p.resolve().as_posix() for k, p in _places(asked).items()}
    body: dict[str, Any] = {"recipe": json.loads(canonical(asked.recipe)), **places}
    made = [{"turn": turn, "stage": kind, "id": a.id} for turn, kind, a in done]
    was = _read(out)
    if was is not None:
        listed = was.pop("artefacts", [])
        if was == body and listed[: len(made)] == made:
            return
    write_text(out / FILE, json.dumps({**body, "artefacts": made}, indent=1))


def remembered(out: Path) -> Asked | None:
    """The last request of a run directory; None if there is no record. ValueError for a foreign file."""
    body = _read(out)
    if body is None:
        return None
    require(isinstance(body.get("recipe"), dict), f"{out / FILE}: field recipe is missing; delete it, or run again")
    try:
        recipe = with_values(default(), body["recipe"])
    except ValueError as error:
        raise ValueError(f"{out / FILE}: {error}; delete it, or run again") from None
    return Asked(recipe, *(Path(p) if isinstance(p := body.get(k), str) else None for k in ("drives", "scenes")))


def current(out: Path) -> list[str]:
    """Ids of the artefacts that the last run used, in order; empty if there is no record."""
    made = (_read(out) or {}).get("artefacts")
    return [a["id"] for a in made if isinstance(a, dict) and "id" in a] if isinstance(made, list) else []


def _read(out: Path) -> dict[str, Any] | None:
    path = out / FILE
    if not path.exists():
        return None
    try:
        body = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); delete it, or run again") from None
    require(isinstance(body, dict), f"{path}: not an object; delete it, or run again")
    return body


def _places(asked: Asked) -> dict[str, Path | None]:
    return {"drives": asked.drives, "scenes": asked.scenes}

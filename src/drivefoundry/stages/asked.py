"""What a run directory was last asked for, as run.json: its recipe and where its situations come from."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from drivefoundry.recipes import Recipe, default
from drivefoundry.settings import canonical, with_values
from drivefoundry.types import require

FILE = "run.json"


@dataclass(frozen=True)
class Asked:
    """drives, scenes: absolute paths, at most one of them."""

    recipe: Recipe
    drives: Path | None = None
    scenes: Path | None = None


def remember(out: Path, asked: Asked) -> None:
    """Write out/run.json, whole or not at all; a file that says the same stays untouched."""
    places = {k: None if p is None else p.resolve().as_posix() for k, p in _places(asked).items()}
    text = json.dumps({"recipe": json.loads(canonical(asked.recipe)), **places}, indent=1)
    path = out / FILE
    if not path.exists() or path.read_text() != text:
        aside = out / f".{FILE}.part"
        aside.write_text(text)
        os.replace(aside, path)


def remembered(out: Path) -> Asked | None:
    """What a run directory was last asked for; None where it does not say. ValueError for another file."""
    path = out / FILE
    if not path.exists():
        return None
    try:
        told = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); delete it, or run again") from None
    whole = isinstance(told, dict) and isinstance(told.get("recipe"), dict)
    require(whole, f"{path}: field recipe is missing; delete it, or run again")
    try:
        recipe = with_values(default(), told["recipe"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}; delete it, or run again") from None
    return Asked(recipe, *(Path(p) if isinstance(p := told.get(k), str) else None for k in ("drives", "scenes")))


def _places(asked: Asked) -> dict[str, Path | None]:
    return {"drives": asked.drives, "scenes": asked.scenes}

"""`scale run`: train a grid of sizes and amounts of data on the embedded fleet, then fit the scaling law."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated

from tyro.conf import arg

from drivefoundry.cli.options import Creates, Quiet
from drivefoundry.cli.scaling.law import fit_and_write
from drivefoundry.cli.stage import RecipeOptions, recipe_of
from drivefoundry.cli.verbs import Outcome


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(RecipeOptions, Quiet, Creates):
    """What `scale run` takes."""

    track: Annotated[str, arg(metavar="WHERE", help_behavior_hint="")] = ""
    """Also send training metrics there: mlflow, mlflow:URI or tensorboard:DIR."""


def run(options: ScaleOptions) -> Outcome:
    """`scale run`: train all missing pairs of the grid, then fit the law, in the run directory."""
    recipe = recipe_of(options).validate()
    if options.dry_run:
        pairs = [(size, samples) for size in recipe.scale.sizes for samples in recipe.scale.samples]
        lines = [f"would train {size} on {samples:,} samples, unless it exists" for size, samples in pairs]
        lines.append(f"would write {options.out / 'runs.jsonl'}, law.json and scaling.html")
        return Outcome("\n".join(lines), {"pairs": pairs})
    from drivefoundry import outputs
    from drivefoundry.ledger import Ledger
    from drivefoundry.stages.context import RunContext
    from drivefoundry.stages.grid import grid
    from drivefoundry.tracking import requested

    with Ledger(options.out) as ledger:
        runs = grid(RunContext(ledger, recipe, options.out, track=requested(options.track)))
    with outputs.among(options.out, ["runs.jsonl"], "runs.jsonl") as aside:
        (aside / "runs.jsonl").write_text("".join(json.dumps(asdict(run)) + "\n" for run in runs))
    return fit_and_write(runs, options.out)

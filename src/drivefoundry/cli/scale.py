"""`scale`: a grid of sizes and amounts of data trained on the embedded fleet, and the scaling law that they follow."""

from __future__ import annotations

import json
from dataclasses import asdict

from drivefoundry.cli.law import tell
from drivefoundry.cli.options import parse
from drivefoundry.cli.stage import Options, recipe_of
from drivefoundry.cli.verbs import VERBS


def run(rest: list[str]) -> None:
    """`scale`: all runs of the grid that are not there yet, then the law, in the run directory."""
    options = parse(Options, "scale", VERBS["To plan"]["scale"], rest)
    if options is None:
        return
    recipe = recipe_of(options)
    from drivefoundry import outputs
    from drivefoundry.ledger import Ledger
    from drivefoundry.stages.grid import grid
    from drivefoundry.stages.making import Line
    from drivefoundry.tracking import wanted

    with Ledger(options.out) as ledger:
        runs = grid(Line(ledger, recipe, options.out, track=wanted(options.track)))
    with outputs.among(options.out, ["runs.jsonl"], "runs.jsonl") as aside:
        (aside / "runs.jsonl").write_text("".join(json.dumps(asdict(run)) + "\n" for run in runs))
    tell(runs, options.out)

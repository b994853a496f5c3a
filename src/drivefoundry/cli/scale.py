"""`scale`: training runs in, their scaling law out, as a table and a page with its figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import parse
from drivefoundry.cli.verbs import VERBS


@dataclass(frozen=True)
class ScaleOptions:
    """What `scale` understands."""

    what: Annotated[tyro.conf.Positional[Path], arg(metavar="RUNS")]
    """JSON lines, one run each: parameters, tokens, loss, and score (0 .. 1) where it drove."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("scale")
    """Gets law.json and scaling.html."""


def run(rest: list[str]) -> None:
    """`scale`: the law on stdout."""
    options = parse(ScaleOptions, "scale", VERBS["To plan"]["scale"], rest)
    if options is None:
        return
    from drivefoundry.scaling import law
    from drivefoundry.stages import scaling

    runs = law.read_runs(options.what)
    found = law.fit(runs)
    drove = [run for run in runs if run.score is not None]
    score = law.fit_score(drove) if len(drove) >= law.FEWEST else None
    for name, value in found.coefficients().items():
        print(f"{name:6} {scaling.interval_text(value)}")
    for name, value in found.exponents().items():
        print(f"best {name} grow as compute to the {scaling.interval_text(value)}")
    print(scaling.foretold(found))
    print(f"No score law: {len(drove)} runs drove, at least {law.FEWEST} wanted." if score is None else score.said())
    page = scaling.write_scaling(options.out / "scaling.html", found, score)
    (options.out / "law.json").write_text(found.to_json())
    print(page)

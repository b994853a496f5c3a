"""`scale fit`: fit the scaling law of training runs; print it, and write JSON and a page with figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import Creates
from drivefoundry.cli.verbs import Outcome

if TYPE_CHECKING:
    from drivefoundry.scaling.law import Run


@dataclass(frozen=True)
class LawOptions(Creates):
    """What `scale fit` takes."""

    what: Annotated[tyro.conf.Positional[Path], arg(metavar="RUNS")]
    """JSON lines, one run each: parameters, tokens, loss, and score (0 .. 1) if it was driven."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("scale")
    """Directory for law.json and scaling.html."""


def run(options: LawOptions) -> Outcome:
    """`scale fit`: the law, printed and written."""
    from drivefoundry.scaling.law import read_runs

    runs = read_runs(options.what)
    if options.dry_run:
        files = [options.out / "law.json", options.out / "scaling.html"]
        text = f"would fit {len(runs)} runs and write {files[0]} and {files[1]}"
        return Outcome(text, {"runs": len(runs), "would_write": files})
    return fit_and_write(runs, options.out)


def fit_and_write(runs: Sequence[Run], out: Path) -> Outcome:
    """Fit the law of runs, write it to `out` and format it."""
    from drivefoundry import outputs
    from drivefoundry.reports import scaling
    from drivefoundry.scaling import law

    outputs.check_among(out, ["scaling.html", "law.json"])

    found, score = law.laws(runs)
    lines = [f"{name:6} {scaling.interval_text(value)}" for name, value in found.coefficients().items()]
    for name, value in found.exponents().items():
        lines.append(f"best {name} grow as compute to the {scaling.interval_text(value)}")
    lines.append(scaling.prediction(found))
    drove = sum(run.score is not None for run in runs)
    lines.append(
        f"No score law: {drove} runs drove, at least {law.FEWEST} are needed." if score is None else score.finding()
    )
    page = scaling.write_scaling(out / "scaling.html", found, score)
    with outputs.among(out, ["law.json"], "law.json") as aside:
        (aside / "law.json").write_text(found.to_json())
    return Outcome("\n".join([*lines, str(page)]), {**json.loads(found.to_json()), "page": page})

"""`scale fit`: training runs in, their scaling law out, as a table and a page with its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import parse

if TYPE_CHECKING:
    from drivefoundry.scaling.law import Run


@dataclass(frozen=True)
class LawOptions:
    """What `scale fit` understands."""

    what: Annotated[tyro.conf.Positional[Path], arg(metavar="RUNS")]
    """JSON lines, one run each: parameters, tokens, loss, and score (0 .. 1) where it drove."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("scale")
    """Gets law.json and scaling.html."""


def run(rest: list[str]) -> None:
    """`scale fit`: the law on stdout."""
    options = parse(LawOptions, "scale fit", "the scaling law of training runs, and its page", rest)
    if options is None:
        return
    from drivefoundry.scaling.law import read_runs

    tell(read_runs(options.what), options.out)


def tell(runs: Sequence[Run], out: Path) -> None:
    """Runs in; their law on stdout, and in `out`."""
    from drivefoundry import outputs
    from drivefoundry.scaling import law
    from drivefoundry.stages import scaling

    outputs.check_among(out, ["scaling.html", "law.json"])

    found, score = law.laws(runs)
    for name, value in found.coefficients().items():
        print(f"{name:6} {scaling.interval_text(value)}")
    for name, value in found.exponents().items():
        print(f"best {name} grow as compute to the {scaling.interval_text(value)}")
    print(scaling.foretold(found))
    drove = sum(run.score is not None for run in runs)
    print(f"No score law: {drove} runs drove, at least {law.FEWEST} wanted." if score is None else score.said())
    page = scaling.write_scaling(out / "scaling.html", found, score)
    with outputs.among(out, ["law.json"], "law.json") as aside:
        (aside / "law.json").write_text(found.to_json())
    print(page)

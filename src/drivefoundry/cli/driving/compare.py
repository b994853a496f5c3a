"""`judge compare`: table of the differences between two verdicts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import Common
from drivefoundry.cli.verbs import Outcome


@dataclass(frozen=True)
class CompareOptions(Common):
    """What `judge compare` takes."""

    first: Annotated[tyro.conf.Positional[Path], arg(metavar="A")]
    """A verdict.json, a run (its newest verdict), or RUN:judge:TURN."""
    second: Annotated[tyro.conf.Positional[Path], arg(metavar="B")]
    """The verdict to compare with it."""


def run(options: CompareOptions) -> Outcome:
    """`judge compare`: the paired table over the scenes that both judged."""
    from drivefoundry.judge.compare import compare_verdicts, comparison_text
    from drivefoundry.judge.gate import load_verdict
    from drivefoundry.runs import named

    first, second = (load_verdict(named.verdict(path)) for path in (options.first, options.second))
    return Outcome(comparison_text(first, second), [asdict(row) for row in compare_verdicts(first, second)])

"""`judge compare`: two verdicts in, the table of what changed between them out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import Common
from drivefoundry.cli.verbs import PROG, Outcome


@dataclass(frozen=True)
class CompareOptions(Common):
    """What `judge compare` takes."""

    first: Annotated[tyro.conf.Positional[Path], arg(metavar="A")]
    """A verdict.json, or a run directory (its last verdict)."""
    second: Annotated[tyro.conf.Positional[Path], arg(metavar="B")]
    """The verdict to compare with it."""


def run(options: CompareOptions) -> Outcome:
    """`judge compare`: the paired table over the scenes that both judged."""
    from drivefoundry.judge.compare import compare_verdicts, comparison_text
    from drivefoundry.judge.gate import load_verdict

    first, second = (load_verdict(_verdict_of(path)) for path in (options.first, options.second))
    return Outcome(comparison_text(first, second), [asdict(row) for row in compare_verdicts(first, second)])


def _verdict_of(path: Path) -> Path:
    """The verdict itself, or the last one of a run directory."""
    if not (path / "ledger.db").exists():
        return path / "verdict.json" if path.is_dir() else path
    from drivefoundry.ledger import Ledger

    with Ledger(path) as ledger:
        verdicts = [a for a in ledger.history() if a.kind == "verdict"]
    if not verdicts:
        raise ValueError(f"{path}: no verdict in this run yet; `{PROG} run --until judge --out {path}` makes one")
    return verdicts[-1].path / "verdict.json"

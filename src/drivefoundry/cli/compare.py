"""`judge compare`: two verdicts in, the table of what changed out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drivefoundry.cli.verbs import PROG


def run(paths: Sequence[str]) -> None:
    """Two verdicts, files or run directories, in; the table of what changed on stdout."""
    if len(paths) != 2 or any(p.startswith("-") for p in paths):
        raise ValueError("judge compare: give two verdict.json files or run directories")
    from drivefoundry.judge.compare import comparison_text
    from drivefoundry.judge.gate import load_verdict

    first, second = (load_verdict(_verdict_of(Path(p))) for p in paths)
    print(comparison_text(first, second))


def _verdict_of(path: Path) -> Path:
    """The verdict itself, or the last one of a run directory."""
    if not (path / "ledger.db").exists():
        return path / "verdict.json" if path.is_dir() else path
    from drivefoundry.ledger import Ledger

    with Ledger(path) as ledger:
        verdicts = [a for a in ledger.history() if a.kind == "verdict"]
    if not verdicts:
        raise ValueError(f"{path}: no verdict in this run yet; run `{PROG} judge --out {path}` first")
    return verdicts[-1].path / "verdict.json"

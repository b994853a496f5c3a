"""`ls`, `status`, `gc`: a run directory's artefacts, state and garbage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import Common, Creates
from drivefoundry.cli.verbs import Outcome


@dataclass(frozen=True)
class RunOptions(Common):
    """A run."""

    run: Annotated[tyro.conf.Positional[Path], arg(metavar="[RUN]")] = Path("out")
    """Run directory."""


@dataclass(frozen=True)
class StatusOptions(RunOptions):
    """What `status` takes."""

    verify: Annotated[bool, arg(help_behavior_hint="")] = False
    """Also verify every byte of every artefact and list damaged ones; exit status 1 if there are any."""


@dataclass(frozen=True)
class ListOptions(RunOptions):
    """What `ls` takes."""

    all: Annotated[bool, arg(help_behavior_hint="")] = False
    """Also list what the last run did not use: artefacts of other recipes or earlier code."""


@dataclass(frozen=True)
class CollectOptions(RunOptions, Creates):
    """What `gc` takes."""


def listed(options: ListOptions) -> Outcome:
    """`ls`: one row per artefact."""
    from drivefoundry.runs import inventory

    rows = inventory.listing(options.run, all_of_them=options.all)
    return Outcome(inventory.table(rows), rows)


def status(options: StatusOptions) -> Outcome:
    """`status`: what is running, its progress, disk usage and, with --verify, damaged artefacts."""
    from drivefoundry.runs import inventory

    result = inventory.status(options.run, verify=options.verify)
    return Outcome(inventory.status_text(result), result, code=1 if result["damaged"] else 0)


def collect(options: CollectOptions) -> Outcome:
    """`gc`: delete what the last run's recipe does not need."""
    from drivefoundry.runs import inventory

    found = inventory.garbage(options.run)
    data = {"removed": [{"path": path, "bytes": size} for path, size in found.items()], "bytes": sum(found.values())}
    kept = inventory.kept(options.run)
    if options.dry_run:
        lines = [f"would remove {path} ({inventory.megabytes(size)})" for path, size in found.items()]
        text = "\n".join([*lines, f"would free {inventory.megabytes(sum(found.values()))}; {kept}"])
        return Outcome(text, data)
    freed = inventory.collect(options.run)
    return Outcome(f"freed {inventory.megabytes(freed)}; {kept}", data | {"bytes": freed})

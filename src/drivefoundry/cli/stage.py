"""`run` and `report`: build the loop's artefacts, and the page about them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import Common, Creates, Quiet
from drivefoundry.cli.verbs import STAGES, Outcome
from drivefoundry.settings import nearest, with_file, with_settings

if TYPE_CHECKING:
    from drivefoundry.ledger import Artefact
    from drivefoundry.line import Ran
    from drivefoundry.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(Common):
    """Options that determine a run, for the verbs that build or show one."""

    out: Annotated[Path, arg(metavar="DIR")] = Path("out")
    """Run directory; created if it does not exist, continued if it does."""
    recipe: Annotated[str, arg(metavar="NAME|FILE")] = "default"
    """default, tiny, or a TOML file of changes to the default recipe."""
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE")] = ()
    """Change one key of the recipe; may be given several times."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions(RecipeOptions):
    """Options for the source of a run's situations."""

    drives: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Real drives to learn from, instead of the embedded fleet's."""
    scenes: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Recorded traffic scenes to judge and improve on, instead of the embedded fleet's."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(SourceOptions, Quiet, Creates):
    """What `run` takes."""

    until: Annotated[str | None, arg(metavar="STAGE", help_behavior_hint="(default: all)")] = None
    """Last stage to run: fleet, ingest, import, curate, label, train, rl, distil, quantize, judge, release or car."""
    loops: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the recipe's)")] = None
    """Turns of the loop."""
    track: Annotated[str, arg(metavar="WHERE", help_behavior_hint="")] = ""
    """Also send training metrics there: mlflow, mlflow:URI or tensorboard:DIR."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Creates):
    """What `report` takes."""

    run: Annotated[tyro.conf.Positional[Path | None], arg(metavar="[RUN]", help_behavior_hint="(default: out)")] = None
    """Run directory."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """The run directory, named as for `run`."""
    recipe: Annotated[str | None, arg(metavar="NAME|FILE", help_behavior_hint="(default: the last run's)")] = None
    """Report on another recipe than that of the last run: default, tiny, or a TOML file."""
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE")] = ()
    """Change one key of the recipe; may be given several times."""
    drives: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """The run's real drives, if they have been moved."""
    scenes: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """The run's recorded traffic, if it has been moved."""


def run(options: RunOptions) -> Outcome:
    """`run`: build everything up to the last stage that is missing or out of date."""
    if options.until is not None and options.until not in STAGES:
        raise ValueError(f"--until {options.until}: no such stage; {nearest(options.until, STAGES)}")
    _there(options)
    if options.until == "import" and options.drives is None and options.scenes is None:
        raise ValueError("run --until import: give --drives PATH or --scenes PATH")
    recipe = recipe_of(options, options.loops)
    from drivefoundry import line

    ran = line.run(
        recipe, options.out, until=options.until, drives=options.drives, scenes=options.scenes,
        track=options.track, dry=options.dry_run,
    )  # fmt: skip
    return Outcome(ran.text, {"report": ran.report, "seconds": ran.seconds, "artefacts": rows(ran)})


def report(options: ReportOptions) -> Outcome:
    """`report`: write the page about existing artefacts; build nothing else."""
    _there(options)
    if options.run and options.out:
        raise ValueError(f"report: {options.run} and --out {options.out}: give one run directory")
    out = options.run or options.out or Path("out")
    _settle()
    from drivefoundry import line
    from drivefoundry.runs.asked import Asked, remembered

    asked = remembered(out)
    if asked is None or options.recipe is not None:
        asked = Asked(_recipe(options.recipe or "default"))
    moved = options.drives or options.scenes
    drives, scenes = (options.drives, options.scenes) if moved else (asked.drives, asked.scenes)
    ran = line.report(Asked(with_settings(asked.recipe, options.set), drives, scenes), out, dry=options.dry_run)
    return Outcome(ran.text, {"report": ran.report, "artefacts": rows(ran)})


def rows(ran: Ran) -> list[dict]:
    """A run's artefacts in the order of the line, as for `--json`."""

    def row(turn: int | None, kind: str, artefact: Artefact) -> dict:
        there = {"id": artefact.id, "path": artefact.path, "bytes": artefact.bytes, "seconds": artefact.seconds}
        return {"turn": turn, "stage": kind, "made": artefact.made, **(there if artefact.id else {})}

    return [row(*one) for one in ran.done]


def _there(options: SourceOptions | ReportOptions) -> None:
    for name in ("drives", "scenes"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            raise ValueError(f"--{name} {path}: no such file or directory")


def recipe_of(options: RecipeOptions, loops: int | None = None) -> Recipe:
    """The recipe that a verb's options specify. From here on torch and other heavy imports are loaded."""
    _settle()
    recipe = _recipe(options.recipe)
    if loops is not None:
        recipe = with_settings(recipe, [f"loops={loops}"])
    return with_settings(recipe, options.set)


def _settle() -> None:
    # Threads that spin while waiting slow down whatever shares their cores several-fold; sleeping ones cost little.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _recipe(name: str) -> Recipe:
    from drivefoundry import recipes

    return with_file(recipes.named("default"), Path(name)) if name.endswith(".toml") else recipes.named(name)

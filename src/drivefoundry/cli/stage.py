"""`run` and the verbs of single stages: options in, the line's artefacts out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from drivefoundry.cli.options import parse
from drivefoundry.cli.verbs import VERBS, stages
from drivefoundry.settings import nearest, with_file, with_settings

if TYPE_CHECKING:
    from drivefoundry.recipes import Recipe

_ONE_TURN = ("fleet", "ingest", "curate", "label", "train", "rl", "distill", "shrink")
"""Stages that end in the first turn, unless --loops says otherwise."""


@dataclass(frozen=True)
class Options:
    """What every verb understands."""

    out: Annotated[Path, arg(metavar="DIR")] = Path("out")
    """Run directory: made if missing, gone on with if there."""
    recipe: Annotated[str, arg(metavar="NAME|FILE")] = "default"
    """default, tiny, or a TOML file of changes to the default recipe."""
    loops: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the recipe's)")] = None
    """Turns of the loop. A stage before the judge ends in the first turn where this is not given."""
    drives: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Real drives to learn from, instead of the embedded fleet's."""
    scenes: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Recorded traffic scenes to judge and improve on, instead of the embedded fleet's."""
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE")] = ()
    """Change one key of the recipe."""
    track: Annotated[str, arg(metavar="WHERE", help_behavior_hint="")] = ""
    """Metrics of trainings go there besides: mlflow, mlflow:URI or tensorboard:DIR."""


@dataclass(frozen=True)
class RunOptions(Options):
    """What `run` understands besides."""

    until: Annotated[str | None, arg(metavar="STAGE", help_behavior_hint="(default: all of them)")] = None
    """Last stage to run."""


def run(verb: str, rest: list[str]) -> None:
    """A verb and its arguments in; everything up to that stage is made, if it is not there yet."""
    what = next(group[verb] for group in VERBS.values() if verb in group)
    options = parse(RunOptions if verb == "run" else Options, verb, what, rest)
    if options is None:
        return
    until = options.until if isinstance(options, RunOptions) else None if verb == "report" else verb
    if isinstance(options, RunOptions) and until is not None and until not in stages():
        raise ValueError(f"--until {until}: no such stage; {nearest(until, stages())}")
    for name in ("drives", "scenes"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            raise ValueError(f"--{name} {path}: no such file or directory")
    if until == "import" and options.drives is None and options.scenes is None:
        raise ValueError("import: give --drives PATH or --scenes PATH")

    recipe = recipe_of(options, verb)
    from drivefoundry import line

    line.run(
        recipe, options.out, until=until, drives=options.drives, scenes=options.scenes, look=verb == "report",
        track=options.track,
    )  # fmt: skip


def recipe_of(options: Options, verb: str = "") -> Recipe:
    """The recipe that a verb's options ask for. From here on torch and the rest are there."""
    # Threads that spin while they wait slow down whatever shares the cores, several-fold; those that sleep cost little.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from drivefoundry import recipes

    if options.recipe.endswith(".toml"):
        recipe = with_file(recipes.named("default"), Path(options.recipe))
    else:
        recipe = recipes.named(options.recipe)
    if options.loops is not None:
        recipe = with_settings(recipe, [f"loops={options.loops}"])
    elif verb in _ONE_TURN:
        recipe = with_settings(recipe, ["loops=1"])
    return with_settings(recipe, options.set)

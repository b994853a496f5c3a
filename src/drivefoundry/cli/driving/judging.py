"""`judge`: scores and gates of an existing engine, model or baseline on scenes or drives."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import Creates, Quiet
from drivefoundry.cli.verbs import Outcome
from drivefoundry_car.durable import write_text


@dataclass(frozen=True)
class JudgeOptions(Quiet, Creates):
    """What `judge` takes."""

    who: Annotated[tyro.conf.Positional[str], arg(metavar="WHO")]
    """An engine or a model (a run, RUN:quantize:TURN, RUN:sft:TURN, RUN/releases/2, a directory), or a baseline:
    constant-velocity, rules, pdm-closed, log-replay."""
    scenes: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: the exam of WHO's run)")] = None
    """Recorded traffic to drive in, in closed loop; or a run, whose exam is driven."""
    drives: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Camera drives instead: a model's errors on their last part, in open loop."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Directory for verdict.json, the input of `judge compare`; with --drives open_loop.json."""
    most: Annotated[int, arg(metavar="N")] = 240
    """Maximum number of scenes to drive."""
    seconds: Annotated[float, arg(metavar="S")] = 18.0
    """Maximum seconds of each scene."""
    guard: Annotated[bool, arg(help_behavior_hint="")] = False
    """Drive an engine as a car does, with its guard."""


def run(options: JudgeOptions) -> Outcome:
    """`judge`: a table, and exit status 1 if an engine or a model fails a gate."""
    if options.scenes is not None and options.drives is not None:
        raise ValueError("judge: --scenes and --drives: give one; camera drives have no scene truth to drive in")
    if options.most < 1 or not 4.0 <= options.seconds <= 600.0:
        raise ValueError("judge: --most must be at least 1, --seconds from 4 to 600")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from drivefoundry.curate.config import CurateConfig
    from drivefoundry.judge.config import JudgeConfig
    from drivefoundry.trials import existing

    existing.candidate(options.who, options.guard)
    for name in ("scenes", "drives"):
        path = getattr(options, name)
        if path is not None and not path.exists() and ":" not in str(path):
            raise ValueError(f"--{name} {path}: no such file or directory")
    file = None if options.out is None else options.out / ("open_loop.json" if options.drives else "verdict.json")
    if options.dry_run:
        where = f" and write {file}" if file else ""
        return Outcome(f"would judge {options.who}{where}", {"would_write": file})
    if options.drives is not None:
        result = existing.open_loop(options.who, options.drives, CurateConfig())
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(result, indent=1))
        return Outcome(existing.open_loop_table(result) + (f"\n{file}" if file else ""), result)
    recipe = JudgeConfig(scenes=options.most, seconds=options.seconds, films=0)
    judged = existing.closed_loop(options.who, options.scenes, recipe, options.guard)
    text = existing.table(judged)
    if options.out is not None:
        text += f"\n{existing.write(judged, options.out)}"
    return Outcome(text, existing.data(judged), 1 if judged.gated and not judged.verdict.passed else 0)

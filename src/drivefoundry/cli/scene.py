"""`scene show` and `scene list`: recorded traffic in, pictures and tables out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import Common, Creates
from drivefoundry.cli.verbs import Outcome


@dataclass(frozen=True)
class ListOptions(Common):
    """What `scene list` takes."""

    what: Annotated[tyro.conf.Positional[Path], arg(metavar="WHAT")]
    """File or folder of recorded traffic (CommonRoad, Waymo Open Motion, ScenarioNet), or directory of a run."""


@dataclass(frozen=True)
class ShowOptions(ListOptions, Creates):
    """What `scene show` takes."""

    scene: Annotated[str, arg(metavar="N|ID")] = "0"
    """Which of its scenes, as `scene list` names them."""
    at: Annotated[int | None, arg(metavar="STEP", help_behavior_hint="(default: its start)")] = None
    """Step of the recording that a picture shows, 10 a second."""
    out: Annotated[Path, arg(metavar="FILE")] = Path("scene.png")
    """*.png: a picture; *.mp4 or *.gif: a film."""


def listed(options: ListOptions) -> Outcome:
    """`scene list`: a row a scene; files that gave none are named on stderr."""
    from drivefoundry.stages import look

    scenes, refused = look.scenes_at(options.what)
    for file, why in refused.items():
        print(f"no scene of {file}: {why}", file=sys.stderr)
    return Outcome(look.table(scenes), {"scenes": look.rows(scenes), "refused": refused})


def show(options: ShowOptions) -> Outcome:
    """`scene show`: a picture or a film of one scene."""
    from drivefoundry.stages import look

    scenes, _ = look.scenes_at(options.what)
    scene = look.chosen(scenes, options.scene)
    if options.dry_run:
        return Outcome(f"would draw scene {scene.id} into {options.out}", {"would_write": options.out})
    look.show(scene, options.at, options.out)
    return Outcome(str(options.out), {"scene": scene.id, "file": options.out})

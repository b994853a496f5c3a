"""`scene show` and `scene list`: pictures and tables of recorded traffic."""

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
    """File or folder of recorded traffic (CommonRoad, Waymo Open Motion, ScenarioNet), or a run, for its exam."""


@dataclass(frozen=True)
class ShowOptions(ListOptions, Creates):
    """What `scene show` takes."""

    scene: Annotated[str, arg(metavar="N|ID")] = "0"
    """Which scene: its number or ID in `scene list`, or at least 6 digits of the ID."""
    at: Annotated[int | None, arg(metavar="STEP", help_behavior_hint="(default: its start)")] = None
    """Step of the recording to show in a picture; 10 a second."""
    out: Annotated[Path, arg(metavar="FILE")] = Path("scene.png")
    """*.png: a picture; *.mp4 or *.gif: a film."""


def listed(options: ListOptions) -> Outcome:
    """`scene list`: one row per scene; files without scenes, and what was left out of the others, are listed on
    stderr."""
    from drivefoundry.clips.importers.traffic.recording import not_read
    from drivefoundry.scenes import show

    rows, refused = show.listing(options.what)
    left = not_read((r["recording"], r["not_read"]) for r in rows)
    for line in [*(f"no scene of {file}: {why}" for file, why in refused.items()), *left]:
        print(line, file=sys.stderr)
    return Outcome(show.table(rows), {"scenes": rows, "refused": refused, "not_read": left})


def show(options: ShowOptions) -> Outcome:
    """`scene show`: a picture or a film of one scene."""
    from drivefoundry.scenes import show

    scene = show.scene_at(options.what, options.scene)
    if options.dry_run:
        return Outcome(f"would draw scene {scene.id} into {options.out}", {"would_write": options.out})
    show.show(scene, options.at, options.out)
    return Outcome(str(options.out), {"scene": scene.id, "file": options.out})

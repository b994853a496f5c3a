"""`scene show` and `scene list`: recorded traffic in, pictures and tables out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from drivefoundry.cli.options import parse
from drivefoundry.cli.verbs import PROG
from drivefoundry.settings import nearest

_SCENE = {
    "show": "a scene as the camera would see it, beside the map: a picture, or a film (.mp4, .gif)",
    "list": "a table of scenes: id, source, seconds, agents, lights, ego",
}


@dataclass(frozen=True)
class ListOptions:
    """What `scene list` understands."""

    what: Annotated[tyro.conf.Positional[Path], arg(metavar="WHAT")]
    """File or folder of recorded traffic (CommonRoad, Waymo Open Motion, ScenarioNet), or directory of a run."""


@dataclass(frozen=True)
class ShowOptions(ListOptions):
    """What `scene show` understands."""

    scene: Annotated[str, arg(metavar="N|ID")] = "0"
    """Which of its scenes, as `scene list` names them."""
    at: Annotated[int | None, arg(metavar="STEP", help_behavior_hint="(default: its start)")] = None
    """Step of the recording that a picture shows, 10 a second."""
    out: Annotated[Path, arg(metavar="FILE")] = Path("scene.png")
    """*.png: a picture; *.mp4 or *.gif: a film."""


def run(rest: list[str]) -> None:
    """`scene show` and `scene list`."""
    if not rest or rest[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {PROG} scene {name} WHAT   {what}" for name, what in _SCENE.items())
        print(f"usage:\n{verbs}\n\n{PROG} scene show --help shows the options.")
        return
    if rest[0] not in _SCENE:
        raise ValueError(f"scene {rest[0]}: {nearest(rest[0], _SCENE)}")
    shape = ShowOptions if rest[0] == "show" else ListOptions
    options = parse(shape, f"scene {rest[0]}", _SCENE[rest[0]], rest[1:])
    if options is None:
        return
    from drivefoundry.clips.importers.recording import not_read
    from drivefoundry.stages import look

    scenes, refused = look.scenes_at(options.what)
    if isinstance(options, ShowOptions):
        look.show(look.chosen(scenes, options.scene), options.at, options.out)
        print(options.out)
    else:
        print(look.table(scenes))
        for file, why in refused.items():
            print(f"no scene of {file}: {why}", file=sys.stderr)
        for line in not_read(scenes):
            print(line, file=sys.stderr)

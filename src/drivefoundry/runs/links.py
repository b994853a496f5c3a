"""Links to what a run has made last: RUN/engine, RUN/releases/N of each turn, and RUN/releases/latest."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ENGINE, RELEASES, LATEST = "engine", "releases", "latest"


def link(run: Path, kind: str, turn: int | None, artefact: Path) -> None:
    """Point the links at a turn's artefact: an engine (kind quantize) or a release. Each is replaced whole; what lies
    at its place and is no link stays. A turn's release that is another takes the later turns' links away."""
    if kind == "quantize":
        _point(run / ENGINE, artefact)
    elif kind == "release" and turn is not None:
        folder = run / RELEASES
        folder.mkdir(exist_ok=True)
        changed = _point(folder / str(turn), artefact)
        if changed:
            for other in folder.iterdir():
                if other.is_symlink() and other.name.isdecimal() and int(other.name) > turn:
                    other.unlink()
        _point(folder / LATEST, artefact)


def without_dangling(run: Path) -> None:
    """Remove the links whose artefact is gone."""
    folder = run / RELEASES
    for path in [run / ENGINE, *(folder.iterdir() if folder.is_dir() else ())]:
        if path.is_symlink() and not path.exists():
            path.unlink()
    with contextlib.suppress(OSError):  # not empty, or not there
        folder.rmdir()


def _point(at: Path, artefact: Path) -> bool:
    """Make a relative link, or leave one that is right; whether it is another now."""
    to = os.path.relpath(artefact, at.parent)
    if at.is_symlink():
        if os.readlink(at) == to:
            return False
    elif at.exists():
        return False
    aside = at.with_name(f".{at.name}.part")
    aside.unlink(missing_ok=True)
    aside.symlink_to(to, target_is_directory=True)
    os.replace(aside, at)
    return True

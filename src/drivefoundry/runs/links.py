"""Links to a run's newest results: RUN/engine, RUN/releases/N of each turn, and RUN/releases/latest."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ENGINE, RELEASES, LATEST = "engine", "releases", "latest"


def link(run: Path, kind: str, turn: int | None, artefact: Path) -> None:
    """Point the links to a turn's artefact: an engine (kind quantize) or a release. Links are replaced atomically; a
    file in their place that is not a link stays. A changed release removes the links of later turns."""
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
    """Remove links whose artefact is gone."""
    folder = run / RELEASES
    for path in [run / ENGINE, *(folder.iterdir() if folder.is_dir() else ())]:
        if path.is_symlink() and not path.exists():
            path.unlink()
    with contextlib.suppress(OSError):  # not empty, or missing
        folder.rmdir()


def _point(at: Path, artefact: Path) -> bool:
    """Create or update a relative link; return whether it changed."""
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

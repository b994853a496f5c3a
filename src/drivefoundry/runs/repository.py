"""Resolve a name to a release repository, for reading or for changing.

A run signs its releases into artefacts, which never change. Its fleet is served from RUN/repository, which can be
staged, halted and renewed: a copy of the newest release artefact, made with the first change.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drivefoundry.release import Keys
from drivefoundry.runs import named

FOLDER, KEYS = "repository", "keys"


def to_read(where: str | Path) -> Path:
    """Resolve a repository for reading: its directory, a release of a run (RUN/releases/3, RUN:release), or a run."""
    path = Path(where)
    if (path / "metadata").is_dir():
        return path
    if (path / "repo" / "metadata").is_dir():
        return path / "repo"
    found = named.resolved(where)
    if found.run is None:
        raise ValueError(f"{where}: no release repository (no metadata/ in it) and no run")
    if found.artefact is not None:
        if found.artefact.kind != "release":
            raise ValueError(
                f"{where}: a {found.artefact.kind}, not a release; `drivefoundry release list {found.run}`"
            )
        return found.path / "repo"
    own = found.run / FOLDER
    return own if own.is_dir() else named.newest(found.run, "release", "release").path / "repo"


@contextmanager
def changing(where: str | Path) -> Iterator[Path]:
    """Resolve a repository for changing. A run's copy is created if it is missing, and removed again if the change
    fails."""
    repo = to_read(where)
    run = _run_of(repo)
    if run is None:
        yield repo
        return
    own = run / FOLDER
    if not named.is_run(Path(where)):
        raise ValueError(f"{where}: artefacts of a run do not change; name the run, {run}, to change {own}")
    made = not own.exists()
    if made:
        aside = Path(tempfile.mkdtemp(prefix=f".{FOLDER}.", dir=run))
        shutil.copytree(repo, aside, dirs_exist_ok=True)
        aside.chmod(0o755)
        os.replace(aside, own)
    try:
        yield own
    except BaseException:
        if made:
            shutil.rmtree(own)
        raise


def keys_of(where: str | Path, given: tuple[Path, ...], online: Path | None) -> Keys:
    """Keys of a repository: as given, else its run's."""
    if not given and online is None:
        run = Path(where) if named.is_run(Path(where)) else Path(where).parent
        if not (run / KEYS).is_dir():
            raise ValueError(f"{where}: its keys are not in {run / KEYS}; give --keys DIR")
        return Keys.of(run / KEYS)
    held = [Keys.of(folder) for folder in given]
    offline = [folder for each in held for folder in each.offline]
    if online is None:
        return Keys(offline, held[0].online)
    return Keys(offline or [online], online)


@contextmanager
def tried(repo: Path) -> Iterator[Path]:
    """A temporary copy of a repository on which a change can be tried out."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repo"
        shutil.copytree(repo / "metadata", copy / "metadata")
        for part in ("targets", "targets/releases"):
            (copy / part).mkdir()
            for path in (repo / part).iterdir() if (repo / part).is_dir() else ():
                if path.name != "releases":
                    (copy / part / path.name).symlink_to(path.resolve())
        try:
            yield copy
        except ValueError as e:
            raise ValueError(str(e).replace(str(copy), str(repo))) from e


def _run_of(repo: Path) -> Path | None:
    """The run whose artefacts contain a repository."""
    for at in repo.resolve().parents:
        if at.parent.name == "artefacts" and named.is_run(at.parent.parent):
            return at.parent.parent
    return None

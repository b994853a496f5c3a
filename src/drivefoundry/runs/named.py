"""Resolve names of artefacts: how every verb finds an engine, a model, a verdict or a run.

A name is a path (a run directory, an artefact in it, a link such as out/engine or out/releases/3, or a directory from
elsewhere), or RUN:WHAT or RUN:WHAT:TURN, where RUN is a run directory and WHAT a kind of artefact (quantize, sft), a
stage (train, judge), one of ALIASES, or at least six digits of an artefact's id. Without a turn it is the newest.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from drivefoundry.ledger import Artefact, Ledger
from drivefoundry.runs.asked import current
from drivefoundry.types import require
from drivefoundry_car.engine import files

ALIASES = {
    "engine": ("quantize",), "student": ("distil",), "model": ("rl", "sft", "adapt", "pretrain"),
    "train": ("sft", "adapt", "pretrain"), "judge": ("verdict", "open_loop"), "exam": ("exam",),
}  # fmt: skip
"""Alias -> kinds of artefact, of which the first that exists is used."""
MODELS = ("rl", "sft", "adapt", "distil", "pretrain", "scale")
"""Kinds that contain a checkpoint."""
ENGINES = ("quantize", "release", "car")
"""Kinds that contain an engine or refer to one."""
_NAME = re.compile(r"(?P<run>.+?):(?P<what>[A-Za-z_]+|[0-9a-f]{6,64})(?::(?P<turn>\d+|latest))?")


@dataclass(frozen=True)
class Named:
    """A resolved name: a run, one of its artefacts (then `run` is its directory), or another path."""

    path: Path
    run: Path | None = None
    artefact: Artefact | None = None


def is_run(path: Path) -> bool:
    """Whether a path is a run directory."""
    return (path / "ledger.db").is_file()


def turn_of(artefact: Artefact) -> int | None:
    """Turn of the loop that an artefact belongs to, if any."""
    return artefact.recipe.get("turn") if isinstance(artefact.recipe, dict) else None


def artefacts(run: Path) -> list[Artefact]:
    """All artefacts of a run, oldest first, those that the last run used after all others."""
    with Ledger.reading(run) as ledger:
        every = ledger.history()
    place = {id: n for n, id in enumerate(current(run))}
    return sorted(every, key=lambda a: (a.id in place, place.get(a.id, 0)))


def resolved(name: str | Path) -> Named:
    """Resolve a name. ValueError if it matches nothing, or several."""
    path = Path(name)
    if path.exists():
        if is_run(path):
            return Named(path, path)
        return _inside(path.resolve()) or Named(path)
    match = _NAME.fullmatch(str(name))
    require(match is not None, f"{name}: no such file or directory")
    assert match is not None
    run = Path(match["run"])
    require(is_run(run), f"{name}: {run} is not a run directory")
    turn = None if match["turn"] in (None, "latest") else int(match["turn"])
    found = _chosen(artefacts(run), match["what"], turn, name)
    return Named(found.path, run, found)


def _inside(path: Path) -> Named | None:
    """Resolve a path within a run's artefacts to that artefact."""
    for at in (path, *path.parents):
        if at.parent.name == "artefacts" and is_run(at.parent.parent):
            run = at.parent.parent
            found = [a for a in artefacts(run) if a.path.name == at.name]
            return Named(path, run, found[-1]) if found else None
    return None


def _chosen(every: list[Artefact], what: str, turn: int | None, name: str | Path) -> Artefact:
    by_id = {a.id: a for a in every if a.id.startswith(what)} if re.fullmatch("[0-9a-f]{6,64}", what) else {}
    require(len(by_id) < 2, f"{name}: {len(by_id)} artefacts match; give more digits")
    if by_id:
        return next(iter(by_id.values()))
    for kind in ALIASES.get(what, (what,)):
        found = [a for a in every if a.kind == kind and turn in (None, turn_of(a))]
        if found:
            return found[-1]
    there = ", ".join(dict.fromkeys(f"{a.kind}:{t}" if (t := turn_of(a)) else a.kind for a in every))
    raise ValueError(f"{name}: this run has no such artefact; there are {there or 'none'}")


def newest(run: Path, what: str, makes: str) -> Artefact:
    """Newest artefact of a kind or alias in a run; ValueError says which stage makes it."""
    every = artefacts(run)
    kinds = ALIASES.get(what, (what,))
    require(
        any(a.kind in kinds for a in every),
        f"{run}: no {what} in this run yet; `drivefoundry run --until {makes} --out {run}` makes one",
    )
    return _chosen(every, what, None, run)


def _parent(named: Named, kind: str) -> Artefact | None:
    """The artefact itself, or the newest of that kind among its ancestors."""
    if named.run is None or named.artefact is None:
        return None
    with Ledger.reading(named.run) as ledger:
        line = ledger.lineage(named.artefact.id)
    return next((a for a in reversed(line) if a.kind == kind), None)


def engine(name: str | Path) -> Path:
    """Directory of an engine: itself, a run's newest, or the one that a release, car or verdict is about."""
    named = resolved(name)
    if (named.path / files.CONTRACT).is_file():
        return named.path
    if named.artefact is not None and named.artefact.kind in (*ENGINES, "verdict"):
        found = _parent(named, "quantize")
        if found is not None:
            return found.path
    require(named.run is not None and named.artefact is None, f"{name}: no engine ({files.CONTRACT}) in it")
    assert named.run is not None
    return newest(named.run, "engine", "quantize").path


def model(name: str | Path) -> Path:
    """Directory of a checkpoint: itself, an artefact's, or a run's newest model after RL (or before)."""
    named = resolved(name)
    if named.run is not None and named.artefact is None:
        named = Named(newest(named.run, "model", "train").path)
    for path in _checkpoints(named.path):
        if _whole(path):
            return path
    if (named.path / files.CONTRACT).is_file() or (named.artefact is not None and named.artefact.kind in ENGINES):
        raise ValueError(f"{name}: an engine, not a model; name the run (RUN:model) or a checkpoint directory")
    raise ValueError(f"{name}: no checkpoint in it (no config.json with a codebook.safetensors)")


def verdict(name: str | Path) -> Path:
    """Path of a verdict.json: itself, a directory's, the one a release was signed with, or a run's newest."""
    if ":" not in str(name) and not Path(name).exists():
        return Path(name)  # its reader will report that it is missing
    named = resolved(name)
    if named.path.is_file():
        return named.path
    if named.run is not None and named.artefact is None:
        return newest(named.run, "verdict", "judge").path / "verdict.json"
    found = _parent(named, "verdict")
    return (named.path if found is None else found.path) / "verdict.json"


def driver(name: str, baselines: Collection[str]) -> tuple[Literal["engine", "model"], Path]:
    """Directory of an engine or a checkpoint, and which of the two it is. ValueError lists the baselines as well."""
    known = f"{', '.join(baselines)}, a run directory, an engine, a model, or RUN:WHAT:TURN"
    if ":" not in name and not Path(name).exists():
        raise ValueError(f"{name}: no such file or directory; give {known}")
    named = resolved(name)
    if named.artefact is not None and named.artefact.kind in MODELS:
        return "model", model(name)
    if any(map(_whole, _checkpoints(named.path))):
        return "model", model(name)
    require(named.run is not None or (named.path / files.CONTRACT).is_file(), f"{name}: not a driver; give {known}")
    return "engine", engine(name)


def _checkpoints(path: Path) -> tuple[Path, Path]:
    return path, path / "checkpoint"


def _whole(path: Path) -> bool:
    """Whether a directory looks like a checkpoint."""
    return (path / "config.json").is_file() and (path / "codebook.safetensors").is_file()

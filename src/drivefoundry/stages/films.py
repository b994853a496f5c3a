"""Rollouts kept by the judge in, films for the report out: the last release, where it failed worst and elsewhere, and
the first release on the same scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drivefoundry.judge.worst import failure
from drivefoundry.ledger import Artefact
from drivefoundry.sim.view import film, mp4
from drivefoundry.stages.score import WHOLE_CAR, load_scores
from drivefoundry.types import PLAN_DT, Scene, short_id
from drivefoundry.ui.content import Film

FINE = "no infraction"


def films_of(scenes: Sequence[Scene], done: Sequence[tuple[int | None, str, Artefact]]) -> list[Film]:
    """Exam scenes and the run's artefacts in; films of the last car out, and of the first release where that failed."""
    scored = [(turn, a) for turn, kind, a in done if kind == "score" and turn is not None]
    if not scored:
        return []
    last = max(turn for turn, _ in scored)
    by_id = {s.id: s for s in scenes}
    cars = [a for turn, a in scored if turn == last and load_scores(a.path)[0] == WHOLE_CAR]
    firsts = [a for turn, a in scored if turn == 1 and turn != last and load_scores(a.path)[0] == WHOLE_CAR]
    fates = [(a.path, turn, _fates(a.path)) for a, turn in [(a, last) for a in cars] + [(a, 1) for a in firsts]]
    shown = fates[0][2] if fates else {}
    out = []
    for path, turn, filmed in fates:
        for scene_id, how in filmed.items():
            if scene_id in by_id and (turn == last or (how != FINE and scene_id in shown)):
                out.append(_film(path, by_id[scene_id], turn, how))
    return sorted(out, key=lambda f: f.title)


def _fates(path: Path) -> dict[str, str]:
    """Filmed scene -> how it ended."""
    _, ids, metrics = load_scores(path)
    with np.load(path / "film.npz") as data:
        filmed = {name.rpartition("/")[0] for name in data.files}
    out = {}
    for i, scene in enumerate(ids):
        if scene in filmed:
            term, at = failure(metrics, i)
            out[scene] = f"{term} at {at:.1f} s" if np.isfinite(at) else term or FINE
    return out


def _film(path: Path, scene: Scene, turn: int, how: str) -> Film:
    with np.load(path / "film.npz") as data:
        ego, agents, valid, plans, text = (data[f"{scene.id}/{k}"] for k in ("ego", "agents", "valid", "plans", "text"))
    said = [str(t) for t in text]
    frames = film(scene, ego, agents, valid, plans, said)
    lines = [(k * PLAN_DT, t) for k, t in enumerate(said) if t and (k == 0 or t != said[k - 1])]
    return Film(f"{short_id(scene.id)}, release {turn}", f"{scene.place}: {how}", "video/mp4", mp4(frames), lines)

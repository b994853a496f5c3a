"""Films for the report, from rollouts that the judge kept: the last release where it failed worst and elsewhere, and
the first release on the same scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from drivefoundry.judge.worst import failure, listed
from drivefoundry.ledger import Artefact
from drivefoundry.render.view import Decisions, film, mp4
from drivefoundry.reports.content import Film
from drivefoundry.stages.score import ENGINE, WHOLE_CAR, load_scores
from drivefoundry.types import DT, Scene, short_id
from drivefoundry_car import arrays
from drivefoundry_car.documents import read_json

FINE = "no infraction"


def film_id(scene: str, policy: str, turn: int) -> str:
    """Id of a drive's film on the page."""
    return f"film-{short_id(scene)}-{'car' if policy == WHOLE_CAR else 'engine'}-{turn}"


def films_of(scenes: Sequence[Scene], done: Sequence[tuple[int | None, str, Artefact]], worst: int) -> list[Film]:
    """Films of the last car, of its engine alone in scenes that the report lists, and of the first car where it
    failed."""
    scored = [(turn, a) for turn, kind, a in done if kind == "score" and turn is not None]
    if not scored:
        return []
    last = max(turn for turn, _ in scored)
    by_id = {s.id: s for s in scenes}
    found = [(turn, load_scores(a.path), a.path) for turn, a in scored]
    kept: list[tuple[str, str, int, str, Path]] = []  # scene, outcome, turn, policy, artefact
    for turn, (policy, ids, metrics), path in found:
        fates = _fates(path, ids, metrics)
        if policy == WHOLE_CAR and turn == last:
            kept += [(scene, how, turn, policy, path) for scene, how in fates.items()]
        elif policy == ENGINE and turn == last:
            shown = {ids[i] for i in listed(ids, metrics, worst)}
            kept += [(scene, how, turn, policy, path) for scene, how in fates.items() if scene in shown]
    alike = {scene for scene, _, turn, policy, _ in kept if policy == WHOLE_CAR}
    for turn, (policy, ids, metrics), path in found:
        if policy == WHOLE_CAR and turn == 1 != last:
            fates = _fates(path, ids, metrics)
            kept += [(s, how, turn, policy, path) for s, how in fates.items() if how != FINE and s in alike]
    films = [_film(path, by_id[s], turn, policy, how) for s, how, turn, policy, path in kept if s in by_id]
    return sorted(films, key=lambda f: f.title)


def _fates(path: Path, ids: Sequence[str], metrics: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Filmed scene -> outcome of its drive."""
    filmed = read_json(path / "film.json").keys()
    out = {}
    for i, scene in enumerate(ids):
        if scene in filmed:
            term, at = failure(metrics, i)
            out[scene] = f"{term} at {at:.1f} s" if np.isfinite(at) else term or FINE
    return out


def _film(path: Path, scene: Scene, turn: int, policy: str, how: str) -> Film:
    data = arrays.mapped(path / "film.safetensors")
    ego, agents, valid, plans = (data[f"{scene.id}/{k}"] for k in ("ego", "agents", "valid", "plans"))
    text = read_json(path / "film.json")[scene.id]
    decision_dt = (len(ego) - 1) // len(plans) * DT
    frames = film(scene, ego, agents, valid, Decisions(plans, text, decision_dt))
    lines = [(k * decision_dt, t) for k, t in enumerate(text) if t and (k == 0 or t != text[k - 1])]
    who = f"release {turn}" if policy == WHOLE_CAR else f"release {turn}, guard off"
    title = f"{short_id(scene.id)}, {who}"
    return Film(title, f"{scene.place}: {how}", "video/mp4", mp4(frames), lines, film_id(scene.id, policy, turn))

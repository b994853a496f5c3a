"""Recorded traffic or a run in; a table of its scenes, a picture or a film of one out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from drivefoundry import outputs
from drivefoundry.clips.importers.folder import scenes_in
from drivefoundry.ledger import Ledger
from drivefoundry.sim import view
from drivefoundry.stages.record import EGOS
from drivefoundry.types import DT, Scene, require

FRAMES_A_S = 5
COLUMNS = ("n", "id", "source", "seconds", "agents", "lights", "ego")


def scenes_at(what: Path) -> tuple[list[Scene], dict[str, str]]:
    """File or folder of recorded traffic, or directory of a run in the embedded city, in; its scenes (of a run: its
    exam's), and why some files gave none, out. ValueError where there is no scene."""
    if (what / "ledger.db").exists():
        return _exam(what), {}
    scenes, refused = scenes_in(what, egos=EGOS)
    why = "; ".join(f"{file}: {reason}" for file, reason in list(refused.items())[:3])
    require(len(scenes) > 0, f"{what}: no scene in it ({why})")
    return scenes, refused


def _exam(run: Path) -> list[Scene]:
    with Ledger(run) as ledger:
        exams = [a for a in ledger.history() if a.kind == "exam"]
    require(len(exams) > 0, f"{run}: this run has no exam yet; `drivefoundry run --until judge --out {run}` makes it")
    recorded = not (exams[-1].path / "clips.json").exists()
    require(not recorded, f"{run}: a run on recorded traffic; give the folder that it was given (--scenes)")
    from drivefoundry.stages.label import clip_ids, scenes_of

    return scenes_of(str(run / "clips"), clip_ids(exams[-1].path))


def table(scenes: list[Scene]) -> str:
    """One line a scene: number, id, source, seconds to drive, other agents, lights that show something, which the ego
    is."""
    cells = [COLUMNS, *(tuple(map(str, row.values())) for row in rows(scenes))]
    wide = [max(len(row[c]) for row in cells) for c in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in cells)


def rows(scenes: list[Scene]) -> list[dict[str, Any]]:
    """The cells of `table`, a dict of COLUMNS a scene."""
    return [
        dict(zip(COLUMNS, (
            n, s.id, s.source, round((s.valid.shape[1] - s.start - 1) * DT, 1), len(s.kind) - 1,
            int(s.signals.any(1).sum()), s.meta.get("ego", "the recording car"),
        ), strict=True))
        for n, s in enumerate(scenes)
    ]  # fmt: skip


def chosen(scenes: list[Scene], which: str) -> Scene:
    """The scene of a number (as in the table) or id; ValueError where there is none."""
    if which.isdecimal():
        require(int(which) < len(scenes), f"--scene {which}: there are {len(scenes)}, from 0 on")
        return scenes[int(which)]
    found = [s for s in scenes if s.id == which]
    require(len(found) > 0, f"--scene {which}: no such scene; `drivefoundry scene list` names all {len(scenes)}")
    return found[0]


def show(scene: Scene, at: int | None, out: Path) -> None:
    """Scene in; a picture of its log at a step (out *.png), or its film from the start on (*.mp4, *.gif), written whole
    or not at all."""
    kind = out.suffix.lower()
    require(kind in (".png", ".mp4", ".gif"), f"--out {out}: a file *.png, *.mp4 or *.gif wanted")
    require(at is None or kind == ".png", f"--at {at}: a film shows all steps; give --out a *.png")
    require(out.parent.is_dir(), f"--out {out}: no such folder: {out.parent}")
    with outputs.file(out) as aside:
        if kind == ".png":
            view.picture(scene, at).save(aside, "png")
            return
        seen = scene.valid[scene.ego, scene.start :]
        part = slice(scene.start, scene.start + (len(seen) if seen.all() else int(np.argmin(seen))))
        every = round(1.0 / (FRAMES_A_S * DT))
        frames = view.film(
            scene, scene.tracks[scene.ego, part], scene.tracks[:, part], scene.valid[:, part], every=every
        )
        if kind == ".mp4":
            aside.write_bytes(view.mp4(frames, FRAMES_A_S))
        else:
            first, *rest = [Image.fromarray(f) for f in frames]
            first.save(aside, "gif", save_all=True, append_images=rest, duration=1000 // FRAMES_A_S, loop=0)

"""List the scenes of recorded traffic or a run, and show one as a picture or a film."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from drivefoundry import outputs
from drivefoundry.clips.importers.folder import kind_for, scene_files, scenes_in
from drivefoundry.clips.importers.traffic.recording import left_of
from drivefoundry.compute import pmap
from drivefoundry.progress import bar
from drivefoundry.render import view
from drivefoundry.runs import named
from drivefoundry.runs.asked import remembered
from drivefoundry.scenes.known import Known, Row
from drivefoundry.stages.label import clip_ids, scenes_of
from drivefoundry.stages.record import EGOS
from drivefoundry.types import DT, Scene, require, short_id

FRAMES_A_S = 5
COLUMNS = ("n", "id", "name", "source", "seconds", "agents", "lights", "ego")
PREFIX = 6
"""Least number of digits that identify a scene."""


def listing(what: Path) -> tuple[list[Row], dict[str, str]]:
    """A row per scene of recorded traffic or of a run's exam, and why some files gave none. ValueError if there is no
    scene."""
    found = named.resolved(what)
    if found.run is not None:
        store, ids, folder = _exam(found)
        if folder is None:
            return [row(n, s) for n, s in enumerate(scenes_of(store, ids))], {}
        every, refused = _folder_rows(folder)
        rows = [r for r in every if r["scene"] in set(ids)]
        return [{**r, "n": n} for n, r in enumerate(rows)], refused
    rows, refused = _folder_rows(what)
    why = "; ".join(f"{file}: {reason}" for file, reason in list(refused.items())[:3])
    require(len(rows) > 0, f"{what}: contains no scene ({why})")
    return rows, refused


def scene_at(what: Path, which: str) -> Scene:
    """Find a scene by number (as in `listing`), id, short id or at least 6 digits of one. If `listing` has seen the
    file, only the clip or file with the scene is read. ValueError if there is none, or several."""
    found = named.resolved(what)
    if found.run is None:
        return _in_folder(what, which)
    store, ids, folder = _exam(found)
    if folder is None:
        return scenes_of(store, [chosen(ids, which)])[0]
    return _in_folder(folder, chosen(ids, which))


def exam_scenes(run: Path) -> list[Scene]:
    """All scenes of a run's exam. ValueError if it has none, or its recordings have moved."""
    store, ids, folder = _exam(named.Named(run, run))
    if folder is None:
        return scenes_of(store, ids)
    scenes, _ = scenes_in(folder, egos=EGOS)
    held_out = {s.id: s for s in scenes}
    missing = [i for i in ids if i not in held_out]
    require(not missing, f"{folder}: {len(missing)} scenes of the exam no longer exist, {', '.join(missing[:1])}")
    return [held_out[i] for i in ids]


def _exam(found: named.Named) -> tuple[str, list[str], Path | None]:
    """A run's clip store, the ids of its exam's scenes, and the folder they come from, None if they are clips."""
    run = found.run
    assert run is not None
    exam = named.newest(run, "exam", "judge")
    if (exam.path / "clips.json").exists():
        return str(run / "clips"), clip_ids(exam.path), None
    asked = remembered(run)
    folder = asked.scenes if asked else None
    require(folder is not None, f"{run}: a run on recorded traffic; give the folder that it was given (--scenes)")
    return "", [*json.loads((exam.path / "exam.json").read_text())["scenes"]], folder


def _files_of(what: Path) -> list[Path]:
    if not what.is_file():
        kind_for(what, "scenes")
    files = scene_files(what)
    require(len(files) > 0, f"{what}: no file of recorded traffic")
    return files


def _folder_rows(what: Path) -> tuple[list[Row], dict[str, str]]:
    """Rows of all scenes; unchanged files come from the cache."""
    files = _files_of(what)
    known = Known.of(what, _rows_of)
    missing = [f for f in files if known.rows(f) is None]
    if missing:
        with bar("read scenes", len(missing)) as advance:
            how = "processes" if len(missing) > 1 else "serial"
            read = pmap(_rows_of, missing, how, on_done=lambda *_: advance())
        known.add(zip(missing, read, strict=True))
    every, refused = [], {}
    for file in files:
        rows, why = known.rows(file) or ([], "")
        every += rows
        if why:
            refused[file.relative_to(what).as_posix() if file != what else file.name] = why
    return [{**r, "n": n} for n, r in enumerate(every)], refused


def _rows_of(file: Path) -> tuple[list[Row], str]:
    """One file's rows, or why it gives none."""
    scenes, refused = scenes_in(file, egos=EGOS)
    return [row(0, s) for s in scenes], next(iter(refused.values()), "")


def _in_folder(what: Path, which: str) -> Scene:
    """Find one scene of a folder, reading as few files as possible."""
    files = _files_of(what)
    known = Known.of(what, _rows_of)
    ids: list[tuple[str, Path]] = []
    number = which.isdecimal() and len(which) < PREFIX
    for file in sorted(files, key=lambda f: not number and known.rows(f) is None):
        told = known.rows(file)
        if told is None:
            told = _rows_of(file)
            known.add([(file, told)])
        ids += [(r["scene"], file) for r in told[0]]
        if int(which) < len(ids) if number else any(which in (i, short_id(i)) for i, _ in ids):
            break
    scene = chosen([scene for scene, _ in ids], which)
    scenes, _ = scenes_in(dict(ids)[scene], egos=EGOS)
    return next(s for s in scenes if s.id == scene)


def row(n: int, s: Scene) -> Row:
    """A scene's row in a listing: number, short id, name if its id is one, source, seconds to drive, other agents,
    lights with a state, what the ego is, full id, and what was left out of its recording."""
    short = short_id(s.id)
    recording, left = left_of(s)
    return {
        "n": n, "id": short, "name": "-" if s.id.startswith(short) else s.id, "source": s.source,
        "seconds": round((s.valid.shape[1] - s.start - 1) * DT, 1), "agents": len(s.kind) - 1,
        "lights": int(s.signals.any(1).sum()), "ego": s.meta.get("ego", "the recording car"), "scene": s.id,
        "recording": recording, "not_read": left,
    }  # fmt: skip


def table(rows: list[Row]) -> str:
    """One line per scene."""
    cells = [COLUMNS, *(tuple(str(r[c]) for c in COLUMNS) for r in rows)]
    wide = [max(len(row[c]) for row in cells) for c in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in cells)


def matching(ids: Sequence[str], which: str) -> list[str]:
    """The id equal to a word, or all full and short ids that start with it."""
    if which in ids:
        return [which]
    if len(which) < PREFIX:
        return []
    return [i for i in dict.fromkeys(ids) if i.startswith(which) or short_id(i).startswith(which)]


def chosen(ids: Sequence[str], which: str) -> str:
    """Resolve a number, an id, or at least PREFIX digits of a full or short one; ValueError if there is none, or
    several."""
    found = matching(ids, which)
    if not found and which.isdecimal():
        require(int(which) < len(ids), f"--scene {which}: must be 0 to {len(ids) - 1}")
        return ids[int(which)]
    require(len(found) > 0, f"--scene {which}: no such scene; `drivefoundry scene list` names all {len(ids)}")
    require(len(found) == 1, f"--scene {which}: {len(found)} scenes match; give more digits")
    return found[0]


def show(scene: Scene, at: int | None, out: Path) -> None:
    """Write a picture of a scene's log at a step (out *.png), or a film from its start (*.mp4, *.gif), atomically."""
    kind = out.suffix.lower()
    require(kind in (".png", ".mp4", ".gif"), f"--out {out}: must be a *.png, *.mp4 or *.gif file")
    require(at is None or kind == ".png", f"--at {at}: a film shows all steps; give --out a *.png")
    require(out.parent.is_dir(), f"--out {out}: no such folder: {out.parent}")
    with outputs.file(out, kind) as aside:
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

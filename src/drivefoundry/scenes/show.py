"""Recorded traffic or a run in; a table of its scenes, a picture or a film of one out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from drivefoundry import outputs
from drivefoundry.clips.importers.folder import scene_files, scenes_in, wanted
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
"""Digits of an id that are enough to name a scene."""


def listing(what: Path) -> tuple[list[Row], dict[str, str]]:
    """File or folder of recorded traffic, or name of a run, in; a row a scene (of a run: of its exam's), and why some
    files gave none, out. ValueError where there is no scene."""
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
    require(len(rows) > 0, f"{what}: no scene in it ({why})")
    return rows, refused


def scene_at(what: Path, which: str) -> Scene:
    """The scene of a number (as in `listing`), an id, a short id or at least 6 digits of one; only the clip or the file
    that holds it is read, where `listing` has seen the file. ValueError where there is none, or several."""
    found = named.resolved(what)
    if found.run is None:
        return _in_folder(what, which)
    store, ids, folder = _exam(found)
    if folder is None:
        return scenes_of(store, [chosen(ids, which)])[0]
    return _in_folder(folder, chosen(ids, which))


def exam_scenes(run: Path) -> list[Scene]:
    """All scenes of a run's exam. ValueError where it has none, or its recordings have moved."""
    store, ids, folder = _exam(named.Named(run, run))
    if folder is None:
        return scenes_of(store, ids)
    scenes, _ = scenes_in(folder, egos=EGOS)
    held_out = {s.id: s for s in scenes}
    missing = [i for i in ids if i not in held_out]
    require(not missing, f"{folder}: {len(missing)} scenes of the exam are no longer there, {', '.join(missing[:1])}")
    return [held_out[i] for i in ids]


def _exam(found: named.Named) -> tuple[str, list[str], Path | None]:
    """A run in; its clip store, the ids of its exam's scenes, and the folder that these come from, None where they are
    clips."""
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
        wanted(what, "scenes")
    files = scene_files(what)
    require(len(files) > 0, f"{what}: no file of recorded traffic")
    return files


def _folder_rows(what: Path) -> tuple[list[Row], dict[str, str]]:
    """Rows of all scenes; files that have been read before and are as they were are not read again."""
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
    """One file's rows, and why it gives none."""
    scenes, refused = scenes_in(file, egos=EGOS)
    return [row(0, s) for s in scenes], next(iter(refused.values()), "")


def _in_folder(what: Path, which: str) -> Scene:
    """One scene of a folder: files are read one after the other until it is certain, those known before not at all."""
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
    """What a listing says of a scene: number, short id, name where its id is one, source, seconds to drive, other
    agents, lights that show something, which the ego is; the whole id; and what was left out of its recording."""
    short = short_id(s.id)
    recording, left = left_of(s)
    return {
        "n": n, "id": short, "name": "-" if s.id.startswith(short) else s.id, "source": s.source,
        "seconds": round((s.valid.shape[1] - s.start - 1) * DT, 1), "agents": len(s.kind) - 1,
        "lights": int(s.signals.any(1).sum()), "ego": s.meta.get("ego", "the recording car"), "scene": s.id,
        "recording": recording, "not_read": left,
    }  # fmt: skip


def table(rows: list[Row]) -> str:
    """One line a scene."""
    cells = [COLUMNS, *(tuple(str(r[c]) for c in COLUMNS) for r in rows)]
    wide = [max(len(row[c]) for row in cells) for c in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in cells)


def matching(ids: Sequence[str], which: str) -> list[str]:
    """The ids that a word means: the one that it is, or all that it begins, whole or short."""
    if which in ids:
        return [which]
    if len(which) < PREFIX:
        return []
    return [i for i in dict.fromkeys(ids) if i.startswith(which) or short_id(i).startswith(which)]


def chosen(ids: Sequence[str], which: str) -> str:
    """The id of a number, an id, or at least PREFIX digits of a whole or short one; ValueError where there is none, or
    several."""
    found = matching(ids, which)
    if not found and which.isdecimal():
        require(int(which) < len(ids), f"--scene {which}: there are {len(ids)}, from 0 on")
        return ids[int(which)]
    require(len(found) > 0, f"--scene {which}: no such scene; `drivefoundry scene list` names all {len(ids)}")
    require(len(found) == 1, f"--scene {which}: {len(found)} scenes begin so; give more digits")
    return found[0]


def show(scene: Scene, at: int | None, out: Path) -> None:
    """Scene in; a picture of its log at a step (out *.png), or its film from the start on (*.mp4, *.gif), written whole
    or not at all."""
    kind = out.suffix.lower()
    require(kind in (".png", ".mp4", ".gif"), f"--out {out}: a file *.png, *.mp4 or *.gif wanted")
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

"""Import of real drives, and open-loop errors of a model and of baselines on held-out episodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drivefoundry.clips.importers.folder import clips_in, fingerprint, maps_in, sound
from drivefoundry.clips.store import ClipStore
from drivefoundry.judge.open_loop import (
    constant_velocity_plan,
    constant_yaw_rate_plan,
    open_loop_errors,
    open_loop_summary,
)
from drivefoundry.label.episodes import load_shard
from drivefoundry.ledger import Artefact, fresh
from drivefoundry.model.policy import TorchPolicy
from drivefoundry.progress import bar, warn
from drivefoundry.stages.context import RunContext
from drivefoundry.stages.ingest import in_order, write_json
from drivefoundry.types import Observation
from drivefoundry_car.log import read_drive

BATCH = 256


def imported(line: RunContext, folder: Path) -> Artefact:
    """Import a folder of real drives into the store as clips."""
    source = {"folder": fingerprint(folder)}
    return line.make(None, "import", "import", source, [], lambda d: import_drives(folder, line.store, d))


def scored(line: RunContext, model: Artefact, held_out: Artefact) -> Artefact:
    """The model's errors on the held-out part."""
    return line.make(None, "judge", "open_loop", {}, [model, held_out], lambda d: score(model.path, held_out.path, d))


def import_drives(folder: Path, store_url: str, out: Path) -> dict:
    """Import a folder of real drives, or one file: clips go to the store, their ids to clips.json; fields missing in
    the source and files left out go to notes.json."""
    fresh(out)
    store = ClipStore(store_url)
    lacks: list[str] = []

    def left_out(why: str) -> None:
        warn(why)
        lacks.append(why.removeprefix("left out: "))

    maps = maps_in(folder, left_out)
    for name, data in maps.items():
        store.put_map(name, data)
    files = clips_in(folder, out / ".clips", maps=maps, left_out=left_out)
    noted: dict[str, dict[str, list[str]]] = {}
    truth = False
    for file in files:
        drive = read_drive(file, video=False)
        for field, what in drive.notes.items():
            noted.setdefault(field, {}).setdefault(what, []).append(drive.meta.get("drive", file.stem))
        truth |= drive.objects is not None and bool(drive.meta.get("map"))
    notes = _notes(noted)
    if not truth:
        notes["scene truth"] = "absent: no closed-loop score, no reinforcement, no collisions to count"
    # Clips whose pictures cannot be kept are also left out.
    clips = [(file, lambda file=file: store.prepare(file)) for file in files]
    prepared = [clip for _, clip in sound(out / ".clips", clips, left_out)]
    store.append(prepared)
    top = folder if folder.is_dir() else folder.parent
    for why in lacks:
        name, _, reason = why.removeprefix(f"{out / '.clips'}/").removeprefix(f"{top}/").partition(": ")
        notes[f"left out, {name}"] = reason
    write_json(out / "clips.json", {"clips": in_order(store_url, [p.id for p in prepared])})
    write_json(out / "notes.json", notes)
    size = sum(p.row["bytes"] for p in prepared)
    return {"clips": len({p.id for p in prepared}), "bytes": size} | ({"left_out": len(lacks)} if lacks else {})


def _notes(noted: dict[str, dict[str, list[str]]]) -> dict[str, str]:
    """Invert field -> note -> drives: one note per field or, if drives differ, one for each note with its first drive's
    name."""
    notes: dict[str, str] = {}
    for field, whats in noted.items():
        for what, names in whats.items():
            drives = list(dict.fromkeys(names))
            more = f" and {len(drives) - 1} more" if len(drives) > 1 else ""
            notes[field if len(whats) == 1 else f"{field} of {drives[0]}{more}"] = what
    return notes


POLICIES = ("constant velocity", "constant yaw rate", "model")


def score(checkpoint: Path, shard: Path, out: Path) -> dict:
    """Write out/open_loop.json: errors, with intervals, of the model and the baselines on held-out episodes.

    Intervals are over blocks of time (clips), since successive decisions share most of their 4 s.
    """
    episodes = load_shard(shard / "shard")
    policy = TorchPolicy(checkpoint / "checkpoint", "model")
    policy.reset([])
    plans = []
    with bar("open loop", len(episodes)) as advance:
        for first in range(0, len(episodes), BATCH):
            at = slice(first, first + BATCH)
            plans.append(policy.act(Observation(episodes.pictures(at), episodes.ego[at], episodes.route[at])).points)
            advance(len(plans[-1]))
    answers = {
        "constant velocity": constant_velocity_plan(episodes.ego),
        "constant yaw rate": constant_yaw_rate_plan(episodes.ego),
        "model": np.concatenate(plans),
    }
    table = {
        name: open_loop_summary(open_loop_errors(p, episodes.future), episodes.clip) for name, p in answers.items()
    }
    write_json(out / "open_loop.json", {"samples": len(episodes), "table": table})
    return {"samples": len(episodes)} | {f"{name} ADE m": table[name]["ade_4s"][0] for name in POLICIES}

"""Stages that curate clips, and that turn curated clips into shards of training episodes."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from drivefoundry.clips.store import ClipStore
from drivefoundry.compute import pmap
from drivefoundry.curate.config import CurateConfig
from drivefoundry.curate.curated import curate, load_curated, save_curated
from drivefoundry.curate.split import SplitRule
from drivefoundry.label.episodes import concatenate, episodes_of, save_shard
from drivefoundry.label.scene import scene_from_clip
from drivefoundry.ledger import Artefact, fresh
from drivefoundry.progress import bar
from drivefoundry.roadmap import load_map
from drivefoundry.stages.context import RunContext
from drivefoundry.types import Episodes, RoadMap, Scene
from drivefoundry_car.vehicle.embodiment import Embodiment

CHUNK = 16
"""Clips per task of a worker."""


def curated(
    line: RunContext,
    turn: int | None,
    clips: Artefact,
    exam: Artefact | None,
    before: Artefact | None,
    exam_clips: list[str],
) -> Artefact:
    """Curate this turn's clips; the exam's clips stay apart by place, drive and route."""
    r = line.recipe.curate
    earlier = before.path if before else None
    return line.make(
        turn, "curate", "curate", r, [clips, exam, before],
        lambda d: curate_clips(r, line.store, clips.path, earlier, exam_clips, "place", d),
    )  # fmt: skip


def curated_by_time(line: RunContext, clips: Artefact) -> Artefact:
    """Curate clips of one recording, with its last part held out."""
    r = line.recipe.curate
    return line.make(
        None, "curate", "curate", r, [clips],
        lambda d: curate_clips(r, line.store, clips.path, None, [], "time", d),
    )  # fmt: skip


def shard(line: RunContext, turn: int | None, clips: Artefact, kept: Artefact, split: str = "train") -> Artefact:
    """Episodes of one split of these clips; for evaluation at 2 Hz, as the intervals assume."""
    r = line.recipe.curate if split == "train" else replace(line.recipe.curate, phases=1)
    body = line.body
    return line.make(
        turn, "label", "label", {"curate": r, "split": split, "embodiment": body.to_dict()}, [clips, kept],
        lambda d: label_clips(r, body, line.store, clips.path, kept.path, split, d),
    )  # fmt: skip


def scenes_of(store_url: str, clip_ids: list[str]) -> list[Scene]:
    """Scenes of clips, in the order given; they share maps."""
    store = ClipStore(store_url)
    maps: dict[str, RoadMap] = {}
    scenes = []
    for clip_id in clip_ids:
        recording = store.drive(clip_id, video=False)
        name = recording.meta["map"]
        if name not in maps:
            maps[name] = load_map(store.get_map(name))
        scenes.append(scene_from_clip(recording, maps[name], clip_id))
    return scenes


def clip_ids(ingest: Path) -> list[str]:
    """Ids of the clips in an artefact of `ingest.send_home`."""
    return json.loads((ingest / "clips.json").read_text())["clips"]


def listed(clips: Artefact) -> list[str]:
    """Ids of the clips in an artefact; none if it is still to be built, in a dry run."""
    return clip_ids(clips.path) if clips.id else []


def has(kept: Artefact, split: str) -> bool:
    """Whether any clip of a curation is in this split; a dry run, which may not know, says yes."""
    return not kept.id or bool(load_curated(kept.path / "curated").of(split))


def curate_clips(
    recipe: CurateConfig, store: str, ingest: Path, before: Path | None, exam: list[str], apart: str, out: Path
) -> dict:
    """Curate this turn's clips, given the last turn's curation; write out/curated: which are kept, why others are not,
    the splits.

    exam: clips used for judging; training must not use their places, drives or routes. apart: "time" holds out the last
    fifth of one recording instead, and takes the tenth before it for validation.
    """
    fresh(out)
    ids = clip_ids(ingest)
    earlier = load_curated(before / "curated") if before else None
    shares = (0.7, 0.1, 0.2) if apart == "time" else (1.0, 0.0, 0.0)
    with bar("curate", len(ids)) as advance:
        curated = curate(
            store, ids, rule=SplitRule(dict.fromkeys(exam, "held_out"), apart, shares), earlier=earlier,
            similarity=recipe.duplicate_similarity, on_done=lambda n: advance(n),
        )  # fmt: skip
    save_curated(out / "curated", curated)
    new = set(ids)
    reasons: dict[str, int] = {}
    for clip, why in curated.dropped.items():
        if clip in new:
            reasons[why.split(":")[0].split(" of ")[0]] = reasons.get(why.split(":")[0].split(" of ")[0], 0) + 1
    return {"clips": len(ids), "kept": sum(i in new for i in curated.kept), "dropped": reasons}


def label_clips(
    recipe: CurateConfig, body: Embodiment, store: str, ingest: Path, curated: Path, split: str, out: Path
) -> dict:
    """Write out/shard, the Episodes of this turn's kept clips of one split: frames, histories, futures, reasoning."""
    fresh(out)
    kept = load_curated(curated / "curated")
    new = set(clip_ids(ingest))
    ids = [i for i in kept.of(split) if i in new]
    chunks = [(store, ids[k : k + CHUNK], recipe.phases, body) for k in range(0, len(ids), CHUNK)]
    how = "serial" if len(chunks) < 4 else "processes"
    with bar("label", len(ids)) as advance:
        parts = pmap(_label_chunk, chunks, backend=how, on_done=lambda i, _: advance(len(chunks[i][1])))
    if not ids:
        raise ValueError(f"{split}: none of the {len(new)} clips is left for it; provide longer or more drives")
    if not any(len(p) for p in parts):
        raise ValueError(f"none of {len(ids)} clips gives a training sample; they lack video or 4 s of driving ahead")
    episodes = concatenate(parts)
    rare = kept.weight()
    episodes = replace(episodes, weight=episodes.weight * np.array([rare[c] for c in episodes.clip], np.float32))
    save_shard(out / "shard", episodes)
    return {
        "samples": len(episodes),
        "clips": len(ids),
        "with_reasoning": sum(bool(t) for t in episodes.text),
        "corrections": int(episodes.correction.sum()),
    }


def _label_chunk(task: tuple[str, list[str], int, Embodiment]) -> Episodes:
    url, ids, phases, body = task
    store, parts = _store(url), []
    for clip in ids:
        drive = store.drive(clip)
        scene = scene_from_clip(drive, _map(url, drive.meta["map"]), clip) if drive.meta.get("map") else None
        parts.append(episodes_of(drive, scene, clip, phases=phases, body=body))
    return concatenate(parts)


@lru_cache(maxsize=2)
def _store(url: str) -> ClipStore:
    return ClipStore(url)


@lru_cache(maxsize=256)
def _map(url: str, name: str) -> RoadMap:
    return load_map(_store(url).get_map(name))

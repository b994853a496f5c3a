"""Curate clips: what is kept, what is dropped and why, which split each clip is in, and its sampling weight."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from drivefoundry import outputs
from drivefoundry.clips.store import ClipStore
from drivefoundry.compute import Backend, pmap
from drivefoundry.curate import duplicates, mine, quality
from drivefoundry.curate.split import Origin, SplitRule, by_place, by_time, place_of
from drivefoundry.types import require
from drivefoundry_car import arrays
from drivefoundry_car.documents import read_json
from drivefoundry_car.log import Drive

CHUNK = 16
"""Clips per worker task."""
PINNED, EARLIER = 1e6, 1e3
"""Added to the priority of clips with a fixed split, so that their duplicates are dropped instead."""


@dataclass(frozen=True)
class Curated:
    """kept N clip ids; dropped: id -> reason; split: id -> train, val or held_out; classes, weights: N each, parallel
    to kept; embeddings (N, E) float32; origins: id -> Origin; apart: "place" or "time", what keeps the splits apart.
    """

    kept: list[str]
    dropped: dict[str, str]
    split: dict[str, str]
    classes: list[str]
    weights: np.ndarray
    embeddings: np.ndarray
    origins: dict[str, Origin]
    priority: np.ndarray
    apart: str

    def of(self, split: str) -> list[str]:
        """Kept clips of one split."""
        return [i for i in self.kept if self.split[i] == split]

    def weight(self) -> dict[str, float]:
        """Kept clip -> sampling weight."""
        return dict(zip(self.kept, self.weights.tolist(), strict=True))


@dataclass(frozen=True)
class Exam:
    """Result of examining a clip: the reason to drop it or None; class, priority, embedding and origin."""

    fault: str | None
    name: str
    priority: float
    embedding: np.ndarray
    origin: Origin


def curate(
    store_url: str,
    clip_ids: Sequence[str],
    *,
    rule: SplitRule | None = None,
    earlier: Curated | None = None,
    similarity: float = duplicates.SIMILARITY,
    min_seconds: float = quality.MIN_SECONDS,
    backend: Backend = "processes",
    on_done: Callable[[int], None] | None = None,
) -> Curated:
    """Curate clips of the store at `store_url`.

    rule: what separates the splits. earlier: the last turn's result; its clips keep their state and split and are not
    examined again. on_done(n): n more clips are examined.
    """
    rule = rule or SplitRule()
    exams = _exams_of(earlier)
    dropped = dict(earlier.dropped) if earlier else {}
    new = [i for i in dict.fromkeys(clip_ids) if i not in exams and i not in dropped]
    found = examine(store_url, new, min_seconds=min_seconds, backend=backend, on_done=on_done)
    exams |= {i: e for i, e in zip(new, found, strict=True) if e.fault is None}
    dropped |= {i: e.fault for i, e in zip(new, found, strict=True) if e.fault is not None}

    ids = list(exams)
    embeddings = np.stack([exams[i].embedding for i in ids]) if ids else np.zeros((0, 0), np.float32)
    fresh = set(new)
    settled = np.array([EARLIER * (i not in fresh) + PINNED * (i in rule.pinned) for i in ids])
    priority = np.array([exams[i].priority for i in ids]) + settled
    stands = duplicates.near_duplicates(embeddings, priority, similarity=similarity)
    keep = np.flatnonzero((stands == np.arange(len(ids))) | (settled > 0))
    kept = [ids[n] for n in keep]
    gone = np.setdiff1d(np.arange(len(ids)), keep)
    dropped |= {ids[n]: f"near-duplicate of {ids[stands[n]]}" for n in gone}

    origins = {i: exams[i].origin for i in kept}
    split, apart = _split(store_url, origins, earlier, rule)
    names = [exams[i].name for i in kept]
    return Curated(
        kept=kept,
        dropped=dropped,
        split=split,
        classes=names,
        weights=mine.weights_of(names),
        embeddings=embeddings[keep],
        origins=origins,
        priority=(priority - settled)[keep],
        apart=apart,
    )


def _exams_of(earlier: Curated | None) -> dict[str, Exam]:
    """Exams of clips that were kept earlier."""
    if earlier is None:
        return {}
    rows = zip(earlier.kept, earlier.classes, earlier.priority, earlier.embeddings, strict=True)
    return {i: Exam(None, name, float(worth), seen, earlier.origins[i]) for i, name, worth, seen in rows}


def _split(
    store_url: str,
    origins: dict[str, Origin],
    earlier: Curated | None,
    rule: SplitRule,
) -> tuple[dict[str, str], str]:
    """The split of each clip in `origins`, and what separates the splits; clips with a fixed split keep it."""
    apart, shares = rule.apart, rule.shares
    settled = {**({i: earlier.split[i] for i in earlier.kept} if earlier else {}), **rule.pinned}
    pool = {**origins, **origins_in(store_url, [i for i in settled if i not in origins])}
    if apart == "auto":
        alone = len(pool) > 1 and len({o.place for o in pool.values()}) == 1 and not rule.pinned
        apart = earlier.apart if earlier else "time" if alone else "place"
    if apart == "place":
        split = by_place(pool, shares=shares, seed=rule.seed, pinned=settled)
    else:
        split = by_time(pool, held_out=shares[2] / sum(shares), val=shares[1] / sum(shares))
        moved = [i for i in settled if split[i] != settled[i]]
        require(
            not moved,
            f"split leaks: new clips would move clip {''.join(moved[:1])} to another split; curate all clips again",
        )
    return {i: split[i] for i in origins}, apart


def examine(
    store_url: str,
    clip_ids: Sequence[str],
    *,
    min_seconds: float = quality.MIN_SECONDS,
    backend: Backend = "processes",
    on_done: Callable[[int], None] | None = None,
) -> list[Exam]:
    """Examine clips in parallel; one Exam each, in order."""
    chunks = [(store_url, list(clip_ids[k : k + CHUNK]), min_seconds) for k in range(0, len(clip_ids), CHUNK)]
    # Starting processes takes a second: a few clips are faster here.
    how: Backend = "serial" if len(chunks) < 4 else backend
    done = None if on_done is None else lambda i, _: on_done(len(chunks[i][1]))
    return [exam for part in pmap(_examine_chunk, chunks, backend=how, on_done=done) for exam in part]


def _examine_chunk(task: tuple[str, list[str], float]) -> list[Exam]:
    url, ids, min_seconds = task
    return [_examined(url, i, min_seconds) for i in ids]


def _examined(url: str, clip_id: str, min_seconds: float) -> Exam:
    """Examine one clip; an unreadable clip is dropped with the reason and does not stop the others."""
    try:
        drive = _store(url).drive(clip_id)
    except ValueError as error:
        return Exam(f"damaged: {error}", "", 0.0, np.zeros(0, np.float32), origin_of({}, clip_id, 0.0, 0.0))
    return examine_drive(drive, clip_id, min_seconds=min_seconds)


@lru_cache(maxsize=2)
def _store(url: str) -> ClipStore:
    return ClipStore(url)


def examine_drive(drive: Drive, clip_id: str, *, min_seconds: float = quality.MIN_SECONDS) -> Exam:
    """Examine a drive: gates in order of cost, pictures last."""
    origin = origin_of(drive.meta, clip_id, float(drive.t[0]), float(drive.t[-1]))
    fault = quality.motion_fault(drive, min_seconds=min_seconds) or quality.video_fault(drive)
    if fault is None and drive.video is not None:
        thumbs, at = quality.thumbnails(drive.video)
        fault = quality.picture_fault(drive, thumbs, at)
        if fault is None:
            seen = duplicates.embedding(drive, thumbs)
            return Exam(None, mine.class_of(drive), mine.priority(drive), seen, origin)
    return Exam(fault, "", 0.0, np.zeros(0, np.float32), origin)


def origin_of(meta: Mapping[str, str], clip_id: str, t0: float, t1: float) -> Origin:
    """Origin from a drive's meta and its first and last second; a clip without a drive name is its own drive."""
    return Origin(meta.get("drive", clip_id), place_of(meta), meta.get("route_id", ""), t0, t1)


def origins_in(store_url: str, clip_ids: Sequence[str]) -> dict[str, Origin]:
    """Origins of clips of a store, from the table alone. ValueError names a missing clip."""
    if not clip_ids:
        return {}
    table = _store(store_url).rows(["id", "meta", "t0", "duration"]).to_pydict()
    rows = dict(zip(table["id"], zip(table["meta"], table["t0"], table["duration"], strict=True), strict=True))
    out = {}
    for i in clip_ids:
        require(i in rows, f"clip {i}: not in {store_url}")
        texts, t0, seconds = rows[i]
        out[i] = origin_of(json.loads(texts)["meta"], i, t0, t0 + seconds)
    return out


_ARRAYS = ("weights", "embeddings", "priority")


def save_curated(folder: Path | str, curated: Curated) -> None:
    """Write curated.json and curated.safetensors to a folder that appears whole or not at all. ValueError where it
    holds anything that was not written here."""
    plain = {name: getattr(curated, name) for name in ("kept", "dropped", "split", "classes", "apart")}
    plain["origins"] = {i: asdict(o) for i, o in curated.origins.items()}
    with outputs.folder(Path(folder), "curated.json") as aside:
        (aside / "curated.json").write_text(json.dumps(plain, indent=1))
        arrays.write(aside / "curated.safetensors", {name: getattr(curated, name) for name in _ARRAYS})


def load_curated(folder: Path | str) -> Curated:
    """Read a folder of `save_curated`. ValueError if it is damaged."""
    folder = Path(folder)
    try:
        plain = read_json(folder / "curated.json")
        held: dict[str, Any] = arrays.read(folder / "curated.safetensors", _ARRAYS)
        plain["origins"] = {i: Origin(**o) for i, o in plain["origins"].items()}
        return Curated(**plain, **{name: held[name] for name in _ARRAYS})
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: not a complete curation ({error}); curate the clips again") from None

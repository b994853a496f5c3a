"""Turn recorded traffic of any source into Scenes: choose the egos and build each ego's own scene."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from drivefoundry import route as routes
from drivefoundry.geometry import boxes_overlap
from drivefoundry.roadmap import resample
from drivefoundry.types import (
    AGENT_CAR,
    AGENT_CYCLIST,
    AGENT_PEDESTRIAN,
    AGENT_TRUCK,
    DT,
    MAX_SPEED_MPS,
    RoadMap,
    Scene,
    require,
)

HEIGHT = {AGENT_CAR: 1.6, AGENT_TRUCK: 3.2, AGENT_CYCLIST: 1.7, AGENT_PEDESTRIAN: 1.75}
"""Heights by kind, m, for sources that have none."""
SIZE = {AGENT_CAR: (4.6, 1.9), AGENT_TRUCK: (9.0, 2.5), AGENT_CYCLIST: (1.8, 0.7), AGENT_PEDESTRIAN: (0.6, 0.6)}
"""Length and width by kind, m, for road users without a size in their source."""
MOVES_M = 20.0
"""A vehicle must move this far to become an ego, m; the source's recording car need not."""
AHEAD_S = 4.0
"""Driving time that an ego needs after the start, s; a file without such a vehicle gives one shorter scene."""
MIN_START = 5
"""Least steps of history in a Scene."""
LEAST = MIN_START + 6
"""Steps of the shortest scene: its history, the start, and one decision of 0.5 s."""
OFF_MAP = 16.0
"""An ego this far from every lane, m, has left the map."""
TOUCHING = 10
"""Steps of overlap beyond which two boxes cannot be two vehicles: a trailer, or a duplicate track."""
FAR = 1e7
"""Bound on coordinates, m, and headings (UTM northings are below it); larger values are damage."""
MOST_STATES = 10_000_000
"""Most road users x steps in a file."""
NOT_READ = "not_read"
"""Entry of a scene's meta: what was left out of its recording, "3 tracks of type OTHER; 1 lane without a length"."""
OPENING = 1 << 22
"""Leading bytes of a file that are searched for its format."""
MOST_BYTES = 1 << 28
"""Largest unpacked size, bytes; no scenario comes near it."""


@dataclass(frozen=True)
class Lights:
    """Which lanes share a stop line, and their states. G stop lines of the map, N controlled lanes.

    ways: N lines (P, 2), the continuation of each controlled lane behind its stop line; group (N,) its stop line;
    states (N, T) uint8.
    """

    ways: list[np.ndarray]
    group: np.ndarray
    states: np.ndarray

    def along(self, route: np.ndarray) -> np.ndarray:
        """States (G, T) at each stop line along a route (R, 2): those for the lane that the route follows behind it.

        An arrow applies to its own lane only, yet a stop line has one state in a Scene.
        """
        count = int(self.group.max()) + 1 if len(self.group) else 0
        out = np.zeros((count, self.states.shape[1]), np.uint8)
        away = [np.hypot(*(way[:, None] - route[None]).transpose(2, 0, 1)).min(1).mean() for way in self.ways]
        for g in range(count):
            members = np.flatnonzero(self.group == g)
            out[g] = self.states[members[int(np.argmin(np.array(away)[members]))]]
        return out


@dataclass(frozen=True)
class Recording:
    """One file: map; N recorded road users as ids, kind (N,), size (N, 3), tracks (N, T, 4), valid (N, T).

    ego: index of the car that the source names as its own, -1 where it names none. history: steps before the start, if
    there is time for them. notes: what the source lacks and how it was made up for, for the scenes' meta. marks: points
    of the map in the source's own frame, by which two recordings of one place know each other. left: how many of what
    the file holds were not read, by what they are.
    """

    id: str
    source: str
    place: str
    map: RoadMap
    ids: list[str]
    kind: np.ndarray
    size: np.ndarray
    tracks: np.ndarray
    valid: np.ndarray
    ego: int = -1
    history: int = 15
    lights: Lights | None = None
    notes: dict[str, str] = field(default_factory=dict)
    marks: frozenset[tuple[int, int]] = frozenset()
    left: dict[str, int] = field(default_factory=dict)


def scenes_of(recording: Recording, *, egos: int = 4) -> list[Scene]:
    """Make up to `egos` Scenes from a recording, each with another recorded vehicle as ego; the named one first.

    A car qualifies if it is seen on the map without a break for at least 0.5 s of history and 4 s to drive, and moves
    20 m in that time; those seen longest come first. A truck, which turns differently, is used only if no car
    qualifies. A Scene spans exactly the time its ego is seen. A recording without such a vehicle gives one scene of the
    one that is seen longest, if for at least 1.1 s (see `is_short`).
    """
    need = MIN_START + round(AHEAD_S / DT) + 1
    near = _near_lanes(recording)
    fit: dict[int, list[tuple[bool, int, int, int, int]]] = {AGENT_CAR: [], AGENT_TRUCK: []}
    short = []
    for n in np.flatnonzero(np.isin(recording.kind, (AGENT_CAR, AGENT_TRUCK))):
        a, b = longest_run(near[n])
        path = recording.tracks[n, a:b, :2]
        moved = float(np.hypot(*(path[-1] - path[0]))) if b > a else 0.0
        named = bool(n == recording.ego)
        if b - a >= need and (moved > MOVES_M or named):
            fit[AGENT_CAR if named else int(recording.kind[n])].append((not named, a - b, int(n), a, b))
        elif b - a >= LEAST:
            short.append((a - b, -moved, int(n), a, b))
    for found in (fit[AGENT_CAR], fit[AGENT_TRUCK], sorted(short)[:1]):
        if found:
            return [_scene(recording, n, a, b) for *_, n, a, b in sorted(found)[:egos]]
    return []


def _near_lanes(r: Recording) -> np.ndarray:
    """(N, T) bool: seen, within OFF_MAP of a lane, and not right after an implausible jump.

    Driving beyond the map cannot be judged.
    """
    lanes = np.concatenate([resample(r.map.lanes[i], OFF_MAP / 2) for i in range(len(r.map.lanes))])
    out = np.array(r.valid)
    n, t = np.nonzero(out)
    cell = np.floor(r.tracks[n, t, :2] / (OFF_MAP / 4)).astype(np.int64)
    cells, which = np.unique(cell, axis=0, return_inverse=True)
    middle = (cells + 0.5) * (OFF_MAP / 4)
    away = np.array([((lanes - p) ** 2).sum(1).min() for p in middle])
    out[n, t] = away[which.reshape(-1)] < OFF_MAP**2
    step = np.diff(r.tracks[..., :2], axis=1)
    out[:, 1:] &= (np.hypot(step[..., 0], step[..., 1]) < MAX_SPEED_MPS * DT) | ~r.valid[:, :-1]
    return out


def none_of(recording: Recording) -> str:
    """Explain why a recording gives no scene."""
    seconds = recording.valid.shape[1] * DT
    return f"{seconds:.1f} s long: no vehicle is seen for {LEAST * DT:.1f} s without a break"


def is_short(scene: Scene) -> bool:
    """Whether a scene is too short for training or judging."""
    return scene.valid.shape[1] - scene.start <= round(AHEAD_S / DT)


def longest_run(valid: np.ndarray) -> tuple[int, int]:
    """[start, stop) of the longest run of True in (T,) bool; (0, 0) if there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], valid.astype(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0
    i = int((ends - starts).argmax())
    return int(starts[i]), int(ends[i])


def _scene(r: Recording, ego: int, a: int, b: int) -> Scene:
    one = _same_vehicle(r, ego, a, b)
    there = np.asarray(r.valid[:, a:b].any(1)) & ~one
    order = np.concatenate([[ego], np.flatnonzero(there)])
    valid = r.valid[order, a:b]
    tracks = np.where(valid[..., None], r.tracks[order, a:b], 0).astype(np.float32)
    route = routes.driven(
        r.tracks[ego, a:b, :2], float(np.median(r.map.lane_speed)), r.map, yaw=float(r.tracks[ego, a, 2])
    )
    signals = np.zeros((0, b - a), np.uint8) if r.lights is None else r.lights.along(route[:, :2])[:, a:b]
    meta = {"ego": f"recorded vehicle {r.ids[ego]}", "recording": r.id, **r.notes}
    meta["route"] = "its driven path, extended along the lanes"
    if r.left:
        meta[NOT_READ] = "; ".join(f"{n} {what}" for what, n in sorted(r.left.items()))
    one[ego] = False
    if one.any():
        names = ", ".join(r.ids[i] for i in np.flatnonzero(one))
        meta["left_out"] = f"in the recording they overlap the ego for a second: {names}"
    spare = b - a - MIN_START - round(AHEAD_S / DT) - 1
    return Scene(
        id=f"{r.id}:{r.ids[ego]}",
        source=r.source,
        place=r.place,
        map=r.map,
        tracks=tracks,
        valid=valid,
        size=r.size[order].astype(np.float32),
        kind=r.kind[order],
        ego=0,
        start=int(np.clip(MIN_START + spare, MIN_START, r.history)),
        route=route[:, :2],
        route_speed=route[:, 2],
        signals=signals,
        meta=meta,
    ).validate()


def _same_vehicle(r: Recording, ego: int, a: int, b: int) -> np.ndarray:
    """(N,) bool: the ego itself, and tracks whose box overlaps the ego's for a second, which cannot be other
    vehicles."""
    tracks, size = r.tracks[:, a:b], r.size
    both = r.valid[:, a:b] & (np.hypot(*(tracks[..., :2] - tracks[ego, :, :2]).transpose(2, 0, 1)) < 30.0)
    out = np.zeros(len(r.ids), bool)
    for n in np.flatnonzero(both.sum(1) >= TOUCHING):
        hits = 0
        for e, o in zip(tracks[ego, both[n]], tracks[n, both[n]], strict=True):
            hits += boxes_overlap(
                e[0], e[1], e[2], size[ego, 0], size[ego, 1], o[0], o[1], o[2], size[n, 0], size[n, 1]
            )
        out[n] = hits >= TOUCHING
    out[ego] = True
    return out


def states(xy: np.ndarray, yaw: np.ndarray, velocity: np.ndarray, valid: np.ndarray, where: str) -> np.ndarray:
    """States (T, 4) x, y, yaw, speed from positions (T, 2), headings (T,), velocities (T, 2) and valid (T,); zero where
    not valid. ValueError names the first valid step that is not finite."""
    rows = np.column_stack([xy, yaw, velocity])
    bad = np.flatnonzero(valid & ~(np.abs(rows) < FAR).all(1))
    require(not len(bad), f"{where}position, heading, velocity: not a number at step {bad[:1]}; mark the step invalid")
    rows = np.where(valid[:, None], rows, 0.0)
    return np.column_stack([rows[:, :3], np.hypot(rows[:, 3], rows[:, 4])])


def speeds(xy: np.ndarray, valid: np.ndarray, clock: np.ndarray) -> np.ndarray:
    """Speeds (T,) m/s for sources without them, from positions (T, 2), valid (T,) and times (T,) s: central differences
    between neighbouring valid steps, one-sided at the ends of a run, 0 at an isolated step."""
    before, after = _neighbours(valid)
    span = clock[after] - clock[before]
    away = np.hypot(*(xy[after] - xy[before]).T)
    return np.where(valid & (after > before), away / np.where(span > 0, span, 1.0), 0.0)


def headings(xy: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Headings (T,) rad for sources without them, from positions (T, 2) and valid (T,): the direction of motion; while
    standing, that of the nearest moving step; 0 if it never moves."""
    before, after = _neighbours(valid)
    step = np.where(valid[:, None], xy[after] - xy[before], 0.0)
    moving = np.flatnonzero(np.hypot(*step.T) > 0.05)
    if not len(moving):
        return np.zeros(len(valid))
    yaw = np.arctan2(step[moving, 1], step[moving, 0])
    t = np.arange(len(valid))
    later = np.clip(np.searchsorted(moving, t), 0, len(moving) - 1)
    earlier = np.maximum(later - 1, 0)
    return yaw[np.where(np.abs(t - moving[earlier]) < np.abs(moving[later] - t), earlier, later)]


def _neighbours(valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each step the previous and next step, or the step itself if that one is not valid."""
    t = np.arange(len(valid))
    before, after = np.maximum(t - 1, 0), np.minimum(t + 1, len(valid) - 1)
    return np.where(valid[before], before, t), np.where(valid[after], after, t)


def resampled(rows: np.ndarray, valid: np.ndarray, clock: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resample states (T, 4) to another clock, linearly; valid where the states on both sides are."""
    after = np.clip(np.searchsorted(clock, at - 1e-3), 1, len(clock) - 1)
    before = after - 1
    u = np.clip((at - clock[before]) / (clock[after] - clock[before]), 0.0, 1.0)
    u = np.where(u < 0.02, 0.0, np.where(u > 0.98, 1.0, u))
    seen = (valid[before] | (u == 1.0)) & (valid[after] | (u == 0.0))
    out = rows[before] + u[:, None] * (rows[after] - rows[before])
    turn = rows[after, 2] - rows[before, 2]
    out[:, 2] = rows[before, 2] + u * np.arctan2(np.sin(turn), np.cos(turn))
    return np.where(seen[:, None], out, 0.0), seen


def bounded(users: int, steps: int) -> None:
    """ValueError if a recording would take more memory than any real one."""
    require(
        users * steps <= MOST_STATES, f"{users} road users over {steps} steps: not a scenario; cut it into shorter ones"
    )


def plain_word(value: object) -> str:
    """A word from a file, made safe for a line of the report."""
    text = "".join(c for c in str(value) if c.isprintable() and c not in ";,")
    return text[:40] or "(none)"


def one_line(error: Exception) -> str:
    """An error as one line of bounded length, whatever names the file contains."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    return text if len(text) <= 400 else f"{text[:200]} ... {text[-180:]}"


def left_of(scene: Scene) -> tuple[str, str]:
    """A scene's recording and what was left out of it ("" for nothing): the input of `not_read`."""
    return scene.meta.get("recording", scene.id), scene.meta.get(NOT_READ, "")


def not_read(left: Iterable[tuple[str, str]]) -> list[str]:
    """One sentence for each kind of thing left out of recordings (`left_of`), with its count."""
    by_recording = {recording: text for recording, text in left if text}
    total: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for text in by_recording.values():
        for part in text.split("; "):
            n, _, what = part.partition(" ")
            total[what] += int(n)
            files[what] += 1
    return [f"Not read: {total[what]} {what} (in {files[what]} recordings)." for what in sorted(total)]


def unpacked(path: Path, packed: bool) -> bytes:
    """Read a file, gunzipped if packed; ValueError if it is unreadable or far too large."""
    try:
        with gzip.open(path) if packed else path.open("rb") as f:
            data = f.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); get the file again") from None
    require(len(data) <= MOST_BYTES, f"{path}: over {MOST_BYTES >> 20} MB unpacked; not a scenario")
    return data


def head(path: Path, packed: bool, size: int = 2000) -> bytes | None:
    """The first bytes of a file, gunzipped if packed; None if it is damaged."""
    try:
        with gzip.open(path) if packed else path.open("rb") as f:
            return f.read(size)
    except (OSError, EOFError, zlib.error):
        return None


def opening(path: Path, suffix: str) -> bytes | None:
    """The first megabytes of a file with a suffix (case-insensitive, also .gz), for recognising a format by its
    keywords: UTF-16 without its zeros. None if it is damaged, b"" if it has another suffix."""
    name = path.name.lower()
    if not name.endswith((suffix, f"{suffix}.gz")):
        return b""
    first = head(path, name.endswith(".gz"), OPENING)
    return None if first is None else first.replace(b"\0", b"")


def stem_of(path: Path, suffix: str) -> str:
    """Name of a file without its suffix (case-insensitive) and without .gz."""
    name = path.name
    for end in (".gz", suffix):
        name = name[: -len(end)] if name.lower().endswith(end) else name
    return name


def marks_of(lines: Iterable[np.ndarray]) -> frozenset[tuple[int, int]]:
    """Points of lines (P, 2+) in the source's own frame, rounded to a decimetre."""
    return frozenset((round(10 * x), round(10 * y)) for line in lines for x, y in line[:, :2].tolist())


def same_places(marks: list[frozenset[tuple[int, int]]]) -> list[int]:
    """Group N recordings by place, from their landmarks: maps that share a tenth of the smaller one's points are one
    place. Returns N group numbers."""
    parent = list(range(len(marks)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i in range(len(marks)):
        for j in range(i):
            common = len(marks[i] & marks[j])
            if common and common >= 0.1 * min(len(marks[i]), len(marks[j])):
                parent[max(root(i), root(j))] = min(root(i), root(j))
    return [root(i) for i in range(len(marks))]

"""Read Waymo Open Motion scenarios, as GPUDrive / Nocturne JSON (plain or gzip), as a Recording.

9.1 s at 10 Hz, the present at step 10. The recording car is the ego if the file names it; other vehicles become
egos too. The format has no lane widths, no speed limits, rarely lights, and kinds of lanes and lines only in newer
versions: the notes say what was substituted. Source of the data: Ettinger et al., "Large scale
interactive motion forecasting for autonomous driving: the Waymo Open Motion Dataset", ICCV 2021.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from drivefoundry.clips.importers.traffic import lights
from drivefoundry.clips.importers.traffic.recording import (
    FAR,
    HEIGHT,
    SIZE,
    Recording,
    marks_of,
    one_line,
    opening,
    plain_word,
    states,
    stem_of,
    unpacked,
)
from drivefoundry.clips.importers.traffic.roads import Features, around, has_length, recorded_limit, road_map
from drivefoundry.types import (
    AGENT_CAR,
    AGENT_CYCLIST,
    AGENT_PEDESTRIAN,
    AGENT_TRUCK,
    LINE_WHITE,
    LINE_WHITE_DASHED,
    LINE_YELLOW,
    SIGNAL_OFF,
    require,
)

NOW = 10
"""Step of the present; earlier steps are history."""
KINDS = {"vehicle": AGENT_CAR, "pedestrian": AGENT_PEDESTRIAN, "cyclist": AGENT_CYCLIST}
TRUCK_M = 7.0
"""A vehicle from this length on is drawn as a truck, m: the data set has no vehicle types."""
HEIGHT_M = 1.6
"""Default height, m."""
BICYCLE_LANE = 3
NO_HEIGHT = "objects whose height is no metres above 0"
NO_SIZE = "objects whose length or width is no metres above 0"
DAMAGED = "objects that are damaged"
DRAWN = ("road_edge", "road_line", "crosswalk", "driveway", "speed_bump")
LINES = {
    6: LINE_WHITE_DASHED, 7: LINE_WHITE, 8: LINE_WHITE, 9: LINE_YELLOW, 10: LINE_YELLOW, 11: LINE_YELLOW,
    12: LINE_YELLOW, 13: LINE_YELLOW,
}  # fmt: skip
"""Types of road lines, by the data set's numbers."""


KEYS = (b'"objects"', b'"roads"', b'"tl_states"')
"""Keys that identify the format."""


def fits(path: Path) -> bool:
    """True for a file of this format, by its name and first bytes; also for a damaged gzip of such a name."""
    first = opening(path, ".json")
    if first is None or any(key in first.lstrip()[:4096] for key in KEYS):
        return True
    return all(key in first for key in KEYS[:2])  # one key alone may belong to another format


def read(path: Path) -> Recording:
    """Read a file. ValueError names the file, the field and the fix."""
    data = unpacked(path, path.suffix.lower() == ".gz")
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: incomplete JSON ({error}); get the file again") from None
    try:
        return _recording(whole, stem_of(path, ".json"))
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def _recording(whole: Any, stem: str) -> Recording:
    require(isinstance(whole, dict), "must be an object with objects and roads; this is another format")
    left: Counter[str] = Counter()
    objects, names = _road_users(whole, left)
    objects, names, tracks, valid = _tracks(objects, names, left)
    steps = tracks.shape[1]
    kind = np.array([_kind(o["type"]) for o in objects], int)
    size = np.array([[*_sides(o, int(k), left), _height(o, int(k), left)] for o, k in zip(objects, kind, strict=True)])
    kind[(kind == AGENT_CAR) & (size[:, 0] >= TRUCK_M)] = AGENT_TRUCK
    tracks[..., 2] = _radians(tracks, valid)
    scenario = whole.get("scenario_id")
    name = scenario if isinstance(scenario, str) and scenario else stem
    raw, marks = _features(whole, left)
    shown, unknown = _lights(whole, raw, steps, left)
    raw.lights |= shown
    features, origin = around(raw, tracks, valid)
    tracks[..., :2] -= origin
    cars = np.isin(kind, (AGENT_CAR, AGENT_TRUCK))
    limit = recorded_limit(tracks[cars], valid[cars])
    road, signals = road_map(features, limit)
    unkind = not any("map_element_id" in r for r in whole["roads"] if isinstance(r, dict))
    notes = {
        "origin": f"{origin[0]:.0f} {origin[1]:.0f} m of the source's frame",
        "lane_width": "absent: from paint and road edges beside the lane",
        "drivable": "absent: from the lanes to the road edges",
        "speed_limit": f"absent: 95th percentile of recorded speeds, {limit:.1f} m/s",
        "line_kind": "absent: all taken for dashed white lines" if unkind else "given",
        "signals": ("given" if signals else "absent in the source") + unknown,
        "truck": f"a vehicle of {TRUCK_M:.0f} m or longer",
    }
    for name_of, what in (("height", NO_HEIGHT), ("size", NO_SIZE)):
        if guessed := left.pop(what, 0):
            notes[name_of] = f"of {guessed} {what}: by kind"
    ids = [_name(o, n) for o, n in zip(objects, names, strict=True)]
    return Recording(
        f"womd-{name}", "womd", f"womd-{name}", road, ids, kind, size, tracks, np.asarray(valid),
        _named(whole, objects, left), NOW, signals, notes, marks, {what: n for what, n in left.items() if n},
    )  # fmt: skip


def _road_users(whole: dict[str, Any], left: Counter[str]) -> tuple[list[dict[str, Any]], list[int]]:
    """Road users that are seen at some step, and their indices among all road users."""
    every = []
    for o in _list(whole, "objects", ""):
        word = o.get("type") if isinstance(o, dict) else None
        if _kind(word) is not None:
            every.append(o)
        else:
            left[f"objects of type {plain_word(word)}"] += 1
    require(len(every) > 0, "objects: no vehicle, pedestrian or cyclist in it; nothing moves here")
    seen = [n for n, o in enumerate(every) if not isinstance(o.get("valid"), list) or any(o["valid"])]
    require(len(seen) > 0, "objects[].valid: no object is valid at any step; there is no traffic")
    left["objects that are never seen"] += len(every) - len(seen)
    return [every[n] for n in seen], seen


def _kind(word: Any) -> int | None:
    """Kind of road user by its word (case-insensitive, or as in Waymo's enum); None if it is not one."""
    return KINDS.get(word.strip().lower().removeprefix("type_")) if isinstance(word, str) else None


def _tracks(
    objects: list[dict[str, Any]], names: list[int], left: Counter[str]
) -> tuple[list[dict[str, Any]], list[int], np.ndarray, np.ndarray]:
    """The undamaged objects and their indices, states (N, T, 4), and valid (N, T). ValueError if there is none."""
    lengths = Counter(len(o["position"]) for o in objects if isinstance(o.get("position"), list))
    steps = lengths.most_common(1)[0][0] if lengths else 0
    require(steps > NOW, f"objects[].position: {steps} steps; must be more than {NOW}, at 10 Hz")
    kept, tracks, valid, why = [], [], [], ""
    for o, name in zip(objects, names, strict=True):
        try:
            rows, seen = _track(o, steps, f"objects[{name}].", left)
        except ValueError as error:
            why = why or str(error)
            left[DAMAGED] += 1
            continue
        kept.append((o, name))
        tracks.append(rows)
        valid.append(seen)
    require(len(kept) > 0, why)
    return [o for o, _ in kept], [n for _, n in kept], np.array(tracks), np.array(valid)


def _name(o: dict[str, Any], n: int) -> str:
    return str(o["id"]) if isinstance(o.get("id"), int) else f"n{n}"


def _named(whole: dict[str, Any], objects: list[dict[str, Any]], left: Counter[str]) -> int:
    """Index of the recording car among the kept objects, -1 if the file names none that is seen."""
    about = whole.get("metadata")
    index = about.get("sdc_track_index") if isinstance(about, dict) else None
    if index is None:
        return -1
    every = whole["objects"]
    known = isinstance(index, (int, float)) and 0 <= index < len(every) and index == int(index)
    require(known, f"metadata.sdc_track_index: {index!r} is not among {len(every)} objects; remove it")
    mine = [n for n, o in enumerate(objects) if o is every[int(index)]]
    if not mine:
        left["recording cars that are no road user or never seen"] += 1
    return mine[0] if mine else -1


def _track(o: dict[str, Any], steps: int, where: str, left: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """(T, 4) x, y, heading as written, speed; (T,) valid. A step that is not a number counts as unseen."""
    lists = {name: _list(o, name, where) for name in ("position", "velocity", "heading", "valid")}
    for name, value in lists.items():
        require(len(value) == steps, f"{where}{name}: {len(value)} steps where most objects have {steps}")
    require(all(isinstance(v, (bool, int, float)) for v in lists["valid"]), f"{where}valid: must be true or false")
    valid = np.array([v == v and bool(v) for v in lists["valid"]], bool)  # NaN counts as invalid
    xy, move = (
        _numbers([_point(p) for p in lists[name]], (steps, 3), where + name)[:, :2] for name in ("position", "velocity")
    )
    yaw = _numbers(lists["heading"], (steps,), where + "heading")
    sound = (np.abs(np.column_stack([xy, yaw, move])) < FAR).all(1)
    require(bool((valid & sound).any()), f"{where}position, heading, velocity: not a number at any step; remove it")
    left["states of objects that are no numbers"] += int((valid & ~sound).sum())
    return states(xy, yaw, move, valid & sound, where), valid & sound


def _radians(tracks: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(N, T) headings, rad. Some versions of the format write degrees; the direction of motion shows which."""
    yaw = tracks[..., 2]
    step = np.diff(tracks[..., :2], axis=1)
    moving = valid[:, 1:] & valid[:, :-1] & (np.hypot(step[..., 0], step[..., 1]) > 0.3)
    if not moving.any():
        return np.where(np.abs(yaw).max() > 2 * np.pi, np.radians(yaw), yaw)
    way = np.arctan2(step[..., 1], step[..., 0])[moving]
    fit = [np.median(np.cos(way - h[:, 1:][moving])) for h in (yaw, np.radians(yaw))]
    require(max(fit) > 0.7, "objects[].heading: fits the motion neither as radians nor as degrees; get the file again")
    return yaw if fit[0] >= fit[1] else np.radians(yaw)


def _features(whole: dict[str, Any], left: Counter[str]) -> tuple[Features, frozenset[tuple[int, int]]]:
    """The file's map features, and the landmarks of its lanes."""
    f, lanes = Features(), []
    for i, r in enumerate(_list(whole, "roads", "")):
        kind, element = (r.get("type"), r.get("map_element_id")) if isinstance(r, dict) else (None, None)
        points = _geometry(r.get("geometry") if isinstance(r, dict) else None, left)
        if kind == "lane":
            lanes.append(points)
            if not has_length(points):
                left["lanes without a length"] += 1  # the data set has some
                continue
            name = str(r.get("id", f"n{i}"))
            f.lanes[name] = points
            if element == BICYCLE_LANE:
                f.narrow.add(name)
        elif kind == "road_edge" and len(points) > 1:
            f.edges.append(points)
        elif kind == "road_line" and len(points) > 1:
            f.lines.append(points)
            f.line_kind.append(LINES.get(element, LINE_WHITE_DASHED) if isinstance(element, int) else LINE_WHITE_DASHED)
        elif kind == "crosswalk" and len(points) > 2:
            f.crosswalks.append(points[:, :2])
        elif kind in ("driveway", "speed_bump") and len(points) > 2:
            f.areas.append(points[:, :2])
        else:
            few = kind in DRAWN
            left[f"map features of type {plain_word(kind)}{' with too few points' if few else ''}"] += 1
    require(len(f.lanes) > 0, "roads: no lane in it; a recording without a road cannot be driven")
    return f, marks_of(lanes)


def _geometry(given: Any, left: Counter[str]) -> np.ndarray:
    """Points (P, 3) of a feature; those that are not numbers are left out and counted."""
    rows = []
    for p in given if isinstance(given, list) else [given] if isinstance(given, dict) else []:
        try:
            rows.append(_numbers(list(_point(p)), (3,), ""))
        except ValueError:
            rows.append(np.full(3, np.nan))
    points = np.array(rows, np.float64).reshape(-1, 3)
    points[:, 2] = np.where(np.abs(points[:, 2]) < FAR, points[:, 2], 0.0)
    sound = (np.abs(points) < FAR).all(1)
    left["points of map features that are no numbers"] += int((~sound).sum())
    return points[sound]


def _lights(
    whole: dict[str, Any], f: Features, steps: int, left: Counter[str]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], str]:
    """Lane id -> (stop point (2,), states (T,)) of the lights that are known, and what the notes add of the others."""
    given = whole.get("tl_states") or {}
    require(isinstance(given, dict), "tl_states: must be an object of lane id -> states")
    out, more = {}, Counter()
    for name, light in given.items():
        where = f"tl_states[{name}]."
        if name not in f.lanes:
            left["lights of lanes that are not in the map"] += 1
        elif isinstance(light, dict) and light.get("state") == []:
            left["lights that are never seen"] += 1
        else:
            try:
                point, shown, unknown = _light(light, f.lanes[name], steps, where, left)
            except ValueError:
                left["lights that are damaged"] += 1
                continue
            more += unknown
            if unknown:
                left["lights that show unknown words"] += 1
            else:
                out[name] = point, shown
    left += lights.left_out(more)
    words = ", ".join(f"{word} {n} times" for word, n in sorted(more.items()))
    return out, f"; lights left out for their unknown words: {words}" if words else ""


def _light(
    light: Any, lane: np.ndarray, steps: int, where: str, left: Counter[str]
) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """Stop point (2,), states (T,), and unknown words; a light is off at steps where it was not seen. Without a
    position it is placed at the start of the lane that it controls."""
    shown, at = _list(light, "state", where), _list(light, "time_index", where)
    require(len(shown) == len(at), f"{where}state: {len(shown)} states for {len(at)} time_index; get the file again")
    step = _numbers(at, (-1,), where + "time_index")
    inside = (step >= 0) & (step < steps) & (step % 1 == 0)
    require(bool(inside.any()), f"{where}time_index: must be steps 0 .. {steps - 1}")
    left["states of lights at no step of the recording"] += int((~inside).sum())
    now = np.full(steps, SIGNAL_OFF, np.uint8)
    now[step[inside].astype(int)], unknown = lights.states_of([s for s, ok in zip(shown, inside, strict=True) if ok])
    x, y = (_axis(light, axis, where) for axis in ("x", "y"))
    point = np.array([np.median(x), np.median(y)]) if len(x) and len(y) else lane[0, :2]
    left["lights without a place: at the begin of their lanes"] += not (len(x) and len(y))
    off = float(np.hypot(*(lane[:, :2] - point).T).min())
    require(off < 30.0, f"{where}x, y: {off:.0f} m from the lane that it controls; remove the light")
    return point, now, unknown


def _list(owner: Any, name: str, where: str) -> list[Any]:
    value = owner.get(name) if isinstance(owner, dict) else None
    require(isinstance(value, list) and len(value) > 0, f"{where}{name}: must be a list; get the file again")
    return value  # pyright: ignore[reportReturnType]


def _axis(light: dict[str, Any], name: str, where: str) -> np.ndarray:
    """The finite ones of a light's coordinates, which may also be a single number for all steps."""
    given = light.get(name)
    value = _numbers(given if isinstance(given, list) else [given], (-1,), where + name)
    return value[np.abs(value) < FAR]


def _sides(o: dict[str, Any], kind: int, left: Counter[str]) -> tuple[float, float]:
    """Length and width, m; by kind if the file's value is not > 0."""
    given = (o.get("length"), o.get("width"))
    sound = [isinstance(value, (int, float)) and 0.0 < value < 100.0 for value in given]
    left[NO_SIZE] += not all(sound)
    length, width = (float(v) if ok else usual for v, ok, usual in zip(given, sound, SIZE[kind], strict=True))  # pyright: ignore[reportArgumentType]
    return length, width


def _height(o: dict[str, Any], kind: int, left: Counter[str]) -> float:
    """Height, m; by kind if the file's value is impossible."""
    if "height" not in o:
        return HEIGHT_M
    value = o["height"]
    if isinstance(value, (int, float)) and 0.0 < value < 100.0:
        return float(value)
    left[NO_HEIGHT] += 1
    return HEIGHT[kind]


def _point(p: Any) -> tuple[Any, Any, Any]:
    """x, y, z of a point; None for a missing one."""
    return (p.get("x"), p.get("y"), p.get("z", 0.0)) if isinstance(p, dict) else (None, None, None)


def _numbers(value: list[Any], shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        return np.array(value, np.float64).reshape(shape)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: must be numbers; get the file again") from None

"""Waymo Open Motion scenarios as GPUDrive / Nocturne JSON (plain or gzip) in, Recording out.

9.1 s at 10 Hz, the present at step 10. The car of the recording is the ego where the file names it; other vehicles
become egos too. The format has no lane widths, no speed limits, seldom lights, and names kinds of lanes and lines only
in its newer versions: what is made up for is in the notes. Source of the data: Ettinger et al., "Large scale
interactive motion forecasting for autonomous driving: the Waymo Open Motion Dataset", ICCV 2021.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from drivefoundry.clips.importers import lights
from drivefoundry.clips.importers.recording import (
    FAR,
    HEIGHT,
    Recording,
    head,
    marks_of,
    one_line,
    plain_word,
    states,
    unpacked,
)
from drivefoundry.clips.importers.roads import Features, around, has_length, recorded_limit, road_map
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
"""Step of the present: steps before it are history."""
KINDS = {"vehicle": AGENT_CAR, "pedestrian": AGENT_PEDESTRIAN, "cyclist": AGENT_CYCLIST}
TRUCK_M = 7.0
"""A vehicle of this length is drawn as a truck: the data set tells no kinds of vehicles apart."""
HEIGHT_M = 1.6
"""Height where a file has none."""
BICYCLE_LANE = 3
NO_HEIGHT = "objects whose height is no metres above 0"
DRAWN = ("road_edge", "road_line", "crosswalk", "driveway", "speed_bump")
LINES = {
    6: LINE_WHITE_DASHED, 7: LINE_WHITE, 8: LINE_WHITE, 9: LINE_YELLOW, 10: LINE_YELLOW, 11: LINE_YELLOW,
    12: LINE_YELLOW, 13: LINE_YELLOW,
}  # fmt: skip
"""Types of road lines, by the numbers of the data set."""


def fits(path: Path) -> bool:
    """True for a file of this format, by its name and first bytes; also for a damaged gzip of such a name."""
    if not path.name.endswith((".json", ".json.gz")):
        return False
    first = head(path, path.suffix == ".gz", 4096)
    return first is None or any(key in first for key in (b'"objects"', b'"roads"', b'"tl_states"'))


def read(path: Path) -> Recording:
    """File in, Recording out. ValueError names the file, the field and the mend."""
    data = unpacked(path, path.suffix == ".gz")
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not whole JSON ({error}); get the file again") from None
    try:
        return _recording(whole, path.name.removesuffix(".gz").removesuffix(".json"))
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def _recording(whole: Any, stem: str) -> Recording:
    require(isinstance(whole, dict), "an object with objects and roads wanted; this is another format")
    left: Counter[str] = Counter()
    objects, names = _road_users(whole, left)
    steps = len(_list(objects[0], "position", "objects[0]."))
    require(steps > NOW, f"objects[0].position: {steps} steps; over {NOW} wanted, at 10 Hz")
    tracks, valid = np.zeros((len(objects), steps, 4)), np.zeros((len(objects), steps), bool)
    size, kind = np.zeros((len(objects), 3)), np.zeros(len(objects), int)
    for n, (o, name) in enumerate(zip(objects, names, strict=True)):
        where = f"objects[{name}]."
        tracks[n], valid[n] = _track(o, steps, where)
        kind[n] = KINDS[o["type"]]
        size[n] = [*(_number(o, side, where) for side in ("length", "width")), _height(o, int(kind[n]), left)]
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
    unkind = not any("map_element_id" in r for r in whole["roads"])
    notes = {
        "origin": f"{origin[0]:.0f} {origin[1]:.0f} m of the source's frame",
        "lane_width": "absent: from paint and road edges beside the lane",
        "drivable": "absent: from the lanes to the road edges",
        "speed_limit": f"absent: 95th percentile of recorded speeds, {limit:.1f} m/s",
        "line_kind": "absent: all taken for dashed white lines" if unkind else "given",
        "signals": ("given" if signals else "absent in the source") + unknown,
        "truck": f"a vehicle of {TRUCK_M:.0f} m or longer",
    }
    guessed = left.pop(NO_HEIGHT, 0)
    if guessed:
        notes["height"] = f"of {guessed} {NO_HEIGHT}: by kind"
    ids = [_name(o, n) for o, n in zip(objects, names, strict=True)]
    return Recording(
        f"womd-{name}", "womd", f"womd-{name}", road, ids, kind, size, tracks, np.asarray(valid),
        _named(whole, objects, left), NOW, signals, notes, marks, {what: n for what, n in left.items() if n},
    )  # fmt: skip


def _road_users(whole: dict[str, Any], left: Counter[str]) -> tuple[list[dict[str, Any]], list[int]]:
    """Road users that are seen at some step, and the number of each among all road users."""
    every = []
    for o in _list(whole, "objects", ""):
        word = o.get("type") if isinstance(o, dict) else None
        if isinstance(word, str) and word in KINDS:
            every.append(o)
        else:
            left[f"objects of type {plain_word(word)}"] += 1
    require(len(every) > 0, "objects: no vehicle, pedestrian or cyclist in it; nothing moves here")
    seen = [n for n, o in enumerate(every) if not isinstance(o.get("valid"), list) or any(o["valid"])]
    require(len(seen) > 0, "objects[].valid: nobody is seen at any step; there is nothing to drive among")
    left["objects that are never seen"] += len(every) - len(seen)
    return [every[n] for n in seen], seen


def _name(o: dict[str, Any], n: int) -> str:
    return str(o["id"]) if isinstance(o.get("id"), int) else f"n{n}"


def _named(whole: dict[str, Any], objects: list[dict[str, Any]], left: Counter[str]) -> int:
    """Index of the recording car among the objects that are kept, -1 where the file names none that is seen."""
    about = whole.get("metadata")
    index = about.get("sdc_track_index") if isinstance(about, dict) else None
    if index is None:
        return -1
    every = whole["objects"]
    known = isinstance(index, int) and 0 <= index < len(every)
    require(known, f"metadata.sdc_track_index: {index!r} is not among {len(every)} objects; remove it")
    mine = [n for n, o in enumerate(objects) if o is every[index]]
    if not mine:
        left["recording cars that are no road user or never seen"] += 1
    return mine[0] if mine else -1


def _track(o: dict[str, Any], steps: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """(T, 4) x, y, heading as written, speed; (T,) valid."""
    lists = {name: _list(o, name, where) for name in ("position", "velocity", "heading", "valid")}
    for name, value in lists.items():
        require(len(value) == steps, f"{where}{name}: {len(value)} steps where the first object has {steps}")
    require(all(isinstance(v, (bool, int)) for v in lists["valid"]), f"{where}valid: true or false wanted")
    valid = np.array(lists["valid"], bool)
    xy, move = (
        _numbers([_point(p) for p in lists[name]], (steps, 3), where + name)[:, :2] for name in ("position", "velocity")
    )
    return states(xy, _numbers(lists["heading"], (steps,), where + "heading"), move, valid, where), valid


def _radians(tracks: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(N, T) headings, rad. Some versions of the format write degrees: the way people move tells which."""
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
    """What the file draws, and the marks of its lanes."""
    f, lanes = Features(), []
    for i, r in enumerate(_list(whole, "roads", "")):
        where = f"roads[{i}]."
        kind, element = (r.get("type"), r.get("map_element_id")) if isinstance(r, dict) else (None, None)
        given = r.get("geometry") if isinstance(r, dict) else None
        require(isinstance(given, list), f"{where}geometry: a list of points wanted; remove the feature")
        points = _numbers([_point(p) for p in given or []], (-1, 3), where + "geometry")
        require(bool((np.abs(points) < FAR).all()), f"{where}geometry: a point is no number; remove it")
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


def _lights(
    whole: dict[str, Any], f: Features, steps: int, left: Counter[str]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], str]:
    """Lane id -> (stop point (2,), states (T,)) of the lights that are known, and what the notes add of the others."""
    given = whole.get("tl_states") or {}
    require(isinstance(given, dict), "tl_states: an object of lane id -> states wanted")
    out, more = {}, Counter()
    for name, light in given.items():
        where = f"tl_states[{name}]."
        if name not in f.lanes:
            left["lights of lanes that are not in the map"] += 1
        elif isinstance(light, dict) and light.get("state") == [] and not light.get("time_index"):
            left["lights that are never seen"] += 1
        else:
            point, shown, unknown = _light(light, f.lanes[name], steps, where)
            more += unknown
            if unknown:
                left["lights that show unknown words"] += 1
            else:
                out[name] = point, shown
    left += lights.left_out(more)
    words = ", ".join(f"{word} {n} times" for word, n in sorted(more.items()))
    return out, f"; lights left out for their unknown words: {words}" if words else ""


def _light(light: Any, lane: np.ndarray, steps: int, where: str) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """Stop point (2,), states (T,), and its words that are not known; where a light was not seen at a step, it is
    off."""
    shown, at = _list(light, "state", where), _list(light, "time_index", where)
    require(len(shown) == len(at), f"{where}state: {len(shown)} states for {len(at)} time_index; get the file again")
    require(all(isinstance(t, int) and 0 <= t < steps for t in at), f"{where}time_index: steps 0 .. {steps - 1} wanted")
    now = np.full(steps, SIGNAL_OFF, np.uint8)
    now[at], unknown = lights.states_of(shown)
    x, y = (_numbers(_list(light, axis, where), (len(at),), where + axis) for axis in ("x", "y"))
    point = np.array([np.median(x), np.median(y)])
    off = float(np.hypot(*(lane[:, :2] - point).T).min())
    require(off < 30.0, f"{where}x, y: {off:.0f} m from the lane that it controls; remove the light")
    return point, now, unknown


def _list(owner: Any, name: str, where: str) -> list[Any]:
    value = owner.get(name) if isinstance(owner, dict) else None
    require(isinstance(value, list) and len(value) > 0, f"{where}{name}: a list wanted; get the file again")
    return value  # pyright: ignore[reportReturnType]


def _number(owner: dict[str, Any], name: str, where: str) -> float:
    value = owner.get(name)
    fits = isinstance(value, (int, float)) and 0.0 < value < 100.0
    require(fits, f"{where}{name}: {value!r}, metres above 0 wanted; remove the object")
    return float(value)  # pyright: ignore[reportArgumentType]


def _height(o: dict[str, Any], kind: int, left: Counter[str]) -> float:
    """Height, m; by kind where the file has one that cannot be."""
    if "height" not in o:
        return HEIGHT_M
    value = o["height"]
    if isinstance(value, (int, float)) and 0.0 < value < 100.0:
        return float(value)
    left[NO_HEIGHT] += 1
    return HEIGHT[kind]


def _point(p: Any) -> tuple[Any, Any, Any]:
    """x, y, z of a point; None, which is no number, where there is none."""
    return (p.get("x"), p.get("y"), p.get("z", 0.0)) if isinstance(p, dict) else (None, None, None)


def _numbers(value: list[Any], shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        return np.array(value, np.float64).reshape(shape)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: numbers wanted; get the file again") from None

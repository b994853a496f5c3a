"""Read ScenarioNet / MetaDrive scenario pickles (`sd_*.pkl`) as a Recording.

A pickle is a program; it is not run (see `pickles`). Tracks are resampled to 10 Hz. The recording car is the
first ego. Source of the format: Li et al., "ScenarioNet: open-source platform for large-scale traffic scenario
simulation and modeling", NeurIPS 2023.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from drivefoundry.clips.importers.traffic import lights, pickles
from drivefoundry.clips.importers.traffic.recording import (
    FAR,
    SIZE,
    Recording,
    bounded,
    head,
    headings,
    marks_of,
    one_line,
    plain_word,
    resampled,
    speeds,
    states,
    unpacked,
)
from drivefoundry.clips.importers.traffic.rings import closed_rings
from drivefoundry.clips.importers.traffic.roads import (
    Features,
    around,
    has_length,
    recorded_limit,
    rings_with_holes,
    road_map,
)
from drivefoundry.clips.importers.traffic.womd import HEIGHT_M, TRUCK_M
from drivefoundry.types import (
    AGENT_CAR,
    AGENT_CYCLIST,
    AGENT_PEDESTRIAN,
    AGENT_TRUCK,
    DT,
    LINE_WHITE,
    LINE_WHITE_DASHED,
    LINE_YELLOW,
    MAX_SPEED_MPS,
    require,
)

KINDS = {
    "VEHICLE": AGENT_CAR, "CAR": AGENT_CAR, "TRUCK": AGENT_TRUCK, "BUS": AGENT_TRUCK, "MOTORCYCLE": AGENT_CYCLIST,
    "MOTORCYCLIST": AGENT_CYCLIST, "PEDESTRIAN": AGENT_PEDESTRIAN, "CYCLIST": AGENT_CYCLIST, "BICYCLE": AGENT_CYCLIST,
}  # fmt: skip
"""MetaDrive's own types are vehicle, pedestrian and cyclist; the others are words of the data sets."""
PREFIXES = ("TYPE_", "EGO_", "VEHICLE_", "HUMAN_")
"""Prefixes that some data sets put before them."""
NO_NUMBER = "states of tracks that are no numbers"
NO_SIZE = "tracks whose length or width is no metres above 0"
CONSTANT_LIMIT = ("nuscenes", "lyft", "av2")
"""Data sets whose speed limits are a constant of the converter."""
CONSTANT_SIZE = "av2"
"""The data set whose sizes are constants of the converter, one per kind."""
CONSTANT_STOP = "nuplan"
"""The data set whose stop points the converter puts 8 m into the controlled lane."""
DRAWN = ("ROAD_LINE", "ROAD_EDGE_BOUNDARY", "ROAD_EDGE_MEDIAN", "CROSSWALK", "DRIVEWAY", "SPEED_BUMP")
UNITS = {"milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
STEPS_S = (0.005, 1.0)
"""Plausible time steps in seconds; longer ones mean another unit."""
NUSCENES_AXLE = 1.38
"""nuScenes places its recording car by the rear axle; the centre of that Renault Zoe is this far ahead, m."""
LONGEST_S = 300.0
"""Longest scenario, s; a longer one is damaged."""


def fits(path: Path) -> bool:
    """True for a file of this format, by its name and first bytes."""
    if path.suffix.lower() != ".pkl" or path.name.startswith("dataset_"):
        return False
    first = head(path, False, 400)
    return path.name.startswith("sd_") or (first is not None and b"version" in first and b"length" in first)


def read(path: Path) -> Recording:
    """Read a file. ValueError names the file, the field or class, and the fix."""
    data = unpacked(path, False)
    try:
        whole = pickles.load(data)
    except pickles.Named as error:
        raise ValueError(
            f"{path}: holds the class {error}, which no scenario needs; write it with plain arrays, lists and dicts"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: not a complete pickle of plain data ({error}); get the file again") from None
    try:
        return _recording(whole, path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def _recording(whole: Any, stem: str) -> Recording:
    about, left = _dict(whole, "metadata"), Counter()
    clock, unit = _clock(about)
    at = clock[0] + DT * np.arange(int((clock[-1] - clock[0]) / DT + 1.01))
    named, dataset = str(about.get("sdc_id", "")), str(about.get("dataset", "scenarionet"))
    ids, kind, size, tracks, valid = _tracks(whole, named, dataset == "nuscenes", clock, at, left)
    raw = _features(whole, dataset, left)
    shown, unknown = _lights(whole, raw, clock, at, dataset, left)
    raw.lights |= shown
    features, origin = around(raw, tracks, valid)
    tracks[..., :2] -= origin
    cars = np.isin(kind, (AGENT_CAR, AGENT_TRUCK))
    limit = recorded_limit(tracks[cars], valid[cars])
    road, signals = road_map(features, limit)
    name = str(about.get("scenario_id") or whole.get("id") or stem)
    town, source = about.get("map"), "womd" if dataset == "waymo" else dataset
    known = len(features.limit.keys() & features.lanes.keys())
    outlined = any(str(k).startswith("boundary") for k in whole["map_features"])
    others = sum(n for what, n in left.items() if what.startswith("tracks of type"))
    notes = {
        "dataset": dataset,
        "origin": f"{origin[0]:.0f} {origin[1]:.0f} m of the source's frame",
        "lane_width": "from paint and road edges beside the lane",
        "drivable": "the outline of the source" if outlined else "absent: from the lanes to the road edges",
        "speed_limit": f"given for {known} of {len(features.lanes)} lanes; others: 95th percentile of recorded speeds, "
        f"{limit:.1f} m/s",
        "signals": ("given" if signals else "absent in the source") + unknown,
        "others": f"{others} cones, barriers and things of unknown kind are left out",
        "truck": f"a vehicle of {TRUCK_M:.0f} m or longer",
    }
    if unit != "seconds":
        notes["clock"] = f"metadata.ts taken for {unit}"
    if dataset == CONSTANT_SIZE:
        notes["size"] = "absent: constants of the converter, one a kind"
    if guessed := left.pop(NO_SIZE, 0):
        notes["size"] = f"of {guessed} {NO_SIZE}: by kind"
    for what, n in left.items():
        if n and what.startswith(("headings", "velocities")):
            notes[what.split()[0]] = f"absent for {n} tracks: from the positions"
    return Recording(
        f"{dataset}-{name}", "scenarionet", f"{source}-{town if isinstance(town, str) else name}", road, ids, kind,
        size, tracks, valid, ids.index(named), 10, signals, notes, marks_of(raw.lanes.values()),
        {what: n for what, n in left.items() if n and not what.startswith(("headings", "velocities"))},
    )  # fmt: skip


def _clock(about: dict[Any, Any]) -> tuple[np.ndarray, str]:
    """Times of the steps (T,) s, and the unit in which the file gives them."""
    clock = _numbers(about.get("ts"), "metadata.ts", 1)
    require(len(clock) > 1 and bool(np.isfinite(clock).all()), "metadata.ts: needs at least two times")
    require(bool((np.diff(clock) > 0).all()), "metadata.ts: times must increase; sort the steps by time")
    step, unit = float(np.median(np.diff(clock))), "seconds"
    for other, a_second in UNITS.items():
        if step > STEPS_S[1] and STEPS_S[0] <= step / a_second <= STEPS_S[1] and len(clock) > 2:
            clock, unit = (clock - clock[0]) / a_second, other
            break
    require(clock[-1] - clock[0] < LONGEST_S, f"metadata.ts: {clock[-1] - clock[0]:.0f} s; no scenario is so long")
    return clock, unit


def _tracks(
    whole: dict[str, Any], named: str, by_axle: bool, clock: np.ndarray, at: np.ndarray, left: Counter[str]
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Road users on the clock `at`: ids, kind (N,), size (N, 3), tracks (N, T, 4), valid (N, T); other tracks are
    counted in `left`. by_axle: the recording car's position is its rear axle."""
    ids, kind, size, tracks, valid = [], [], [], [], []
    bounded(len(_dict(whole, "tracks")), len(at))
    for key, track in _dict(whole, "tracks").items():
        word = track.get("type") if isinstance(track, dict) else None
        code = _kind(word)
        if code is None:
            left[f"tracks of type {plain_word(word)}"] += 1
            continue
        found = _track(track, code, clock, at, f"tracks[{key}].state.", left)
        if found is None:
            left["tracks that are never seen"] += 1
            continue
        rows, seen, box = found
        if by_axle and str(key) == named:
            rows[:, :2] += NUSCENES_AXLE * np.stack([np.cos(rows[:, 2]), np.sin(rows[:, 2])], 1)
        ids.append(str(key))
        kind.append(AGENT_TRUCK if code == AGENT_CAR and box[0] >= TRUCK_M else code)
        size.append(box)
        tracks.append(rows)
        valid.append(seen)
    require(named in ids, f"metadata.sdc_id: {named!r} is not a visible road user; name the recording car")
    return ids, np.array(kind), np.array(size), np.array(tracks), np.array(valid)


def _kind(word: Any) -> int | None:
    """Kind of road user by its word; None if it is not one."""
    key = str(word).upper()
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return KINDS.get(key, KINDS.get(key.replace("_", "")))


def _track(
    track: Any, kind: int, clock: np.ndarray, at: np.ndarray, where: str, left: Counter[str]
) -> tuple[np.ndarray, np.ndarray, list[float]] | None:
    """States (T, 4) and valid (T,) on the clock `at`, and [length, width, height]; None if it is never seen."""
    state = _dict(track, "state", where)
    steps = len(clock)
    valid = _column(state, "valid", steps, where)
    valid = (valid != 0) & ~np.isnan(valid)
    if not valid.any():
        return None
    xy = _column(state, "position", steps, where, 2)
    yaw, move = (
        _column(state, name, steps, where, columns) if state.get(name) is not None else None
        for name, columns in (("heading", 1), ("velocity", 2))
    )
    yaw, move = (None if a is None or np.isnan(a[valid]).all() else a for a in (yaw, move))
    sound = (np.abs(np.column_stack([xy, *(a for a in (yaw, move) if a is not None)])) < FAR).all(1)
    left[NO_NUMBER] += int((valid & ~sound).sum())
    valid &= sound
    if not valid.any():
        return None
    left["headings"] += yaw is None
    left["velocities"] += move is None
    flat, still = np.zeros(steps), np.zeros((steps, 2))
    rows = states(xy, flat if yaw is None else yaw, still if move is None else move, valid, where)
    if yaw is None:
        rows[:, 2] = headings(rows[:, :2], valid)
    if move is None:
        rows[:, 3] = speeds(rows[:, :2], valid, clock)
    length, width, height = (_side(state, name, valid, where) for name in ("length", "width", "height"))
    left[NO_SIZE] += length is None or width is None
    length, width, height = length or SIZE[kind][0], width or SIZE[kind][1], height or HEIGHT_M
    if kind != AGENT_PEDESTRIAN:
        # Some versions of the converter swap the two for the recording car.
        length, width = max(length, width), min(length, width)
    rows, valid = resampled(rows, valid, clock, at)
    return (rows, valid, [length, width, height]) if valid.any() else None


def _side(state: dict[Any, Any], name: str, valid: np.ndarray, where: str) -> float | None:
    """Median, m, of a column (or one number) over the steps at which a track is seen; None if it cannot be a size."""
    if state.get(name) is None:
        return None
    value = _numbers(state[name], where + name, 1) if np.size(state[name]) == 1 else None
    value = np.repeat(value, len(valid)) if value is not None else _column(state, name, len(valid), where)
    value = value[valid & ~np.isnan(value)]
    middle = float(np.median(value)) if len(value) else np.nan
    return middle if 0.0 < middle < 100.0 else None


def _features(whole: dict[str, Any], dataset: str, left: Counter[str]) -> Features:
    f, outline = Features(), []
    flat = dataset == "nuscenes"  # there a lane's third column is its heading
    for key, feature in _dict(whole, "map_features").items():
        where = f"map_features[{key}]."
        kind = str(feature.get("type")) if isinstance(feature, dict) else ""
        line = _line(feature, "polyline", where, flat)
        area = _line(feature, "polygon", where, flat)
        if kind.startswith("LANE_"):
            if not has_length(line):
                left["lanes without a length"] += 1
                continue
            f.lanes[str(key)] = line
            limit = np.nan if dataset in CONSTANT_LIMIT else _limit(feature)
            if 0 < limit < MAX_SPEED_MPS:
                f.limit[str(key)] = limit
            if isinstance(feature.get("exit_lanes"), (list, tuple)):
                f.onward[str(key)] = [str(k) for k in feature["exit_lanes"]]
            if "BIKE" in kind:
                f.narrow.add(str(key))
        elif kind.startswith(("ROAD_EDGE", "BOUNDARY")) and len(line) > 1:
            f.edges.append(line)
        elif str(key).startswith("boundary") and len(line) > 1:
            outline.append(line)
        elif kind.startswith("ROAD_LINE") and len(line) > 1:
            f.lines.append(line)
            f.line_kind.append(_line_kind(kind))
        elif kind == "CROSSWALK" and len(area) > 2:
            f.crosswalks.append(area[:, :2])
        elif kind in ("DRIVEWAY", "SPEED_BUMP") and len(area) > 2:
            f.areas.append(area[:, :2])
        else:
            few = kind.startswith(DRAWN)
            left[f"map features of type {plain_word(kind)}{' with too few points' if few else ''}"] += 1
    require(len(f.lanes) > 0, "map_features: no lane in it; a recording without a road cannot be driven")
    f.edges += outline
    f.complete = len(outline) > 0
    rings, cut = closed_rings(outline)
    f.areas += rings_with_holes(rings)
    if cut:
        left["pieces of the road's outline that do not close"] += cut
    return f


def _limit(feature: dict[Any, Any]) -> float:
    """A lane's speed limit, m/s, whatever unit it is written in; NaN without one."""
    for name, unit in (("speed_limit_kmh", 1 / 3.6), ("speed_limit_mps", 1.0), ("speed_limit_mph", 0.44704)):
        value = feature.get(name)
        if isinstance(value, (int, float, np.number)) and 0 < value * unit < MAX_SPEED_MPS:
            return float(value) * unit if unit != 1 / 3.6 else float(value) / 3.6
    return np.nan


def _lights(
    whole: dict[str, Any], f: Features, clock: np.ndarray, at: np.ndarray, dataset: str, left: Counter[str]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], str]:
    """Lane id -> (stop point (2,), states (T,)) of usable lights, and a note about the others."""
    out, more = {}, Counter()
    given = whole.get("dynamic_map_states")
    for key, light in (_dict(whole, "dynamic_map_states") if given is not None else {}).items():
        lane = str(light.get("lane", key)) if isinstance(light, dict) else ""
        if lane not in f.lanes:
            left["lights of lanes that are not in the map"] += 1
            continue
        point, shown, unknown = _light(light, f.lanes[lane], clock, at, f"dynamic_map_states[{key}].", dataset)
        more += unknown
        if unknown:
            left["lights that show unknown words"] += 1
        else:
            out[lane] = point, shown
    left += lights.left_out(more)
    words = ", ".join(f"{word} {n} times" for word, n in sorted(more.items()))
    return out, f"; lights left out for their unknown words: {words}" if words else ""


def _line_kind(kind: str) -> int:
    if "YELLOW" in kind:
        return LINE_YELLOW
    return LINE_WHITE_DASHED if "BROKEN" in kind else LINE_WHITE


def _line(feature: Any, name: str, where: str, flat: bool) -> np.ndarray:
    """(P, 3) x, y, height; empty if there is none."""
    value = feature.get(name) if isinstance(feature, dict) else None
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return np.zeros((0, 3))
    points = _numbers(value, where + name, 2)
    fits = points.shape[1] > 1 and bool((np.abs(points) < FAR).all())
    require(fits, f"{where}{name}: must be (x, y) or (x, y, z) numbers; remove the feature")
    tall = points.shape[1] > 2 and not flat
    return np.column_stack([points[:, :2], points[:, 2] if tall else np.zeros(len(points))])


def _light(
    light: Any, lane: np.ndarray, clock: np.ndarray, at: np.ndarray, where: str, dataset: str
) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """Stop point (2,) and states (T,) on the clock `at`, and its unknown words."""
    state = _dict(light, "state", where)
    words = state.get("object_state")
    whole = isinstance(words, (list, tuple, np.ndarray)) and np.shape(np.asarray(words, object))[:1] == (len(clock),)
    require(whole, f"{where}state.object_state: {len(clock)} states expected, one per time; get the file again")
    now, unknown = lights.states_of(words or [] if not isinstance(words, np.ndarray) else words.tolist())
    point = light.get("stop_point")
    made_up = point is None or dataset == CONSTANT_STOP
    point = lane[0, :2] if made_up else _numbers(point, where + "stop_point", 1)[:2]
    off = float(np.hypot(*(lane[:, :2] - point).T).min()) if len(point) == 2 else np.inf
    require(off < 30.0, f"{where}stop_point: {off:.0f} m from the lane that it controls; get the file again")
    return point, now[np.clip(np.searchsorted(clock, at - 0.5 * DT), 0, len(clock) - 1)], unknown


def _dict(owner: Any, name: str, where: str = "") -> dict[Any, Any]:
    value = owner.get(name) if isinstance(owner, dict) else None
    require(isinstance(value, dict), f"{where}{name}: must be a dict; get the file again")
    return value  # pyright: ignore[reportReturnType]


def _column(state: dict[Any, Any], name: str, steps: int, where: str, columns: int = 1) -> np.ndarray:
    """One column (T,) of a state, or its first `columns` (T, columns)."""
    value = _numbers(state.get(name), where + name, 1 if columns == 1 else 2)
    fits = len(value) == steps and (columns == 1 or value.shape[1] >= columns)
    require(fits, f"{where}{name}: shape {value.shape} for {steps} times; get the file again")
    return value if columns == 1 else value[:, :columns]


def _numbers(value: Any, where: str, dims: int) -> np.ndarray:
    """Convert a value to a float64 array of one or two dimensions."""
    try:
        out = np.array(value, np.float64)
        return out.reshape(-1) if dims == 1 else out.reshape(len(out), -1 if out.size else 3)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: must be numbers; get the file again") from None

"""ScenarioNet / MetaDrive scenario pickles (`sd_*.pkl`) in, Recording out.

A pickle is a program; this one is not run (see `pickles`). Tracks are put on a 10 Hz clock. The recording car is the
first ego. Source of the format: Li et al., "ScenarioNet: open-source platform for large-scale traffic scenario
simulation and modeling", NeurIPS 2023.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from drivefoundry.clips.importers import pickles
from drivefoundry.clips.importers.recording import FAR, Recording, head, marks_of, states, unpacked
from drivefoundry.clips.importers.roads import Features, around, has_length, recorded_limit, rings_with_holes, road_map
from drivefoundry.clips.importers.womd import HEIGHT_M, STATES, TRUCK_M
from drivefoundry.types import (
    AGENT_CAR,
    AGENT_CYCLIST,
    AGENT_PEDESTRIAN,
    AGENT_TRUCK,
    DT,
    LINE_WHITE,
    LINE_WHITE_DASHED,
    LINE_YELLOW,
    SIGNAL_OFF,
    require,
)

KINDS = {"VEHICLE": AGENT_CAR, "PEDESTRIAN": AGENT_PEDESTRIAN, "CYCLIST": AGENT_CYCLIST}
REAR_AXLE = 1.38
"""nuScenes gives its own car by the rear axle: the middle of that Renault Zoe lies this far ahead, m."""
LONGEST_S = 300.0
"""A scenario is no longer than this; what claims to be is damaged."""


def fits(path: Path) -> bool:
    """True for a file of this format, by its name and first bytes."""
    if path.suffix != ".pkl" or path.name.startswith("dataset_"):
        return False
    first = head(path, False, 400)
    return path.name.startswith("sd_") or (first is not None and b"version" in first and b"length" in first)


def read(path: Path) -> Recording:
    """File in, Recording out. ValueError names the file, the field or class, and the mend."""
    data = unpacked(path, False)
    try:
        whole = pickles.load(data)
    except pickles.Named as error:
        raise ValueError(
            f"{path}: holds the class {error}, which no scenario needs; write it with plain arrays, lists and dicts"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: not a whole pickle of plain data ({error}); get the file again") from None
    try:
        return _recording(whole, path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _recording(whole: Any, stem: str) -> Recording:
    about = _dict(whole, "metadata")
    clock = _numbers(about.get("ts"), "metadata.ts", 1)
    require(len(clock) > 1 and bool(np.isfinite(clock).all()), "metadata.ts: times wanted, at least two")
    require(bool((np.diff(clock) > 0).all()), "metadata.ts: time must rise from step to step; sort the steps by time")
    require(clock[-1] - clock[0] < LONGEST_S, f"metadata.ts: {clock[-1] - clock[0]:.0f} s; no scenario is so long")
    at = clock[0] + DT * np.arange(int((clock[-1] - clock[0]) / DT + 1.01))
    named, dataset = str(about.get("sdc_id", "")), str(about.get("dataset", "scenarionet"))
    ids, kind, size, tracks, valid, other = _tracks(whole, named, dataset == "nuscenes", clock, at)
    raw = _features(whole, clock, at, dataset)
    features, origin = around(raw, tracks, valid)
    tracks[..., :2] -= origin
    cars = np.isin(kind, (AGENT_CAR, AGENT_TRUCK))
    limit = recorded_limit(tracks[cars], valid[cars])
    road, lights = road_map(features, limit)
    name = str(about.get("scenario_id") or whole.get("id") or stem)
    town, source = about.get("map"), "womd" if dataset == "waymo" else dataset
    known = len(features.limit.keys() & features.lanes.keys())
    outlined = any(str(k).startswith("boundary") for k in whole["map_features"])
    notes = {
        "dataset": dataset,
        "origin": f"{origin[0]:.0f} {origin[1]:.0f} m of the source's frame",
        "lane_width": "from paint and road edges beside the lane",
        "drivable": "the outline of the source" if outlined else "absent: from the lanes to the road edges",
        "speed_limit": f"given for {known} of {len(features.lanes)} lanes; others: 95th percentile of recorded speeds, "
        f"{limit:.1f} m/s",
        "signals": "given" if lights else "absent in the source",
        "others": f"{other} cones, barriers and things of unknown kind are left out",
        "truck": f"a vehicle of {TRUCK_M:.0f} m or longer",
    }
    return Recording(
        f"{dataset}-{name}", "scenarionet", f"{source}-{town if isinstance(town, str) else name}", road, ids, kind,
        size, tracks, valid, ids.index(named), 10, lights, notes, marks_of(raw.lanes.values()),
    )  # fmt: skip


def _tracks(
    whole: dict[str, Any], named: str, by_axle: bool, clock: np.ndarray, at: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Road users on the clock `at`: ids, kind (N,), size (N, 3), tracks (N, T, 4), valid (N, T); how many tracks are
    none. by_axle: the recording car is given by its rear axle."""
    ids, kind, size, tracks, valid, other = [], [], [], [], [], 0
    for key, track in _dict(whole, "tracks").items():
        code = KINDS.get(str(track.get("type")) if isinstance(track, dict) else "")
        if code is None:
            other += 1
            continue
        rows, seen, box = _track(track, clock, at, f"tracks[{key}].state.")
        if not seen.any():
            continue
        if by_axle and str(key) == named:
            rows[:, :2] += REAR_AXLE * np.stack([np.cos(rows[:, 2]), np.sin(rows[:, 2])], 1)
        ids.append(str(key))
        kind.append(AGENT_TRUCK if code == AGENT_CAR and box[0] >= TRUCK_M else code)
        size.append(box)
        tracks.append(rows)
        valid.append(seen)
    require(named in ids, f"metadata.sdc_id: {named!r} is no road user that is seen; name the recording car")
    return ids, np.array(kind), np.array(size), np.array(tracks), np.array(valid), other


def _track(track: Any, clock: np.ndarray, at: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """States (T, 4) and valid (T,) on the clock `at`, and [length, width, height]."""
    state = _dict(track, "state", where)
    steps = len(clock)
    valid = _column(state, "valid", steps, where).astype(bool)
    xy, move = (_column(state, name, steps, where, 2) for name in ("position", "velocity"))
    yaw = _column(state, "heading", steps, where)
    rows = states(xy, yaw, move, valid, where)
    box = []
    for name, usual in (("length", np.nan), ("width", np.nan), ("height", HEIGHT_M)):
        value = _column(state, name, steps, where)[valid] if name in state else np.full(1, usual)
        middle = float(np.median(value)) if len(value) else 1.0
        require(0.0 < middle < 100.0, f"{where}{name}: {middle}, metres above 0 wanted; remove the track")
        box.append(middle)
    length, width, height = box
    if track["type"] != "PEDESTRIAN":  # some versions of the converter have the two of the recording car the wrong way
        length, width = max(length, width), min(length, width)
    rows, valid = _resampled(rows, valid, clock, at)
    return rows, valid, [length, width, height]


def _resampled(rows: np.ndarray, valid: np.ndarray, clock: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States on one clock in, on another out: linear in between, seen where the states on both sides are."""
    after = np.clip(np.searchsorted(clock, at - 1e-3), 1, len(clock) - 1)
    before = after - 1
    u = np.clip((at - clock[before]) / (clock[after] - clock[before]), 0.0, 1.0)
    u = np.where(u < 0.02, 0.0, np.where(u > 0.98, 1.0, u))
    seen = (valid[before] | (u == 1.0)) & (valid[after] | (u == 0.0))
    out = rows[before] + u[:, None] * (rows[after] - rows[before])
    turn = rows[after, 2] - rows[before, 2]
    out[:, 2] = rows[before, 2] + u * np.arctan2(np.sin(turn), np.cos(turn))
    return np.where(seen[:, None], out, 0.0), seen


def _features(whole: dict[str, Any], clock: np.ndarray, at: np.ndarray, dataset: str) -> Features:
    f, rings = Features(), []
    flat = dataset == "nuscenes"  # there a lane's third column is its heading, and its limit the converter's constant
    for key, feature in _dict(whole, "map_features").items():
        where = f"map_features[{key}]."
        kind = str(feature.get("type")) if isinstance(feature, dict) else ""
        line = _line(feature, "polyline", where, flat)
        area = _line(feature, "polygon", where, flat)
        if kind.startswith("LANE_"):
            if not has_length(line):
                continue
            f.lanes[str(key)] = line
            limit = feature.get("speed_limit_kmh")
            if not flat and isinstance(limit, (int, float)) and 0 < limit < 200:
                f.limit[str(key)] = limit / 3.6
            if isinstance(feature.get("exit_lanes"), list):
                f.onward[str(key)] = [str(k) for k in feature["exit_lanes"]]
            if "BIKE" in kind:
                f.narrow.add(str(key))
        elif kind.startswith(("ROAD_EDGE", "BOUNDARY")) and len(line) > 1:
            f.edges.append(line)
        elif str(key).startswith("boundary") and len(line) > 3:
            rings.append(line[:, :2])
            f.edges.append(line)
        elif kind.startswith("ROAD_LINE") and len(line) > 1:
            f.lines.append(line)
            f.line_kind.append(_line_kind(kind))
        elif kind == "CROSSWALK" and len(area) > 2:
            f.crosswalks.append(area[:, :2])
        elif kind in ("DRIVEWAY", "SPEED_BUMP") and len(area) > 2:
            f.areas.append(area[:, :2])
    require(len(f.lanes) > 0, "map_features: no lane in it; a recording without a road cannot be driven")
    f.areas += rings_with_holes(rings)
    for key, light in _dict(whole, "dynamic_map_states").items():
        lane = str(light.get("lane", key)) if isinstance(light, dict) else ""
        if lane in f.lanes:
            f.lights[lane] = _light(light, f.lanes[lane], clock, at, f"dynamic_map_states[{key}].")
    return f


def _line_kind(kind: str) -> int:
    if "YELLOW" in kind:
        return LINE_YELLOW
    return LINE_WHITE_DASHED if "BROKEN" in kind else LINE_WHITE


def _line(feature: Any, name: str, where: str, flat: bool) -> np.ndarray:
    """(P, 3) x, y, height; empty where there is none."""
    value = feature.get(name) if isinstance(feature, dict) else None
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return np.zeros((0, 3))
    points = _numbers(value, where + name, 2)
    fits = points.shape[1] > 1 and bool((np.abs(points) < FAR).all())
    require(fits, f"{where}{name}: (x, y) or (x, y, z) numbers wanted; remove the feature")
    tall = points.shape[1] > 2 and not flat
    return np.column_stack([points[:, :2], points[:, 2] if tall else np.zeros(len(points))])


def _light(
    light: Any, lane: np.ndarray, clock: np.ndarray, at: np.ndarray, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Stop point (2,) and states (T,) on the clock `at`."""
    state = _dict(light, "state", where)
    shown = state.get("object_state")
    whole = isinstance(shown, (list, np.ndarray)) and len(shown) == len(clock)
    require(whole, f"{where}state.object_state: {len(clock)} states wanted, one a time; get the file again")
    words = [str(s).removeprefix("LANE_STATE_").removeprefix("ARROW_").lower() for s in shown or []]
    now = np.array([STATES.get(word, SIGNAL_OFF) for word in words], np.uint8)
    point = light.get("stop_point")
    point = lane[0, :2] if point is None else _numbers(point, where + "stop_point", 1)[:2]
    off = float(np.hypot(*(lane[:, :2] - point).T).min()) if len(point) == 2 else np.inf
    require(off < 30.0, f"{where}stop_point: {off:.0f} m from the lane that it controls; get the file again")
    return point, now[np.clip(np.searchsorted(clock, at - 0.5 * DT), 0, len(clock) - 1)]


def _dict(owner: Any, name: str, where: str = "") -> dict[Any, Any]:
    value = owner.get(name) if isinstance(owner, dict) else None
    require(isinstance(value, dict), f"{where}{name}: a dict wanted; get the file again")
    return value  # pyright: ignore[reportReturnType]


def _column(state: dict[Any, Any], name: str, steps: int, where: str, columns: int = 1) -> np.ndarray:
    """(T,) of a state, or the first `columns` (T, columns)."""
    value = _numbers(state.get(name), where + name, 1 if columns == 1 else 2)
    fits = len(value) == steps and (columns == 1 or value.shape[1] >= columns)
    require(fits, f"{where}{name}: shape {value.shape} for {steps} times; get the file again")
    return value if columns == 1 else value[:, :columns]


def _numbers(value: Any, where: str, dims: int) -> np.ndarray:
    """Anything in, float64 of one or two dimensions out."""
    try:
        out = np.array(value, np.float64)
        return out.reshape(-1) if dims == 1 else out.reshape(len(out), -1 if out.size else 3)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: numbers wanted; get the file again") from None

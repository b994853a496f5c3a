"""Read CommonRoad XML, versions 2018b and 2020a (plain or gzip), as a Recording.

The format has a planning problem but no recorded ego drive: a recorded vehicle becomes the ego, and the Scene's meta
says which. What a state leaves open (speed and orientation are optional, values may be intervals, positions regions) is
derived or replaced by its midpoint, and noted. Source of the format: Althoff, Koschi, Manzinger, "CommonRoad:
Composable benchmarks for motion planning on roads", IV 2017; its XML schema 2020a.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from drivefoundry.clips.importers.traffic.lanelets import BEYOND, map_of, number
from drivefoundry.clips.importers.traffic.recording import (
    HEIGHT,
    Recording,
    bounded,
    headings,
    one_line,
    opening,
    plain_word,
    resampled,
    speeds,
    stem_of,
    unpacked,
)
from drivefoundry.types import (
    AGENT_CAR,
    AGENT_CYCLIST,
    AGENT_PEDESTRIAN,
    AGENT_TRUCK,
    DT,
    MAX_ABS_POSITION_M,
    MAX_SPEED_MPS,
    require,
)

VERSIONS = ("2018b", "2020a")
KINDS = {
    "car": AGENT_CAR, "taxi": AGENT_CAR, "priorityVehicle": AGENT_CAR, "motorcycle": AGENT_CAR,
    "parkedVehicle": AGENT_CAR, "truck": AGENT_TRUCK, "bus": AGENT_TRUCK, "train": AGENT_TRUCK,
    "bicycle": AGENT_CYCLIST, "pedestrian": AGENT_PEDESTRIAN,
}  # fmt: skip
OBSTACLES = ("obstacle", "staticObstacle", "dynamicObstacle")
"""Elements of static and moving road users, of 2018b and of 2020a."""
BESIDE_ROAD = ("roadBoundary", "building", "pillar", "medianStrip", "median_strip")
"""Types of obstacles that are part of the map."""
NO_ROAD_USERS = ("environmentObstacle", "phantomObstacle")
"""Elements of buildings and of phantom road users."""
MOST_STEPS = 10_000
"""Most steps of a recording; a file with more is damaged."""
LONGEST_GAP_S = 1.0
"""Longest gap between two states of a road user that is interpolated linearly, s."""
STEPS_S = (0.005, 1.0)
"""Supported time steps, s."""


def fits(path: Path) -> bool:
    """True for a file of this format, by its name and first bytes; also for a damaged gzip of such a name."""
    first = opening(path, ".xml")
    return first is None or re.search(rb"<([\w.-]+:)?commonRoad[\s>]", first) is not None


def read(path: Path) -> Recording:
    """Read a file. ValueError names the file and what is wrong: not XML, another version, no lanelets."""
    root = _root(path)
    require(root.tag == "commonRoad", f"{path}: root element is <{root.tag}>, not <commonRoad>")
    try:
        return _recording(root, stem_of(path, ".xml"))
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def _recording(root: Element, stem: str) -> Recording:
    version = root.get("commonRoadVersion", "none")
    require(version in VERSIONS, f"CommonRoad version {version}; only {' and '.join(VERSIONS)} can be read")
    step = _time_step(root.get("timeStepSize", ""))
    left: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    ids, kind, size, tracks, valid = _on_grid(_road_users(root, left, taken), step, taken)
    road, signals, notes = map_of(root, tracks, valid, step, left, taken)
    benchmark = root.get("benchmarkID") or stem
    # Country and town of the benchmark id, without map and recording number: USA_US101-3_1_T-1 -> USA_US101.
    place = benchmark.removeprefix("C-").split("-")[0]
    notes |= {
        "height": "by kind: absent in the source",
        "drivable": f"the lanelets, and {BEYOND:.0f} m where the map is cut off",
    }
    if abs(step - DT) > 1e-6:
        notes["clock"] = f"steps of {step} s: put on steps of {DT} s"
    if taken:
        notes["states"] = "; ".join(f"{n} {what}" for what, n in sorted(taken.items()))
    return Recording(
        benchmark, "commonroad", place, road, ids, kind, size, tracks, valid, lights=signals, notes=notes,
        left={what: n for what, n in left.items() if n},
    )  # fmt: skip


def _time_step(text: str) -> float:
    try:
        step = float(text)
    except ValueError:
        step = np.nan
    require(STEPS_S[0] <= step <= STEPS_S[1], f"timeStepSize {text!r}: must be {STEPS_S[0]} .. {STEPS_S[1]} s")
    return step


def _root(path: Path) -> Element:
    """Parse without document types: scenarios need no entities, and entities are the usual XML attack."""
    data = unpacked(path, path.suffix.lower() == ".gz")
    text = data.replace(b"\0", b"")  # UTF-16 becomes ASCII
    require(
        b"<!DOCTYPE" not in text and b"<!ENTITY" not in text, f"{path}: has a DOCTYPE; remove it, scenarios need none"
    )
    try:
        root = ElementTree.fromstring(data)
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]  # the format has no namespaces, but some writers add one
        return root
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: incomplete XML ({error}); get the file again") from None


@dataclass(frozen=True)
class _RoadUser:
    """One road user. shift: offset of its box centre from its position, ahead and to the left, m, and the box's
    rotation, rad; rows: states, step, x, y, yaw, speed (NaN if the file has none)."""

    id: str
    kind: int
    size: tuple[float, float, float]
    shift: tuple[float, ...]
    parked: bool
    rows: np.ndarray


def _road_users(root: Element, left: Counter[str], taken: Counter[str]) -> list[_RoadUser]:
    """All static and moving road users. What is left out is counted in `left`, what is approximated in `taken`."""
    for tag in NO_ROAD_USERS:
        left[f"<{tag}>"] += len(root.findall(tag))
    out, why = [], ""
    for obstacle in (o for tag in OBSTACLES for o in root.iterfind(tag)):
        try:
            user = _road_user(obstacle, left, taken)
        except ValueError as error:
            why = why or str(error)
            left["obstacles that are damaged"] += 1
            continue
        out += [] if user is None else [user]
    require(len(out) > 0 or not why, why)
    return out


def _road_user(obstacle: Element, left: Counter[str], taken: Counter[str]) -> _RoadUser | None:
    """Read one obstacle; None if it is not a road user. ValueError if it is damaged."""
    word = (obstacle.findtext("type") or "").strip()
    box = _box(obstacle, obstacle.find("shape"))
    if word in BESIDE_ROAD or box is None:
        left[f"obstacles of type {plain_word(word)}" if box else "obstacles without a shape"] += 1
        return None
    more: Counter[str] = Counter()
    rows = _states(obstacle, more)
    if not len(rows):
        left["obstacles without a place"] += 1
        taken.update(more)
        return None
    kind = KINDS.get(word, AGENT_CAR)
    if word not in KINDS:
        more[f"obstacles of type {plain_word(word)}, taken for cars"] += 1
    length, width, *shift = box
    name = obstacle.get("id", "")
    sound = min(length, width) > 0.0 and max(length, width) < 100.0
    require(sound, f"obstacle {name}: length and width must be > 0 m; remove it")
    at = rows[:, 0]
    rising = bool((at >= 0).all() and (at < MOST_STEPS).all() and (at % 1 == 0).all() and (np.diff(at) > 0).all())
    says = "time steps must be integers, increasing, from 0; sort its states"
    require(rising, f"obstacle {name}: {says}")
    whole = np.where(np.isnan(rows[:, 3:]), 0.0, rows[:, 3:])
    known = bool((np.abs(np.column_stack([rows[:, :3], whole])) < MAX_ABS_POSITION_M).all())
    require(known, f"obstacle {name}: a state is not a number or far from the origin; remove that state")
    parked = obstacle.tag == "staticObstacle" or (obstacle.findtext("role") or "").strip() == "static"
    taken.update(more)
    return _RoadUser(name, kind, (length, width, HEIGHT[kind]), tuple(shift), parked, rows)


def _box(obstacle: Element, shape: Element | None) -> tuple[float, float, float, float, float] | None:
    """Length and width of the box around a shape, its centre relative to the obstacle's position, ahead and to the
    left, and its rotation; None without a shape."""
    parts = [] if shape is None else [p for p in shape if p.tag in ("rectangle", "circle", "polygon")]
    if not parts:
        return None
    if len(parts) == 1 and parts[0].tag == "rectangle":
        one = parts[0]
        length, width = _metres(obstacle, one, "length"), _metres(obstacle, one, "width")
        turned = _metres(obstacle, one, "orientation") if one.find("orientation") is not None else 0.0
        return length, width, *_centre(obstacle, one), turned
    corners = np.concatenate([_corners(obstacle, part) for part in parts])
    low, high = corners.min(0), corners.max(0)
    return (float(high[0] - low[0]), float(high[1] - low[1]), *((low + high) / 2).tolist(), 0.0)


def _centre(owner: Element, part: Element) -> tuple[float, float]:
    centre = part.find("center")
    return (_metres(owner, centre, "x"), _metres(owner, centre, "y")) if centre is not None else (0.0, 0.0)


def _metres(owner: Element, element: Element, name: str) -> float:
    """A finite number of plausible size."""
    value = number(owner, element, name)
    require(
        abs(value) < MAX_ABS_POSITION_M,
        f"{owner.tag} {owner.get('id')}: <{name}> is {value}, not a number",
    )
    return value


def _corners(owner: Element, part: Element) -> np.ndarray:
    """Corners (P, 2) of a part of a shape, in the obstacle's frame; a circle gives its bounding square."""
    if part.tag == "polygon":
        points = [(_metres(owner, p, "x"), _metres(owner, p, "y")) for p in part.iterfind("point")]
        require(len(points) > 2, f"{owner.tag} {owner.get('id')}: a polygon of {len(points)} points; remove it")
        return np.array(points)
    if part.tag == "circle":
        half = np.full(2, _metres(owner, part, "radius"))
        turned = 0.0
    else:
        half = np.array([_metres(owner, part, "length"), _metres(owner, part, "width")]) / 2
        turned = _metres(owner, part, "orientation") if part.find("orientation") is not None else 0.0
    c, s = np.cos(turned), np.sin(turned)
    square = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * half
    return square @ np.array([[c, s], [-s, c]]) + np.array(_centre(owner, part))


def _states(obstacle: Element, taken: Counter[str]) -> np.ndarray:
    """States (n, 5) of an obstacle in file order; states without a position are left out and counted."""
    found = [(obstacle.find("initialState"), True)]
    found += [(state, False) for state in obstacle.iterfind("trajectory/state")]
    found += [(state, False) for state in obstacle.iterfind("occupancySet/occupancy")]
    rows = [_state(obstacle, state, first, taken) for state, first in found if state is not None]
    rows = [row for row in rows if row is not None]
    return np.array(rows, np.float64).reshape(-1, 5)


def _state(obstacle: Element, state: Element, first: bool, taken: Counter[str]) -> tuple[float, ...] | None:
    """(step, x, y, yaw, speed), yaw and speed NaN if absent. None without a position or a time."""
    time = _value(obstacle, state, "time", taken)
    time = 0.0 if np.isnan(time) and first else time
    place = state.find("position/point")
    if place is not None:
        x, y = number(obstacle, place, "x"), number(obstacle, place, "y")
    else:
        region = state.find("position") if state.find("position") is not None else state.find("shape")
        parts = [] if region is None else [p for p in region if p.tag in ("rectangle", "circle", "polygon")]
        if not parts:
            taken["states without a place, left out"] += 1
            return None
        x, y = np.concatenate([_corners(obstacle, p) for p in parts]).mean(0).tolist()
        taken["states whose place is a region, its middle taken"] += 1
    if np.isnan(time):
        taken["states without a time, left out"] += 1
        return None
    yaw = _value(obstacle, state, "orientation", taken)
    speed = _value(obstacle, state, "velocity", taken)
    across = _value(obstacle, state, "velocityY", taken)
    return time, x, y, yaw, float(np.hypot(speed, across)) if np.isfinite(across) and across else speed


def _value(obstacle: Element, state: Element, name: str, taken: Counter[str]) -> float:
    """A state's value, the midpoint of an interval, NaN if absent."""
    element = state.find(name)
    if element is None:
        return np.nan
    if element.find("exact") is not None:
        return number(obstacle, element, "exact")
    if element.find("intervalStart") is None or element.find("intervalEnd") is None:
        return np.nan
    a, b = number(obstacle, element, "intervalStart"), number(obstacle, element, "intervalEnd")
    taken[f"states whose {name} is an interval, its middle taken"] += 1
    if name == "time":
        return float(np.floor((a + b) / 2))
    if name == "orientation" and b < a:
        b += 2 * np.pi
    return (a + b) / 2


def _on_grid(users: list[_RoadUser], step: float, taken: Counter[str]):
    """Resample road users to 0.1 s: ids, kind (N,), size (N, 3), tracks (N, T, 4), valid (N, T)."""
    last = max((int(user.rows[-1, 0]) for user in users), default=0)
    bounded(len(users), max(last + 1, int(last * step / DT)))
    tracks, valid = np.zeros((len(users), last + 1, 4)), np.zeros((len(users), last + 1), bool)
    clock = np.arange(last + 1) * step
    for n, user in enumerate(users):
        rows = user.rows if user.parked else _closed(user.rows, step, taken)
        steps = slice(None) if user.parked else rows[:, 0].astype(int)
        tracks[n, steps] = rows[0, 1:] if user.parked else rows[:, 1:]
        valid[n, steps] = True
        _derive(tracks[n], valid[n], clock, taken)
        if any(user.shift):
            ahead, aside, turned = user.shift
            cos, sin = np.cos(tracks[n, :, 2]), np.sin(tracks[n, :, 2])
            tracks[n, :, 0] += np.where(valid[n], ahead * cos - aside * sin, 0.0)
            tracks[n, :, 1] += np.where(valid[n], ahead * sin + aside * cos, 0.0)
            tracks[n, :, 2] += np.where(valid[n], turned, 0.0)
    if abs(step - DT) > 1e-6 and last > 0:
        at = DT * np.arange(int(clock[-1] / DT + 1.01))
        pairs = [resampled(rows, seen, clock, at) for rows, seen in zip(tracks, valid, strict=True)]
        tracks = np.array([rows for rows, _ in pairs]).reshape(len(users), len(at), 4)
        valid = np.array([seen for _, seen in pairs], bool).reshape(len(users), len(at))
    size = np.array([user.size for user in users], np.float64).reshape(-1, 3)
    return [user.id for user in users], np.array([user.kind for user in users], int), size, tracks, valid


def _closed(rows: np.ndarray, step: float, taken: Counter[str]) -> np.ndarray:
    """States (n, 5) of a road user with gaps of up to LONGEST_GAP_S interpolated."""
    gap = np.diff(rows[:, 0])
    away = np.hypot(*np.diff(rows[:, 1:3], axis=0).T)
    close = (gap > 1) & (gap * step < LONGEST_GAP_S + 1e-6) & (away < MAX_SPEED_MPS * gap * step)
    if not close.any():
        return rows
    out = []
    for i, row in enumerate(rows):
        out.append(row)
        if i < len(gap) and close[i]:
            change = rows[i + 1] - row
            change[3] = np.arctan2(np.sin(change[3]), np.cos(change[3]))
            out += [row + change * k / gap[i] for k in range(1, int(gap[i]))]
    taken["road users with states at some steps only: those between from their neighbours"] += 1
    return np.array(out)


def _derive(rows: np.ndarray, seen: np.ndarray, clock: np.ndarray, taken: Counter[str]) -> None:
    """Fill in missing orientations and speeds from the positions."""
    for column, name, made in (
        (2, "orientation", headings(rows[:, :2], seen)),
        (3, "velocity", speeds(rows[:, :2], seen, clock)),
    ):
        absent = seen & np.isnan(rows[:, column])
        if absent.any():
            rows[absent, column] = made[absent]
            taken[f"road users without a {name}: from their positions"] += 1

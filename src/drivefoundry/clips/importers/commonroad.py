"""CommonRoad 2018b XML (plain or gzip) in, RoadMap and Scenes out.

The format has a planning problem but no recorded ego drive: a recorded vehicle becomes the ego, and the Scene's meta
says which. Lanelets without a speed limit get one from the recorded traffic; also said in meta. There are no lights in
the format. Source of the format: Althoff, Koschi, Manzinger, "CommonRoad: Composable benchmarks for motion planning on
roads", IV 2017.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from drivefoundry.clips.importers.recording import HEIGHT, Recording, head, unpacked
from drivefoundry.clips.importers.roads import crossing
from drivefoundry.roadmap import make_map
from drivefoundry.types import (
    AGENT_CAR,
    AGENT_CYCLIST,
    AGENT_PEDESTRIAN,
    AGENT_TRUCK,
    DT,
    FARTHEST,
    LINE_EDGE,
    LINE_WHITE_DASHED,
    LINE_YELLOW,
    RoadMap,
    require,
)

KINDS = {
    "car": AGENT_CAR, "taxi": AGENT_CAR, "priorityVehicle": AGENT_CAR, "motorcycle": AGENT_CAR,
    "parkedVehicle": AGENT_CAR, "truck": AGENT_TRUCK, "bus": AGENT_TRUCK, "train": AGENT_TRUCK,
    "bicycle": AGENT_CYCLIST, "pedestrian": AGENT_PEDESTRIAN,
}  # fmt: skip

BEYOND = 10.0
"""Road that is taken to go on where the map is cut off, m: a car's nose passes the end before its middle does."""

MOST_STEPS = 10_000
"""Steps of a recording, at most: what claims more is damaged."""


def fits(path: Path) -> bool:
    """True for a file of this format, by its name and first bytes; also for a damaged gzip of such a name."""
    if not path.name.endswith((".xml", ".xml.gz")):
        return False
    first = head(path, path.suffix == ".gz")
    return first is None or b"<commonRoad" in first


def read(path: Path) -> Recording:
    """File in, Recording out. ValueError names the file and what is wrong: not XML, not 2018b, no lanelets, another
    time step."""
    root = _root(path)
    require(root.tag == "commonRoad", f"{path}: root element is <{root.tag}>, not <commonRoad>")
    version = root.get("commonRoadVersion", "none")
    require(version == "2018b", f"{path}: CommonRoad version {version}; 2018b wanted (convert it with commonroad-io)")
    try:
        step = float(root.get("timeStepSize", "nan"))
        require(abs(step - DT) < 1e-6, f"{path}: timeStepSize {step} s; {DT} wanted")
        ids, kind, size, tracks, valid = _vehicles(root)
        map, speed_note = _map(root, tracks, valid)
    except (AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: an element that 2018b requires is missing ({error}); get the file again") from None
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    benchmark = root.get("benchmarkID") or path.name.removesuffix(".gz").removesuffix(".xml")
    # Country and town of the benchmark id, without map and recording number: USA_US101-3_1_T-1 -> USA_US101.
    place = benchmark.split("-")[0]
    notes = {
        "speed_limit": speed_note,
        "height": "by kind: absent in the source",
        "drivable": f"the lanelets, and {BEYOND:.0f} m where the map is cut off",
        "signals": "absent in the source",
    }
    return Recording(benchmark, "commonroad", place, map, ids, kind, size, tracks, valid, notes=notes)


def _root(path: Path) -> ElementTree.Element:
    """Parse without document types: scenarios need no entities, and entities are how XML attacks its reader."""
    data = unpacked(path, path.suffix == ".gz")
    require(
        b"<!DOCTYPE" not in data and b"<!ENTITY" not in data, f"{path}: has a DOCTYPE; remove it, scenarios need none"
    )
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: not whole XML ({error}); get the file again") from None


def _vehicles(root: ElementTree.Element) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All obstacles that have a box and exact states; their states on steps 0 .. T-1."""
    ids, kinds, sizes, states = [], [], [], []
    last = 0
    for obstacle in root.iterfind("obstacle"):
        box = obstacle.find("shape/rectangle")
        if box is None:
            continue
        rows = [_state(obstacle.find("initialState")), *map(_state, obstacle.iterfind("trajectory/state"))]
        rows = [row for row in rows if row is not None]
        if not rows:
            continue
        at = np.array([row[0] for row in rows])
        rising = bool((at >= 0).all() and (at < MOST_STEPS).all() and (at % 1 == 0).all() and (np.diff(at) > 0).all())
        require(
            rising,
            f"obstacle {obstacle.get('id')}: time steps must be whole, rise and begin at 0 or later; sort its states",
        )
        known = bool((np.abs(np.array(rows)) < FARTHEST).all())
        require(known, f"obstacle {obstacle.get('id')}: a state is no number or far off the origin; remove that state")
        kind = KINDS.get(obstacle.findtext("type", ""), AGENT_CAR)
        ids.append(obstacle.attrib["id"])
        kinds.append(kind)
        sizes.append((_number(obstacle, box, "length"), _number(obstacle, box, "width"), HEIGHT[kind]))
        sound = min(sizes[-1]) > 0.0 and max(sizes[-1]) < 100.0
        require(sound, f"obstacle {obstacle.get('id')}: length and width in metres above 0 wanted; remove it")
        states.append((obstacle.findtext("role") == "static", np.array(rows)))
        last = max(last, int(rows[-1][0]))
    tracks, valid = np.zeros((len(ids), last + 1, 4)), np.zeros((len(ids), last + 1), bool)
    for n, (parked, rows) in enumerate(states):
        steps = slice(None) if parked else rows[:, 0].astype(int)
        tracks[n, steps] = rows[0, 1:] if parked else rows[:, 1:]
        valid[n, steps] = True
    return ids, np.array(kinds, int), np.array(sizes, np.float64).reshape(-1, 3), tracks, valid


def _state(state: ElementTree.Element | None) -> tuple[float, ...] | None:
    """(step, x, y, yaw, speed), or None where one of them is a region or an interval instead of a value."""
    if state is None:
        return None
    texts = [state.findtext(p) for p in ("time/exact", "position/point/x", "position/point/y", "orientation/exact")]
    if None in texts:
        return None
    return (*(float(t) for t in texts if t is not None), float(state.findtext("velocity/exact") or 0.0))


def _map(root: ElementTree.Element, tracks: np.ndarray, valid: np.ndarray) -> tuple[RoadMap, str]:
    lanelets = root.findall("lanelet")
    require(len(lanelets) > 0, "no <lanelet> in it; scenarios without a road cannot be driven")
    index = {lanelet.attrib["id"]: i for i, lanelet in enumerate(lanelets)}
    left = [_bound(lanelet, "leftBound") for lanelet in lanelets]
    right = [_bound(lanelet, "rightBound") for lanelet in lanelets]
    centre = [(a + b) / 2 for a, b in zip(left, right, strict=True)]
    limit, note = _limits(lanelets, tracks, valid)
    beside = {
        side: [_neighbour(lanelet, side, index) for lanelet in lanelets] for side in ("adjacentLeft", "adjacentRight")
    }
    lines, kinds = [], []
    for i in range(len(lanelets)):
        for bound, side in ((left[i], "adjacentLeft"), (right[i], "adjacentRight")):
            other, same = beside[side][i]
            if other >= 0 and other < i:
                continue  # the neighbour has drawn it
            lines.append(bound)
            kinds.append(LINE_EDGE if other < 0 else LINE_WHITE_DASHED if same else LINE_YELLOW)
    junction = crossing(centre)
    for i in np.flatnonzero(junction):  # inside junctions nothing is painted
        kinds = [k for k, line in zip(kinds, lines, strict=True) if line is not left[i] and line is not right[i]]
        lines = [line for line in lines if line is not left[i] and line is not right[i]]
    road = make_map(
        lanes=centre,
        lane_width=[float(np.median(np.hypot(*(a - b).T))) for a, b in zip(left, right, strict=True)],
        lane_speed=limit,
        lane_next=[
            [index[s.attrib["ref"]] for s in lanelet.iterfind("successor") if s.attrib["ref"] in index]
            for lanelet in lanelets
        ],
        lane_left=[other if same else -1 for other, same in beside["adjacentLeft"]],
        lane_right=[other if same else -1 for other, same in beside["adjacentRight"]],
        lane_junction=junction,
        drivable=[
            *(np.concatenate([a, b[::-1]]) for a, b in zip(left, right, strict=True)),
            *_beyond(lanelets, left, right),
        ],
        lines=lines,
        line_kind=kinds,
    )
    return road, note


def _beyond(lanelets: list[ElementTree.Element], left: list[np.ndarray], right: list[np.ndarray]) -> list[np.ndarray]:
    """Where the map is cut off the road goes on: each lanelet without a successor (predecessor), BEYOND further."""
    out = []
    for lanelet, a, b in zip(lanelets, left, right, strict=True):
        for tag, end, inner in (("successor", -1, -2), ("predecessor", 0, 1)):
            way = a[end] - a[inner] + b[end] - b[inner]
            if lanelet.find(tag) is None and way.any():
                on = BEYOND * way / np.hypot(*way)
                out.append(np.array([a[end], a[end] + on, b[end] + on, b[end]]))
    return out


def _bound(lanelet: ElementTree.Element, side: str) -> np.ndarray:
    points = [(_number(lanelet, p, "x"), _number(lanelet, p, "y")) for p in lanelet.iterfind(f"{side}/point")]
    require(len(points) > 1, f"lanelet {lanelet.get('id')}: {side} has {len(points)} points, at least two wanted")
    near = bool((np.abs(np.array(points)) < FARTHEST).all())
    require(near, f"lanelet {lanelet.get('id')}: {side} has a point that is no number or far off the origin; remove it")
    return np.array(points)


def _number(owner: ElementTree.Element, element: ElementTree.Element, name: str) -> float:
    text = element.findtext(name, "")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{owner.tag} {owner.get('id')}: <{name}> is {text!r}, a number wanted") from None


def _limits(lanelets: list[ElementTree.Element], tracks: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, str]:
    """(L,) limits m/s; where none is given, the 95th percentile of recorded speeds (at least 8 m/s)."""
    given = np.array([float(lanelet.findtext("speedLimit") or "nan") for lanelet in lanelets])
    if np.isfinite(given).all():
        return given, "given"
    recorded = float(max(8.0, np.percentile(tracks[..., 3][valid], 95))) if valid.any() else 13.9
    share = f"{np.isnan(given).sum()} of {len(given)} lanelets"
    return np.where(np.isnan(given), recorded, given), f"absent for {share}: 95th percentile of recorded speeds taken"


def _neighbour(lanelet: ElementTree.Element, side: str, index: dict[str, int]) -> tuple[int, bool]:
    """(lane, drives the same way) of a neighbour; (-1, False) without one."""
    element = lanelet.find(side)
    if element is None or element.attrib["ref"] not in index:
        return -1, False
    return index[element.attrib["ref"]], element.get("drivingDir") == "same"

"""CommonRoad 2018b XML (plain or gzip) in, RoadMap and Scenes out.

The format has a planning problem but no recorded ego drive: a recorded vehicle becomes the ego, and the Scene's meta
says which. Lanelets without a speed limit get one from the recorded traffic; also said in meta. There are no lights in
the format. Source of the format: Althoff, Koschi, Manzinger, "CommonRoad: Composable benchmarks for motion planning on
roads", IV 2017.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from drivefoundry import route as routes
from drivefoundry.compute import pmap
from drivefoundry.roadmap import make_map
from drivefoundry.types import (
    AGENT_CAR,
    AGENT_CYCLIST,
    AGENT_PEDESTRIAN,
    AGENT_TRUCK,
    DT,
    LINE_EDGE,
    LINE_WHITE_DASHED,
    LINE_YELLOW,
    RoadMap,
    Scene,
    require,
)

KINDS = {
    "car": AGENT_CAR, "taxi": AGENT_CAR, "priorityVehicle": AGENT_CAR, "motorcycle": AGENT_CAR,
    "parkedVehicle": AGENT_CAR, "truck": AGENT_TRUCK, "bus": AGENT_TRUCK, "train": AGENT_TRUCK,
    "bicycle": AGENT_CYCLIST, "pedestrian": AGENT_PEDESTRIAN,
}  # fmt: skip
HEIGHT = {AGENT_CAR: 1.6, AGENT_TRUCK: 3.2, AGENT_CYCLIST: 1.7, AGENT_PEDESTRIAN: 1.75}
"""Heights by kind, m: the format has none."""
MOVES_M = 20.0
"""A vehicle must move this far to become an ego."""
MIN_START, MAX_START = 5, 15
"""Steps of history of a Scene; fewer where the recording is short."""
MOST_BYTES = 1 << 28
"""Unpacked size at which a file is refused: no scenario comes near it."""


@dataclass(frozen=True)
class Recording:
    """One file: map; N recorded vehicles as ids, kind (N,), size (N, 3), tracks (N, T, 4), valid (N, T)."""

    benchmark: str
    map: RoadMap
    ids: list[str]
    kind: np.ndarray
    size: np.ndarray
    tracks: np.ndarray
    valid: np.ndarray
    speed_note: str

    @property
    def place(self) -> str:
        """Country and town of the benchmark id, without map and recording number: USA_US101-3_1_T-1 -> USA_US101."""
        return self.benchmark.split("-")[0]


def files_in(folder: Path) -> list[Path]:
    """The CommonRoad files of a folder, or of its subfolder `scenarios`; by their names and first bytes."""
    found = [p for d in (folder, folder / "scenarios") if d.is_dir() for p in d.iterdir()]
    return sorted(p for p in found if p.name.endswith((".xml", ".xml.gz")) and b"<commonRoad" in _head(p))


def _head(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as f:
            return f.read(2000)
    except (OSError, EOFError, zlib.error):
        return b"<commonRoad"  # a damaged file: reading it says so in one line


def scenes_in(
    folder: Path, *, egos: int = 4, on_file: Callable[[Path], None] | None = None
) -> tuple[list[Scene], dict[str, str]]:
    """Folder in, Scenes of all its files out, and for each file that gave none the reason. Files are read side by
    side."""
    files = files_in(folder)
    require(len(files) > 0, f"{folder}: no CommonRoad *.xml or *.xml.gz in it")
    done = None if on_file is None else lambda i, _: on_file(files[i])
    found = pmap(_read_scenes, [(f, egos) for f in files], on_done=done)
    none = {f.name: reason for f, (scenes, reason) in zip(files, found, strict=True) if not scenes}
    return [scene for scenes, _ in found for scene in scenes], none


def _read_scenes(task: tuple[Path, int]) -> tuple[list[Scene], str]:
    path, egos = task
    recording = read(path)
    scenes = scenes_of(recording, egos=egos)
    seconds = recording.valid.shape[1] * DT
    return scenes, "" if scenes else f"{seconds:.1f} s long: no vehicle is seen long enough and moves {MOVES_M:.0f} m"


def scenes_of(recording: Recording, *, egos: int = 4, ahead_s: float = 4.0) -> list[Scene]:
    """Recording in, up to `egos` Scenes out, each with another recorded vehicle as ego.

    A vehicle qualifies when it is seen without a break for at least 0.5 s of history and `ahead_s` to drive, and moves
    20 m in that time; those seen longest come first. A Scene spans exactly the time its ego is seen.
    """
    need = MIN_START + round(ahead_s / DT) + 1
    fit = []
    for n in range(len(recording.ids)):
        a, b = longest_run(recording.valid[n])
        path = recording.tracks[n, a:b, :2]
        if (
            b - a >= need
            and np.hypot(*(path[-1] - path[0])) > MOVES_M
            and recording.kind[n] in (AGENT_CAR, AGENT_TRUCK)
        ):
            fit.append((a - b, n, a, b))
    return [_scene(recording, n, a, b, need) for _, n, a, b in sorted(fit)[:egos]]


def longest_run(valid: np.ndarray) -> tuple[int, int]:
    """(T,) bool in, [first, past the last) of the longest stretch of True out; (0, 0) where there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], valid.astype(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0
    i = int((ends - starts).argmax())
    return int(starts[i]), int(ends[i])


def _scene(r: Recording, ego: int, a: int, b: int, need: int) -> Scene:
    there = np.asarray(r.valid[:, a:b].any(1))
    there[ego] = False
    order = np.concatenate([[ego], np.flatnonzero(there)])
    valid = r.valid[order, a:b]
    tracks = np.where(valid[..., None], r.tracks[order, a:b], 0).astype(np.float32)
    route = routes.driven(
        r.tracks[ego, a:b, :2], float(np.median(r.map.lane_speed)), r.map, yaw=float(r.tracks[ego, a, 2])
    )
    return Scene(
        id=f"{r.benchmark}:{r.ids[ego]}",
        source="commonroad",
        place=r.place,
        map=r.map,
        tracks=tracks,
        valid=valid,
        size=r.size[order].astype(np.float32),
        kind=r.kind[order],
        ego=0,
        start=int(np.clip(MIN_START + (b - a) - need, MIN_START, MAX_START)),
        route=route[:, :2],
        route_speed=route[:, 2],
        signals=np.zeros((0, b - a), np.uint8),
        meta={
            "ego": f"recorded vehicle {r.ids[ego]}",
            "recording": r.benchmark,
            "route": "its driven path, extended along the lanelets",
            "speed_limit": r.speed_note,
            "height": "by kind: absent in the source",
            "signals": "absent in the source",
        },
    ).validate()


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
    return Recording(benchmark, map, ids, kind, size, tracks, valid, speed_note)


def _root(path: Path) -> ElementTree.Element:
    """Parse without document types: scenarios need no entities, and entities are how XML attacks its reader."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as f:
            data = f.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); get the file again") from None
    require(len(data) <= MOST_BYTES, f"{path}: over {MOST_BYTES >> 20} MB unpacked; not a scenario")
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
        kind = KINDS.get(obstacle.findtext("type", ""), AGENT_CAR)
        ids.append(obstacle.attrib["id"])
        kinds.append(kind)
        sizes.append((_number(obstacle, box, "length"), _number(obstacle, box, "width"), HEIGHT[kind]))
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
        drivable=[np.concatenate([a, b[::-1]]) for a, b in zip(left, right, strict=True)],
        lines=lines,
        line_kind=kinds,
    )
    return road, note


def _bound(lanelet: ElementTree.Element, side: str) -> np.ndarray:
    points = [(_number(lanelet, p, "x"), _number(lanelet, p, "y")) for p in lanelet.iterfind(f"{side}/point")]
    require(len(points) > 1, f"lanelet {lanelet.get('id')}: {side} has {len(points)} points, at least two wanted")
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


def crossing(centre: list[np.ndarray]) -> np.ndarray:
    """L centre lines in, (L,) bool out: the line crosses another one inside both (lanes that merge or split only touch
    ends)."""
    p = np.concatenate([c[:-1] for c in centre])
    d = np.concatenate([np.diff(c, axis=0) for c in centre])
    lane = np.repeat(np.arange(len(centre)), [len(c) - 1 for c in centre])
    cross = d[:, None, 0] * d[None, :, 1] - d[:, None, 1] * d[None, :, 0]
    rel = p[None] - p[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        u = (rel[..., 0] * d[None, :, 1] - rel[..., 1] * d[None, :, 0]) / cross
        v = (rel[..., 0] * d[:, None, 1] - rel[..., 1] * d[:, None, 0]) / cross
    hit = (u > 0.02) & (u < 0.98) & (v > 0.02) & (v < 0.98) & (lane[:, None] != lane[None])
    out = np.zeros(len(centre), bool)
    out[lane[hit.any(1)]] = True
    return out

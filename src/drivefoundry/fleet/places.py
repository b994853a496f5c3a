"""RoadMap of a place, and the mapping between the network's names and the map's indices.

Only the network file is read here (sumolib, plain Python); SUMO itself runs in a separate process.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files
from typing import Any

import numpy as np

from drivefoundry.fleet.buildings import place_buildings
from drivefoundry.roadmap import lane_polygon, make_map, offset_line
from drivefoundry.types import LINE_EDGE, LINE_WHITE_DASHED, LINE_YELLOW, RoadMap, require

TRAINING_PLACES = ("place_a", "place_b", "place_c")
HELD_OUT_PLACES = ("place_d",)
"""The exam's city, never used for training."""
LONG_DRIVES = "place_e"
"""The largest place, with roundabouts and lanes that merge: for long drives in a live city."""
PLACES = (*TRAINING_PLACES, *HELD_OUT_PLACES, LONG_DRIVES)
STOP_GAP = 0.5
"""Distance of the painted stop line from the lane's end, m (cars stop 1 m before the end)."""
HEAD_HEIGHT = 5.0
HEAD_DISTANCE = (14.0, 30.0)
"""Least and greatest distance of the lamp beyond the stop line, m: in view of a waiting car, and still legible."""


@dataclass(frozen=True)
class PlaceNet:
    """A place and its names.

    lane: network lane id -> lane index; edge: of each lane, its edge (those within junctions begin with a colon);
    links: of each signal, its traffic light and links; road: edges that cars use -> the edges each leads to.
    """

    map: RoadMap
    lane: dict[str, int]
    edge: list[str]
    links: list[tuple[str, tuple[int, ...]]]
    road: dict[str, list[str]]


def net_bytes(place: str) -> bytes:
    """Read a place's gzipped network file. ValueError lists the known places."""
    require(place in PLACES, f"place {place!r}: unknown city; choose from {', '.join(PLACES)}")
    return (files("drivefoundry.fleet.nets") / f"{place}.net.xml.gz").read_bytes()


def place_map(place: str) -> RoadMap:
    """RoadMap of a place (the same object each time)."""
    return place_net(place).map


@lru_cache(maxsize=8)
def place_net(place: str) -> PlaceNet:
    """Map and names of a place, with one signal for each lane that ends at a traffic light."""
    net = _read(place)
    edges = [edge for edge in net.getEdges() if edge.getFunction() in ("", "internal")]
    # sorted: the map's id must not depend on the order of a file's edges
    lanes = sorted((x for edge in edges for x in edge.getLanes() if x.allows("passenger")), key=lambda x: x.getID())
    index = {lane.getID(): i for i, lane in enumerate(lanes)}
    links, lane_signal = _signals(lanes)
    shapes = [_shape(lane) for lane in lanes]
    curbs, areas = _junctions(net)
    lines, kinds = _paint([edge for edge in edges if edge.getFunction() == ""])
    stop_lines, heads = _heads(net, lanes, lane_signal)
    walks = [lane_polygon(np.array(x.getShape()), x.getWidth()) for x in _walks(net)]
    walks += [_shape_of(node) for node in net.getEdges() if node.getFunction() == "walkingarea"]
    crossings = [edge.getLane(0) for edge in net.getEdges() if edge.getFunction() == "crossing"]
    neighbours = _neighbours(lanes, index)
    road = [(np.array(x.getShape()), x.getWidth() / 2) for x in [*lanes, *_walks(net), *crossings]]
    made = make_map(
        lanes=shapes,
        lane_width=[lane.getWidth() for lane in lanes],
        lane_speed=[lane.getSpeed() for lane in lanes],
        lane_next=[[index[name] for name in _next(lane) if name in index] for lane in lanes],
        lane_left=[left for left, _ in neighbours],
        lane_right=[right for _, right in neighbours],
        lane_junction=[lane.getEdge().getFunction() == "internal" for lane in lanes],
        lane_signal=lane_signal,
        drivable=[lane_polygon(s, x.getWidth()) for s, x in zip(shapes, lanes, strict=True)] + areas,
        lines=lines + curbs,
        line_kind=kinds + [LINE_EDGE] * len(curbs),
        crosswalks=[lane_polygon(np.array(x.getShape()), x.getWidth()) for x in crossings],
        sidewalks=walks,
        stop_lines=stop_lines,
        signal_heads=heads,
        buildings=place_buildings(_frontages(edges), road + [(w, 0.0) for w in walks], zlib.crc32(place.encode())),
    )
    return PlaceNet(made, index, [lane.getEdge().getID() for lane in lanes], links, _onward(edges))


def _read(place: str) -> Any:
    import sumolib  # slow to import, and most callers do not need it

    net_bytes(place)  # raises on unknown names
    with as_file(files("drivefoundry.fleet.nets") / f"{place}.net.xml.gz") as path:
        return sumolib.net.readNet(str(path), withInternal=True, withPedestrianConnections=True)


def _shape(lane: Any) -> np.ndarray:
    return np.array(lane.getShape(), np.float64)[:, :2]


def _shape_of(walking_area: Any) -> np.ndarray:
    return np.array(walking_area.getLane(0).getShape(), np.float64)[:, :2]


def _walks(net: Any) -> list[Any]:
    return [x for e in net.getEdges() if e.getFunction() == "" for x in e.getLanes() if not x.allows("passenger")]


def _next(lane: Any) -> list[str]:
    """Names of the successor lanes, through the junction if there is one."""
    return sorted({c.getViaLaneID() or c.getToLane().getID() for c in lane.getOutgoing()})


def _onward(edges: list[Any]) -> dict[str, list[str]]:
    """Edges that cars may take after each edge."""
    streets = sorted((e for e in edges if e.getFunction() == ""), key=lambda e: e.getID())
    ways = {e.getID(): [c for lane in _carriageway(e) for c in lane.getOutgoing()] for e in streets}
    return {name: sorted({c.getTo().getID() for c in out}) for name, out in ways.items()}


def _neighbours(lanes: list[Any], index: dict[str, int]) -> list[tuple[int, int]]:
    """(left, right) lane of the same edge; on an edge lane 0 is the rightmost."""
    out = []
    for lane in lanes:
        siblings, i = lane.getEdge().getLanes(), lane.getIndex()
        left = siblings[i + 1].getID() if i + 1 < len(siblings) else ""
        right = siblings[i - 1].getID() if i > 0 else ""
        out.append((index.get(left, -1), index.get(right, -1)))
    return out


def _signals(lanes: list[Any]) -> tuple[list[tuple[str, tuple[int, ...]]], list[int]]:
    """Signal links, and the signal of each lane (-1: none). All links of a lane are one signal: they share a phase."""
    links: list[tuple[str, tuple[int, ...]]] = []
    lane_signal = []
    for lane in lanes:
        out = [c for c in lane.getOutgoing() if c.getTLSID() and c.getToLane().allows("passenger")]
        # an internal lane's connections repeat the light of the lane before it
        if not out or lane.getEdge().getFunction() == "internal":
            lane_signal.append(-1)
            continue
        lane_signal.append(len(links))
        links.append((out[0].getTLSID(), tuple(sorted({c.getTLLinkIndex() for c in out}))))
    return links, lane_signal


def _heads(net: Any, lanes: list[Any], lane_signal: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Stop lines (G, 4) and lamps (G, 4): over the far side of the junction, a little to the right of the lane."""
    stops, heads = [], []
    for lane, signal in zip(lanes, lane_signal, strict=True):
        if signal < 0:
            continue
        shape, half = _shape(lane), lane.getWidth() / 2
        along = shape[-1] - shape[-2]
        along /= np.hypot(*along)
        left = np.array([-along[1], along[0]])
        at = shape[-1] - STOP_GAP * along
        stops.append([*(at + half * left), *(at - half * left)])
        outline = np.array(lane.getEdge().getToNode().getShape())
        distance = np.clip(_last_hit(at, along, outline) + 1.0, *HEAD_DISTANCE)
        heads.append([*(at + distance * along - 0.8 * left), HEAD_HEIGHT, np.arctan2(-along[1], -along[0])])
    return np.array(stops), np.array(heads)


def _last_hit(origin: np.ndarray, along: np.ndarray, polygon: np.ndarray) -> float:
    """Distance at which a ray last leaves a polygon, m; 0 if it never meets it."""
    a, b = polygon - origin, np.roll(polygon, -1, axis=0) - origin
    side_a, side_b = along[0] * a[:, 1] - along[1] * a[:, 0], along[0] * b[:, 1] - along[1] * b[:, 0]
    crosses = side_a * side_b < 0
    share = side_a[crosses] / (side_a[crosses] - side_b[crosses])
    hits = (a[crosses] + share[:, None] * (b - a)[crosses]) @ along
    return float(max(hits.max(initial=0.0), 0.0))


def _carriageway(edge: Any) -> list[Any]:
    """Lanes of an edge that cars use, from right to left."""
    return [lane for lane in edge.getLanes() if lane.allows("passenger")]


def _junctions(net: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Corner curbs, and the paved area of each junction (SUMO's own outline holds the pavements' corners too)."""
    curbs, areas = [], []
    for node in sorted(net.getNodes(), key=lambda n: n.getID()):
        arms = {edge.getID().lstrip("-"): edge for edge in node.getOutgoing() if edge.getFunction() == ""}
        arrivals = {edge.getID().lstrip("-"): edge for edge in node.getIncoming() if edge.getFunction() == ""}
        names = sorted({*arms, *arrivals})
        if len(names) < 2:
            continue
        center = np.array(node.getCoord()[:2])
        begins = {n: _shape(_carriageway(e)[0])[0] for n, e in arms.items()}
        begins = {n: _shape(_carriageway(e)[0])[-1] for n, e in arrivals.items()} | begins
        around = sorted(names, key=lambda name: np.arctan2(*(begins[name] - center)[::-1]))
        ring: list[np.ndarray] = []
        for name, after in zip(around, around[1:] + around[:1], strict=True):
            out = _carriageway(arms[name]) if name in arms else []
            into = _carriageway(arrivals[name]) if name in arrivals else []
            ring += [_border(out[0], -1)[:1], _border(out[-1], 1)[:1]] if out else []
            ring += [_border(into[-1], 1)[-1:]] if into else []
            if into and after in arms:
                curb = _corner(net, into[0], _carriageway(arms[after])[0])
            elif not into and after not in arms:  # between two one-way streets, as around the island of a roundabout
                curb = _inner_curb(net, _carriageway(arrivals[after])[-1], out[-1])[::-1]
            else:  # from one edge of a one-way street straight to the next street
                last = _border(into[0], -1)[-1:] if into else ring[-1]
                first = _border(_carriageway(arms[after])[0], -1)[:1] if after in arms else None
                first = _border(_carriageway(arrivals[after])[-1], 1)[-1:] if first is None else first
                curb = np.concatenate([last, first])
            curbs.append(curb)
            ring.append(curb)
        areas.append(np.concatenate(ring))
    return curbs, areas


def _inner_curb(net: Any, into: Any, out: Any) -> np.ndarray:
    """Curb from the left edge of an arriving lane to that of a leaving one, along the way between them."""
    ways = [c for c in into.getOutgoing() if c.getToLane().getID() == out.getID() and c.getViaLaneID()]
    via = [_border(net.getLane(c.getViaLaneID()), 1)[1:-1] for c in ways[:1]]
    return np.concatenate([_border(into, 1)[-1:], *via, _border(out, 1)[:1]])


def _border(lane: Any, side: int) -> np.ndarray:
    return offset_line(_shape(lane), side * lane.getWidth() / 2)


def _corner(net: Any, into: Any, out: Any) -> np.ndarray:
    """Curb from the right edge of an arriving lane to that of the next leaving lane, along the turn between them."""
    ends = [_border(into, -1)[-1:], _border(out, -1)[:1]]
    turns = [c for c in into.getOutgoing() if c.getToLane().getID() == out.getID() and c.getViaLaneID()]
    if not turns:
        return np.concatenate(ends)
    via = net.getLane(turns[0].getViaLaneID())
    return np.concatenate([ends[0], _border(via, -1)[1:-1], ends[1]])


def _paint(edges: list[Any]) -> tuple[list[np.ndarray], list[int]]:
    """Dashes between lanes, yellow between the directions (each draws its half of the pair), edge lines at the curb."""
    lines, kinds = [], []
    for edge in sorted(edges, key=lambda e: e.getID()):
        lanes = _carriageway(edge)
        for lane in lanes[:-1]:
            lines.append(_border(lane, 1))
            kinds.append(LINE_WHITE_DASHED)
        half = lanes[0].getWidth() / 2 - 0.12
        lines += [offset_line(_shape(lanes[-1]), half), offset_line(_shape(lanes[0]), -half)]
        kinds += [LINE_YELLOW, LINE_EDGE]
    return lines, kinds


def _frontages(edges: list[Any]) -> list[np.ndarray]:
    """Right edge of every carriageway: where houses may stand."""
    streets = sorted((e for e in edges if e.getFunction() == ""), key=lambda e: e.getID())
    return [_border(_carriageway(edge)[0], -1) for edge in streets]

"""Read the map of a CommonRoad scenario (lanelets, speed limits, traffic lights) as RoadMap and Lights.

Versions 2018b and 2020a. A lanelet has two bounds; a light controls the end of the lanelets that refer to it and
repeats its cycle indefinitely. Source of the format: Althoff, Koschi, Manzinger, "CommonRoad: Composable benchmarks for
motion planning on roads", IV 2017; its XML schema 2020a.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np

from drivefoundry.clips.importers.traffic import lights
from drivefoundry.clips.importers.traffic.recording import Lights, plain_word
from drivefoundry.clips.importers.traffic.roads import LAMP_AHEAD, LAMP_HEIGHT, crossing, has_length
from drivefoundry.roadmap import arc_length, make_map, resample
from drivefoundry.types import (
    DT,
    LINE_EDGE,
    LINE_WHITE,
    LINE_WHITE_DASHED,
    LINE_YELLOW,
    MAX_ABS_POSITION_M,
    MAX_SPEED_MPS,
    RoadMap,
    require,
)

BEYOND = 10.0
"""Assumed road beyond the edge of the map, m: a car's front passes the edge before its centre does."""
LIMIT_SIGNS = ("274", "274.1", "R2-1")
"""Traffic signs that limit the speed (2020a); their value is in m/s."""
NOT_DRIVEN = {"crosswalk": "crosswalks", "sidewalk": "sidewalks"}
"""Types of lanelets (2020a) that are not lanes, and which map element they are."""
MARKINGS = {
    "dashed": LINE_WHITE_DASHED, "broad_dashed": LINE_WHITE_DASHED, "solid": LINE_WHITE, "broad_solid": LINE_WHITE,
    "solid_solid": LINE_WHITE, "solid_dashed": LINE_WHITE, "dashed_solid": LINE_WHITE,
    "dashed_dashed": LINE_WHITE_DASHED, "curb": LINE_EDGE, "lowered_curb": LINE_EDGE,
}  # fmt: skip
ALONG = 2.0
"""Distance of the points, m, that identify the lanelet in which a route continues."""
TURN = 0.5
"""Change of heading, rad, beyond which a successor turns left or right."""
DIRECTIONS = {
    "left": "l", "straight": "s", "right": "r", "leftStraight": "ls", "straightRight": "sr", "leftRight": "lr",
    "all": "lsr",
}  # fmt: skip


@dataclass(frozen=True)
class Lanelets:
    """Lanelets that are lanes: elements, bounds (P, 2), and the index of each by id."""

    elements: list[Element]
    left: list[np.ndarray]
    right: list[np.ndarray]
    index: dict[str, int]

    def refs(self, i: int, tag: str) -> list[int]:
        """Indices of the lanelets that an element of lanelet i refers to."""
        found = (element.get("ref", "") for element in self.elements[i].iterfind(tag))
        return [self.index[ref] for ref in found if ref in self.index]


def map_of(
    root: Element, tracks: np.ndarray, valid: np.ndarray, step: float, left: Counter[str], taken: Counter[str]
) -> tuple[RoadMap, Lights | None, dict[str, str]]:
    """Build map, lights and notes from a scenario's root and its traffic on steps of 0.1 s. step: time step of the
    lights' cycles, s. What is not read is counted in `left`, what is approximated in `taken`."""
    net, walked = _lanelets(root, left, taken)
    centre = [(a + b) / 2 for a, b in zip(net.left, net.right, strict=True)]
    limit, note = _limits(root, net.elements, tracks, valid, left)
    sides = ("adjacentLeft", "adjacentRight")
    beside = {side: [_neighbour(e, side, net.index) for e in net.elements] for side in sides}
    junction = crossing(centre)
    for way in ("Left", "Straight", "Right"):
        inside = (e.get("ref", "") for e in root.iterfind(f"intersection/incoming/successors{way}"))
        junction[[net.index[ref] for ref in inside if ref in net.index]] = True
    lines, kinds = _paint(net, beside, junction)
    stops, heads, guards, signals, more = _signals(root, net, centre, valid.shape[1], step, left)
    road = make_map(
        lanes=centre,
        lane_width=[float(np.median(np.hypot(*(a - b).T))) for a, b in zip(net.left, net.right, strict=True)],
        lane_speed=limit,
        lane_next=[net.refs(i, "successor") for i in range(len(centre))],
        lane_left=[other if same else -1 for other, same in beside["adjacentLeft"]],
        lane_right=[other if same else -1 for other, same in beside["adjacentRight"]],
        lane_junction=junction,
        lane_signal=[guards.get(i, -1) for i in range(len(centre))],
        drivable=[
            *(np.concatenate([a, b[::-1]]) for a, b in zip(net.left, net.right, strict=True)),
            *_beyond(net),
        ],
        lines=lines,
        line_kind=kinds,
        stop_lines=stops,
        signal_heads=heads,
        **walked,
    )
    return road, signals, {"speed_limit": note, "signals": ("given" if signals else "absent in the source") + more}


def _lanelets(root: Element, left: Counter[str], taken: Counter[str]) -> tuple[Lanelets, dict[str, list[np.ndarray]]]:
    """Lanelets that are lanes, and polygons of those that are crosswalks or sidewalks."""
    elements, bounds, walked = [], [], {}
    for element in root.iterfind("lanelet"):
        a, b = _bound(element, "leftBound"), _bound(element, "rightBound")
        if len(a) != len(b):
            a, b = _alike(a, b)
            taken["lanelets whose bounds have different numbers of points, read by their lengths"] += 1
        types = {e.text for e in element.iterfind("laneletType")}
        other = next((NOT_DRIVEN[t] for t in NOT_DRIVEN if t in types), None)
        if other is not None:
            walked.setdefault(other, []).append(np.concatenate([a, b[::-1]]))
        elif has_length((a + b) / 2):
            elements.append(element)
            bounds.append((a, b))
        else:
            left["lanelets without a length"] += 1
    require(len(elements) > 0, "no <lanelet> in it that is a lane; scenarios without a road cannot be driven")
    index = {e.get("id", ""): i for i, e in enumerate(elements)}
    return Lanelets(elements, [a for a, _ in bounds], [b for _, b in bounds], index), walked


def _alike(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resample two lines (P, 2), (Q, 2) so that both have the vertices of either, at the same relative arc lengths."""
    ways = [arc_length(line) for line in (a, b)]
    shares = [way / way[-1] if way[-1] > 0.0 else np.linspace(0.0, 1.0, len(way)) for way in ways]
    at = np.unique(np.round(np.concatenate(shares), 9))
    first, second = (
        np.stack([np.interp(at, share, line[:, k]) for k in (0, 1)], 1)
        for share, line in zip(shares, (a, b), strict=True)
    )
    return first, second


def _bound(lanelet: Element, side: str) -> np.ndarray:
    points = [(number(lanelet, p, "x"), number(lanelet, p, "y")) for p in lanelet.iterfind(f"{side}/point")]
    require(len(points) > 1, f"lanelet {lanelet.get('id')}: {side} has {len(points)} points, needs at least two")
    near = bool((np.abs(np.array(points)) < MAX_ABS_POSITION_M).all())
    require(
        near, f"lanelet {lanelet.get('id')}: {side} has a point that is not a number or far from the origin; remove it"
    )
    return np.array(points)


def number(owner: Element, element: Element, name: str) -> float:
    """Read the number in a child of an element; ValueError names its owner."""
    text = element.findtext(name, "")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{owner.tag} {owner.get('id')}: <{name}> is {text!r}, must be a number") from None


def _paint(net: Lanelets, beside: dict[str, list[tuple[int, bool]]], junction: np.ndarray) -> tuple[list, list[int]]:
    """Lines (P, 2) and their LINE_* kinds: each bound once, by its own marking or else its neighbour's."""
    lines, kinds = [], []
    for i, element in enumerate(net.elements):
        if junction[i]:  # inside junctions nothing is painted
            continue
        for bound, side in ((net.left[i], "adjacentLeft"), (net.right[i], "adjacentRight")):
            other, same = beside[side][i]
            if 0 <= other < i:
                continue  # the neighbour has drawn it
            name = side.replace("adjacent", "").lower() + "Bound/lineMarking"
            marked = (element.findtext(name) or "unknown").strip()
            if marked == "no_marking" and other >= 0:
                continue
            guess = LINE_EDGE if other < 0 else LINE_WHITE_DASHED if same else LINE_YELLOW
            lines.append(bound)
            kinds.append(guess if other < 0 else MARKINGS.get(marked, guess))
    return lines, kinds


def _beyond(net: Lanelets) -> list[np.ndarray]:
    """Continue the road beyond the edge of the map: each lanelet without successor or predecessor, by BEYOND."""
    out = []
    for lanelet, a, b in zip(net.elements, net.left, net.right, strict=True):
        for tag, end, inner in (("successor", -1, -2), ("predecessor", 0, 1)):
            way = a[end] - a[inner] + b[end] - b[inner]
            if lanelet.find(tag) is None and way.any():
                on = BEYOND * way / np.hypot(*way)
                out.append(np.array([a[end], a[end] + on, b[end] + on, b[end]]))
    return out


def _limits(
    root: Element, lanelets: list[Element], tracks: np.ndarray, valid: np.ndarray, left: Counter[str]
) -> tuple[np.ndarray, str]:
    """Speed limits (L,) m/s, from the lanelet or the signs that it refers to, else the 95th percentile of recorded
    speeds (at least 8 m/s)."""
    signs: dict[str, float] = {}
    for sign in root.iterfind("trafficSign"):
        for part in sign.iterfind("trafficSignElement"):
            kind = (part.findtext("trafficSignID") or "").strip()
            if kind in LIMIT_SIGNS:
                signs[sign.get("id", "")] = _speed(part.findtext("additionalValue"), left)
            else:
                left[f"traffic signs {plain_word(kind)}"] += 1
    given = np.full(len(lanelets), np.nan)
    for i, lanelet in enumerate(lanelets):
        own = lanelet.findtext("speedLimit")
        stand = [signs[r] for e in lanelet.iterfind("trafficSignRef") if (r := e.get("ref", "")) in signs]
        given[i] = _speed(own, left) if own else min(stand, default=np.nan)
    if np.isfinite(given).all():
        return given, "given"
    moving = tracks[..., 3][valid]
    recorded = float(max(8.0, np.percentile(moving, 95))) if valid.any() else 13.9
    share = f"{np.isnan(given).sum()} of {len(given)} lanelets"
    return np.where(np.isnan(given), recorded, given), f"absent for {share}: 95th percentile of recorded speeds taken"


def _speed(text: str | None, left: Counter[str]) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if 0.0 < value < MAX_SPEED_MPS:
        return value
    left["speed limits that are no m/s above 0"] += 1
    return np.nan


def _neighbour(lanelet: Element, side: str, index: dict[str, int]) -> tuple[int, bool]:
    """(lane, same direction) of a neighbour; (-1, False) without one."""
    element = lanelet.find(side)
    if element is None or element.get("ref", "") not in index:
        return -1, False
    return index[element.get("ref", "")], element.get("drivingDir") == "same"


def _signals(root: Element, net: Lanelets, centre: list[np.ndarray], steps: int, step: float, left: Counter[str]):
    """Stop lines (G, 4), lamps (G, 4), {guarded lane: stop line}, Lights (None without any), and what the notes add."""
    cycles: dict[str, np.ndarray] = {}
    where: dict[str, str] = {}
    unknown: Counter[str] = Counter()
    for light in root.iterfind("trafficLight"):
        shown, words = _cycle(light, steps, step)
        unknown += words
        if words:
            left["lights that show unknown words"] += 1
        else:
            cycles[light.get("id", "")] = shown
            where[light.get("id", "")] = (light.findtext("direction") or "all").strip()
    stops, heads, guards, ways, group, states = [], [], {}, [], [], []
    for i, element in enumerate(net.elements):
        mine = [r for e in element.iterfind("trafficLightRef") if (r := e.get("ref", "")) in cycles]
        if not mine:
            continue
        guards[i] = len(stops)
        stop, lamp = _stop(element, net.left[i], net.right[i], centre[i])
        onward = net.refs(i, "successor")
        for ref in mine:
            allowed = DIRECTIONS.get(where[ref], "lsr")
            turns = [j for j in onward if _turn(centre[i], centre[j]) in allowed]
            for line in [centre[j] for j in turns] or [centre[i][-2:] + (centre[i][-1] - centre[i][-2])]:
                ways.append(resample(line, ALONG)[:8])
                group.append(guards[i])
                states.append(cycles[ref])
        stops.append(stop)
        heads.append(lamp)
    left += lights.left_out(unknown)
    words = ", ".join(f"{word} {n} times" for word, n in sorted(unknown.items()))
    more = f"; lights left out for their unknown words: {words}" if words else ""
    signals = Lights(ways, np.array(group), np.array(states, np.uint8)) if stops else None
    return stops, heads, guards, signals, more


def _cycle(light: Element, steps: int, step: float) -> tuple[np.ndarray, Counter[str]]:
    """States (steps,) of a light that repeats its cycle, on steps of 0.1 s, and its unknown words."""
    parts = light.findall("cycle/cycleElement") or light.findall("cycleElement")
    length = [number(light, part, "duration") for part in parts]
    sound = len(parts) > 0 and all(0 < n < 1e6 for n in length)
    require(sound, f"trafficLight {light.get('id')}: needs a cycle with durations > 0; remove the light")
    colours, unknown = lights.states_of(part.findtext("color") or "" for part in parts)
    offset = number(light, light, "cycle/timeOffset") if light.find("cycle/timeOffset") is not None else 0.0
    require(abs(offset) < 1e6, f"trafficLight {light.get('id')}: timeOffset {offset}: must be a number of steps")
    ends = np.cumsum(length)
    at = (np.floor(np.arange(steps) * DT / step + 1e-6) - offset) % ends[-1]
    off = (light.findtext("active") or "true").strip() == "false"
    return np.where(off, 0, colours[np.searchsorted(ends, at, side="right")]).astype(np.uint8), unknown


def _stop(element: Element, a: np.ndarray, b: np.ndarray, centre: np.ndarray) -> tuple[list[float], list[float]]:
    """The stop line of a lanelet, left end first, and the lamp behind it, facing approaching traffic."""
    points = [(number(element, p, "x"), number(element, p, "y")) for p in element.iterfind("stopLine/point")]
    first, last = (np.array(p) for p in points[:2]) if len(points) > 1 else (a[-1], b[-1])
    along = centre[-1] - centre[-2]
    yaw = float(np.arctan2(along[1], along[0]))
    normal = np.array([-np.sin(yaw), np.cos(yaw)])
    if (first - last) @ normal < 0:
        first, last = last, first
    x, y = (first + last) / 2 + LAMP_AHEAD[0] * np.array([np.cos(yaw), np.sin(yaw)]) - 0.8 * normal
    return [*first, *last], [x, y, LAMP_HEIGHT, float(np.arctan2(-np.sin(yaw), -np.cos(yaw)))]


def _turn(before: np.ndarray, after: np.ndarray) -> str:
    """Whether a lane continues into another to the left, straight or to the right: "l", "s" or "r"."""
    a, b = before[-1] - before[-2], after[-1] - after[-2]
    turn = np.arctan2(a[0] * b[1] - a[1] * b[0], a @ b)
    return "l" if turn > TURN else "r" if turn < -TURN else "s"

"""Generate the five city networks of this folder: `python -m drivefoundry.fleet.nets.build [folder]`.

SUMO's netgenerate draws each place, this module makes it less regular (dead ends cut, streets bent, lanes and limits
sampled per street) and netconvert compiles it. Both programs come with `pip install eclipse-sumo` (the extra
`drivefoundry[sumo]`); driving in the places needs neither. README.md beside this file says how the places differ.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drivefoundry.roadmap import arc_length, resample
from drivefoundry.types import require
from drivefoundry_car.durable import PUBLIC, replacing


@dataclass(frozen=True)
class Recipe:
    """How one place is generated. draw: netgenerate's options; bend: largest bow of a street, as a share of its
    length."""

    draw: str
    seed: int
    bend: float
    two_lanes: float
    """Share of streets with two lanes per direction."""
    limits: tuple[float, ...]
    lights: float
    """Share of junctions of three and more streets with traffic lights."""
    green: int
    roundabouts: int = 0
    """Junctions of three and more streets that become roundabouts."""
    merges: int = 0
    """Streets on half of which two lanes merge, one after the other, into one."""


RECIPES = {
    "place_a": Recipe(
        "--grid --grid.x-number=5 --grid.y-number=5 --grid.x-length=130 --grid.y-length=115 "
        "--perturb-x=norm(0,12) --perturb-y=norm(0,12) --seed=11",
        seed=11,
        bend=0.07,
        two_lanes=0.5,
        limits=(8.33, 11.11, 13.89),
        lights=0.85,
        green=8,
    ),
    "place_b": Recipe(
        "--rand --rand.iterations=50 --rand.min-distance=85 --rand.max-distance=150 --rand.min-angle=60 "
        "--rand.connectivity=0.98 --seed=53",
        seed=22,
        bend=0.09,
        two_lanes=0.35,
        limits=(8.33, 11.11, 12.5),
        lights=0.8,
        green=8,
    ),
    "place_c": Recipe(
        "--spider --spider.arm-number=7 --spider.circle-number=3 --spider.space-radius=100 "
        "--spider.omit-center --perturb-x=norm(0,7) --perturb-y=norm(0,7) --seed=5",
        seed=33,
        bend=0.11,
        two_lanes=0.45,
        limits=(8.33, 11.11, 13.89),
        lights=0.85,
        green=8,
    ),
    "place_d": Recipe(
        "--rand --rand.iterations=50 --rand.min-distance=85 --rand.max-distance=150 --rand.min-angle=60 "
        "--rand.connectivity=0.98 --seed=10",
        seed=44,
        bend=0.08,
        two_lanes=0.45,
        limits=(8.33, 11.11, 13.89),
        lights=0.95,
        green=8,
    ),
    "place_e": Recipe(
        "--rand --rand.iterations=110 --rand.min-distance=90 --rand.max-distance=160 --rand.min-angle=60 "
        "--rand.connectivity=0.98 --seed=71",
        seed=55,
        bend=0.08,
        two_lanes=0.4,
        limits=(8.33, 11.11, 13.89),
        lights=0.7,
        green=8,
        roundabouts=8,
        merges=10,
    ),
}

COMPILE = (
    "--sidewalks.guess --sidewalks.guess.min-speed=1 --sidewalks.guess.max-speed=20 --crossings.guess "
    "--default.sidewalk-width=2.2 --default.crossing-width=3.2 --default.lanewidth=3.3 --tls.layout=incoming "
    "--tls.yellow.time=3 --tls.allred.time=1 --tls.crossing-min.time=4 --tls.crossing-clearance.time=3 "
    "--tls.default-type=static --no-turnarounds --default.junctions.radius=7 --junctions.limit-turn-speed=3.0 "
    "--junctions.internal-link-detail=12 --junctions.corner-detail=6 --geometry.avoid-overlap --precision=2 "
    "--seed=1"
)


def build(folder: Path) -> list[Path]:
    """Write `<place>.net.xml.gz` of every recipe into `folder`, reproducibly."""
    return [_place(name, recipe, folder) for name, recipe in RECIPES.items()]


def _place(name: str, recipe: Recipe, folder: Path) -> Path:
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch, "plain")
        _sumo(
            "netgenerate",
            *recipe.draw.split(),
            f"--plain-output-prefix={plain}",
            f"--output-file={scratch}/drawn.net.xml",
        )
        nodes, pairs = _read_plain(plain)
        _write_plain(plain, nodes, recipe, _streets(nodes, pairs))
        made = Path(scratch, "made.net.xml")
        files = (f"--node-files={plain}.nod.xml", f"--edge-files={plain}.edg.xml", f"--output-file={made}")
        files += (f"--connection-files={plain}.con.xml",) if recipe.merges else ()
        _sumo("netconvert", *files, f"--tls.green.time={recipe.green}", *COMPILE.split())
        # the leading comment has a date and local paths, which would change the bytes at every build
        text = re.sub(r"<!--.*?-->\s*", "", made.read_text(), flags=re.DOTALL)
    out = folder / f"{name}.net.xml.gz"
    with replacing(out, mode=PUBLIC) as file:
        file.write(gzip.compress(text.encode(), 9, mtime=0))
    return out


def _sumo(program: str, *options: str) -> None:
    beside = Path(sys.executable).with_name(program)
    path = str(beside) if beside.exists() else shutil.which(program)
    require(path is not None, f"{program} is not installed; pip install eclipse-sumo")
    assert path is not None
    subprocess.run([path, *options], check=True, stdout=subprocess.DEVNULL)


def _read_plain(plain: Path) -> tuple[dict[str, np.ndarray], set[tuple[str, str]]]:
    """Node positions and the streets between them (one entry for both directions)."""
    nodes = {
        n.attrib["id"]: np.array([float(n.attrib["x"]), float(n.attrib["y"])])
        for n in ET.parse(f"{plain}.nod.xml").getroot().iter("node")
    }
    edges = ET.parse(f"{plain}.edg.xml").getroot().iter("edge")
    pairs = [sorted((e.attrib["from"], e.attrib["to"])) for e in edges]
    return nodes, {(a, b) for a, b in pairs if a != b}


def _streets(nodes: dict[str, np.ndarray], pairs: set[tuple[str, str]]) -> list[tuple[str, str, np.ndarray]]:
    """Streets (from, to, control points) between junctions of three and more, of the largest connected part.

    Dead ends are cut, because cars drive indefinitely and never turn round. Nodes that only bend a street are merged.
    """
    while True:
        degree = _degree([(a, b) for a, b in pairs])
        dead = {s for s in pairs if min(degree[s[0]], degree[s[1]]) < 2}
        if not dead:
            break
        pairs = pairs - dead
    streets = [(a, b, np.stack([nodes[a], nodes[b]])) for a, b in sorted(pairs)]
    for n in sorted(nodes):
        at = [s for s in streets if n in s[:2]]
        if len(at) != 2 or at[0][:2] == at[1][:2]:
            continue
        first = at[0] if at[0][1] == n else (at[0][1], at[0][0], at[0][2][::-1])
        second = at[1] if at[1][0] == n else (at[1][1], at[1][0], at[1][2][::-1])
        streets = [s for s in streets if s is not at[0] and s is not at[1]]
        if first[0] != second[1]:
            streets.append((first[0], second[1], np.concatenate([first[2], second[2][1:]])))
    parts: list[set[str]] = []
    for a, b, _ in streets:
        touched = [p for p in parts if a in p or b in p]
        parts = [p for p in parts if p not in touched] + [set().union({a, b}, *touched)]
    largest = max(parts, key=len)
    return sorted((s for s in streets if s[0] in largest), key=lambda s: s[:2])


def _degree(pairs: list[tuple[str, str]]) -> dict[str, int]:
    ends = [n for pair in pairs for n in pair]
    return {n: ends.count(n) for n in sorted(set(ends))}


RING_RADIUS, RING_SPEED = 17.0, 7.0
"""Lane width of a roundabout, m, and its speed limit, m/s."""


def _write_plain(plain: Path, nodes: dict[str, np.ndarray], recipe: Recipe, streets) -> None:
    rng = np.random.default_rng(recipe.seed)
    kinds = {}
    degrees = _degree([s[:2] for s in streets])
    for n, degree in degrees.items():
        kinds[n] = "traffic_light" if degree >= 3 and rng.random() < recipe.lights else "priority"
    drawn = []
    for a, b, control in streets:
        shape = _bent(control, rng.uniform(-1, 1, 2) * recipe.bend)
        lanes = 2 if rng.random() < recipe.two_lanes else 1
        limit = min(recipe.limits[int(rng.integers(len(recipe.limits)))], _comfortable(shape, recipe.limits))
        drawn.append(_Street(a, b, shape, lanes, limit))
    rings = sorted(rng.permutation(sorted(n for n, d in degrees.items() if d >= 3))[: recipe.roundabouts].tolist())
    for s in drawn:
        s.lanes = 1 if s.a in rings or s.b in rings else s.lanes
    long = [i for i, s in enumerate(drawn) if s.lanes == 2 and arc_length(s.shape)[-1] > 90.0]
    merging = set(rng.permutation(long)[: recipe.merges].tolist())
    out_nodes, out_edges, links = ET.Element("nodes"), ET.Element("edges"), ET.Element("connections")

    def node(name: str, at: np.ndarray, kind: str) -> None:
        ET.SubElement(out_nodes, "node", id=name, x=f"{at[0]:.2f}", y=f"{at[1]:.2f}", type=kind)

    def edge(name: str, source: str, to: str, points: np.ndarray, lanes: int, limit: float) -> None:
        ET.SubElement(
            out_edges, "edge", {"id": name, "from": source, "to": to}, numLanes=str(lanes), speed=f"{limit:.2f}",
            priority=str(lanes), shape=" ".join(f"{x:.2f},{y:.2f}" for x, y in points),
        )  # fmt: skip

    for n in degrees:
        if n not in rings:
            node(n, nodes[n], kinds[n])
    for k, n in enumerate(rings):
        _ring(k, nodes[n], [s for s in drawn if n in (s.a, s.b)], n, node, edge)
    for i, s in enumerate(drawn):
        halves = [(f"s{i}", s.a, s.b, s.shape, s.lanes, s.lanes)]
        if i in merging:
            m = len(s.shape) // 2
            node(f"m{i}", s.shape[m], "zipper")
            halves = [(f"s{i}a", s.a, f"m{i}", s.shape[: m + 1], 2, 1), (f"s{i}b", f"m{i}", s.b, s.shape[m:], 1, 2)]
            for source, to in ((f"s{i}a", f"s{i}b"), (f"-s{i}b", f"-s{i}a")):
                for lane in ("0", "1"):
                    ET.SubElement(links, "connection", {"from": source, "to": to}, fromLane=lane, toLane="0")
        for name, a, b, shape, forth, back in halves:
            edge(name, a, b, shape, forth, s.limit)
            edge(f"-{name}", b, a, shape[::-1], back, s.limit)
    ET.ElementTree(out_nodes).write(f"{plain}.nod.xml")
    ET.ElementTree(out_edges).write(f"{plain}.edg.xml")
    ET.ElementTree(links).write(f"{plain}.con.xml")


@dataclass
class _Street:
    a: str
    b: str
    shape: np.ndarray
    lanes: int
    limit: float


def _ring(k: int, centre: np.ndarray, legs: list[_Street], n: str, node, edge) -> None:
    """Replace node n by a one-lane roundabout; each of its streets ends there at its own node."""
    ends = []
    for leg in legs:
        shape = leg.shape if leg.a == n else leg.shape[::-1]
        shape = shape[np.hypot(*(shape - centre).T) > RING_RADIUS + 4.0]
        angle = float(np.arctan2(*(shape[0] - centre)[::-1]))
        ends.append([angle, leg, shape])
    ends.sort(key=lambda e: e[0])
    names = [f"o{k}_{j}" for j in range(len(ends))]
    for name, (angle, leg, shape) in zip(names, ends, strict=True):
        at = centre + RING_RADIUS * np.array([np.cos(angle), np.sin(angle)])
        node(name, at, "priority")
        shape = np.concatenate([at[None], shape])
        if leg.a == n:
            leg.a, leg.shape = name, shape
        else:
            leg.b, leg.shape = name, shape[::-1]
    for j, name in enumerate(names):  # counter-clockwise, as cars keep to the right
        first, last = ends[j][0], ends[(j + 1) % len(ends)][0]
        turn = (last - first) % (2 * np.pi)
        at = first + np.linspace(0.0, turn, max(3, round(turn * RING_RADIUS / 4.0)))
        arc = centre + RING_RADIUS * np.stack([np.cos(at), np.sin(at)], 1)
        edge(f"o{k}r{j}", name, names[(j + 1) % len(names)], arc, 1, RING_SPEED)


def _bent(control: np.ndarray, bow: np.ndarray) -> np.ndarray:
    """Street (points ~6 m apart) from control points: corners cut (Chaikin), bowed by a half and a full sine."""
    for _ in range(5):
        near, far = control[:-1] * 0.75 + control[1:] * 0.25, control[:-1] * 0.25 + control[1:] * 0.75
        control = np.concatenate([control[:1], np.stack([near, far], 1).reshape(-1, 2), control[-1:]])
    line = resample(control, 6.0)
    s = arc_length(line)
    u = s / s[-1]
    length = min(s[-1], 130.0)  # long streets bow no more than short ones
    return _shifted(line, length * (bow[0] * np.sin(np.pi * u) + 0.5 * bow[1] * np.sin(2 * np.pi * u)))


def _comfortable(line: np.ndarray, limits: tuple[float, ...]) -> float:
    """The highest of the limits at which the street's sharpest bend takes 2.2 m/s^2 or less, else the lowest."""
    heading = np.unwrap(np.arctan2(*np.diff(line, axis=0).T[::-1]))
    turned = np.abs(heading[3:] - heading[:-3])  # over three steps of 6 m: a single corner is not a bend
    radius = 18.0 / max(float(turned.max(initial=0.0)), 1e-3)
    return max((v for v in limits if v * v / radius < 2.2), default=min(limits))


def _shifted(line: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Shift a line (P, 2) to the left by side (P,) m."""
    tangent = np.gradient(line, axis=0)
    tangent /= np.hypot(tangent[:, 0], tangent[:, 1])[:, None]
    return line + side[:, None] * np.stack([-tangent[:, 1], tangent[:, 0]], 1)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for path in build(target):
        print(f"{path} {path.stat().st_size / 1000:.0f} KB")

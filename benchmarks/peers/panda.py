"""Pictures per second of Panda3D for a film of scenes: the same city, drawn without a graphics card.

    python panda.py SECONDS p3tinydisplay|p3headlessgl FILM.npz

The first is its own software renderer, the second OpenGL without a window, rendered by Mesa on such a machine.
Moving objects are read from the film, so that only drawing is timed: one 256x128 picture of each ego at each step, in
memory as an array. Tuned as its manual advises: static objects are one flattened mesh per tile, without lights or
textures (shading is baked into vertex colours), ground layers are drawn in fixed order without depth tests, road users
share one box each, hidden beyond 160 m, and one buffer is reused for the copied pictures.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import math
import sys
import time
from collections import defaultdict

import numpy as np
from panda3d.core import (
    Camera,
    FrameBufferProperties,
    Geom,
    GeomNode,
    GeomTriangles,
    GeomVertexArrayFormat,
    GeomVertexData,
    GeomVertexFormat,
    GraphicsEngine,
    GraphicsOutput,
    GraphicsPipe,
    GraphicsPipeSelection,
    NodePath,
    PandaSystem,
    PerspectiveLens,
    Texture,
    Triangulator,
    WindowProperties,
    loadPrcFileData,
)

WIDTH, HEIGHT = 256, 128
TILE = 60.0
"""Edge of the tiles that are culled as a whole, m."""
CLOSE = 0.03
"""Tolerance of outlines, m, to reduce the number of triangles."""
FAR, AGENT_SIGHT, LAWN = 260.0, 160.0, 2000.0
ROAD, SIDEWALK, PAINT, GRASS = (86, 86, 90), (150, 148, 142), (236, 236, 230), (96, 120, 70)
YELLOW = (226, 180, 50)
WALLS = ((178, 150, 124), (150, 92, 76), (196, 188, 172), (128, 132, 140))
CARS = ((196, 36, 32), (28, 74, 160), (222, 222, 220), (44, 46, 52), (150, 154, 160))
FACES = np.array([[3, 0, 4, 7], [0, 1, 5, 4], [2, 3, 7, 6], [1, 2, 6, 5], [4, 5, 6, 7]])
SHADE = np.array([0.75, 1.0, 0.85, 0.95, 1.1])
"""Brightness of a box's faces: back, right, left, front, top."""


class Mesh:
    """Triangles by layer and tile, to be turned into nodes."""

    def __init__(self) -> None:
        self.tiles: dict[tuple[int, int, int], list[tuple[np.ndarray, tuple]]] = defaultdict(list)

    def add(self, layer: int, triangles: np.ndarray, colour: tuple) -> None:
        """Add triangles (n, 3, 3) m, counter-clockwise as seen from their visible side."""
        if len(triangles):
            x, y = (triangles[..., :2].mean((0, 1)) // TILE).astype(int)
            self.tiles[layer, int(x), int(y)].append((triangles, colour))

    def nodes(self, under: NodePath) -> None:
        for (layer, *_), parts in self.tiles.items():
            path = under.attachNewNode(geom_node(parts))
            if layer < 3:
                behind(path, layer)


def behind(path: NodePath, order: int) -> None:
    """Draw a path before all upright objects, in this order, without hiding anything."""
    path.setBin("background", order)
    path.setDepthTest(False)
    path.setDepthWrite(False)


def geom_node(parts: list[tuple[np.ndarray, tuple]]) -> GeomNode:
    """One mesh of coloured triangles."""
    points = np.concatenate([t.reshape(-1, 3) for t, _ in parts]).astype(np.float32)
    shades = np.concatenate([np.tile([*np.minimum(c, 255), 255], (3 * len(t), 1)) for t, c in parts]).astype(np.uint8)
    array = GeomVertexArrayFormat()
    array.addColumn("vertex", 3, Geom.NTFloat32, Geom.CPoint)
    array.addColumn("color", 4, Geom.NTUint8, Geom.CColor)
    layout = GeomVertexFormat()
    layout.addArray(array)
    data = GeomVertexData("mesh", GeomVertexFormat.registerFormat(layout), Geom.UHStatic)
    rows = np.empty(len(points), np.dtype([("p", "<f4", 3), ("c", "u1", 4)]))
    rows["p"], rows["c"] = points, shades
    data.uncleanSetNumRows(len(rows))
    data.modifyArrayHandle(0).copyDataFrom(rows.tobytes())
    corners = GeomTriangles(Geom.UHStatic)
    corners.addNextVertices(len(points))
    geom = Geom(data)
    geom.addPrimitive(corners)
    node = GeomNode("mesh")
    node.addGeom(geom)
    return node


def flat(polygon: np.ndarray) -> np.ndarray:
    """Triangles (n, 3, 3) of a polygon (P, 2) at height 0, visible from above."""
    polygon = thinned(np.concatenate([polygon, polygon[:1]]))[:-1]
    cutter = Triangulator()
    for i, (x, y) in enumerate(polygon):
        cutter.addVertex(float(x), float(y))
        cutter.addPolygonVertex(i)
    cutter.triangulate()
    corner = [cutter.getTriangleV0, cutter.getTriangleV1, cutter.getTriangleV2]
    index = np.array([[c(k) for c in corner] for k in range(cutter.getNumTriangles())], int).reshape(-1, 3)
    return upward(np.pad(polygon[index], ((0, 0), (0, 0), (0, 1))))


def thinned(line: np.ndarray) -> np.ndarray:
    """Simplify a polyline (P, 2) (Douglas and Peucker 1973)."""
    if len(line) < 3:
        return line
    along = line[-1] - line[0]
    away = line[1:-1] - line[0]
    far = np.abs(away[:, 0] * along[1] - away[:, 1] * along[0]) / max(np.hypot(*along), 1e-9)
    far = np.where(np.hypot(*along) < 1e-6, np.hypot(*away.T), far)
    cut = int(far.argmax()) + 1
    return line[[0, -1]] if far.max() < CLOSE else np.concatenate([thinned(line[: cut + 1])[:-1], thinned(line[cut:])])


def upward(triangles: np.ndarray) -> np.ndarray:
    """Orient triangles counter-clockwise as seen from above."""
    a, b = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    down = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] < 0
    triangles[down] = triangles[down][:, ::-1]
    return triangles


def strip(line: np.ndarray, width: float) -> np.ndarray:
    """Triangles of painted quads along a polyline (P, 2)."""
    step = np.diff(line, axis=0)
    step /= np.maximum(np.hypot(*step.T), 1e-6)[:, None]
    side = np.stack([-step[:, 1], step[:, 0]], 1) * width / 2
    a, b = line[:-1], line[1:]
    quads = np.stack([a - side, b - side, b + side, a + side], 1)
    return upward(np.pad(quads[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3, 2), ((0, 0), (0, 0), (0, 1))))


def dashes(line: np.ndarray) -> list[np.ndarray]:
    """The painted parts of a dashed line: 3 m every 7.5 m."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    at = lambda s: np.stack([np.interp(s, along, line[:, 0]), np.interp(s, along, line[:, 1])], -1)  # noqa: E731
    return [at(np.array([s, min(s + 3.0, along[-1])])) for s in np.arange(0.0, along[-1], 7.5)]


def pairs(line: np.ndarray) -> list[np.ndarray]:
    """Split a line into its segments."""
    return [line[i : i + 2] for i in range(len(line) - 1)]


def box(x: float, y: float, yaw: float, length: float, width: float, height: float) -> np.ndarray:
    """(5, 2, 3, 3) the faces of a box on the ground, two triangles each."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (length / 2, width / 2)
    c, s = np.cos(yaw), np.sin(yaw)
    foot = corners @ np.array([[c, s], [-s, c]]) + (x, y)
    points = np.concatenate([np.pad(foot, ((0, 0), (0, 1))), np.pad(foot, ((0, 0), (0, 1)), constant_values=height)])
    return points[FACES][:, [[0, 1, 2], [0, 2, 3]]]


def city(film: dict[str, np.ndarray], under: NodePath) -> None:
    """Draw all static objects."""
    parts = lambda name: np.split(film[name], film[f"{name}_offsets"][1:-1])  # noqa: E731
    mesh = Mesh()
    for layer, name, colour in ((0, "sidewalks", SIDEWALK), (1, "drivable", ROAD), (2, "crosswalks", PAINT)):
        for polygon in parts(name):
            mesh.add(layer, flat(polygon), colour)
    for line, kind in zip(parts("lines"), film["line_kind"], strict=True):
        for piece in dashes(line) if kind == 1 else pairs(thinned(line)):
            mesh.add(2, strip(piece, 0.2), YELLOW if kind == 2 else PAINT)
    for line in film["stop_lines"]:
        mesh.add(2, strip(line.reshape(2, 2), 0.5), PAINT)
    for i, building in enumerate(film["buildings"]):
        for face, light in zip(box(*building), SHADE, strict=True):
            mesh.add(3, face, tuple(np.array(WALLS[i % len(WALLS)]) * light))
    mesh.nodes(under)
    lawn = under.attachNewNode(geom_node([(flat(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * LAWN), GRASS)]))
    behind(lawn, -1)


def cars(count: int, under: NodePath) -> list[NodePath]:
    """`count` unit boxes."""
    out = []
    for i in range(count):
        faces = zip(box(0, 0, 0, 1, 1, 1), SHADE, strict=True)
        out.append(under.attachNewNode(geom_node([(f, tuple(np.array(CARS[i % 5]) * light)) for f, light in faces])))
    return out


def window() -> tuple[GraphicsEngine, GraphicsOutput, Texture]:
    """A buffer of the software renderer, and the texture in memory to which each picture is copied."""
    engine = GraphicsEngine.getGlobalPtr()
    pipe = GraphicsPipeSelection.getGlobalPtr().makeDefaultPipe()
    bits = FrameBufferProperties()
    bits.setRgbColor(True)
    bits.setRgbaBits(8, 8, 8, 0)
    bits.setDepthBits(24)
    size = WindowProperties.size(WIDTH, HEIGHT)
    buffer = engine.makeOutput(pipe, "pictures", 0, bits, size, GraphicsPipe.BFRefuseWindow)
    picture = Texture()
    buffer.addRenderTexture(picture, GraphicsOutput.RTMCopyRam, GraphicsOutput.RTPColor)
    buffer.setClearColor((0.62, 0.74, 0.88, 1.0))
    return engine, buffer, picture


class Studio:
    """The city, the road users and the camera; `shoot` draws one picture."""

    def __init__(self, film: dict[str, np.ndarray]) -> None:
        self.engine, self.buffer, self.picture = window()
        root = NodePath("root")
        city(film, root)
        self.boxes = cars(film["agents"].shape[1], root)
        fx, cx, cy, self.ahead, self.height = film["lens"].tolist()
        lens = PerspectiveLens()
        lens.setFilmSize(WIDTH, HEIGHT)
        lens.setFocalLength(fx)
        lens.setFilmOffset(WIDTH / 2 - cx, cy - HEIGHT / 2)
        lens.setNearFar(0.3, FAR)
        self.camera = root.attachNewNode(Camera("front", lens))
        self.buffer.makeDisplayRegion().setCamera(self.camera)
        poses = np.moveaxis(film["agents"], 1, 2)[..., :3].copy()
        away = np.hypot(*np.moveaxis(film["agents"][..., :2] - film["ego"][:, None, :, :2], -1, 0))
        poses[..., 2] = np.rad2deg(poses[..., 2])
        self.poses, self.sizes = poses.tolist(), film["size"].tolist()
        self.near = np.moveaxis(film["seen"] & (away < AGENT_SIGHT), 1, 2).tolist()
        self.ego = film["ego"].tolist()

    def shoot(self, scene: int, step: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        x, y, yaw = self.ego[scene][step]
        eye = x + self.ahead * math.cos(yaw), y + self.ahead * math.sin(yaw), self.height
        self.camera.setPosHpr(*eye, math.degrees(yaw) - 90.0, 0.0, 0.0)
        for node, near, (px, py, turn), size in zip(
            self.boxes, self.near[scene][step], self.poses[scene][step], self.sizes[scene], strict=True
        ):
            if near:
                node.setPosHprScale(px, py, 0.0, turn, 0.0, 0.0, *size)
                node.show()
            else:
                node.hide()
        self.engine.renderFrame()
        pixels = np.frombuffer(self.picture.getRamImage(), np.uint8).reshape(HEIGHT, WIDTH, -1)
        return pixels[::-1, :, 2::-1].copy()


def main() -> None:
    seconds, display = float(sys.argv[1]), sys.argv[2]
    loadPrcFileData("", f"load-display {display}\naux-display\naudio-library-name null\nnotify-level error")
    with np.load(sys.argv[3]) as raw:
        studio = Studio({name: raw[name] for name in raw.files})
    shots = [(s, t) for s in range(len(studio.ego)) for t in range(len(studio.ego[0]))]
    assert all(studio.shoot(*shot).std() > 10 for shot in shots[:20]), "nothing was drawn"
    wall, cpu, end = [], [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun, busy = time.perf_counter(), time.process_time()
        for shot in shots:
            studio.shoot(*shot)
        wall.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - busy)
    best = len(shots) / min(wall), min(cpu) / len(shots)
    name = "panda3d_gl_pictures" if display == "p3headlessgl" else "panda3d_pictures"
    print(json.dumps({"figures": {name: best}, "versions": {"panda3d": PandaSystem.getVersionString()}}))


if __name__ == "__main__":
    main()

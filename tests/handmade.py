"""Small hand-made files of recorded traffic: a straight two-lane road of 200 m, a car that drives and one ahead."""

import copy
import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 91
X = np.linspace(0.0, 200.0, 101)
ORIGIN = np.array([5000.0, -3000.0])


def womd(named: bool = False, lights: bool = False, degrees: bool = False, wide: float = 2.5) -> dict[str, Any]:
    """A GPUDrive scenario: lanes at y = 0 and 3.5 for 100 m, one after them; edges `wide` m beside the outer lanes."""

    def line(y, x0=0.0, x1=200.0, z=0.0):
        return [{"x": x + ORIGIN[0], "y": y + ORIGIN[1], "z": z} for x in X[(x0 <= X) & (x1 >= X)].tolist()]

    roads = [
        {"type": "lane", "id": 1, "map_element_id": 2, "geometry": line(0.0, 0, 100)},
        {"type": "lane", "id": 2, "map_element_id": 2, "geometry": line(3.5, 0, 100)},
        {"type": "lane", "id": 3, "map_element_id": 2, "geometry": line(0.0, 100, 200)},
        {"type": "lane", "id": 9, "map_element_id": 2, "geometry": line(0.0, 50, 51)[:1]},
        {"type": "road_edge", "id": 4, "map_element_id": 15, "geometry": line(-wide)},
        {"type": "road_edge", "id": 5, "map_element_id": 15, "geometry": line(3.5 + wide)},
        {"type": "road_line", "id": 6, "map_element_id": 6, "geometry": line(1.75)},
        {"type": "crosswalk", "id": 7, "map_element_id": 18, "geometry": line(-2, 90, 94)[:2] + line(5, 90, 94)[1::-1]},
        {"type": "stop_sign", "id": 8, "map_element_id": 17, "geometry": line(0.0)[:1]},
    ]
    objects = [car(5.0, 0.0, 10.0), car(40.0, 0.0, 8.0, first=20), car(60.0, 3.5, 0.0), walker(80.0, -2.0)]
    for n, o in enumerate(objects):
        o["id"] = 100 + n
        if degrees:
            o["heading"] = [float(np.degrees(h)) for h in o["heading"]]
    out: dict[str, Any] = {"name": "a.json", "scenario_id": "abc", "objects": objects, "roads": roads, "tl_states": {}}
    if named:
        out["metadata"] = {"sdc_track_index": 2}
    if lights:
        shown = ["stop"] * 50 + ["go"] * (STEPS - 50)
        at = {"x": [100 + ORIGIN[0]] * STEPS, "y": [ORIGIN[1]] * STEPS, "time_index": list(range(STEPS))}
        out["tl_states"] = {"3": {"state": shown, **at}}
    return out


def car(x: float, y: float, speed: float, first: int = 0) -> dict[str, Any]:
    seen = [t >= first for t in range(STEPS)]
    at = [{"x": x + ORIGIN[0] + speed * 0.1 * t, "y": y + ORIGIN[1], "z": 0.0} for t in range(STEPS)]
    return {
        "type": "vehicle", "length": 4.6, "width": 1.9, "height": 1.5, "heading": [0.0] * STEPS, "valid": seen,
        "position": [p if s else {"x": -10000.0, "y": -10000.0} for p, s in zip(at, seen, strict=True)],
        "velocity": [{"x": speed, "y": 0.0}] * STEPS, "goalPosition": at[-1],
    }  # fmt: skip


def walker(x: float, y: float) -> dict[str, Any]:
    out = car(x, y, 0.0)
    return {**out, "type": "pedestrian", "length": 0.8, "width": 0.8, "heading": [1.5708] * STEPS}


def scenarionet(hz: float = 10.0, nuscenes: bool = False) -> dict[str, Any]:
    """The same road as a ScenarioNet scenario, 9 s."""
    t = np.arange(round(9.0 * hz) + 1) / hz

    def track(x, y, speed, kind="VEHICLE", size=(4.6, 1.9, 1.5)):
        n = len(t)
        at = np.column_stack([x + ORIGIN[0] + speed * t, np.full(n, y + ORIGIN[1]), np.zeros(n)])
        state = {"position": at, "heading": np.zeros(n), "velocity": np.tile([speed, 0.0], (n, 1)), "valid": np.ones(n)}
        state |= {k: np.full((n, 1), v) for k, v in zip(("length", "width", "height"), size, strict=True)}
        return {"type": kind, "state": state, "metadata": {}}

    def line(y, x0=0.0, x1=200.0):
        x = X[(x0 <= X) & (x1 >= X)]
        return np.column_stack([x, np.full(len(x), y), np.zeros(len(x))]) + np.array([*ORIGIN, 0.0])

    ring = np.concatenate([line(-3.0), line(6.5)[::-1], line(-3.0)[:1]])[:, :2]
    features: dict[str, Any] = {
        "1": {
            "type": "LANE_SURFACE_STREET",
            "polyline": line(0.0, 0, 100),
            "speed_limit_kmh": 50.0,
            "exit_lanes": ["3"],
        },
        "2": {"type": "LANE_SURFACE_STREET", "polyline": line(3.5, 0, 100)},
        "3": {"type": "LANE_SURFACE_STREET", "polyline": line(0.0, 100, 200)},
        "5": {"type": "ROAD_LINE_BROKEN_SINGLE_WHITE", "polyline": line(1.75)},
        "6": {"type": "ROAD_LINE_SOLID_DOUBLE_YELLOW", "polyline": line(5.2)},
        "7": {"type": "CROSSWALK", "polygon": [[5090.0, -3002.0], [5094.0, -3002.0], [5094.0, -2995.0]]},
    }
    if nuscenes:
        features["boundary_0"] = {"type": "ROAD_LINE_SOLID_SINGLE_WHITE", "polyline": ring}
    else:
        features["4"] = {"type": "ROAD_EDGE_BOUNDARY", "polyline": line(-3.0)}
    light = {"object_state": ["LANE_STATE_STOP"] * (len(t) // 2) + ["LANE_STATE_GO"] * (len(t) - len(t) // 2)}
    return {
        "id": "s1", "version": "1", "length": len(t),
        "metadata": {"ts": t, "sdc_id": "ego", "dataset": "nuscenes" if nuscenes else "waymo", "scenario_id": "s1",
                     **({"map": "town"} if nuscenes else {})},
        "tracks": {"ego": track(5.0, 0.0, 10.0, size=(1.8, 4.0, 1.5)), "a": track(45.0, 0.0, 10.0),
                   "p": track(80.0, -2.0, 0.0, "PEDESTRIAN", (0.6, 0.7, 1.8)),
                   "c": track(9.0, 5.0, 0.0, "TRAFFIC_CONE")},
        "map_features": features,
        "dynamic_map_states": {"3": {"type": "TRAFFIC_LIGHT", "lane": "3", "stop_point": line(0.0, 100, 100)[0],
                                     "state": light}},
    }  # fmt: skip


def write(path: Path, content: Any) -> Path:
    """Write content in the format of the file's name: JSON, gzipped JSON, pickle, or bytes unchanged."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        data = json.dumps(content).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def changed(content: Any, keys: tuple[Any, ...], value: Any) -> Any:
    """A deep copy of nested dicts and lists with one entry replaced."""
    out = copy.deepcopy(content)
    inner = out
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return out

"""Drives with video from a CityLog: people drive the fleet's cars, recorded by cameras and loggers. Also its Scenes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from drivefoundry.compute import cores
from drivefoundry.fleet.logger import RECORDED_RANGE, filmed, objects_near, signals_near, steering_wheel
from drivefoundry.fleet.paths import AHEAD, BEHIND, car_route
from drivefoundry.fleet.places import PlaceNet, place_net
from drivefoundry.fleet.sumo.city import CityLog
from drivefoundry.render.camera import Renderer
from drivefoundry.render.rig import Rig
from drivefoundry.render.snapshot import Snapshot
from drivefoundry.types import DT, PSPEED, RoadMap, Scene, require
from drivefoundry_car.log import Drive, write_drive
from drivefoundry_car.vehicle.embodiment import CAR, FRONT, Embodiment

DRAWN_RANGE = 120.0
"""Distance within which road users are drawn, m."""
START = 15
"""Steps of history in a Scene before simulation starts."""
CHUNK = 250
"""Number of frames drawn at a time."""


def record_drives(
    log: CityLog,
    map: RoadMap,
    out_dir: Path,
    *,
    cars: list[int] | None = None,
    body: Embodiment = CAR,
    purpose: str = "fleet",
    workers: int | None = None,
    on_drive: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Write one Drive per car to `out_dir` (`<place>-<seed>-<car>.mcap`), several at a time; returns their paths.

    cars: indices into log.fleet, or None for all. on_drive is called as each is written. ValueError if `map` is not the
    log's own.
    """
    net = place_net(log.place)
    require(map.id == net.map.id, f"record_drives: the log is of {log.place} (map {net.map.id}), given map {map.id}")
    renderers = {c.name: Renderer([map], Rig.of([c]), threads=1) for c in body.cameras}
    out_dir.mkdir(parents=True, exist_ok=True)

    def one(car: int) -> Path:
        path = out_dir / f"{log.place}-{log.seed}-{car:02d}.mcap"
        write_drive(path, as_drive(log, net, car, renderers, purpose, body))
        if on_drive is not None:
            on_drive(path)
        return path

    chosen = list(range(len(log.fleet))) if cars is None else cars
    # drawing and encoding release the GIL, and the threads share the drawn ground
    with ThreadPoolExecutor(workers or cores()) as pool:
        return list(pool.map(one, chosen))


def as_drive(
    log: CityLog, net: PlaceNet, car: int, renderers: dict[str, Renderer], purpose: str, body: Embodiment
) -> Drive:
    """One recording car's whole log as a Drive; times start at 0. renderers: camera -> what draws it."""
    row = int(log.fleet[car])
    signal_id = signals_near(net.map, log.tracks[row])
    length, width, height = (float(v) for v in log.size[row])
    videos = {c.name: filmed(film(log, car, renderers[c.name]), c) for c in body.cameras}
    return Drive(
        meta=_meta(log, net, car) | {"purpose": purpose},
        t=np.arange(log.steps) * DT,
        ego=ego_states(log.tracks[row], body),
        ego_size=(length, width, height),
        video=videos.pop(FRONT),
        others=videos,
        route=car_route(log, net, car)[0],
        objects=objects_near(log.tracks[row], log.tracks, log.valid, log.kind, log.size, row),
        signal_id=signal_id,
        signal_state=log.signals[signal_id],
    )


def ego_states(track: np.ndarray, body: Embodiment = CAR) -> np.ndarray:
    """Ego rows (T, 7) of a track (T, 4): x, y, yaw, speed, acceleration, yaw rate, steering-wheel angle."""
    track = track.astype(np.float64)
    acceleration = np.gradient(track[:, PSPEED], DT)
    yaw_rate = np.gradient(np.unwrap(track[:, 2]), DT)
    return np.column_stack([track, acceleration, yaw_rate, steering_wheel(track[:, PSPEED], yaw_rate, body)])


def film(log: CityLog, car: int, camera: Renderer) -> np.ndarray:
    """All frames of a recording car's camera, the renderer's first view, (T, H, W, 3) uint8."""
    row = int(log.fleet[car])
    frames = []
    for first in range(0, log.steps, CHUNK):
        part = slice(first, min(first + CHUNK, log.steps))
        near = _near(log, row, part, DRAWN_RANGE)
        pose = log.tracks[near, part].transpose(1, 0, 2)
        s, a = pose.shape[:2]
        seen = Snapshot(
            np.zeros(s, np.int64),
            log.tracks[row, part],
            pose,
            log.valid[near, part].T,
            np.broadcast_to(log.size[near].astype(np.float32), (s, a, 3)),
            np.broadcast_to(log.kind[near], (s, a)),
            log.brake[near, part].T,
            log.signals[:, part].T,
        )
        frames.append(camera.render(seen)[:, 0])
    return np.concatenate(frames)


def situations(
    log: CityLog, map: RoadMap, cars: list[int] | None = None, seconds: float = 20.0, every: float | None = None
) -> list[Scene]:
    """Scenes of `seconds`, one every `every` seconds (default: end to end) for each car, in order of time.

    Agents are those within 80 m of the car at any time in the window, the car first; its route ends 160 m beyond its
    position at the window's end, along the lanes that it drove or would have driven.
    """
    net = place_net(log.place)
    require(map.id == net.map.id, f"situations: the log is of {log.place} (map {net.map.id}), given map {map.id}")
    steps, stride = round(seconds / DT), max(1, round((every or seconds) / DT))
    require(
        steps > START + 1, f"situations: windows of {seconds} s are too short; must be at least {(START + 2) * DT} s"
    )
    chosen = list(range(len(log.fleet))) if cars is None else cars
    routes = {car: car_route(log, net, car) for car in chosen}
    starts = range(0, log.steps - steps + 1, stride)
    return [_scene(log, net, car, slice(t0, t0 + steps), *routes[car]) for t0 in starts for car in chosen]


def _scene(log: CityLog, net: PlaceNet, car: int, part: slice, route: np.ndarray, on_route: np.ndarray) -> Scene:
    row = int(log.fleet[car])
    agents = np.concatenate([[row], _near(log, row, part, RECORDED_RANGE)])
    length = float(log.size[row, 0])
    s = np.arange(len(route)) * _spacing(route)
    kept = (s > on_route[part.start] - length - BEHIND) & (s < on_route[part.stop - 1] + AHEAD)
    name = f"{log.place}-{log.seed}-{car:02d}-{part.start:04d}"
    return Scene(
        id=name,
        source="sumo",
        place=f"{log.place}/{log.seed}",
        map=net.map,
        tracks=log.tracks[agents, part].copy(),
        valid=log.valid[agents, part].copy(),
        size=log.size[agents].astype(np.float32),
        kind=log.kind[agents].astype(np.int64),
        ego=0,
        start=START,
        route=route[kept, :2],
        route_speed=route[kept, 2],
        signals=log.signals[:, part].copy(),
        meta=_meta(log, net, car) | {"t0": f"{part.start * DT:.1f}"},
    ).validate()


def _spacing(route: np.ndarray) -> float:
    return float(np.hypot(*np.diff(route[:, :2], axis=0).T).mean())


def _meta(log: CityLog, net: PlaceNet, car: int) -> dict[str, str]:
    edges = [net.edge[lane] for lane in log.lane[car][np.diff(log.lane[car], prepend=-2) != 0]]
    driven = [edge for edge in edges if edge[0] != ":"]
    driven = [edge for i, edge in enumerate(driven) if i == 0 or edge != driven[i - 1]]
    route_id = hashlib.sha256(" ".join([log.place, *driven]).encode()).hexdigest()[:16]
    return {
        "vehicle": f"{log.place}-car-{car:02d}",
        "drive": f"{log.place}-{log.seed}-{car:02d}",
        "source": "sumo",
        "place": log.place,
        "seed": str(log.seed),
        "map": net.map.id,
        "route_id": route_id,
    }


def _near(log: CityLog, row: int, part: slice, metres: float) -> np.ndarray:
    """Rows other than `row` that come within `metres` of it at any time in the window, nearest first."""
    pose = log.tracks[:, part, :2]
    d = np.hypot(pose[..., 0] - pose[row, :, 0], pose[..., 1] - pose[row, :, 1])
    closest = np.where(log.valid[:, part], d, np.inf).min(1)
    closest[row] = np.inf
    order = np.argsort(closest, kind="stable")
    return order[closest[order] < metres]

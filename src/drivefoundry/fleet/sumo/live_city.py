"""A running SUMO city in which a policy drives some of the cars: the traffic of long city drives.

SUMO runs in a separate process (`fleet.sumo.supply`): every 0.1 s it receives the driven cars' poses and returns the
other road users'. The judge detects collisions, red lights run and road departures; SUMO does not.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.resources import as_file, files
from typing import IO

import numpy as np

from drivefoundry.fleet.paths import BEHIND, STEP, plan
from drivefoundry.fleet.places import net_bytes, place_net
from drivefoundry.fleet.sumo.supply import HISTORY
from drivefoundry.fleet.sumo.traffic import NEEDS_LIBRARY, Demand
from drivefoundry.roadmap import resample
from drivefoundry.sim.pack import Packed
from drivefoundry.types import AGENT_PEDESTRIAN, PSPEED, Rollout, Scene, require

SPARE_WAY = 300.0
"""Route that a driven car gets beyond the longest possible drive, m."""
FASTER = 1.3
"""Upper bound on the mean speed of a drive, relative to the city's highest limit."""
NEAR = 80.0
"""Road users that stay farther from a car than this, m, are left out of its scene."""


class LiveTraffic:
    """A `sim.world.Traffic` in which all scenes share one city and every ego is one of its driven cars."""

    endless = True

    def __init__(self, scenes: list[Scene], wire_in: IO[bytes], wire_out: IO[bytes]):
        first = scenes[0]
        self.users, self.lights = len(first.kind), len(first.signals)
        self.half = np.where(first.kind == AGENT_PEDESTRIAN, 0.0, first.size[:, 0] / 2)
        self.rows = np.array([s.ego for s in scenes])
        self.lamps: list[np.ndarray] = []
        """(G,) signals of every step driven so far."""
        self.state: tuple[np.ndarray, ...] = ()
        self._scenes, self._in, self._out = scenes, wire_in, wire_out

    def __call__(self, packed: Packed, states: np.ndarray, seen: np.ndarray, brake: np.ndarray) -> LiveTraffic:
        require(not self.state, "a live city: its cars have already been driven; open another")
        self.state, self.packed = (states, seen, brake), packed
        return self

    def advance(self, now: np.ndarray, ego: np.ndarray) -> None:
        states, seen, brake = self.state
        first = self._scenes[0]
        cars = np.arange(len(ego))
        if not self.lamps:
            states[:], seen[:] = first.tracks[:, first.start], first.valid[:, first.start]
            self.lamps.append(first.signals[:, first.start])
        else:
            told = np.column_stack([bumpers(ego[:, :3], self.half[self.rows]), ego[:, 3]])
            self._out.write(told.tobytes())
            self._out.flush()
            length = 33 * self.users + self.lights
            answer = self._in.read(length)
            if len(answer) < length:
                raise RuntimeError("SUMO ended in the middle of a city drive")
            pose = np.frombuffer(answer, np.float64, 4 * self.users).reshape(-1, 4)
            before = states[0, :, PSPEED].copy()
            states[:], seen[:] = centres(pose, self.half), np.isfinite(pose[:, 0])
            states[:, self.rows] = ego[:, :4]  # their true poses, not SUMO's
            brake[:] = (states[0, :, PSPEED] - before < -0.08) | (states[0, :, PSPEED] < 0.2)
            self.lamps.append(np.frombuffer(answer, np.uint8, self.lights, 33 * self.users))
            self.packed.signals[:, : self.lights, -1] = self.lamps[-1]
        seen[cars, self.rows] = False


@contextmanager
def open_city(
    place: str, seed: int, cars: int = 24, traffic: int = 200, pedestrians: int = 80, seconds: float = 300.0
) -> Iterator[tuple[list[Scene], LiveTraffic]]:
    """Open a running city with `cars` to be driven for `seconds`: one Scene per car, with all road users and no future,
    and the traffic for `World(pack(scenes), traffic)`, for a single drive.

    ValueError: unknown place, or a system library that SUMO needs is missing (the message says how to install it).
    """
    require(cars >= 1 and traffic >= 0 and pedestrians >= 0, f"open_city: {cars} cars, {traffic} others, {pedestrians}")
    net_bytes(place)
    net = place_net(place)
    way = FASTER * float(net.map.lane_speed.max()) * seconds + SPARE_WAY
    links = [(light, list(indices)) for light, indices in net.links]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with (
        as_file(files("drivefoundry.fleet.nets") / f"{place}.net.xml.gz") as path,
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            [sys.executable, "-m", "drivefoundry.fleet.sumo.supply"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=environment,
        ) as process,
    ):  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        demand = Demand(str(path), seed, 0, cars, traffic, pedestrians, links, net.road, net.lane, way)
        try:
            process.stdin.write(json.dumps(asdict(demand)).encode() + b"\n")
            process.stdin.flush()
            length = process.stdout.read(8)
            if len(length) < 8:
                said.seek(0)
                lines = said.read().decode(errors="replace").strip()
                if process.wait() == NEEDS_LIBRARY:
                    raise ValueError(lines.splitlines()[-1])
                raise RuntimeError(f"SUMO ended with code {process.returncode}: {lines[-2000:]}")
            with np.load(io.BytesIO(process.stdout.read(int.from_bytes(length, "little")))) as raw:
                scenes = _scenes(place, seed, way, {name: raw[name] for name in raw.files})
            yield scenes, LiveTraffic(scenes, process.stdout, process.stdin)
        finally:
            process.kill()


def centres(pose: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Box centres x, y, yaw, speed (..., R, 4) from SUMO's front bumper x, y, compass angle in degrees and speed
    (..., R, 4) and half lengths (R,); zeros for absent road users."""
    yaw = np.arctan2(np.cos(np.radians(pose[..., 2])), np.sin(np.radians(pose[..., 2])))
    xy = pose[..., :2] - half[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], -1)
    return np.nan_to_num(np.concatenate([xy, yaw[..., None], pose[..., 3:]], -1))


def bumpers(pose: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Front bumper x, y and SUMO's angle (F, 3) from box centres x, y, yaw (F, 3) and half lengths (F,)."""
    front = pose[:, :2] + half[:, None] * np.stack([np.cos(pose[:, 2]), np.sin(pose[:, 2])], 1)
    return np.column_stack([front, np.degrees(np.pi / 2 - pose[:, 2]) % 360.0])


def _scenes(place: str, seed: int, way: float, raw: dict[str, np.ndarray]) -> list[Scene]:
    net = place_net(place)
    kind, size = raw["kind"], raw["size"].astype(np.float32)
    half = np.where(kind == AGENT_PEDESTRIAN, 0.0, size[:, 0] / 2)
    pose = raw["pose"].transpose(1, 0, 2)
    tracks, valid = centres(pose, half).transpose(1, 0, 2).astype(np.float32), np.isfinite(raw["pose"][..., 0])
    # One step beyond the past, unknown, because a scene cannot end where it starts.
    tracks, valid = np.concatenate([tracks, tracks[:, -1:]], 1), np.concatenate([valid, valid[:, -1:]], 1)
    lamps = np.concatenate([raw["lamps"], raw["lamps"][:, -1:]], 1).astype(np.uint8)
    out = []
    for car, row in enumerate(raw["rows"]):
        heading = np.array([np.cos(tracks[row, -1, 2]), np.sin(tracks[row, -1, 2])], np.float64)
        front = tracks[row, -1, :2] + half[row] * heading
        lane = int(raw["lane"][car])
        ahead = plan(net, lane, front, str(raw["ahead"][car]).split(), way)
        limit = net.map.lane_speed[lane]
        behind = np.append(front - (BEHIND + size[row, 0]) * heading, limit)
        route = resample(np.concatenate([behind[None], np.append(front, limit)[None], ahead]), STEP)
        out.append(
            Scene(
                id=f"{place}-{seed}-city-{car:02d}", source="sumo", place=f"{place}/{seed}", map=net.map, tracks=tracks,
                valid=valid, size=size, kind=kind, ego=int(row), start=HISTORY - 1, route=route[:, :2],
                route_speed=route[:, 2], signals=lamps,
            ).validate()
        )  # fmt: skip
    return out


def with_driven_tracks(scenes: list[Scene], traffic: LiveTraffic, rollout: Rollout) -> tuple[list[Scene], Rollout]:
    """Complete scenes after a drive through a live city: with the tracks of everyone who came near each car, and the
    rollout with the same agents, for the judge and for films."""
    steps = rollout.ego.shape[1]
    whole, chosen = [], []
    for i, scene in enumerate(scenes):
        gap = np.hypot(*(rollout.agents[i, :, :, :2] - rollout.ego[i, None, :, :2]).transpose(2, 0, 1))
        near = np.flatnonzero(np.where(rollout.agents_valid[i], gap, np.inf).min(1) < NEAR)
        users = np.sort(np.append(near, scene.ego))
        tracks = np.concatenate([scene.tracks[users, : scene.start], rollout.agents[i, users].astype(np.float32)], 1)
        valid = np.concatenate([scene.valid[users, : scene.start], rollout.agents_valid[i, users]], 1)
        ego = int(np.searchsorted(users, scene.ego))
        tracks[ego, scene.start :], valid[ego, scene.start :] = rollout.ego[i, :, :4], True
        lamps = np.concatenate([scene.signals[:, : scene.start], np.stack(traffic.lamps[:steps], 1)], 1)
        whole.append(
            replace(
                scene,
                tracks=tracks,
                valid=valid,
                size=scene.size[users],
                kind=scene.kind[users],
                ego=ego,
                signals=lamps,
            ).validate()
        )
        chosen.append(users)
    most = max(len(u) for u in chosen)
    agents, there = np.zeros((len(scenes), most, steps, 4), np.float32), np.zeros((len(scenes), most, steps), np.bool_)
    for i, users in enumerate(chosen):
        agents[i, : len(users)], there[i, : len(users)] = rollout.agents[i, users], rollout.agents_valid[i, users]
    return whole, replace(rollout, agents=agents, agents_valid=there)

"""Place, seed and demand in, CityLog out: what every road user of a SUMO city did, ten times a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from drivefoundry.fleet.places import net_bytes, place_net
from drivefoundry.fleet.sumo.traffic import NEEDS_LIBRARY, Demand
from drivefoundry.types import AGENT_PEDESTRIAN, DT, PSPEED, require

BLINK_LEFT, BLINK_RIGHT = 2, 1
"""Values of CityLog.indicator; 0 is neither."""
SMOOTH_POSITION, SMOOTH_YAW, SMOOTH_WALKER = 3.0, 3.5, 4.0
"""Standard deviation, in steps, of the Gaussian that takes the simulator's 0.1 s corners out of poses."""
BRAKE_LIGHT = -0.5
"""Decelerating harder than this, m/s^2, or standing, a vehicle shows its brake lights."""


@dataclass(frozen=True)
class CityLog:
    """One city, T steps of 0.1 s. Poses are box centres in the map frame of `place_map(place)`.

    tracks (A, T, 4) float32 x, y, yaw, speed; valid (A, T); size (A, 3) length, width, height; kind (A,) AGENT_*;
    brake (A, T) bool; indicator (A, T) uint8; signals (G, T) uint8 SIGNAL_* of every signal of the map; fleet (F,) rows
    of the cars that may record: they are in the city all the time; lane (F, T) int32 map lane under their front bumper;
    ahead: F routes still to drive after the last step, as edge names of the network, spaced.
    """

    place: str
    seed: int
    tracks: np.ndarray
    valid: np.ndarray
    size: np.ndarray
    kind: np.ndarray
    brake: np.ndarray
    indicator: np.ndarray
    signals: np.ndarray
    fleet: np.ndarray
    lane: np.ndarray
    ahead: np.ndarray

    @property
    def steps(self) -> int:
        return self.tracks.shape[1]


def run_city(
    place: str, seed: int, seconds: float, n_cars: int = 24, n_traffic: int = 60, n_pedestrians: int = 80
) -> CityLog:
    """Run SUMO in a process of its own and log it for `seconds` after a minute of warm-up.

    n_cars record (or could); n_traffic others drive and n_pedestrians walk; nobody leaves the city. The same arguments
    give the same log. ValueError: unknown place, nonsense numbers, or a library that SUMO needs is missing (with mend).
    """
    return _as_log(place, seed, _sumo(place, seed, seconds, n_cars, n_traffic, n_pedestrians, 0.0))


@dataclass(frozen=True)
class PlantedEvent:
    """A planted event that took place (`fleet.sumo.planting` says when it counts): kind, t s on the log's clock, and
    rows of the log: the recording car, and who did it (the car itself where nobody else did)."""

    kind: str
    t: float
    car: int
    who: int


def run_planted(
    place: str,
    seed: int,
    seconds: float,
    per_hour: float,
    n_cars: int = 40,
    n_traffic: int = 60,
    n_pedestrians: int = 80,
) -> tuple[CityLog, list[PlantedEvent]]:
    """`run_city` with rare events that are known, in the place of its usual surprises: the log, and all events by time.

    per_hour: how many each recording car is due in an hour; fewer come about. Errors as `run_city`.
    """
    require(per_hour > 0, f"run_planted: {per_hour} events an hour; more than 0 wanted")
    raw = _sumo(place, seed, seconds, n_cars, n_traffic, n_pedestrians, per_hour)
    rows = zip(raw["planted_kind"].tolist(), raw["planted"].tolist(), strict=True)
    events = [PlantedEvent(kind, step * DT, car, who) for kind, (step, car, who) in rows]
    return _as_log(place, seed, raw), events


def _sumo(
    place: str, seed: int, seconds: float, n_cars: int, n_traffic: int, n_pedestrians: int, planted: float
) -> dict[str, np.ndarray]:
    """What SUMO's process leaves."""
    require(seconds >= 1 and n_cars >= 1, f"run_city: {seconds} s with {n_cars} cars; at least 1 s and one car wanted")
    require(n_traffic >= 0 and n_pedestrians >= 0, "run_city: numbers of traffic and pedestrians must not be negative")
    net_bytes(place)
    net = place_net(place)
    with (
        tempfile.TemporaryDirectory() as scratch,
        as_file(files("drivefoundry.fleet.nets") / f"{place}.net.xml.gz") as path,
    ):
        out = Path(scratch, "city.npz")
        links = [(light, list(indices)) for light, indices in net.links]
        steps = round(seconds / DT)
        demand = Demand(
            str(path), seed, steps, n_cars, n_traffic, n_pedestrians, links, net.road, net.lane, planted=planted
        )
        _in_its_own_process(demand, out)
        with np.load(out) as raw:
            return {name: raw[name] for name in raw.files}


def _in_its_own_process(demand: Demand, out: Path) -> None:
    command = [sys.executable, "-m", "drivefoundry.fleet.sumo.traffic", str(out)]
    # the child sees the packages that this process sees
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    told = json.dumps(asdict(demand))
    done = subprocess.run(command, input=told, text=True, capture_output=True, env=environment)
    if done.returncode == NEEDS_LIBRARY:
        raise ValueError(done.stderr.strip().splitlines()[-1])
    if done.returncode != 0:
        raise RuntimeError(f"SUMO ended with code {done.returncode}: {done.stderr.strip()[-2000:]}")


def _as_log(place: str, seed: int, raw: dict[str, np.ndarray]) -> CityLog:
    """SUMO's front bumpers and compass angles in, smooth box centres and our yaw out."""
    pose, kind, size = raw["pose"], raw["kind"], raw["size"]
    valid = np.isfinite(pose[:, :, 0])
    tracks = np.zeros((*valid.shape, 4))
    for a in range(len(kind)):
        walks = kind[a] == AGENT_PEDESTRIAN
        for first, end in _runs(valid[a]):
            yaw = np.unwrap(np.pi / 2 - np.radians(pose[a, first:end, 2]))
            front = pose[a, first:end, :2]
            half = (
                0.0 if walks else size[a, 0] / 2
            )  # SUMO places vehicles by their front bumper, people by their middle
            tracks[a, first:end] = _smooth_track(front - half * np.stack([np.cos(yaw), np.sin(yaw)], 1), yaw, walks)
    acceleration = np.gradient(tracks[:, :, PSPEED], DT, axis=1) if valid.shape[1] > 1 else np.zeros(valid.shape)
    drives = (kind != AGENT_PEDESTRIAN)[:, None] & valid
    brake = drives & ((acceleration < BRAKE_LIGHT) | (tracks[:, :, PSPEED] < 0.2))
    tracks[:, :, 2] = np.arctan2(np.sin(tracks[:, :, 2]), np.cos(tracks[:, :, 2]))
    return CityLog(
        place, seed, tracks.astype(np.float32), valid, size, kind, brake, raw["blinker"], raw["signals"],
        raw["fleet"], raw["lane"], raw["ahead"],
    )  # fmt: skip


def _smooth_track(xy: np.ndarray, yaw: np.ndarray, walks: bool) -> np.ndarray:
    """Centres (T, 2) and unwrapped yaw (T,) in, (T, 4) x, y, yaw, speed out; speed is that of the smoothed centre."""
    sigma = SMOOTH_WALKER if walks else SMOOTH_POSITION
    x, y, yaw = _smooth(xy[:, 0], sigma), _smooth(xy[:, 1], sigma), _smooth(yaw, SMOOTH_WALKER if walks else SMOOTH_YAW)
    if len(x) < 2:
        return np.stack([x, y, yaw, np.zeros_like(x)], 1)
    speed = np.hypot(np.gradient(x, DT), np.gradient(y, DT))
    return np.stack([x, y, yaw, np.where(speed < 0.02, 0.0, speed)], 1)


def _smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    reach = min(round(3 * sigma), len(values) - 1)
    if reach < 1:
        return values
    k = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    # odd reflection keeps the ends and their speed where they are
    return np.convolve(np.pad(values, reach, mode="reflect", reflect_type="odd"), k / k.sum(), "valid")


def _runs(valid: np.ndarray) -> list[tuple[int, int]]:
    """Stretches [first, end) in which a row is valid."""
    edge = np.flatnonzero(np.diff(np.concatenate([[0], valid.astype(np.int8), [0]])))
    return list(zip(edge[::2].tolist(), edge[1::2].tolist(), strict=True))

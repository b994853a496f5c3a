"""Run a SUMO city and log what every road user did, ten times a second."""

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
from drivefoundry_car.vehicle.embodiment import CAR

BLINK_LEFT, BLINK_RIGHT = 2, 1
"""Values of CityLog.indicator; 0 is neither."""
SMOOTH_POSITION, SMOOTH_YAW, SMOOTH_WALKER = 3.0, 3.5, 4.0
"""Standard deviation, in steps, of the Gaussian that smooths the simulator's 0.1 s corners out of poses."""
BRAKE_LIGHT = -0.5
"""A vehicle shows its brake lights when standing or decelerating harder than this, m/s^2."""


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
    place: str,
    seed: int,
    seconds: float,
    n_cars: int = 24,
    n_traffic: int = 60,
    n_pedestrians: int = 80,
    car: tuple[float, float, float] = CAR.size,
) -> CityLog:
    """Run SUMO in a separate process and log it for `seconds` after a minute of warm-up.

    n_cars of the size `car` (length, width, height, m) can record; n_traffic others drive, n_pedestrians walk; nobody
    leaves the city. Deterministic. ValueError: unknown place, invalid numbers, or a system library that SUMO needs is
    missing (the message says how to install it).
    """
    return _as_log(place, seed, _sumo(place, seed, seconds, n_cars, n_traffic, n_pedestrians, 0.0, car))


@dataclass(frozen=True)
class PlantedEvent:
    """A planted event that took place (as defined in `fleet.sumo.planting`): kind, t s on the log's clock, and the
    log's rows of the recording car and of who caused it (the car itself if nobody else did)."""

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
    """`run_city` with planted events in place of its usual surprises: the log, and all events by time.

    per_hour: events scheduled per recording car and hour; fewer take place. Errors as `run_city`.
    """
    require(per_hour > 0, f"run_planted: per_hour must be > 0, got {per_hour}")
    raw = _sumo(place, seed, seconds, n_cars, n_traffic, n_pedestrians, per_hour, CAR.size)
    rows = zip(raw["planted_kind"].tolist(), raw["planted"].tolist(), strict=True)
    events = [PlantedEvent(kind, step * DT, car, who) for kind, (step, car, who) in rows]
    return _as_log(place, seed, raw), events


def _sumo(
    place: str,
    seed: int,
    seconds: float,
    n_cars: int,
    n_traffic: int,
    n_pedestrians: int,
    planted: float,
    car: tuple[float, float, float],
) -> dict[str, np.ndarray]:
    """Arrays that SUMO's process writes."""
    require(seconds >= 1 and n_cars >= 1, f"run_city: {seconds} s with {n_cars} cars; must be at least 1 s and one car")
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
            str(path),
            seed,
            steps,
            n_cars,
            n_traffic,
            n_pedestrians,
            links,
            net.road,
            net.lane,
            car=car,
            planted=planted,
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
    """Convert SUMO's front bumpers and compass angles to smoothed box centres and yaw."""
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
            )  # SUMO positions vehicles by their front bumper, people by their centre
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
    """Smooth centres (T, 2) and unwrapped yaw (T,) to (T, 4) x, y, yaw, speed, the speed of the smoothed centre."""
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
    # odd reflection preserves the ends and their speed
    return np.convolve(np.pad(values, reach, mode="reflect", reflect_type="odd"), k / k.sum(), "valid")


def _runs(valid: np.ndarray) -> list[tuple[int, int]]:
    """Runs [first, end) in which a row is valid."""
    edge = np.flatnonzero(np.diff(np.concatenate([[0], valid.astype(np.int8), [0]])))
    return list(zip(edge[::2].tolist(), edge[1::2].tolist(), strict=True))

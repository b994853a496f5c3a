"""A drive small enough for a test, with every field filled in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from drivefoundry_car.log import Drive, Objects, Plans, Video, encode_video
from loop import environment, run
from station import Station, make_works

# How long a test takes depends on the machine and what else runs there.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def straight_drive(steps: int = 300, seed: int = 0, frames: bool = False, **meta: str) -> Drive:
    """A car that drives east at 10 m/s with another 30 m ahead and a pedestrian far away. Video only if requested."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps) * 0.1
    ego = np.zeros((steps, 7))
    ego[:, 0], ego[:, 3] = 10 * t, 10
    ego[:, 6] = rng.normal(0, 0.01, steps)
    states = np.zeros((2, steps, 4), np.float32)
    states[0, :, 0], states[0, :, 3] = 10 * t + 30, 10
    states[1, :, :2] = 500, 500
    size = np.array([[4.6, 1.9, 1.6], [0.6, 0.6, 1.8]], np.float32)
    objects = Objects(np.array([7, 9]), np.array([0, 2]), size, states, np.ones((2, steps), bool))
    decided = t[::5]
    points = np.zeros((len(decided), 8, 3), np.float32)
    points[:, :, 0] = 5 * np.arange(1, 9)
    video = moving_video(steps, seed) if frames else None
    name = {"vehicle": "car-1", "drive": f"drive-{seed}", "source": "test", "place": "test-0", "map": "m" * 64}
    return Drive(
        meta={**name, **meta},
        t=t,
        ego=ego,
        video=video,
        route=np.column_stack([np.arange(0, 400, 2.0), np.zeros(200), np.full(200, 13.9)]),
        objects=objects,
        signal_id=np.array([3, 5]),
        signal_state=np.repeat(np.array([[3], [1]], np.uint8), steps, axis=1),
        engaged=np.ones(steps, bool),
        takeover=np.zeros(steps, bool),
        plan=Plans(decided, points, ["keep the lane"] * len(decided)),
        correction=Plans(decided, points.copy(), [""] * len(decided)),
        notes={"signals": "made up"},
    )


def moving_video(steps: int, seed: int = 0) -> Video:
    """A bright bar that moves over a grey ramp: 160x64 px at 10 Hz."""
    ramp = np.repeat(np.linspace(40, 160, 64).astype(np.uint8)[:, None], 160, axis=1)
    frames = np.repeat(ramp[None, :, :, None], steps, axis=0).repeat(3, axis=3)
    for i in range(steps):
        at = (3 * i + 17 * seed) % 140
        frames[i, 20:50, at : at + 20] = (220, 60, 30)
    return encode_video(frames, np.arange(steps) * 0.1, (95.3, 95.3, 80.0, 28.0), (1.0, 0.0, 1.5, 0.0))


@pytest.fixture(scope="session")
def make_drive() -> Callable[..., Drive]:
    return straight_drive


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint directory of a small trained student."""
    from student import make_student  # here, for it imports torch

    return make_student(tmp_path_factory.mktemp("student") / "checkpoint")


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the loop from start to end, once for all tests; those that modify it use a copy."""
    out = tmp_path_factory.mktemp("line") / "run"
    done = run(out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def ran_again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run elsewhere, beside a busy process; run.json beside it lists the functions that ran (`traced`)."""
    out = tmp_path_factory.mktemp("again") / "run"
    command = [sys.executable, str(Path(__file__).with_name("traced.py")), str(out), str(out.with_suffix(".json"))]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def works(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release repository with the release 'turn-1', for the daemon's tests."""
    made = make_works(tmp_path_factory.mktemp("works"), student)
    Station(made, made).publish("turn-1")
    return made


@pytest.fixture
def station(works: Path, tmp_path: Path) -> Station:
    """A car without a release."""
    return Station(tmp_path, works)

"""Self-test of a release: its engine must load and reproduce the recorded outputs.

`self_test` runs in a separate process with a time limit, so that an engine that crashes or hangs fails the test without
taking the car's software down. `python -m drivefoundry_car.update.selftest ENGINE` is that process.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from drivefoundry_car import arrays
from drivefoundry_car.durable import PUBLIC, replacing

SELF_TEST = "selftest.safetensors"
"""Recorded inputs and outputs beside the engine's files: frames of each camera, ego, route, points."""
SELF_TEST_M = 0.1
"""Tolerance between an output and the recorded one, m."""
LIMIT_S = 120.0
"""Time limit of one self-test, s. A healthy engine takes a few seconds."""
FAILED, UNFINISHED = 3, 4
"""Exit status of the test process: the engine failed, or the test could not be completed."""
STOPPED = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE}
"""Signals from outside: from whoever stops the car's software, or from a kernel out of memory."""


SHOWN = "frames."
Frames = Mapping[str, np.ndarray]


class Unfinished(Exception):
    """The self-test was not completed, which says nothing about the release."""


class Testable(Protocol):
    """The part of an engine that the self-test needs; shapes as in `runtime.Model`."""

    def plan(self, frames: Frames, ego: np.ndarray, route: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


def record_self_test(engine: Testable, path: Path, frames: Frames, ego: np.ndarray, route: np.ndarray) -> None:
    """Run the engine on a few fixed inputs and store its outputs in its directory, for the self-test in every car.

    Inputs as for `Engine.plan`; path is the engine's directory.
    """
    points, _ = engine.plan(frames, ego, route)
    with replacing(path / SELF_TEST, mode=PUBLIC) as file:
        shown = {f"{SHOWN}{name}": f for name, f in frames.items()}
        file.write(arrays.to_bytes({**shown, "ego": ego, "route": route, "points": points}))


def self_test(path: Path, limit_s: float = LIMIT_S) -> None:
    """Test an engine directory in a separate process.

    ValueError if the engine is at fault: it does not load, gives different outputs, crashes, or takes longer than
    limit_s. Unfinished if the test was stopped from outside or the machine had no memory or disk for it.
    """
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", __name__, str(path)], capture_output=True, text=True, timeout=limit_s
        )
    except subprocess.TimeoutExpired as e:
        raise ValueError(f"{path}: gave no answer within {limit_s:g} s") from e
    said = next((line for line in reversed(f"{ended.stderr}\n{ended.stdout}".splitlines()) if line.strip()), "")
    if ended.returncode == FAILED:
        raise ValueError(said)
    if ended.returncode < 0 and -ended.returncode not in STOPPED:
        raise ValueError(f"{path}: the engine crashed (signal {-ended.returncode})")
    if ended.returncode < 0:
        raise Unfinished(f"stopped by signal {-ended.returncode}")
    if ended.returncode:
        raise Unfinished(said or f"exit status {ended.returncode}")


def test_here(path: Path) -> None:
    """Test an engine directory in this process. ValueError unless it loads and reproduces its recorded outputs, if any.

    Up to a quarter of the outputs may differ: another CPU may round a near tie between two codes differently.
    """
    from drivefoundry_car.engine import Engine

    engine = Engine(path)
    if not (path / SELF_TEST).exists():
        return
    names = ("ego", "route", "points")
    kept = arrays.read(path / SELF_TEST, names, "record the self-test again")
    ego, route, want = (kept[name] for name in names)
    frames = {k.removeprefix(SHOWN): f for k, f in kept.items() if k.startswith(SHOWN)}
    points, _ = engine.plan(frames, ego, route)
    if points.shape != want.shape or not np.isfinite(points).all():
        raise ValueError(f"{path}: the answer to the recorded input has shape {points.shape} or is not finite")
    off = np.abs(points[..., :2] - want[..., :2]).max((1, 2)) > SELF_TEST_M
    if off.sum() > len(off) // 4:
        raise ValueError(f"{path}: {off.sum()} of {len(off)} answers differ from the recorded by > {SELF_TEST_M} m")


def main(path: str) -> int:
    """Main function of the test process: exit status 0, FAILED or UNFINISHED; the last line on stderr is the reason."""
    try:
        test_here(Path(path))
    except ValueError as e:
        print(" ".join(str(e).split()), file=sys.stderr)
        return FAILED
    except (MemoryError, OSError) as e:
        print(f"{type(e).__name__}: {' '.join(str(e).split())}", file=sys.stderr)
        return UNFINISHED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

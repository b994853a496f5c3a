"""The smallest loop in which every part works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SETTINGS = (
    "fleet.cars=3 fleet.seconds=40 fleet.held_out_seconds=40 fleet.traffic=20 fleet.pedestrians=8 fleet.outings=4 "
    "fleet.outing_seconds=8 pretrain.steps=6 pretrain.batch=16 sft.steps=3 sft.turn_steps=3 sft.batch=16 rl.steps=1 "
    "rl.states=4 rl.samples=4 distil.steps=4 distil.turn_steps=3 distil.batch=16 judge.scenes=4 judge.seconds=8"
)
SMALL = ["--recipe", "tiny", *(word for setting in SETTINGS.split() for word in ("--set", setting))]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def run(out: Path, *argv: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a separate process."""
    command = [sys.executable, "-m", "drivefoundry", "run", "--out", str(out), *SMALL, *argv]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=250, check=False)

"""Shared parts of the daemon's tests: a car with a signed release, its configuration, and the daemon as a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drivefoundry.judge.gate import Gate, judge, save_verdict
from drivefoundry.quantize.export import export_engine
from drivefoundry.release import create_repository, publish
from situation import EAST, situation, straight
from student import BODY, TINY, samples

HEIGHT, WIDTH = TINY.image
CAMPAIGNS = """
[moving]
rule = "(engaged and speed > 2 m/s) for 0.5 s"
priority = 50
cooldown_s = 60.0
before_s = 1.0
after_s = 1.0
"""


def scene():
    """A car that drives east at 8 m/s towards a green light, with another one 40 m ahead."""
    return situation(straight(-60.0, EAST, 0.0, 8.0), [(0, straight(-20.0, EAST, 0.0, 8.0))])


@dataclass
class Station:
    """folder: of the car; works: with repository, keys, engine and verdict, which stations share."""

    folder: Path
    works: Path

    def publish(self, name: str) -> str:
        """Publish the engine as a release; its id."""
        return publish(self.works / "repo", self.works / "keys", self.engine, self.works / "verdict.json", name).id

    @property
    def engine(self) -> Path:
        return self.works / "engine"

    @property
    def config(self) -> Path:
        return self.folder / "car.toml"

    @property
    def socket(self) -> Path:
        return self.folder / "bus"

    def configure(self, *, upload: str = "", form: str = "rgb", **driving: Any) -> Path:
        """Write the configuration; upload: the table [upload]; form: of the camera."""
        view = BODY.cameras[0]
        lens = [view.fx, view.fy, view.cx, view.cy]
        mount = [view.x, view.y, view.z, view.pitch]
        driving = {"lockstep": True, "deadline_s": 20.0, "embodiment": "vehicle.json", **driving}
        driving = {"slots": "slots", "root": "root.json", **driving}
        settings = "\n".join(f"{name} = {json.dumps(value)}" for name, value in driving.items())
        (self.folder / "vehicle.json").write_text(json.dumps(BODY.to_dict()))
        (self.folder / "campaigns.toml").write_text(CAMPAIGNS)
        shutil.copy(self.works / "repo" / "metadata" / "1.root.json", self.folder / "root.json")
        self.config.write_text(
            f'vehicle = "car-7"\nsocket = "bus"\nstatus = "status.json"\n'
            f"[cameras.front]\nwidth = {WIDTH}\nheight = {HEIGHT}\nintrinsics = {lens}\nmount = {mount}\n"
            f"format = '{form}'\n"
            f"[driving]\n{settings}\n"
            f"[recording]\nspool = 'spool'\ncampaigns = '{self.folder}/campaigns.toml'\n"
            f"[update]\nsource = '{self.works / 'repo'}'\nmetadata = 'tuf'\n{upload}"
        )
        return self.config

    def status(self) -> dict[str, Any]:
        """The daemon's last report, {} before the first."""
        try:
            return json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {}

    def until(self, holds: Callable[[dict[str, Any]], object], seconds: float = 120.0) -> dict[str, Any]:
        """Wait for a report that meets a condition."""
        end = time.monotonic() + seconds
        while not holds(said := self.status()):
            assert time.monotonic() < end, said
            time.sleep(0.05)
        return said

    @contextmanager
    def daemon(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """The daemon as a process; killed at the end if it still runs."""
        command = [sys.executable, "-m", "drivefoundry_car", str(self.config), *options]
        (self.folder / "status.json").unlink(missing_ok=True)
        with (
            (self.folder / "daemon.log").open("a") as said,
            subprocess.Popen(command, stderr=said, text=True) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def said(self) -> str:
        """Everything that the daemon and its processes have written."""
        return (self.folder / "daemon.log").read_text()


def stop(process: subprocess.Popen[str]) -> None:
    """Ask the daemon to end; it does so cleanly."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def make_works(folder: Path, student: Path) -> Path:
    """A release repository without releases, and an engine to publish."""
    frames, ego, route, _ = samples(32, seed=2)
    export_engine(student, folder / "engine", frames, ego, route)
    gate = Gate("collision", at_most=0.1)
    save_verdict(folder / "verdict.json", judge("int8", ["s1"], {"int8": {"collision": np.zeros(1)}}, (gate,)))
    create_repository(folder / "repo", folder / "keys")
    return folder


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

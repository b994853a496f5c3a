"""A second vehicle, described in one file, through the whole line to a release that it boots and drives with."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drivefoundry.runs.named import newest
from drivefoundry.sim.drive import drive
from drivefoundry.sim.policies import CarPolicy
from drivefoundry_car.driving.runtime import Runtime
from drivefoundry_car.update.slots import Slots
from drivefoundry_car.vehicle.embodiment import CAR, CameraSpec
from loop import run
from situation import EAST, situation, straight

VAN = replace(
    CAR, name="van", length=5.9, width=2.1, height=2.5, wheelbase=3.6, rear_axle=1.7, decision_dt=0.2, frame_dt=0.4,
    history_dt=0.4, limits=replace(CAR.limits, accel_min=-6.0, curvature_max=0.15),
    cameras=(CameraSpec(x=1.8, z=2.1), CameraSpec(96, 32, 34.0, 34.0, 48.0, 14.0, x=1.8, z=2.1, name="wide")),
)  # fmt: skip
"""Longer than the car, a narrow and a wide camera of different sizes, decisions at 5 Hz."""


def test_another_vehicle_comes_through_the_line_to_a_release_that_it_drives(tmp_path):
    file = tmp_path / "van.json"
    file.write_text(json.dumps(VAN.to_dict()))
    done = run(tmp_path / "run", "--set", f"embodiment={file}")
    assert done.returncode == 0, done.stderr
    engine: Path = tmp_path / "run" / "engine"
    with pytest.raises(ValueError, match=r"made for 'van', this vehicle is 'car' \(name is van, not car\)"):
        Runtime.load(engine, vehicle=CAR)
    shutil.copytree(newest(tmp_path / "run", "car", "run").path, tmp_path / "car", symlinks=True)
    shipped = (tmp_path / "run" / "releases" / "latest" / "root.json").read_bytes()
    slot = Slots(tmp_path / "car" / "slots", root=shipped).boot().engine
    policy = CarPolicy(Runtime.load(slot, reason_every=0, vehicle=VAN, patient=True), "van")
    rollout = drive(policy, [situation(straight(-60.0, EAST, 0.0, 8.0))], 4.0)
    assert rollout.plans.shape == (1, 20, 8, 3), "4 s at 5 Hz"
    assert np.isfinite(rollout.plans).all()
    assert rollout.ego[..., 4].min() >= VAN.limits.accel_min
    assert policy.runtime.counts.stopped == 0

"""A new sensor, a new camera, a new policy and a new vehicle are each added from outside, and judged as any other."""

import json
from dataclasses import replace

import numpy as np
import pytest

import drivefoundry as df
from drivefoundry import embodiments
from drivefoundry.sim.drive import drive
from drivefoundry.sim.world import World, with_traffic
from drivefoundry.types import AGENT_CAR, Plan
from drivefoundry_car.vehicle.embodiment import CAR, CameraSpec
from situation import EAST, situation, straight

REAR = CameraSpec(96, 32, 34.0, 34.0, 48.0, 14.0, name="rear", yaw=np.pi)


def scenes():
    others = [(AGENT_CAR, straight(-20.0, EAST, 0.0, 0.0))]
    return [
        situation(straight(-60.0, EAST, 0.0, 8.0), others, name="blocked"),
        situation(straight(-60.0, EAST, 0.0, 8.0), name="free"),
    ]


def straight_on(speed):
    points = np.zeros((len(speed), 8, 3))
    points[..., 0] = speed[:, None] * 0.5 * np.arange(1, 9)
    return Plan(points)


class Radar:
    """Metres to the nearest object straight ahead, inf if there is none: the mean of the last three steps."""

    def __init__(self, simulator, body):
        self.simulator, self.nose = simulator, body.length / 2
        self.echoes = []

    def watch(self):
        w = self.simulator
        there = w.agents[..., :2] - w.ego[:, None, :2]
        c, s = np.cos(w.ego[:, None, 2]), np.sin(w.ego[:, None, 2])
        along, across = c * there[..., 0] + s * there[..., 1], c * there[..., 1] - s * there[..., 0]
        hit = w.seen & (along > 0) & (np.abs(across) < 1.0)
        self.echoes.append(np.where(hit, along - self.nose - w.packed.size[..., 0] / 2, np.inf).min(1))

    def read(self):
        return np.mean(self.echoes[-3:], 0)


class RadarDriver:
    """A new policy with a sensor of its own: drives at 8 m/s and brakes for echoes within 25 m."""

    name = "radar driver"
    sensors = {"radar": Radar}  # noqa: RUF012

    def reset(self, scenes):
        self.heard = []

    def act(self, observation):
        self.heard.append(observation.readings["radar"])
        return straight_on(np.where(self.heard[-1] < 25.0, 0.0, 8.0))


class Painter:
    """A new policy for a vehicle with a camera of its own: keeps what it sees."""

    name = "painter"
    embodiment = replace(
        CAR, cameras=(*CAR.cameras, CameraSpec(96, 32, 34.0, 34.0, 48.0, 14.0, name="rear", yaw=np.pi))
    )

    def reset(self, scenes):
        self.seen = []

    def act(self, observation):
        self.seen.append(observation.frames)
        return straight_on(observation.ego[:, -1, 0])


def test_a_policy_with_its_own_sensor_is_judged():
    radar = RadarDriver()
    judged = df.evaluate(radar, scenes(), seconds=8.0, two_stages=False)
    assert judged.scores["collision"].tolist() == [0.0, 0.0]
    assert np.isinf([heard[1] for heard in radar.heard]).all()
    gaps = np.array([heard[0] for heard in radar.heard])
    assert gaps[0] > 35.0
    assert 3.0 < gaps[-1] < 25.0


def test_a_camera_is_added_by_describing_it():
    painter = Painter()
    drive(painter, scenes(), 1.0)
    front, rear = painter.seen[0]["front"], painter.seen[0]["rear"]
    assert rear.shape == (2, 2, 32, 96, 3)
    assert not np.array_equal(front[0], front[1]), "a car stands ahead in the first scene"
    np.testing.assert_array_equal(rear[0], rear[1], "nothing differs behind")


def test_a_vehicle_is_one_file(tmp_path):
    """The whole line takes it as a recipe's `embodiment`: test_second_vehicle."""
    file = tmp_path / "bus.json"
    bus = replace(CAR, name="bus", length=11.0, wheelbase=6.0, decision_dt=0.2, frame_dt=0.4)
    file.write_text(json.dumps(bus.to_dict()))
    bus = embodiments.named(str(file))
    rollout = drive(Painter(), scenes(), 2.0, body=bus)
    assert rollout.plans.shape[1] == 10
    assert drive(Painter(), scenes(), 2.0).plans.shape[1] == 4


class Fog(World):
    """Another simulator behind the same protocol: frames come from elsewhere, here a grey wall."""

    def cameras(self, body):
        return Wall(self, body)


class Wall:
    def __init__(self, simulator, body):
        self.simulator, self.body = simulator, body

    def watch(self):
        pass

    def look(self):
        n = len(self.simulator.ego)
        return {c.name: np.full((n, c.height, c.width, 3), 127, np.uint8) for c in self.body.cameras}

    def read(self):
        return {name: np.stack([shown, shown], 1) for name, shown in self.look().items()}


def test_another_simulator_brings_its_own_frames():
    painter = Painter()
    made = with_traffic("reactive")
    rollout = drive(painter, scenes(), 2.0, simulator=lambda s: Fog(made(s).packed))
    assert {int(v) for shown in painter.seen for frames in shown.values() for v in np.unique(frames)} == {127}
    np.testing.assert_array_equal(rollout.ego, drive(Painter(), scenes(), 2.0).ego)


def test_a_sensor_that_is_not_there_is_missed_at_once():
    class Blind(RadarDriver):
        sensors = {}  # noqa: RUF012

    with pytest.raises(KeyError, match="radar"):
        drive(Blind(), scenes(), 1.0)

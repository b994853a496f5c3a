"""One drive at a time: clocks, stops and recovery, with a real engine in a simulated scene."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from drivefoundry.sim.adapters.vehicle import SimulatedVehicle
from drivefoundry.sim.drive import drive
from drivefoundry.sim.policies import CarPolicy
from drivefoundry_car.daemon.config import load
from drivefoundry_car.daemon.session import Session
from drivefoundry_car.driving.runtime import Runtime
from drivefoundry_car.log import channels, read_drive
from drivefoundry_car.log.channels import FRONT
from drivefoundry_car.triggers import load_campaigns
from drivefoundry_car.upload.collector import Collector
from station import scene
from student import BODY

PICTURE = channels.camera(FRONT)


@pytest.fixture
def car(station):
    """A session with the station's engine, and the vehicle it drives."""
    runtime = Runtime.load(station.engine, reason_every=0, deadline_s=20.0)
    yield Session(load(station.configure()), runtime, None), SimulatedVehicle(scene(), BODY)
    runtime.close()


def driven(session, vehicle, steps, tamper=lambda k, messages: messages):
    """Drive for `steps`; returns the controls of each. tamper: changes a step's messages."""
    if vehicle.world.step == 0:
        for message in vehicle.past():
            session.take(message)
    said = []
    for k in range(steps):
        answers = [a for m in tamper(k, vehicle.now()) for a in session.take(m)]
        (controls,) = [json.loads(a.data) for a in answers if a.topic == "/controls"]
        said.append(controls)
        vehicle.step(controls["acceleration"], controls["curvature"])
    return said


def stops(said):
    return [c["stopped"] for c in said]


def test_the_car_drives_as_the_judge_saw_it_drive(car):
    session, vehicle = car
    path = [vehicle.world.ego[0].copy()]
    for _ in range(40):
        driven(session, vehicle, 1)
        path.append(vehicle.world.ego[0].copy())
    policy = CarPolicy(Runtime(session.dog.runtime.engine, patient=True), "judged")
    rollout = drive(policy, [scene()], 4.0, body=BODY)
    np.testing.assert_allclose(np.stack(path), rollout.ego[0, :41], rtol=0, atol=1e-3)
    assert path[-1][0] > path[0][0] + 5.0
    assert session.dog.runtime.counts.decisions == 8
    assert session.dog.runtime.counts.stopped == 0


def test_a_lost_camera_stops_the_car_and_its_return_frees_it(car):
    session, vehicle = car
    said = driven(session, vehicle, 45, lambda k, m: [x for x in m if x.topic != PICTURE or not 11 <= k < 33])
    assert not any(stops(said[:20]))
    assert all(stops(said[24:34]))  # the plan of step 10 is 1.25 s old after step 22
    assert not any(stops(said[41:]))
    clock = session.eyes[FRONT].clock
    assert (clock.missing, clock.late, clock.out_of_order) == (4 + 22, 0, 0)  # 4 before the start
    assert session.dog.expired == 1


def test_late_and_out_of_order_frames_are_left_out_and_counted(car):
    session, vehicle = car
    held = []

    def late(k, messages):
        """Pictures come 0.3 s to 0.4 s late; every fifth one twice."""
        held.extend(m for m in messages if m.topic == PICTURE)
        given = [held.pop(0)] if len(held) > 4 else []
        return given + (given if k % 5 == 0 else []) + [m for m in messages if m.topic != PICTURE]

    said = driven(session, vehicle, 30, late)
    clock = session.eyes[FRONT].clock
    assert (clock.late, clock.frames) == (26, 1)  # one before the start
    assert clock.out_of_order == 5
    assert all(stops(said))
    assert session.dog.runtime.counts.decisions == 0
    assert vehicle.world.ego[0, 3] == 0.0


def test_an_engine_that_stops_answering_stops_the_car(station):
    runtime = Runtime.load(station.engine, reason_every=0, deadline_s=0.05)
    answers, plan = threading.Event(), runtime.engine.plan

    def hangs(*inputs):
        answers.wait(30.0)
        return plan(*inputs)

    answers.set()
    session, vehicle = Session(load(station.configure()), runtime, None), SimulatedVehicle(scene(), BODY)
    runtime.deadline_s = 20.0
    assert not any(stops(driven(session, vehicle, 10)))
    assert session.driven_s == pytest.approx(2.4)
    runtime.engine.plan = hangs
    answers.clear()
    runtime.deadline_s = 0.05
    said = driven(session, vehicle, 30)
    assert all(stops(said))
    assert min(c["acceleration"] for c in said) < -3.0
    assert vehicle.world.ego[0, 3] < 0.1
    assert runtime.counts.planner_late == 6
    assert session.driven_s < 1.0  # a fault of the release: its health is counted again
    answers.set()
    runtime.deadline_s = 20.0
    assert not any(stops(driven(session, vehicle, 12)[5:]))
    runtime.close()


def test_unreadable_bus_messages_are_counted_and_change_nothing(car):
    session, vehicle = car

    def broken(k, messages):
        wrong = [(channels.STATE, b"{}"), (channels.ROUTE, b"["), (channels.OBJECTS, b"\xff"), (PICTURE, b"\xff")]
        first = messages[0]
        return [type(first)(topic, first.ns - 50_000_000, data) for topic, data in wrong] + messages

    said = driven(session, vehicle, 12, broken)
    assert not any(stops(said))
    assert session.state.bad == 36
    assert session.eyes[FRONT].damaged == 12


def test_clips_hold_what_the_car_saw_and_planned(station):
    config = load(station.configure())
    runtime = Runtime.load(station.engine, reason_every=0, deadline_s=20.0)
    cameras = {name: c.camera() for name, c in config.cameras.items()}
    collector = Collector(station.folder / "spool", cameras, load_campaigns(config.recording.campaigns), {"drive": "d"})
    session, vehicle = Session(config, runtime, collector), SimulatedVehicle(scene(), BODY)
    driven(session, vehicle, 20)
    session.close()
    runtime.close()
    (queued,) = collector.outbox.waiting()
    clip = read_drive(queued.file)
    assert clip.meta["campaign"] == "moving"
    assert clip.video is not None and len(clip.video.packets) > 0  # noqa: PT018
    assert clip.plan is not None
    np.testing.assert_allclose(clip.plan.t, [1.5, 2.0, 2.5], atol=1e-6)
    assert clip.engaged is not None and clip.objects is not None  # noqa: PT018
    assert (clip.objects.track == 1).all()

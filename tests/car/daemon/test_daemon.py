"""The daemon as a process: from a signed release to an uploaded clip, through every kind of failure on the way."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack

import numpy as np
import pytest

from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest.access.tokens import issue_token
from drivefoundry.ingest.server import running
from drivefoundry.sim.adapters.vehicle import SimulatedVehicle
from drivefoundry_car.daemon.playback import play
from drivefoundry_car.log import Drive, encode_video, read_drive
from drivefoundry_car.update.client import Updater
from station import alive, scene, stop
from student import BODY

SECRET = "0123456789abcdef" * 4


class Acting(SimulatedVehicle):
    """A vehicle that acts at some of its steps, with access to its end of the bus."""

    def __init__(self, acts):
        super().__init__(scene(), BODY)
        self._acts = acts

    def _greet(self, vehicle):
        super()._greet(vehicle)
        self._end = vehicle

    def now(self):
        if self.world.step in self._acts:
            self._acts[self.world.step](self._end)
        return super().now()

    def rejoin(self, end):
        """Wait for a daemon to connect."""
        assert end.accept(60.0)
        self._greet(end)


def installed(station) -> Updater:
    """The station's release in its slots."""
    station.configure()
    root = (station.folder / "root.json").read_bytes()
    updater = Updater(station.folder / "tuf", station.folder / "slots", station.works / "repo", root, vehicle="car-7")
    assert updater.update() is not None
    return updater


def clips(station) -> list[Drive]:
    """The clips waiting in the car, by time."""
    return sorted((read_drive(p) for p in (station.folder / "spool" / "queue").glob("*.mcap")), key=lambda d: d.t[0])


def test_a_signed_release_drives_and_its_clip_is_uploaded_though_the_uploader_is_killed(station, tmp_path):
    store = ClipStore(tmp_path / "store")
    with running(store, SECRET) as service:
        token = issue_token(SECRET, "car-7")
        (tmp_path / "credential.json").write_text(json.dumps({"token": token, "refresh": "r", "vehicle": "car-7"}))
        station.configure(upload=f"[upload]\nserver = '{service.url}'\ncredential = 'credential.json'\nevery_s = 0.2\n")
        with station.daemon() as process:
            said = station.until(lambda s: s.get("phase") == "waiting for the vehicle")
            first = said["processes"]["uploader"]["pid"]
            os.kill(first, signal.SIGKILL)
            driven = SimulatedVehicle(scene(), BODY).drive(station.socket, 4.0)
            assert driven.answered.all()
            assert not driven.stopped.any()
            said = station.until(lambda s: s.get("recording", {}).get("queued") == 1 and s["waiting"] == 0)
            assert said["processes"]["uploader"]["restarts"] == 1
            assert said["processes"]["uploader"]["last_status"] == -signal.SIGKILL
            assert said["driving"]["decisions"] == 8
            assert said["cameras"]["front"]["frames"] == 41  # one of them from before the start
            assert said["drive"] == "situation"
            second = said["processes"]["uploader"]["pid"]
            stop(process)
        assert not alive(second)
        service.flush()
        (row,) = store.rows(["vehicle", "t0", "duration"]).to_pylist()
    assert row["vehicle"] == "car-7"
    assert row["t0"] == pytest.approx(1.0, abs=0.15)  # the rule fires 0.5 s after the start, which is at 1.5 s
    assert station.status()["phase"] == "ended"
    assert json.loads((station.folder / "slots" / "releases.json").read_text())[said["release"]]["boots"] == 0


def test_a_daemon_that_is_killed_in_a_drive_loses_no_clip_and_the_next_one_drives_on(station):
    installed(station)
    with ExitStack() as lives:
        first = lives.enter_context(station.daemon())
        second = []

        def kill(_):
            station.until(lambda _: any((station.folder / "spool").rglob("*.mcap")))
            first.kill()
            first.wait()

        def again(end):
            second.append(lives.enter_context(station.daemon()))
            vehicle.rejoin(end)

        vehicle = Acting({22: kill, 28: again})  # the clip around the firing at 2.0 s is whole, and perhaps queued
        driven = vehicle.drive(station.socket, 8.0)
        station.until(lambda s: s["phase"] == "waiting for the vehicle" and s.get("drive"))
        stop(second[0])
    assert driven.answered[:22].all()
    assert not driven.answered[22:28].any()  # the vehicle brakes on its own
    assert driven.answered[28:].all()
    (clip,) = clips(station)
    assert clip.meta["campaign"] == "moving"
    assert clip.t[0] == pytest.approx(1.0, abs=0.15)
    assert clip.t[-1] == pytest.approx(3.0, abs=0.15)
    (record,) = json.loads((station.folder / "slots" / "releases.json").read_text()).values()
    assert record["boots"] == 0  # the second life ended in order


def test_a_vehicle_that_closes_the_socket_is_found_again_in_the_same_drive(station):
    installed(station)

    def hang_up(end):
        end.hang_up()
        vehicle.rejoin(end)

    vehicle = Acting({10: hang_up})
    with station.daemon("--once") as process:
        driven = vehicle.drive(station.socket, 4.0)
        assert process.wait(60) == 0
    assert driven.answered.all()
    said = station.status()
    assert said["drive"] == "situation"
    assert said["driving"]["decisions"] == 8
    assert "the connection was closed; connecting again" in station.said()
    assert station.said().count("drive situation begins") == 1


def test_a_damaged_release_gives_way_to_the_one_before(station, works):
    updater = installed(station)
    first = updater.slots.current().release
    frames = works / "engine" / "note.txt"
    frames.write_text("another release")
    second = station.publish("turn-2")
    assert updater.update().release == second
    weights = max((p for p in updater.slots.current().engine.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    station.configure(reason_every=0)
    config = station.config.read_text()
    station.config.write_text(config[: config.index("[update]")])  # the updater would repair the slot
    with station.daemon("--once") as process:
        driven = SimulatedVehicle(scene(), BODY).drive(station.socket, 1.0)
        assert process.wait(60) == 0
    assert driven.answered.all()
    assert station.status()["release"] == first
    (report,) = [r for r in updater.slots.health().reports if r.release == second]
    assert report.what == "fell back"


def test_a_recording_is_driven_again_and_its_video_recorded_to_the_bit(station, make_drive):
    installed(station)
    station.configure(form="h264", reason_every=0)
    source = make_drive(steps=60)
    rng = np.random.default_rng(0)
    view = BODY.cameras[0]
    frames = np.cumsum(rng.integers(0, 9, (60, view.height, view.width, 3)), 0).astype(np.uint8)
    lens, mount = (view.fx, view.fy, view.cx, view.cy), (view.x, view.y, view.z, view.pitch)
    source = Drive(**{**vars(source), "video": encode_video(frames, source.t, lens, mount)})
    with station.daemon("--once") as process:
        said = play(source, station.socket)
        assert process.wait(60) == 0
    assert len(said) == 60
    assert all(c["stopped"] for c in said[:5])  # no two pictures half a second apart yet
    assert not any(c["stopped"] for c in said[6:])
    (clip,) = clips(station)
    assert clip.video is not None
    begin = int(np.searchsorted(source.video.t, clip.video.t[0] - 1e-6))
    assert len(clip.video.packets) >= 10
    assert clip.video.packets == source.video.packets[begin : begin + len(clip.video.packets)]

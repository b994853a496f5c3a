"""Firings are recorded, and recordings queued by value; a tick never waits for either."""

from __future__ import annotations

import json
import socket
import threading
from datetime import date

import numpy as np
import pytest

from drivefoundry_car import log
from drivefoundry_car.log.channels import Camera
from drivefoundry_car.recording.recent import Moment, moments
from drivefoundry_car.recording.recorder import Recorder
from drivefoundry_car.triggers import LIBRARY, campaign, firings, load_campaigns
from drivefoundry_car.triggers.signals import SignalSource, signals_of
from drivefoundry_car.upload import collector as module
from drivefoundry_car.upload.collector import Collector
from drivefoundry_car.upload.link import Link, UploadWindow
from drivefoundry_car.upload.outbox import LAST, Note, Outbox
from drivefoundry_car.upload.uploader import Uploader, UploadLimits

BRAKE = campaign(
    "brake", {"rule": "accel < -4 m/s^2 for 0.3 s", "priority": 60, "cooldown_s": 3.0, "before_s": 4.0,
              "after_s": 2.0, "bytes_per_day": 1000},
)  # fmt: skip
SIDE = Camera(64, 48, (50.0, 50.0, 32.0, 24.0), (0.0, 0.9, 1.2, 0.1), yaw=1.57)


def braking(make_drive, *at: float, **meta: str):
    """30 s in which the car brakes hard for half a second at each of the given times."""
    drive = make_drive(steps=300, **meta)
    for begin in at:
        drive.ego[round(begin * 10) : round(begin * 10) + 6, 4] = -6.0
    return drive


def driven(collector: Collector, drive) -> list[tuple[str, float]]:
    """Push a whole drive, faster than real time; returns the firings."""
    fired = []
    for now in moments(drive):
        fired += [(f.campaign, f.t) for f in collector.tick(now)]
        collector.recorder.settle()
    return fired


def queued(box: Outbox):
    return [(log.read_drive(q.file), q.note) for q in box.waiting()]


def test_a_firing_becomes_a_clip_in_the_queue_with_its_campaigns_worth(make_drive, tmp_path):
    drive = braking(make_drive, 10.0, 20.0)
    with Collector(tmp_path, {"side": SIDE}, [BRAKE], drive.meta) as collector:
        for now in moments(drive):
            shade = np.full((48, 64, 3), round(8 * now.t), np.uint8)
            assert collector.tick(Moment(now.t, now.ego, route=now.route, cameras={"side": shade})) == [
                f for f in firings([BRAKE], drive) if f.t == now.t
            ]
            collector.recorder.settle()
    counts = collector.counts()
    assert (counts.fired, counts.recorded, counts.queued, counts.sent) == ({"brake": 2}, 2, 2, 0)
    assert (counts.dropped, counts.failed) == ({}, 0)
    clips = sorted(queued(collector.outbox), key=lambda c: c[0].t[0])
    assert [(c.t[0], c.t[-1]) for c, _ in clips] == [pytest.approx(w, abs=0.05) for w in ((6.3, 12.2), (16.3, 22.2))]
    assert [n for _, n in clips] == [Note("brake", 60, 1000)] * 2
    clip = clips[1][0]
    assert (clip.meta["trigger"], clip.meta["vehicle"]) == (BRAKE.rule, "car-1")
    np.testing.assert_array_equal(clip.route, drive.route)
    assert (clip.others["side"].yaw, clip.others["side"].width) == (1.57, 64)
    shown = log.decode_video(clip.others["side"])
    np.testing.assert_allclose(shown.mean((1, 2, 3)), np.round(8 * clip.others["side"].t), atol=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["queue"]


def test_what_fires_in_the_car_is_what_fires_in_the_stored_drive(make_drive, tmp_path):
    drive, rng = braking(make_drive, 8.0, 9.0), np.random.default_rng(1)
    drive.objects.states[1, :, :2] = np.column_stack([10 * drive.t + 12 - drive.t, np.linspace(-9, 9, 300)])
    drive.takeover[150:155] = True
    drive.ego[:, 5:] += rng.normal(0, 0.3, (300, 2))
    drive.correction.points[30:40, :, 1] += 4
    campaigns = [*load_campaigns(), *load_campaigns(LIBRARY)]
    campaigns = list({c.name: c for c in campaigns}.values())
    wanted = [(f.campaign, f.t) for f in firings(campaigns, drive)]
    assert len({name for name, _ in wanted}) > 5
    with Collector(tmp_path, {}, campaigns, drive.meta, signals=SignalSource([*signals_of(drive)])) as collector:
        assert driven(collector, drive) == wanted
    assert collector.lacking.keys() >= {"novel"} & {c.name for c in campaigns}
    covered = [(c.t[0], c.t[-1]) for c, _ in queued(collector.outbox)]
    of = {c.name: c for c in campaigns}
    for name, t in wanted:
        if of[name].share == 1.0:
            assert any(a - 0.05 <= t <= b + 0.05 for a, b in covered), (name, t)


@pytest.mark.parametrize(
    ("entry", "meta", "fires"),
    [
        ({"cohort": ["berlin"]}, {"groups": "test berlin"}, True),
        ({"cohort": ["berlin"]}, {"groups": "paris"}, False),
        ({"until": date(2031, 5, 3)}, {"date": "2031-05-03"}, True),
        ({"until": date(2031, 5, 3)}, {"date": "2031-05-04"}, False),
        ({"until": date(2031, 5, 3)}, {"date": "2031-05-03T23:59:59+02:00"}, True),
        ({"until": date(2031, 5, 3)}, {"date": "2031-05-03 09:30"}, True),
        ({"until": date(2031, 5, 3)}, {"date": "20310504T0010"}, False),
        ({"until": date(2031, 5, 3)}, {"date": "2031-05-04--14-55-54"}, False),
        ({"until": date(2031, 5, 3)}, {"date": "yesterday"}, True),
        ({"purpose": "recorded"}, {}, False),
        ({"share": 0.0}, {}, None),
    ],
)
def test_a_campaign_that_is_not_meant_for_this_car_today_never_fires(make_drive, tmp_path, entry, meta, fires):
    drive = braking(make_drive, 10.0, **meta)
    one = campaign("one", {"rule": "accel < -4 m/s^2", "priority": 1, **entry})
    with Collector(tmp_path, {}, [one], drive.meta) as collector:
        assert bool(driven(collector, drive)) == (fires is not False)
    assert collector.counts().recorded == collector.counts().queued == (1 if fires else 0)


def test_shares_of_the_time_and_all_of_it(make_drive, tmp_path):
    drive = make_drive(steps=500)
    every = campaign("every", {"pick": "all", "priority": 1})
    some = campaign("some", {"pick": "random", "priority": 1, "share": 0.6})
    held = {}
    for c in (every, some):
        with Collector(tmp_path / c.name, {}, [c], drive.meta) as collector:
            assert driven(collector, drive) == []
        clips = [clip for clip, _ in queued(collector.outbox)]
        assert {clip.meta["trigger"] for clip in clips} == {c.pick}
        held[c.name] = sorted(round(t * 10) for clip in clips for t in clip.t)
    assert held["every"] == list(range(500))
    stretches = {step // 200 for step in held["some"]}
    assert 0 < len(stretches) < 3
    assert held["some"] == [i for i in range(500) if i // 200 in stretches]


def test_nothing_that_earlier_lives_left_is_lost_or_queued_half_written(make_drive, tmp_path, caplog):
    drive = make_drive(steps=100)
    for name, meta in (("known", {"campaign": "brake"}), ("gone", {"campaign": "gone"})):
        log.write_drive(tmp_path / f"{name}.mcap", make_drive(steps=50, **meta))
    with Recorder(tmp_path / "other", {}, drive.meta) as recording:
        for i, t in enumerate(drive.t.tolist()):
            recording.push_ego(t, drive.ego[i])
        recording.trigger("brake", 5.0)
    (whole,) = (tmp_path / "other").iterdir()
    part = whole.read_bytes()
    (tmp_path / "cut.mcap.part").write_bytes(part[: len(part) - 200])
    (tmp_path / "empty.mcap.part").write_bytes(part[:100])
    (tmp_path / "rubbish.mcap").write_bytes(b"\x89MCAP0\r\n" + bytes(100))
    with Collector(tmp_path, {}, [BRAKE], drive.meta) as collector:
        pass
    assert collector.counts().queued == 3
    found = {(c.meta.get("campaign"), len(c.t)): n for c, n in queued(collector.outbox)}
    worth = Note("brake", 60, 1000)
    assert found == {("brake", 50): worth, ("gone", 50): Note("gone", LAST), ("brake", 100): worth}
    assert sorted(p.name for p in (tmp_path / "damaged").iterdir()) == ["empty.mcap.part", "rubbish.mcap"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged", "other", "queue"]
    said = sorted(r.getMessage() for r in caplog.records)
    assert len(said) == 3
    assert said[0] == f"{tmp_path / 'cut.mcap'}: recovered, to its last second"
    assert said[1].startswith(f"{tmp_path / 'empty.mcap.part'}: ")
    assert said[2].startswith(f"{tmp_path / 'rubbish.mcap'}: damaged MCAP")
    assert all(line.endswith(f"moved to {tmp_path / 'damaged'}") for line in said[1:])


def test_a_disk_that_is_full_is_tried_again(make_drive, tmp_path, monkeypatch, caplog):
    log.write_drive(tmp_path / "a.mcap", make_drive(steps=20, campaign="brake"))
    real, full = Outbox.put, threading.Event()

    def put(self, path, note=None):
        if not full.is_set():
            full.set()
            raise OSError(28, "No space left on device")
        return real(self, path, note)

    monkeypatch.setattr(Outbox, "put", put)
    monkeypatch.setattr(module, "RETRY_INTERVAL_S", 0.01)
    with Collector(tmp_path, {}, [BRAKE], {}) as collector:
        assert full.wait(10)
    assert collector.counts().queued == 1
    said = f"{tmp_path / 'a.mcap'}: cannot be queued yet: No space left on device; free some space"
    assert [r.getMessage() for r in caplog.records] == [said]


def test_a_service_that_does_not_answer_holds_up_no_tick(make_drive, tmp_path):
    """Ticks continue, clips are queued and closing ends while the service holds the connection without answering."""
    drive = braking(make_drive, 10.0, 20.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        uploader = Uploader(
            f"http://127.0.0.1:{deaf.getsockname()[1]}", "token", tmp_path / "queue", UploadLimits(attempts=1)
        )
        collector = Collector(tmp_path / "spool", {}, [BRAKE], drive.meta, uploader)
        driven(collector, drive)
        collector.close(leave_s=0.05)
        counts = collector.counts()
        assert (counts.recorded, counts.queued, counts.sent) == (2, 2, 0)
        assert len(uploader.outbox.waiting()) == 2
    for thread in threading.enumerate():
        if thread.name == "courier":  # what it says now is no other test's
            thread.join(60)


def test_a_closed_link_is_silent_and_an_unreachable_service_gives_one_line(make_drive, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "RETRY_INTERVAL_S", 0.01)
    drive = braking(make_drive, 10.0)
    shut = Link([UploadWindow(networks=("wifi:depot",))])
    for name, link in (("shut", shut), ("away", Link())):
        box = tmp_path / name
        uploader = Uploader("http://127.0.0.1:9", "token", box / "queue", UploadLimits(attempts=1), link=link)
        with Collector(box / "spool", {}, [BRAKE], drive.meta, uploader) as collector:
            driven(collector, drive)
            while name == "away" and not caplog.records:
                threading.Event().wait(0.01)
        assert len(uploader.outbox.waiting()) == 1
        assert len(caplog.records) == (name == "away")
    assert caplog.records[0].getMessage().startswith("http://127.0.0.1:9: gave up after 1 attempts")


def test_what_a_car_cannot_tell_is_refused(make_drive, tmp_path):
    (now, *_) = moments(make_drive(steps=2))
    with Collector(tmp_path, {"side": SIDE}, [BRAKE], {}) as collector:
        collector.tick(now)
        for late in (0.0, -1.0, np.nan):
            with pytest.raises(ValueError, match="t: must increase"):
                collector.tick(Moment(late, now.ego))
        with pytest.raises(ValueError, match=r"ego: must be \(x, y, yaw, .*\), got shape \(6,\)"):
            collector.tick(Moment(0.5, now.ego[:6]))
        with pytest.raises(ValueError, match=r"camera 'side': frame \(8, 8, 3\) of no such H.264 camera"):
            collector.tick(Moment(1.0, now.ego, cameras={"side": np.zeros((8, 8, 3), np.uint8)}))
        with pytest.raises(ValueError, match="channel 'rear': unknown"):
            collector.tick(Moment(2.0, now.ego, cameras={"rear": b"x"}))


def test_latched_values_are_sent_when_they_change(make_drive, tmp_path):
    drive = braking(make_drive, 25.0)
    drive.signal_state[1, 100:] = 3
    drive.engaged[50:] = False
    with Collector(tmp_path, {}, [BRAKE], drive.meta) as collector:
        driven(collector, drive)
    ((clip, _),) = queued(collector.outbox)
    cut = log.cut(drive, float(clip.t[0]), float(clip.t[-1]) + 0.05)
    for name in ("t", "ego", "route", "signal_id", "signal_state", "engaged", "takeover"):
        np.testing.assert_array_equal(getattr(clip, name), getattr(cut, name), err_msg=name)
    np.testing.assert_array_equal(clip.objects.states, cut.objects.states)
    np.testing.assert_array_equal(clip.plan.points, cut.plan.points)
    assert clip.plan.text == cut.plan.text
    assert json.loads(clip.meta["triggers"])[0]["campaign"] == "brake"


def test_a_clip_worth_less_than_a_full_queue_does_not_fill_the_spool_instead(make_drive, tmp_path, caplog):
    queue = Outbox(tmp_path / "queue", most_bytes=40_000)
    (tmp_path / "crash.mcap").write_bytes(bytes(39_000))
    queue.put(tmp_path / "crash.mcap", Note("crash", 99))
    log.write_drive(tmp_path / "a.mcap", make_drive(steps=50, campaign="brake"))
    uploader = Uploader(
        "http://127.0.0.1:1",
        "token",
        tmp_path / "queue",
        UploadLimits(most_bytes=40_000),
        link=Link([UploadWindow(networks=("x",))]),
    )
    with Collector(tmp_path, {}, [BRAKE], {}, uploader) as collector:
        pass
    assert (collector.counts().queued, collector.counts().evicted) == (0, 1)
    assert [q.note.campaign for q in queue.waiting()] == ["crash"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["queue"]
    said = f"{tmp_path / 'a.mcap'}: dropped: the queue's 40000 bytes are full of more valuable clips"
    assert [r.getMessage() for r in caplog.records] == [said]

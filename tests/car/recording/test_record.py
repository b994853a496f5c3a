"""Clips of a stored drive: cut by the recorder, around their triggers, and the same as in the car."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from drivefoundry_car.log import channels, read_drive
from drivefoundry_car.recording.cutter import record_drive
from drivefoundry_car.recording.recent import moments
from drivefoundry_car.recording.recorder import LONGEST_S
from drivefoundry_car.triggers import load_campaigns
from drivefoundry_car.triggers.selection import Selection
from drivefoundry_car.triggers.signals import SignalSource, signals_of
from drivefoundry_car.upload.collector import Collector

CAMPAIGNS = load_campaigns()
RULES = [c for c in CAMPAIGNS if c.pick == "firing"]


@pytest.fixture
def clips_of(tmp_path):
    """The clips of a drive, read back."""
    count = iter(range(1000))

    def record(drive, campaigns, seed=0):
        return [read_drive(path) for path in record_drive(drive, campaigns, seed, tmp_path / str(next(count)))]

    return record


def spans(clips):
    return [(round(float(c.t[0]), 1), round(float(c.t[-1]), 1)) for c in clips]


def fired(clip):
    return [(t["campaign"], t["trigger_t"]) for t in json.loads(clip.meta["triggers"])]


def test_a_clip_lies_around_its_trigger_and_holds_what_the_drive_holds(make_drive, clips_of):
    drive = make_drive(steps=600, frames=True)
    drive.takeover[300:310] = True
    (clip,) = clips_of(drive, RULES)
    assert spans([clip]) == [(18.0, 37.9)]
    told = {"campaign": "takeover", "trigger": "takeover rising", "trigger_t": "30.000", "clip_index": "0"}
    assert clip.meta == {**drive.meta, **told, "triggers": clip.meta["triggers"]}
    assert fired(clip) == [("takeover", 30.0)]
    part = slice(180, 380)
    np.testing.assert_array_equal(clip.ego, drive.ego[part])
    np.testing.assert_array_equal(clip.takeover, drive.takeover[part])
    np.testing.assert_array_equal(clip.signal_state, drive.signal_state[:, part])
    np.testing.assert_array_equal(clip.route, drive.route)
    for track, states, valid in zip(clip.objects.track, clip.objects.states, clip.objects.valid, strict=True):
        row = drive.objects.track.tolist().index(track)
        np.testing.assert_array_equal(valid, drive.objects.valid[row, part])
        np.testing.assert_allclose(states[valid], drive.objects.states[row, part][valid], atol=1e-5)
    first = int(np.searchsorted(drive.video.t, clip.video.t[0] - 1e-6))
    assert drive.video.t[first] <= 18.0, "from a key frame on"
    assert list(clip.video.packets) == drive.video.packets[first : first + len(clip.video.packets)]


def test_triggers_that_overlap_make_one_clip_of_the_highest_priority(make_drive, clips_of):
    drive = make_drive(steps=900)
    drive.ego[250:260, 4] = -5  # fires at 25.3 s: 13.3 .. 33.3 s
    drive.takeover[320:330] = True  # 20 .. 40 s
    drive.ego[700:710, 4] = -5  # fires at 70.3 s, on its own
    first, second = clips_of(drive, RULES)
    assert spans([first, second]) == [(13.3, 39.9), (58.3, 78.2)]
    assert first.meta["campaign"] == "takeover"
    assert fired(first) == [("hard_brake", 25.3), ("takeover", 32.0)]
    assert [first.meta["clip_index"], second.meta["clip_index"]] == ["0", "1"]


def test_long_events_are_cut_into_successive_clips(make_drive, clips_of):
    drive = make_drive(steps=1200)
    for at in range(150, 800, 60):
        drive.takeover[at : at + 10] = True
    clips = clips_of(drive, RULES)
    assert len(clips) > 2
    assert all(c.t[-1] - c.t[0] < LONGEST_S for c in clips)
    held = np.round(np.concatenate([c.t for c in clips]), 1)
    np.testing.assert_allclose(np.diff(held), 0.1, atol=1e-6)


def test_a_clip_at_the_start_keeps_its_length_and_one_at_the_end_ends_with_the_drive(make_drive, clips_of):
    drive = make_drive(steps=300)
    drive.takeover[20:25] = True
    assert spans(clips_of(drive, RULES)) == [(0.0, 19.9)]
    short = make_drive(steps=120)
    short.takeover[20:25] = True
    assert spans(clips_of(short, RULES)) == [(0.0, 11.9)]
    late = make_drive(steps=300)
    late.takeover[270:280] = True
    assert spans(clips_of(late, RULES)) == [(15.0, 29.9)]


def test_evaluation_covers_the_whole_drive(make_drive, clips_of):
    drive = make_drive(steps=500, purpose="evaluation")
    drive.takeover[300:310] = True
    clips = clips_of(drive, CAMPAIGNS)
    assert spans(clips) == [(0.0, 19.9), (20.0, 39.9), (40.0, 49.9)]
    assert {c.meta["campaign"] for c in clips} == {"evaluation"}
    assert ("takeover", 30.0) in fired(clips[1])
    part = clips_of(make_drive(steps=500, purpose="recorded"), CAMPAIGNS)
    assert sum(len(c.t) for c in part) == 500  # what was recorded elsewhere was chosen there
    assert "evaluation" not in {c.meta["campaign"] for c in clips_of(make_drive(steps=500), CAMPAIGNS)}


def test_random_share_is_kept_in_the_mean_and_by_seed(make_drive, clips_of):
    drive = make_drive(steps=2000)
    steps = drive.t.tolist()
    stretches = []
    for i in range(300):
        selection = Selection(CAMPAIGNS, {"drive": str(i)}, 1)
        stretches.append(sum(1 for t in steps[::100] for _ in selection.at(t, [])))
    assert 2.2 < np.mean(stretches) < 2.8, "a quarter of ten stretches of 20 s"
    assert spans(clips_of(drive, CAMPAIGNS, 1)) == spans(clips_of(drive, CAMPAIGNS, 1))
    assert any(spans(clips_of(drive, CAMPAIGNS, 1)) != spans(clips_of(drive, CAMPAIGNS, s)) for s in (2, 3, 4))


def test_no_clip_reaches_over_a_gap(make_drive, clips_of):
    drive = make_drive(steps=600, frames=True)
    drive.takeover[300:310] = True
    t = drive.t + 40.0 * (np.arange(600) >= 295)
    clips = clips_of(replace(drive, t=t, video=replace(drive.video, t=t)), CAMPAIGNS)
    assert all(np.diff(c.t).max() < 0.11 for c in clips)
    (taken,) = [c for c in clips if ("takeover", 70.0) in fired(c)]
    assert taken.t[0] == pytest.approx(69.5)
    assert len(taken.t) >= 200


def test_both_sides_of_a_gap_are_recorded_and_draw_their_own_shares(make_drive, clips_of):
    drive = make_drive(steps=600, purpose="recorded")
    parts = replace(drive, t=drive.t + 5.0 * (np.arange(600) >= 250))
    assert sum(len(c.t) for c in clips_of(parts, CAMPAIGNS)) == 600
    random = [c for c in CAMPAIGNS if c.pick == "random"]
    differ = 0
    for i in range(30):
        one = make_drive(steps=400, drive=f"d{i}")
        begins = {float(c.t[0]) for c in clips_of(replace(one, t=one.t + 50.0 * (np.arange(400) >= 200)), random)}
        differ += (0.0 in begins) != (70.0 in begins)
    assert differ > 3, "the same numbers twice would take both parts or none"


@pytest.mark.parametrize("purpose", ["", "evaluation"])
def test_the_clips_are_those_that_the_car_records(make_drive, clips_of, tmp_path, purpose):
    """The drive, step by step, through the collector of a running car: the same clips, message by message."""
    drive = make_drive(steps=900, frames=True, **({"purpose": purpose} if purpose else {}))
    drive.takeover[300:310] = True
    drive.ego[500:510, 4] = -5
    drive.ego[20:30, 4] = -5
    signals = list(signals_of(drive, None))
    with Collector(
        tmp_path / "spool", {channels.FRONT: drive.video}, CAMPAIGNS, drive.meta, signals=SignalSource(signals),
        ego_size=drive.ego_size,
    ) as car:  # fmt: skip
        shown = 0
        for now in moments(drive):
            while shown < len(drive.video.t) and drive.video.t[shown] <= now.t:
                t, packet = float(drive.video.t[shown]), drive.video.packets[shown]
                car.recorder.push(channels.FRONT, t, packet, bool(drive.video.key[shown]))
                shown += 1
            car.tick(now)
            car.recorder.settle()
    queued = [read_drive(f) for f in (tmp_path / "spool" / "queue").rglob("*.mcap")]
    live = sorted(queued, key=lambda clip: clip.t[0])
    stored = clips_of(drive, CAMPAIGNS, 0)
    assert spans(stored) == spans(live)
    assert len(stored) >= 2
    for one, other in zip(stored, live, strict=True):
        assert one.meta == other.meta
        np.testing.assert_array_equal(one.t, other.t)
        np.testing.assert_array_equal(one.ego, other.ego)
        np.testing.assert_array_equal(one.objects.states, other.objects.states)
        np.testing.assert_array_equal(one.signal_state, other.signal_state)
        assert one.video.packets == other.video.packets


def test_the_same_drive_gives_the_same_bytes(make_drive, tmp_path):
    drive = make_drive(steps=600, frames=True)
    drive.takeover[300:310] = True
    first, again = (record_drive(drive, CAMPAIGNS, 0, tmp_path / name) for name in ("a", "b"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert len(first) > 0

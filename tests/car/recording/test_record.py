"""Clips never overlap, hold their trigger, and lie within the drive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry_car.recording.cutter import around, at_random, clips_of, end_to_end
from drivefoundry_car.triggers import load_campaigns

CAMPAIGNS = load_campaigns()
RULES = [c for c in CAMPAIGNS if c.pick == "firing"]


def spans(clips):
    return [(round(float(c.t[0]), 1), round(float(c.t[-1]), 1)) for c in clips]


@settings(max_examples=150, deadline=None)
@given(
    steps=st.integers(1, 900),
    length=st.integers(1, 250),
    groups=st.lists(st.lists(st.integers(0, 899), max_size=8), max_size=4),
    share=st.floats(0, 1),
    whole=st.booleans(),
)
def test_windows_never_overlap(steps, length, groups, share, whole):
    length = min(length, steps)
    taken = []
    for i, group in enumerate(groups):
        taken += around(steps, length, 0.6, taken, [s for s in group if s < steps], f"c{i}", "rule")
    fired = len(taken)
    taken += at_random(steps, length, taken, share, "random", np.random.default_rng(0))
    if whole:
        taken += end_to_end(steps, length, taken, "all")
    held = np.zeros(steps, int)
    for w in taken:
        assert w.start >= 0
        assert w.start + w.length <= steps
        assert w.start <= w.at < w.start + w.length
        held[w.start : w.start + w.length] += 1
    assert held.max(initial=0) <= 1
    assert all(w.length == length for w in taken[:fired])
    for group in groups[:1]:  # nothing stands in the way of the first trigger of the highest priority
        assert not group or group[0] >= steps or held[group[0]] == 1


def test_a_clip_lies_around_its_trigger(make_drive):
    drive = make_drive(steps=600, frames=True)
    drive.takeover[300:310] = True
    (clip,) = clips_of(drive, RULES, seed=0)
    assert spans([clip]) == [(18.0, 37.9)]
    assert clip.meta == {
        **drive.meta,
        "campaign": "takeover",
        "trigger": "takeover rising",
        "trigger_t": "30.000",
        "clip_index": "0",
    }
    assert clip.video.t[0] == pytest.approx(18.0)


def test_priority_goes_first_and_others_move_aside(make_drive):
    drive = make_drive(steps=600)
    drive.takeover[300:310] = True  # takes 18 .. 38 s
    drive.ego[390:400, 4] = -5  # fires at 39.3 s, window 27.3 .. 47.3 s
    drive.ego[200:210, 4] = -5  # fires at 20.3 s: on the takeover's clip already
    clips = clips_of(drive, RULES, seed=0)
    assert [c.meta["campaign"] for c in clips] == ["takeover", "hard_brake"]
    assert spans(clips) == [(18.0, 37.9), (38.0, 57.9)]


def test_windows_are_clamped_into_the_drive(make_drive):
    drive = make_drive(steps=300)
    drive.takeover[20:25] = True
    assert spans(clips_of(drive, RULES, seed=0)) == [(0.0, 19.9)]
    short = make_drive(steps=120)
    short.takeover[20:25] = True
    assert spans(clips_of(short, RULES, seed=0)) == [(0.0, 11.9)]


def test_evaluation_covers_the_whole_drive(make_drive):
    drive = make_drive(steps=500, purpose="evaluation")
    drive.takeover[300:310] = True
    clips = clips_of(drive, CAMPAIGNS, seed=0)
    assert spans(clips) == [(0.0, 19.9), (20.0, 39.9), (40.0, 49.9)]
    assert {c.meta["campaign"] for c in clips} == {"evaluation"}
    part = clips_of(make_drive(steps=500, purpose="recorded"), CAMPAIGNS, seed=0)
    assert sum(len(c.t) for c in part) == 500  # what was recorded elsewhere was chosen there
    assert "evaluation" not in {c.meta["campaign"] for c in clips_of(make_drive(steps=500), CAMPAIGNS, seed=0)}


def test_random_share_is_kept_in_the_mean_and_by_seed(make_drive):
    drive = make_drive(steps=2000)
    counts = []
    for i in range(40):
        counts.append(len(clips_of(replace(drive, meta={"drive": str(i)}), CAMPAIGNS, seed=1)))
    assert set(counts) <= {2, 3}
    assert 2.2 < np.mean(counts) < 2.8
    assert spans(clips_of(drive, CAMPAIGNS, seed=1)) == spans(clips_of(drive, CAMPAIGNS, seed=1))
    assert spans(clips_of(drive, CAMPAIGNS, seed=1)) != spans(clips_of(drive, CAMPAIGNS, seed=2))


def test_no_clip_reaches_over_a_gap(make_drive):
    drive = make_drive(steps=600, frames=True)
    drive.takeover[300:310] = True
    t = drive.t + 40.0 * (np.arange(600) >= 295)
    clips = clips_of(replace(drive, t=t, video=replace(drive.video, t=t)), CAMPAIGNS, seed=0)
    assert [c.meta["clip_index"] for c in clips] == [str(i) for i in range(len(clips))]
    assert all(np.diff(c.t).max() < 0.11 for c in clips)
    (taken,) = [c for c in clips if c.meta["campaign"] == "takeover"]
    assert taken.t[0] == pytest.approx(69.5)
    assert len(taken.t) == 200

"""Each shipped campaign fires on a drive that must trigger it, and not on one that must not."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from drivefoundry_car.log import Plans, read_drive
from drivefoundry_car.recording.cutter import record_drive
from drivefoundry_car.triggers import applies, campaign, firings, load_campaigns, not_evaluable
from drivefoundry_car.triggers.signals import SIGNALS, signals_of

CAMPAIGNS = load_campaigns()


def fired(drive):
    return [(f.campaign, round(f.t, 1)) for f in firings(CAMPAIGNS, drive)]


def test_nothing_fires_on_a_quiet_drive(make_drive):
    assert fired(make_drive()) == []


def brakes(d):
    d.ego[100:105, 4] = -5


def comes_close(d):
    d.objects.states[0, 150:, 0] = d.ego[150, 0] + 15
    d.objects.states[0, 150:, 3] = 0


def takes_over(d):
    d.takeover[120:150] = True


def disagrees(d):
    d.correction.points[20:, 7, 1] = 3


def turns(d):
    d.ego[50:60, 5] = -0.6


def meets_a_pedestrian(d):
    d.objects.states[1, :, 0], d.objects.states[1, :, 1] = 150, 2.5


def stops(d):
    d.ego[100:150, 3] = 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (brakes, ("hard_brake", 10.3)),
        (comes_close, ("near_miss", 15.0)),
        (takes_over, ("takeover", 12.0)),
        (disagrees, ("disagreement", 10.5)),
        (turns, ("rare_manoeuvre", 5.0)),
        (meets_a_pedestrian, ("pedestrian_close", 14.6)),
        (stops, ("stop_and_go", 15.0)),
    ],
)
def test_each_campaign_fires_where_it_should(make_drive, change, expected):
    drive = make_drive()
    change(drive)
    assert expected in fired(drive)


def test_every_rule_has_its_test():
    rules = {c.name for c in CAMPAIGNS if c.pick == "firing"}
    assert rules == {
        "hard_brake",
        "near_miss",
        "takeover",
        "disagreement",
        "rare_manoeuvre",
        "pedestrian_close",
        "stop_and_go",
    }


def test_cool_down(make_drive):
    drive = make_drive(steps=600)
    for at in (100, 150, 260):
        drive.ego[at : at + 5, 4] = -5
    assert fired(drive) == [("hard_brake", 10.3), ("hard_brake", 26.3)]


def test_what_a_drive_lacks_is_named_and_does_not_fire(make_drive):
    drive = make_drive()
    takes_over(drive)
    bare = replace(drive, objects=None, takeover=None, correction=None)
    assert fired(bare) == []
    lacking = {"near_miss": ("ttc",), "takeover": ("takeover",), "disagreement": ("disagreement",)}
    assert not_evaluable(CAMPAIGNS, bare) == lacking | {"pedestrian_close": ("pedestrian_gap",)}
    assert not_evaluable(CAMPAIGNS, drive) == {}


def test_signals_are_what_they_say(make_drive):
    drive = make_drive()
    drive.objects.states[0, :, 3] = 5
    drive.objects.states[0, :, 0] = drive.ego[:, 0] + 14.6
    values = signals_of(drive)
    assert set(SIGNALS) - set(values) == {"red_gap", "novelty", "pick"}
    np.testing.assert_allclose(values["gap"], 10, atol=1e-4)
    np.testing.assert_allclose(values["ttc"], 2, atol=1e-4)
    drive.objects.states[0, :, 1] = 2.5  # beside the corridor
    assert np.isinf(signals_of(drive)["ttc"]).all()
    drive.objects.valid[:] = False
    assert np.isinf(signals_of(drive)["gap"]).all()


def test_disagreement_compares_the_same_decisions_only(make_drive):
    drive = make_drive()
    other = drive.correction.points.copy() + np.float32(2)
    late = replace(drive, correction=Plans(drive.correction.t[10:], other[10:], [""] * 50))
    values = signals_of(late)["disagreement"]
    assert np.isnan(values[:50]).all()
    np.testing.assert_allclose(values[50:], np.hypot(2, 2), rtol=1e-6)


def test_the_fleet_sends_what_it_always_sent():
    """The clips uploaded in a run depend on these: changing them changes every figure of the loop."""
    sends = [(c.name, c.rule, c.priority, c.cooldown_s, c.share, c.pick, c.purpose) for c in CAMPAIGNS]
    assert sends == [
        ("hard_brake", "accel < -4 m/s^2 for 0.3 s", 60, 10.0, 1.0, "firing", ""),
        ("near_miss", "ttc < 1.2 s and speed > 3 m/s", 70, 10.0, 1.0, "firing", ""),
        ("takeover", "takeover rising", 100, 2.0, 1.0, "firing", ""),
        ("disagreement", "disagreement > 2 m for 0.5 s", 80, 10.0, 1.0, "firing", ""),
        ("rare_manoeuvre", "abs(yaw_rate) > 0.5 rad/s and speed > 3 m/s", 40, 40.0, 1.0, "firing", ""),
        ("pedestrian_close", "pedestrian_gap < 2 m and speed > 2 m/s", 50, 20.0, 1.0, "firing", ""),
        ("stop_and_go", "speed < 0.3 m/s for 2 s falling", 20, 60.0, 1.0, "firing", ""),
        ("random_share", "", 0, 0.0, 0.25, "random", ""),
        ("recorded", "", 1, 0.0, 1.0, "all", "recorded"),
        ("evaluation", "", 1000, 0.0, 1.0, "all", "evaluation"),
    ]
    assert {(c.before_s, c.after_s, c.bytes_per_day, c.cohort, c.until) for c in CAMPAIGNS} == {(12, 8, None, (), None)}


def test_a_campaign_is_for_its_cohort_until_its_day(make_drive):
    entry = {"rule": "takeover", "priority": 1, "cohort": ["car-[12]", "berlin*"], "until": date(2027, 3, 31)}
    c = campaign("c", entry)
    assert applies(c, make_drive())
    assert not applies(c, make_drive(vehicle="car-3"))
    assert applies(c, make_drive(vehicle="car-3", groups="night berlin-west"))
    assert applies(c, make_drive(date="2027-03-31"))
    assert not applies(c, make_drive(date="2027-04-01"))
    drive = make_drive(vehicle="car-3")
    drive.takeover[:] = True
    assert firings([c], drive) == []


def test_every_field_of_a_campaign_is_read(tmp_path):
    (tmp_path / "mine.toml").write_text(
        "[a]\nrule = 'takeover'\npriority = 1\nbefore_s = 20\nafter_s = 2.5\nbytes_per_day = 1_000_000\n"
        "cohort = ['car-1']\nuntil = 2027-03-31\n"
    )
    (c,) = load_campaigns(tmp_path / "mine.toml")
    assert (c.before_s, c.after_s, c.bytes_per_day, c.cohort, c.until) == (
        20,
        2.5,
        10**6,
        ("car-1",),
        date(2027, 3, 31),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a]\nrule = 'sped > 3 m/s'\npriority = 1", "campaign 'a', rule column 1: unknown signal 'sped'"),
        ("[a]\nrule = 'speed > 3 m'\npriority = 1", "campaign 'a', rule column 7: a quantity in m/s"),
        ("[a]\nrule = 'takeover'", "campaign 'a': priority is missing"),
        ("[a]\nrule = 'takeover'\npriority = 'x'", "campaign 'a': priority must be an integer"),
        ("[a]\nrule = 'takeover'\npriority = 1\nshare = 2", "share must be 0 to 1"),
        ("[a]\nrulez = 'takeover'\npriority = 1", "unknown field 'rulez'"),
        ("[a]\npick = 'random'\nrule = 'takeover'\npriority = 1", "a rule goes with pick"),
        ("[a]\npick = 'some'\npriority = 1", "pick must be one of"),
        ("a = 1", "'a' is not a campaign"),
        ("[a]\nrule = 'takeover'\npriority = 1\nuntil = '2027'", "until must be a date (2027-03-31), got '2027'"),
        ("[a]\nrule = 'takeover'\npriority = 1\nuntil = 2027-03-31T10:00:00", "until must be a date"),
        ("[a]\nrule = 'takeover'\npriority = 1\ncohort = 'car'", "cohort must be a list of names"),
        ("[a]\nrule = 'takeover'\npriority = 1\ncohort = [3]", "cohort must be a list of names, got [3]"),
        ("[a]\nrule = 'takeover'\npriority = 1\nbytes_per_day = 0", "bytes_per_day must be >= 1, got 0"),
        ("[a]\nrule = 'takeover'\npriority = 1\nbytes_per_day = 1.5", "bytes_per_day must be an integer"),
        ("[a]\nrule = 'takeover'\npriority = 1\nbefore_s = -1", "before_s must be >= 0"),
        ("[a]\nrule = 'takeover'\npriority = 1\nafter_s = nan", "after_s must be >= 0, got nan"),
        ("[a]\nrule = 'takeover'\npriority = 1\nbefore_s = 0\nafter_s = 0", "must be 1 to 120 s"),
        ("[a\n", "mine.toml"),
    ],
)
def test_a_bad_campaign_file_is_refused(tmp_path, text, says):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=r"mine\.toml: ") as error:
        load_campaigns(tmp_path / "mine.toml")
    assert says in str(error.value)
    with pytest.raises(ValueError, match="no such file"):
        load_campaigns(tmp_path / "none.toml")


def test_a_campaign_has_its_own_window(make_drive, tmp_path):
    drive = make_drive(steps=600)
    drive.takeover[300:320] = True
    short = campaign("short", {"rule": "takeover rising", "priority": 1, "before_s": 2.0, "after_s": 3})
    (path,) = record_drive(drive, [short], 0, tmp_path)
    clip = read_drive(path)
    assert (round(float(clip.t[0]), 1), len(clip.t)) == (28.0, 50)


def test_a_name_too_long_for_a_file_is_no_file():
    with pytest.raises(ValueError, match="aaa: no such file"):
        load_campaigns("a" * 5000)

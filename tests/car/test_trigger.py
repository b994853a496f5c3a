"""Each shipped campaign fires on a drive that must, and not on one that must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drivefoundry_car.log import Plans
from drivefoundry_car.signals import SIGNALS, signals_of
from drivefoundry_car.trigger import firings, load_campaigns, not_evaluable

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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a]\nrule = 'sped > 3 m/s'\npriority = 1", "campaign 'a', rule column 1: unknown signal 'sped'"),
        ("[a]\nrule = 'speed > 3 m'\npriority = 1", "campaign 'a', rule column 7: a quantity in m/s"),
        ("[a]\nrule = 'takeover'", "campaign 'a': priority is missing"),
        ("[a]\nrule = 'takeover'\npriority = 'x'", "campaign 'a': priority must be a whole number"),
        ("[a]\nrule = 'takeover'\npriority = 1\nshare = 2", "share must lie between 0 and 1"),
        ("[a]\nrulez = 'takeover'\npriority = 1", "unknown field 'rulez'"),
        ("[a]\npick = 'random'\nrule = 'takeover'\npriority = 1", "a rule goes with pick"),
        ("[a]\npick = 'some'\npriority = 1", "pick is one of"),
        ("a = 1", "'a' is not a campaign"),
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

"""Udacity's tables without pictures: hand-made, damaged, and the public set if available."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefoundry.clips.importers import clips_in, drives_in, kind_of
from drivefoundry.clips.importers.drives import udacity_telemetry
from drivefoundry.clips.importers.drives.series import Series
from drivefoundry_car.recording.cutter import record_drive
from drivefoundry_car.triggers import firings, load_campaigns, not_evaluable

DATA = Path(os.environ.get("DRIVEFOUNDRY_DATA", Path(__file__).parents[3] / "shared" / "data"))
DATA /= "udacity_ch2_002_telemetry"
HEADER = ["index", "timestamp", "filename", "angle", "torque", "speed", "fullpath", "filename2"]
BEGUN = 1479424215880976321


def table(path, seconds=20.0, angle=0.2, gap=None, gps=False, change=None):
    """20 Hz, 15 m/s, a steady bend; change: (line, column, text)."""
    rows = []
    for i in range(int(seconds * 20)):
        t = i * 0.05 + (1.0 if gap is not None and i * 0.05 >= gap else 0.0)
        name = f"center/{BEGUN + round(t * 1e9)}.jpg"
        row = ["2016-11-17 23:10:15", "0", name, f"{angle}", "0.4", "15.0", f"r/{name}", "0"]
        rows.append(row + [f"{37.5 + 1e-5 * i}", "-122.3"] * gps)
    header = HEADER + list(udacity_telemetry.PLACE) * gps
    if change:
        line, column, text = change
        rows[line - 2][header.index(column)] = text
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as f:
        csv.writer(f).writerows([header, *rows])
    return path


def test_a_table_is_a_dead_reckoned_drive_and_is_marked_so(tmp_path):
    table(tmp_path / "HMB_9.csv")
    assert kind_of(tmp_path) == "udacity_telemetry"
    (drive,) = drives_in(tmp_path)
    np.testing.assert_allclose(drive.t, np.arange(200) * 0.1, atol=1e-9)
    rate = 15 * np.tan(0.2 / 14.8) / (2.85 + 0.0025 * 225)
    np.testing.assert_allclose(drive.ego[:, 5], rate)
    np.testing.assert_allclose(drive.ego[:, 2], rate * drive.t, atol=1e-9)
    np.testing.assert_allclose(drive.ego[:, 0], 15 / rate * np.sin(rate * drive.t), atol=1e-2)
    np.testing.assert_allclose(drive.ego[:, 3:5], [[15.0, 0.0]] * 200, atol=1e-6)
    assert (drive.ego[:, 6] == 0.2).all()
    assert drive.takeover is drive.engaged is drive.objects is drive.video is None
    assert "drifts" in drive.notes["ego.pose"]
    assert "by hand" in drive.notes["takeover"]
    with pytest.raises(ValueError, match="udacity_telemetry logs have no pictures"):
        clips_in(tmp_path, tmp_path / "out")


def test_of_two_tables_of_one_recording_the_one_with_gps_is_read(tmp_path):
    table(tmp_path / "HMB_1.csv")
    table(tmp_path / "HMB_1_with_gps.csv", gps=True)
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    (drive,) = drives_in(tmp_path)
    assert drive.meta["drive"] == "HMB_1-0"
    assert "GPS" in drive.notes["ego.pose"]
    north = 6378137.0 * np.radians(1e-5) * 20 * drive.t
    np.testing.assert_allclose(drive.ego[:, 1], north, atol=1e-3)
    np.testing.assert_allclose(drive.ego[:, 2], np.pi / 2, atol=1e-6)


def test_gaps_end_a_drive(tmp_path):
    path = table(tmp_path / "HMB_9.csv", gap=8.0)
    assert [(d.meta["drive"], len(d.t)) for d in udacity_telemetry.read(path)] == [("HMB_9-0", 80), ("HMB_9-1", 120)]
    with pytest.raises(ValueError, match=r"HMB_8.csv: no stretch of 5 s"):
        udacity_telemetry.read(table(tmp_path / "HMB_8.csv", seconds=4.0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((7, "angle", "left"), "line 7, angle: 'left' is not a number"),
        ((7, "speed", "nan"), "line 7, speed: 'nan' is not a number"),
        ((9, "filename", "center/first.jpg"), "line 9, filename: 'center/first.jpg' contains no time"),
        ((9, "filename", f"{BEGUN - 1}.jpg"), "time goes back at sample 7"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, says):
    table(tmp_path / "HMB_9.csv", change=change)
    with pytest.raises(ValueError, match=rf"HMB_9\.csv.*{says}") as refused:
        list(drives_in(tmp_path))
    assert "\n" not in str(refused.value)


def test_half_a_row_is_named(tmp_path):
    path = table(tmp_path / "HMB_9.csv")
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ValueError, match=r"line 401: \d columns where the header has 8"):
        list(drives_in(tmp_path))


@given(
    slope=st.floats(-5, 5), offset=st.floats(-50, 50), begin=st.floats(0, 1e5),
    steps=st.lists(st.floats(0.001, 0.1), min_size=8, max_size=60),
)  # fmt: skip
def test_a_line_has_its_own_slope_everywhere(slope, offset, begin, steps):
    t = begin + np.cumsum(steps)
    series = Series(t, offset + slope * (t - begin))
    at = np.linspace(t[0], t[-1], 20)
    value, found = series.near(at, 0.5)
    np.testing.assert_allclose(value, offset + slope * (at - begin), atol=1e-4)
    np.testing.assert_allclose(found[np.isfinite(found)], slope, atol=1e-3)


@pytest.mark.skipif(not DATA.is_dir(), reason="the tables are not at hand")
def test_rules_run_on_the_public_tables(tmp_path):
    drives = {d.meta["drive"]: d for d in drives_in(DATA)}
    assert sorted(drives) == ["HMB_1-0", "HMB_2-0", "HMB_4-0", "HMB_5-0"]
    assert sum(d.t[-1] - d.t[0] for d in drives.values()) == pytest.approx(1320, abs=5)
    campaigns = load_campaigns()
    for drive in drives.values():
        assert np.isfinite(drive.ego).all()
        assert np.abs(drive.ego[:, 4]).max() < 4  # nobody brakes hard
        assert not [f for f in firings(campaigns, drive) if f.campaign == "hard_brake"]
        assert "takeover" in not_evaluable(campaigns, drive)
    assert record_drive(drives["HMB_2-0"], campaigns, 0, tmp_path)
    # Where satellites tell the way, speed and derived turning agree with it.
    gps = drives["HMB_1-0"]
    step = np.hypot(*np.diff(gps.ego[:, :2], axis=0).T) / 0.1
    assert np.median(np.abs(step - gps.ego[1:, 3])) < 0.5
    turned = np.unwrap(gps.ego[:, 2])
    assert np.std(turned - turned[0] - np.cumsum(gps.ego[:, 5]) * 0.1) < 0.15

"""The library over real logs; skipped if they are absent (DRIVEFOUNDRY_DATA names their folder)."""

import os
from pathlib import Path

import pytest

from drivefoundry.campaigns import backlog
from drivefoundry_car.triggers import LIBRARY, load_campaigns

DATA = Path(os.environ.get("DRIVEFOUNDRY_DATA", Path(__file__).parents[3] / "shared" / "data"))
CAN, TELEMETRY = DATA / "comma2k19_example", DATA / "udacity_ch2_002_telemetry"


def fired(folder):
    tested = backlog.mine(load_campaigns(LIBRARY), backlog.drives_at(folder))
    assert tested.lacking["wobble"] == {"route_offset": tested.drives}
    return {(f.drive, f.campaign) for f in tested.fired}, tested


@pytest.mark.skipif(not CAN.is_dir(), reason="comma2k19's example is not at hand")
def test_a_minute_of_a_real_can_bus():
    found, tested = fired(CAN)
    assert {campaign for _, campaign in found} == {"firm_brake"}
    assert tested.drives == 1
    assert "cut_in" not in tested.lacking  # the radar sees who is ahead
    assert "near_miss" not in tested.lacking


@pytest.mark.skipif(not TELEMETRY.is_dir(), reason="Udacity's telemetry is not at hand")
def test_real_steering_on_a_mountain_road():
    found, tested = fired(TELEMETRY)
    assert {("HMB_5-0", "bend"), ("HMB_5-0", "hard_corner"), ("HMB_2-0", "bend")} <= found
    assert not any(drive.startswith("HMB_1") for drive, _ in found)  # a motorway
    assert tested.lacking["cut_in"] == {"cut_in_gap": tested.drives}

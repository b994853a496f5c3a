"""When a car may use its link, and how fast."""

from __future__ import annotations

import threading
import time
from math import inf

import pytest

from drivefoundry_car.upload.link import Link, UploadWindow

DEPOT = [UploadWindow("22:00", "06:00", networks=("wifi:depot",)), UploadWindow("06:00", "22:00", rate=20_000.0)]


def at(clock: str, network: str = "lte", windows=DEPOT) -> float:
    """The rate at an 'HH:MM' of the local day."""
    moment = time.mktime((2026, 3, 2, int(clock[:2]), int(clock[3:]), 0, 0, 0, -1))
    return Link(windows, network=lambda: network, clock=lambda: moment).rate()


@pytest.mark.parametrize(
    ("clock", "network", "rate"),
    [
        ("21:59", "lte", 20_000.0),
        ("22:00", "lte", 0.0),
        ("22:00", "wifi:depot", inf),
        ("03:00", "wifi:depot", inf),
        ("03:00", "wifi:home", 0.0),
        ("05:59", "wifi:depot", inf),
        ("06:00", "wifi:depot", 20_000.0),
    ],
)
def test_wifi_at_the_depot_by_night_and_a_trickle_by_day(clock, network, rate):
    assert at(clock, network) == rate


def test_the_fastest_open_window_counts_and_none_means_always():
    windows = [UploadWindow(rate=10.0), UploadWindow("10:00", "11:00", rate=90.0)]
    assert at("10:30", windows=windows) == 90.0
    assert at("11:30", windows=windows) == 10.0
    assert at("11:30", windows=[]) == inf


@pytest.mark.parametrize(
    ("window", "field"),
    [
        (UploadWindow("24:00"), "start"),
        (UploadWindow(end="7:00"), "end"),
        (UploadWindow(rate=0), "rate"),
        (UploadWindow(rate=-1), "rate"),
    ],
)
def test_windows_that_cannot_be_are_refused(window, field):
    with pytest.raises(ValueError, match=f"Window.{field}"):
        Link([window])


def test_what_is_sent_at_once_shares_the_rate():
    link, passed = Link([UploadWindow(rate=200_000.0)]), []

    def send():
        for _ in range(4):
            passed.append(link.pass_on(1 << 20))

    begun = time.monotonic()
    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.monotonic() - begun
    assert sum(passed[:-1]) / 200_000.0 <= taken + 0.13  # never faster; the last piece goes out when it is passed on


def test_a_closed_link_passes_nothing_and_an_open_one_all():
    assert Link([UploadWindow("10:00", "10:01", networks=("none",))]).pass_on(100) == 0
    assert Link().pass_on(1 << 30) == 1 << 30

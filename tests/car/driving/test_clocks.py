"""Frame clocks: which frames may be used for planning."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drivefoundry_car.driving.clocks import FrameClock

MS = 1_000_000


def test_every_kind_of_fault_is_counted_by_its_name():
    clock = FrameClock(0.1)
    given_ms = [(100, 110), (200, 210), (200, 215), (150, 220), (500, 510), (600, 900), (9000, 910), (700, 920)]
    admitted = [clock.admit(ns * MS, now * MS) for ns, now in given_ms]
    assert admitted == [True, True, False, False, True, False, False, False]
    assert (clock.frames, clock.out_of_order, clock.missing, clock.late, clock.future) == (3, 2, 2, 2, 1)


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000))))
def test_frames_for_planning_increase_and_are_fresh_and_none_goes_uncounted(frames):
    clock, last = FrameClock(0.1), -1
    for ms, now in frames:
        if clock.admit(ms * MS, now * MS):
            assert ms > last
            assert -50 <= now - ms <= 200
            last = ms
    assert clock.frames + clock.late + clock.out_of_order + clock.future == len(frames)

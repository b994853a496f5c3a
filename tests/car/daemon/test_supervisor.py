"""Processes beside the daemon: restarted with back-off, and ended with it."""

from __future__ import annotations

import os
import signal

from drivefoundry_car.daemon.supervisor import LONGEST_S, STEADY_S, Child
from station import alive


class Hand:
    """A manually advanced clock."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def ended(child: Child) -> None:
    """Wait until the running process has ended and this has been noticed."""
    before = child.restarts
    while child.restarts == before:
        child.watch()


def test_a_crashing_process_is_restarted_ever_more_rarely_and_a_steady_one_at_once():
    hand = Hand()
    child = Child("broken", "no.such.module", [], hand)
    waits = []
    for _ in range(9):
        child.watch()
        assert child.health()["pid"] is not None
        ended(child)
        begun = hand.now
        while child.health()["pid"] is None:
            hand.now += 0.5
            child.watch()
        waits.append(hand.now - begun)
        ended_now = child.restarts
    child.close()
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_S, LONGEST_S, LONGEST_S]
    assert ended_now == 9
    assert child.ended == 1


def test_a_steady_process_is_restarted_soon_and_ends_when_closed(tmp_path):
    hand = Hand()
    child = Child("steady", "http.server", ["0", "--bind", "127.0.0.1", "--directory", str(tmp_path)], hand)
    child.watch()
    first = child.health()["pid"]
    hand.now += STEADY_S
    os.kill(first, signal.SIGKILL)
    ended(child)
    hand.now += 1.0
    child.watch()
    second = child.health()["pid"]
    assert second not in (None, first)
    assert child.health()["last_status"] == -signal.SIGKILL
    child.close(seconds=0.1)
    assert not alive(second)

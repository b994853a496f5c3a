"""The actuators have a plan at any moment, whatever the planning loop does."""

from __future__ import annotations

import socket
import threading
from typing import Any

import numpy as np
import pytest
from test_always_a_plan import Engine, dead, seen, straight

from drivefoundry_car.driving.runtime import Runtime
from drivefoundry_car.driving.watchdog import Watchdog, notify


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_plan_is_followed_while_fresh_and_then_braked_to_a_stop():
    clock, alive = Clock(), []
    dog = Watchdog(Runtime(Engine()), clock=clock, alive=lambda: alive.append(clock.now))
    assert dog.latest().stopped
    assert (dog.latest().points == 0).all()
    dog.plan(*seen(0))
    for clock.now in (100.0, 100.7, 101.2):
        latest = dog.latest()
        assert (latest.at, latest.stopped) == (100.0, False)
        np.testing.assert_array_equal(latest.points, straight())
    clock.now = 101.26
    first = dog.latest()
    assert (first.at, first.stopped, dog.expired) == (101.26, True, 1)
    assert first.points[0, -1, 0] == pytest.approx(12.5, abs=0.1)
    gone, last = 0.0, first
    while clock.now < 106.0:  # 50 Hz
        clock.now += 0.02
        speed = last.points[0, 0, 0] / 0.5
        gone += speed * 0.02
        last = dog.latest()
        assert last.points[0, 0, 0] / 0.5 == pytest.approx(max(speed - 0.08, 0.0), abs=0.09)
    assert gone == pytest.approx(10.0, abs=2.6)  # the first half second's mean is 1 m/s below the speed itself
    np.testing.assert_allclose(last.points, 0, atol=1e-6)
    assert dog.expired == 1
    dog.plan(*seen(1))
    assert not dog.latest().stopped
    assert alive == [100.0, clock.now]


def test_a_runtime_that_never_returns_or_raises():
    clock, go, begun = Clock(), threading.Event(), threading.Event()

    class Stuck:
        def plan(self, *args: Any, **kwargs: Any) -> Any:
            if args:
                return Runtime(Engine()).plan(*args, **kwargs)
            begun.set()
            go.wait(60)
            raise MemoryError

    dog = Watchdog(Stuck(), clock=clock)  # pyright: ignore[reportArgumentType]
    dog.plan(*seen(0))

    def hang() -> None:
        with pytest.raises(MemoryError):
            dog.plan()

    thread = threading.Thread(target=hang)
    thread.start()
    assert begun.wait(30)
    clock.now += 5.0
    assert dog.latest().stopped
    clock.now += 5.0
    np.testing.assert_allclose(dog.latest().points, 0, atol=1e-6)
    go.set()
    thread.join()
    np.testing.assert_allclose(dog.latest().points, 0, atol=1e-6)


def test_a_planner_that_fails_is_no_sign_of_life():
    alive: list[int] = []
    engine = Engine()
    dog = Watchdog(Runtime(engine), alive=lambda: alive.append(1))
    dog.plan(*seen(0))
    engine.instead = dead
    assert dog.plan(*seen(1)).stopped[0]
    assert len(alive) == 1
    latest = dog.latest()
    assert not latest.stopped  # the runtime's own stop is a plan like any other
    assert latest.points[0, -1, 0] < 13.0


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_hears_it(tmp_path, monkeypatch, abstract):
    name = "@drivefoundry-test" if abstract else str(tmp_path / "notify")
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify()
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert not notify()  # nobody listens
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(10)
        assert notify("READY=1")
        assert notify()
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"WATCHDOG=1"]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_clock_that_breaks_is_a_reason_to_brake(broken):
    clock = Clock()
    dog = Watchdog(Runtime(Engine()), clock=clock)
    dog.plan(*seen(0))
    for clock.now in (broken, broken, 101.0, broken):
        latest = dog.latest()
        assert latest.stopped
        assert np.isfinite(latest.at)
        assert np.isfinite(latest.points).all()
        assert 0 < latest.points[0, -1, 0] < straight()[0, -1, 0]
    dog.plan(*seen(1))  # seen at no time that is one
    assert dog.latest().stopped
    clock.now = 102.0
    dog.plan(*seen(2))
    assert not dog.latest().stopped


def test_patience_must_be_a_time():
    with pytest.raises(ValueError, match=r"Watchdog.patience_s: must be > 0"):
        Watchdog(Runtime(Engine()), patience_s=0)
    with pytest.raises(ValueError, match=r"Runtime.deadline_s: must be > 0"):
        Runtime(Engine(), deadline_s=0)

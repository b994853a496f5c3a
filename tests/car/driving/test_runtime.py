import logging
import threading
from typing import Any

import numpy as np
import pytest

from drivefoundry_car.driving.guard import Guard
from drivefoundry_car.driving.runtime import Frames, Runtime
from drivefoundry_car.driving.worker import Worker


class ConstantVelocity:
    """An engine that plans straight on and reasons that it does."""

    def plan(self, frames: Frames, ego: np.ndarray, route: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out = np.zeros((len(ego), 8, 3), np.float32)
        out[..., 0] = ego[:, -1, :1] * np.arange(1, 9) * 0.5
        return out, np.zeros((len(ego), 8), np.int64)

    def reason(self, frames: Frames, ego: np.ndarray, route: np.ndarray) -> list[str]:
        return [f"keep {e[-1, 0]:.0f} m/s" for e in ego]


class Held(ConstantVelocity):
    """The same, but its reasoning takes as long as the test requires."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def reason(self, frames: Frames, ego: np.ndarray, route: np.ndarray) -> list[str]:
        self.asked.release()
        assert self.go.acquire(timeout=60)
        return super().reason(frames, ego, route)


class Broken(ConstantVelocity):
    def reason(self, frames: Frames, ego: np.ndarray, route: np.ndarray) -> list[str]:
        raise ValueError("no memory left for words")


def seen(cars: int, speed: float = 5.0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    ego = np.zeros((cars, 4, 3), np.float32)
    ego[..., 0], ego[..., 2] = speed, 1
    return {"front": np.zeros((cars, 2, 64, 160, 3), np.uint8)}, ego, np.zeros((cars, 12), np.float32)


def settled(runtime: Runtime) -> None:
    """Wait until the reasoner has answered."""
    assert runtime._asked is not None
    runtime._asked.exception(timeout=60)


@pytest.mark.parametrize("cars", [1, 7])
def test_plans_are_guarded(cars: int) -> None:
    runtime = Runtime(ConstantVelocity())
    objects: list[np.ndarray | None] = [None] * cars
    objects[-1] = np.array([[8.0, 0, 0, 0, 4.6, 1.9]])
    got = runtime.plan(*seen(cars), objects)
    assert got.points.shape == (cars, 8, 3)
    assert got.tokens.shape == (cars, 8)
    assert got.guarded.tolist() == [False] * (cars - 1) + [True]
    want, _ = Guard().check(ConstantVelocity().plan(*seen(cars))[0], np.full(cars, 5.0), objects)
    np.testing.assert_array_equal(got.points, want)
    assert got.text == [""] * cars
    assert (runtime.counts.decisions, runtime.counts.guarded) == (1, 1)


def test_the_planner_never_waits_for_the_reasoner() -> None:
    reasoner = Held()
    runtime = Runtime(ConstantVelocity(), reasoner=reasoner, reason_every=2)
    runtime.plan(*seen(1))
    assert reasoner.asked.acquire(timeout=60)  # it is thinking from here on, and is not let go
    for _ in range(10):
        assert runtime.plan(*seen(1)).text == [""]
    assert runtime.counts.decisions == 11
    assert runtime.counts.hints_skipped == 5
    reasoner.go.release()
    settled(runtime)
    runtime.plan(*seen(1))
    assert runtime.counts.hints_late == 1  # 11 decisions old by now
    assert runtime.counts.hints == 0
    for _ in range(4):
        reasoner.go.release()
    runtime.close()


def test_a_hint_lives_and_expires() -> None:
    runtime = Runtime(ConstantVelocity(), reasoner=ConstantVelocity(), reason_every=100, hint_life=3, reason_cars=2)
    runtime.plan(*seen(3))
    settled(runtime)
    texts = [runtime.plan(*seen(3)).text for _ in range(5)]
    assert texts[:3] == [["keep 5 m/s", "keep 5 m/s", ""]] * 3
    assert texts[3:] == [["", "", ""]] * 2
    assert runtime.counts.hints == 1
    runtime.close()


def test_a_new_drive_hears_nothing_of_the_old_one() -> None:
    reasoner = Held()
    runtime = Runtime(ConstantVelocity(), reasoner=reasoner, reason_every=1)
    runtime.plan(*seen(1))
    runtime.reset()
    reasoner.go.release()
    settled(runtime)
    assert runtime.plan(*seen(1)).text == [""]
    assert runtime.counts.hints_late == 1
    reasoner.go.release()
    settled(runtime)
    assert runtime.plan(*seen(1)).text == ["keep 5 m/s"]
    reasoner.go.release()
    runtime.close()


def test_a_failing_reasoner_does_not_stop_the_car(caplog: pytest.LogCaptureFixture) -> None:
    runtime = Runtime(ConstantVelocity(), reasoner=Broken(), reason_every=1)
    runtime.plan(*seen(1))
    settled(runtime)
    with caplog.at_level(logging.WARNING):
        assert runtime.plan(*seen(1)).text == [""]
    assert "no memory left for words" in caplog.text
    assert runtime.counts.hints_failed == 1
    runtime.close()


@pytest.mark.parametrize("answer", [None, "text", ("text",), [1], [None], {}, np.array(["text"]), ["one", "two"]])
def test_an_answer_that_is_no_list_of_texts_is_a_failed_hint(answer: Any) -> None:
    class Odd(ConstantVelocity):
        def reason(self, frames: Frames, ego: np.ndarray, route: np.ndarray) -> Any:
            return answer

    runtime = Runtime(ConstantVelocity(), reasoner=Odd(), reason_every=4)
    runtime.plan(*seen(1))
    settled(runtime)
    assert [runtime.plan(*seen(1)).text for _ in range(2)] == [[""]] * 2
    assert (runtime.counts.hints_failed, runtime.counts.hints) == (1, 0)
    runtime.close()


def test_a_dead_worker_is_replaced() -> None:
    def die() -> None:
        raise KeyboardInterrupt

    worker = Worker("mortal")
    assert isinstance(worker.submit(die).exception(10), KeyboardInterrupt)
    assert worker.submit(lambda: 1).result(10) == 1
    worker.close()  # ends the thread in order; as a fork would leave it
    worker._thread.join(10)
    worker._closed = False
    assert worker.submit(lambda: 2).result(10) == 2


def test_dropped_decisions_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    runtime = Runtime(ConstantVelocity())
    with caplog.at_level(logging.WARNING):
        for t in (10.0, 10.5, 12.0, 12.52):
            runtime.plan(*seen(1), t=t)
    assert runtime.counts.dropped == 2
    assert "2 decision(s) dropped" in caplog.text
    runtime.reset()
    runtime.plan(*seen(1), t=100.0)
    assert runtime.counts.dropped == 2


def test_the_reasoner_keeps_what_it_was_shown() -> None:
    class Late(Held):
        def reason(self, frames: Frames, ego: np.ndarray, route: np.ndarray) -> list[str]:
            super().reason(frames, ego, route)
            return [f"{frames['front'].max()}"]

    reasoner = Late()
    runtime = Runtime(ConstantVelocity(), reasoner=reasoner, reason_every=100)
    frames, ego, route = seen(1)
    runtime.plan(frames, ego, route)
    frames["front"][:] = 9  # the camera writes on
    reasoner.go.release()
    settled(runtime)
    assert runtime.plan(frames, ego, route).text == ["0"]
    runtime.close()


def test_a_patient_runtime_hears_every_answer_at_the_next_decision() -> None:
    class Slow(ConstantVelocity):
        def reason(self, frames: Frames, ego: np.ndarray, route: np.ndarray) -> list[str]:
            threading.Event().wait(0.02)
            return super().reason(frames, ego, route)

    runtime = Runtime(ConstantVelocity(), reasoner=Slow(), reason_every=2, patient=True)
    said = [runtime.plan(*seen(1, speed)).text[0] for speed in (1.0, 2.0, 3.0, 4.0)]
    assert said == ["", "keep 1 m/s", "keep 1 m/s", "keep 3 m/s"]
    assert runtime.counts.hints_late == runtime.counts.hints_skipped == 0


def test_a_patient_runtime_leaves_no_answer_to_the_next_drive(caplog: pytest.LogCaptureFixture) -> None:
    """A drive may end right after a request: the reasoner's answer then belongs to that drive, and is not late in the
    next."""
    runtime = Runtime(ConstantVelocity(), reasoner=ConstantVelocity(), reason_every=2, patient=True)
    with caplog.at_level(logging.WARNING):
        for speed in (1.0, 2.0, 3.0):
            said = [runtime.plan(*seen(1, speed)).text[0] for _ in range(3)]
            assert said == ["", f"keep {speed:.0f} m/s", f"keep {speed:.0f} m/s"]
            runtime.reset()
    assert (runtime.counts.hints, runtime.counts.hints_late) == (3, 0)
    assert caplog.text == ""

"""Whatever the car sees and its planner does, there is a safe plan, and the reason for a stop is counted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry_car.driving.runtime import Frames, Planned, Runtime, RuntimeCounts

REASONS = [
    "frames_bad", "frames_blank", "frames_frozen", "frames_old", "clock_bad", "ego_bad", "route_bad", "objects_bad",
    "objects_left_out", "planner_failed", "planner_late", "plan_bad", "guard_failed",
]  # fmt: skip
SPEED = 10.0


def straight(cars: int = 1, speed: float = SPEED) -> np.ndarray:
    out = np.zeros((cars, 8, 3), np.float32)
    out[..., 0] = speed * np.arange(1, 9) * 0.5
    return out


class Engine:
    """Plans straight on at 10 m/s, unless the test specifies otherwise."""

    def __init__(self, instead: Callable[[], Any] | None = None) -> None:
        self.instead = instead

    def plan(self, frames: Frames, ego: np.ndarray, route: np.ndarray) -> Any:
        assert np.isfinite(ego).all()
        if self.instead is not None:
            return self.instead()
        return straight(len(ego)), np.zeros((len(ego), 8), np.int64)

    def reason(self, frames: Frames, ego: np.ndarray, route: np.ndarray) -> list[str]:
        return [""] * len(ego)


RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 255, (40, 8, 16, 3), np.uint8)


def seen(k: int = 0, cars: int = 1, speed: float = SPEED) -> tuple[Frames, np.ndarray, np.ndarray]:
    """Observations at decision k, with different pictures each time."""
    ego = np.zeros((cars, 4, 3), np.float32)
    ego[..., 0], ego[..., 2] = speed, 1
    frames = np.repeat(np.stack([PICTURES[k % 40], PICTURES[(k + 1) % 40]])[None], cars, 0)
    return {"front": frames}, ego, np.zeros((cars, 12), np.float32)


def reasons(counts: RuntimeCounts) -> dict[str, int]:
    return {name: n for name in REASONS if (n := getattr(counts, name))}


def is_a_stop(points: np.ndarray, speed: float) -> None:
    """Braking along the x axis at 4 m/s^2, from this speed to standstill."""
    t = np.minimum(np.arange(1, 9) * 0.5, speed / 4.0)
    np.testing.assert_allclose(points[:, 0], speed * t - 2.0 * t**2, atol=0.06)
    np.testing.assert_allclose(points[:, 1:], 0, atol=1e-6)


def dead() -> Any:
    raise RuntimeError("out of memory")


def gone() -> Any:
    raise SystemExit(3)


def interrupted() -> Any:
    raise KeyboardInterrupt


class Unwilling:
    """An object that refuses conversion to an array, like a tensor that requires a gradient."""

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise RuntimeError("call detach() first")


TOKENS = np.zeros((1, 8), np.int64)


@pytest.mark.parametrize(
    ("instead", "reason"),
    [
        (dead, "planner_failed"),
        (gone, "planner_failed"),
        (lambda: None, "plan_bad"),
        (lambda: straight(), "plan_bad"),
        (lambda: (straight(),), "plan_bad"),
        *((lambda n=n: (straight()[:, :n], TOKENS), "plan_bad") for n in (0, 1, 7)),
        (lambda: (np.zeros((1, 9, 3)), TOKENS), "plan_bad"),
        (lambda: (straight(2), np.zeros((2, 8), np.int64)), "plan_bad"),
        (lambda: (straight()[0], TOKENS), "plan_bad"),
        (lambda: (straight() * np.nan, TOKENS), "plan_bad"),
        (lambda: (np.full((1, 8, 3), np.inf), TOKENS), "plan_bad"),
        (lambda: (straight() * 1e30, TOKENS), "plan_bad"),
        (lambda: (straight().astype(str), TOKENS), "plan_bad"),
        (lambda: (straight().astype(complex), TOKENS), "plan_bad"),
        (lambda: ([[1, 2], [3]], TOKENS), "plan_bad"),
        (interrupted, "planner_failed"),
        (lambda: (Unwilling(), TOKENS), "plan_bad"),
        (lambda: (straight(), Unwilling()), "plan_bad"),
        (lambda: (np.ma.masked_invalid(straight()), TOKENS), "plan_bad"),
        (lambda: (np.full((1, 8, 3), np.iinfo(np.int64).min), TOKENS), "plan_bad"),
        (lambda: (straight(), None), "plan_bad"),
        (lambda: (straight(), TOKENS.astype(float)), "plan_bad"),
    ],
)
def test_a_planner_that_fails(instead, reason):
    engine = Engine()
    runtime = Runtime(engine)
    assert not runtime.plan(*seen(0)).stopped[0]
    engine.instead = instead
    for k in range(1, 4):
        planned = runtime.plan(*seen(k, speed=SPEED - 2.0 * (k - 1)))
        assert planned.stopped.tolist() == planned.guarded.tolist() == [True]
        assert planned.tokens.shape == (1, 8)
        is_a_stop(planned.points[0], SPEED - 2.0 * (k - 1))
    assert reasons(runtime.counts) == {reason: 3}
    engine.instead = None
    assert not runtime.plan(*seen(4)).stopped[0]
    assert runtime.counts.stopped == 3


def test_a_planner_that_is_late_gives_no_stale_plan_as_fresh():
    go, begun, asked = threading.Semaphore(0), threading.Semaphore(0), []

    class Counted(Engine):
        def plan(self, frames, ego, route):
            asked.append(int(frames["front"][0, -1].sum()))
            return super().plan(frames, ego, route)

    def held() -> Any:
        begun.release()
        go.acquire()
        return straight(speed=3.0), TOKENS

    engine = Counted(held)
    runtime = Runtime(engine, deadline_s=0.1)
    is_a_stop(runtime.plan(*seen(0)).points[0], SPEED)
    assert begun.acquire(timeout=30)
    is_a_stop(runtime.plan(*seen(1)).points[0], SPEED)  # it is still at the first
    assert not begun.acquire(blocking=False)
    assert reasons(runtime.counts) == {"planner_late": 2}
    engine.instead = None
    go.release()
    runtime.deadline_s = 30.0
    np.testing.assert_array_equal(runtime.plan(*seen(2)).points, straight())  # not the answer to what it saw first
    assert reasons(runtime.counts) == {"planner_late": 2}
    assert asked == [int(seen(k)[0]["front"][0, -1].sum()) for k in (0, 2)]  # busy, it is not asked


def test_a_late_planner_still_reads_what_it_was_shown():
    go, read = threading.Event(), []

    class Late(Engine):
        def plan(self, frames, ego, route):
            go.wait(30)
            read.append(int(frames["front"].max()))
            return super().plan(frames, ego, route)

    runtime = Runtime(Late(), deadline_s=0.05)
    frames, ego, route = seen(0)
    frames["front"][:] = 7
    runtime.plan(frames, ego, route)
    frames["front"][:] = 9  # the camera writes on
    go.set()
    runtime.deadline_s = 30.0
    runtime.plan(*seen(1))
    assert read[0] == 7


@pytest.mark.parametrize("speed", [np.nan, np.inf, -np.inf, 1e6, -5.0, 1e300])
def test_a_speed_that_cannot_be(speed):
    runtime = Runtime(Engine())
    runtime.plan(*seen(0), t=5.0)
    frames, ego, route = seen(1)
    ego = ego.astype(np.float64)
    ego[:, -1, 0] = speed
    planned = runtime.plan(frames, ego, route, t=5.5)
    is_a_stop(planned.points[0], SPEED)  # it knows how fast it was to be
    assert reasons(runtime.counts) == {"ego_bad": 1}
    first = Runtime(Engine()).plan(frames, ego, route)
    is_a_stop(first.points[0], SPEED)  # ... or how fast it was half a second ago
    ego[:] = speed
    assert (Runtime(Engine()).plan(frames, ego, route).points == 0).all()


WALL = [12.0, 0.0, 0.0, 0.0, 4.0, 2.0]


@pytest.mark.parametrize(
    "odd",
    [
        [30.0, 0.0, 0.0, np.nan, 4.0, 2.0],
        [np.inf, 0.0, 0.0, 0.0, 4.0, 2.0],
        [30.0, 1e300, 0.0, 0.0, 4.0, 2.0],
        [30.0, 0.0, np.nan, 0.0, 4.0, 2.0],
        [30.0, 0.0, 0.0, 1e4, 4.0, 2.0],
        [30.0, 0.0, 0.0, 0.0, 1e6, 2.0],
        [30.0, 0.0, 0.0, 0.0, 4.0, -2.0],
    ],
)
def test_an_object_that_cannot_be_is_left_out_and_the_others_count(odd):
    want = Runtime(Engine()).plan(*seen(0), objects=[np.array([WALL])])
    assert want.guarded[0]
    runtime = Runtime(Engine())
    got = runtime.plan(*seen(0), objects=[np.array([odd, WALL, odd])])
    np.testing.assert_array_equal(got.points, want.points)
    assert (reasons(runtime.counts), got.stopped.tolist()) == ({"objects_left_out": 2}, [False])


@pytest.mark.parametrize(
    "objects",
    [
        [], [None, None], [np.zeros((2, 5))], [np.zeros(6)], [["a"]], 3, [[[1, 2], [3]]], [np.array(3.0)], "x",
        [Unwilling()], [np.ma.masked_all((1, 6))], [np.zeros((1, 6), complex)], [np.zeros((1, 6), "M8[s]")],
    ],
)  # fmt: skip
def test_an_invalid_list_of_objects_is_a_reason_to_stop(objects):
    runtime = Runtime(Engine())
    is_a_stop(runtime.plan(*seen(0), objects=objects).points[0], SPEED)
    assert reasons(runtime.counts) == {"objects_bad": 1}


@pytest.mark.parametrize("nothing", [[], [[]], np.zeros(0), np.zeros((0, 5)), np.zeros((0, 6))])
def test_no_objects_may_have_any_shape(nothing):
    runtime = Runtime(Engine())
    assert not runtime.plan(*seen(0), objects=[nothing]).stopped[0]
    assert reasons(runtime.counts) == {}


def test_a_stop_is_guarded_too():
    """The wall is nearer than the end of the stop."""
    runtime = Runtime(Engine(dead))
    planned = runtime.plan(*seen(0), objects=[np.array([WALL])])
    assert planned.points[0, -1, 0] + 2.3 < 12.0 - 2.0
    assert reasons(runtime.counts) == {"planner_failed": 1}


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (lambda k: {"front": np.zeros((1, 2, 8, 16, 3), np.uint8)}, "frames_blank"),
        (lambda k: {"front": np.full((1, 2, 8, 16, 3), 200 + k % 3, np.uint8)}, "frames_blank"),
        (lambda k: seen(0)[0], "frames_frozen"),
    ],
)
def test_a_camera_that_shows_nothing_new_ends_in_a_stop_and_stays_there(frames, reason):
    runtime = Runtime(Engine())
    stops = [runtime.plan(frames(k), *seen(k)[1:], t=k * 0.5).stopped[0] for k in range(8)]
    assert not any(stops[:2])  # one or two may happen
    assert all(stops[4:])
    assert reasons(runtime.counts)[reason] >= 7
    for k in range(8, 12):  # it stands by now, and must not start again blindly
        assert runtime.plan(frames(k), *seen(k, speed=0.0)[1:], t=k * 0.5).stopped[0]
    assert not runtime.plan(*seen(13, speed=0.0), t=6.0).stopped[0]


def test_a_standing_car_may_see_the_same_picture_for_long():
    runtime = Runtime(Engine())
    for k in range(20):
        assert not runtime.plan(seen(0)[0], *seen(k, speed=0.0)[1:], t=k * 0.5).stopped[0]
    assert reasons(runtime.counts) == {}


@pytest.mark.parametrize("shown", [None, np.zeros((1, 2, 8, 16, 3)), np.zeros((1, 2, 0, 16, 3), np.uint8), "black",
                                    np.zeros((2, 2, 8, 16, 3), np.uint8), np.zeros((8, 16, 3), np.uint8)])  # fmt: skip
def test_an_invalid_picture(shown):
    for frames in (shown, {"front": shown}, {"rear": seen(0)[0]["front"]}, {**seen(0)[0], "rear": shown}):
        runtime = Runtime(Engine())
        is_a_stop(runtime.plan(frames, *seen(0)[1:]).points[0], SPEED)
        assert reasons(runtime.counts) == {"frames_bad": 1}


LEAST = np.full((1, 12), np.iinfo(np.int64).min)


@pytest.mark.parametrize("route", [None, np.full((1, 12), np.nan), np.zeros((2, 12)), np.full((1, 12), 1e9), LEAST])
def test_an_invalid_route(route):
    runtime = Runtime(Engine())
    is_a_stop(runtime.plan(*seen(0)[:2], route).points[0], SPEED)
    assert reasons(runtime.counts) == {"route_bad": 1}


@pytest.mark.parametrize("odd", [-5.0, 9.9, np.nan, np.inf, 1e9, "now", 10**400])
def test_a_clock_that_does_not_run_on(odd):
    runtime = Runtime(Engine())
    assert not runtime.plan(*seen(0), t=10.0).stopped[0]
    planned = runtime.plan(*seen(1), t=odd)
    is_a_stop(planned.points[0], SPEED)
    assert reasons(runtime.counts) == {"clock_bad": 1}
    assert runtime.counts.dropped == 0
    on = odd + 0.5 if isinstance(odd, float) and np.isfinite(odd) else 10.5
    assert not runtime.plan(*seen(2), t=on).stopped[0]


@pytest.mark.parametrize(("now", "old"), [(10.1, False), (10.6, True), (8.0, True), (np.nan, True)])
def test_the_age_of_a_frame(now, old):
    runtime = Runtime(Engine())
    assert runtime.plan(*seen(0), t=10.0, now=now).stopped[0] == old


def test_a_guard_that_fails_leaves_the_stop():
    class Broken:
        def check(self, *_: object) -> None:
            raise IndexError("guard")

    runtime = Runtime(Engine(), Broken())  # pyright: ignore[reportArgumentType]
    is_a_stop(runtime.plan(*seen(0)).points[0], SPEED)
    assert reasons(runtime.counts) == {"guard_failed": 1}


def test_one_cars_trouble_is_not_the_others(caplog):
    runtime = Runtime(Engine())
    _, ego, route = seen(0, cars=3)
    ego[1, -1, 0] = np.nan
    objects = [None, None, np.array([WALL])]
    with caplog.at_level(logging.WARNING):
        for k in range(3):
            planned = runtime.plan(seen(k, cars=3)[0], ego, route, objects)
    assert planned.stopped.tolist() == [False, True, False]
    assert planned.guarded.tolist() == [False, True, True]
    np.testing.assert_array_equal(planned.points[0], straight()[0])
    assert reasons(runtime.counts) == {"ego_bad": 3}
    assert [r.getMessage() for r in caplog.records] == [
        "no fresh plan (ego_bad): braking to a stop along the last good one"
    ]


def test_a_simulated_drive_is_interrupted_by_errors_and_waits():
    for instead in (dead, lambda: None):
        with pytest.raises((RuntimeError, ValueError), match=r"memory|does not fit"):
            Runtime(Engine(instead), patient=True).plan(*seen(0))
    blank = {"front": np.zeros((1, 2, 8, 16, 3), np.uint8)}
    runtime = Runtime(Engine(), patient=True)
    for _ in range(10):
        assert not runtime.plan(blank, *seen(0)[1:]).stopped[0]


ODD = st.sampled_from([np.nan, np.inf, -np.inf, 1e300, -1e300, 1e6, -5.0, 0.0, 3.0])
ARRAYS = st.sampled_from([None, "x", np.zeros(0), np.zeros((1, 4, 3)), np.full((1, 8, 3), np.nan), [[1], [2, 3]], 5])


@st.composite
def decision(draw: st.DrawFn) -> dict[str, Any]:
    """One decision with a mixture of valid and invalid inputs."""
    frames, ego, route = seen(draw(st.integers(0, 39)), speed=draw(st.floats(0, 30)))
    ego = ego.astype(np.float64)
    for _ in range(draw(st.integers(0, 2))):
        ego[0, draw(st.integers(0, 3)), draw(st.integers(0, 2))] = draw(ODD)
    rows = np.tile([*WALL], (draw(st.integers(0, 3)), 1))
    if len(rows) and draw(st.booleans()):
        rows[0, draw(st.integers(0, 5))] = draw(ODD)
    given_ = {"frames": frames, "ego": ego, "route": route, "objects": [rows], "t": draw(st.floats(0, 100))}
    if draw(st.integers(0, 3)) == 0:
        name = draw(st.sampled_from(["frames", "ego", "route", "objects"]))
        given_[name] = draw(ARRAYS)
    if draw(st.integers(0, 3)) == 0:
        given_["t"] = draw(ODD)
    return given_


def safe(planned: Planned, before: Planned | None) -> None:
    assert planned.points.shape == (1, 8, 3)
    assert np.isfinite(planned.points).all()
    p = np.concatenate([np.zeros((1, 3)), planned.points[0]])
    step = np.hypot(*np.diff(p[:, :2], axis=0).T)
    if planned.stopped[0]:
        assert (np.diff(step) <= 0.05).all()  # slower and slower
    forward = np.diff(p[:, 0]) * np.cos(p[:-1, 2]) + np.diff(p[:, 1]) * np.sin(p[:-1, 2])
    assert (forward >= -0.06).all()


WILD = np.random.default_rng(1).normal(0, 30, (1, 8, 3))
ANSWERS = st.sampled_from([None, dead, lambda: None, lambda: (WILD, TOKENS), lambda: (WILD * np.nan, TOKENS)])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(decision(), ANSWERS), max_size=8))
def test_there_is_always_a_plan(decisions):
    engine = Engine()
    runtime = Runtime(engine, deadline_s=30.0)
    planned = None
    for observed, engine.instead in decisions:
        planned, before = runtime.plan(**observed), planned
        safe(planned, before)
    counts = runtime.counts
    assert counts.decisions == len(decisions)
    others = sum(reasons(counts).values()) - counts.objects_left_out
    assert counts.stopped <= others

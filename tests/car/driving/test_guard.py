import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drivefoundry_car.driving.guard import Guard, boxes_touch

GUARD = Guard()


def unicycle(speed: float, accel: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """A drivable plan (8, 3): constant acceleration and curvature in each half second."""
    x = y = yaw = 0.0
    out = []
    for a, k in zip(accel, curvature, strict=True):
        for _ in range(50):
            step = speed * 0.01
            yaw += step * k / 2
            x, y = x + step * np.cos(yaw), y + step * np.sin(yaw)
            yaw += step * k / 2
            speed = max(speed + a * 0.01, 0.0)
        out.append((x, y, yaw))
    return np.array(out)


def straight(speed: float) -> np.ndarray:
    return unicycle(speed, np.zeros(8), np.zeros(8))


def corners(x: float, y: float, yaw: float, length: float, width: float) -> np.ndarray:
    at = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * (length / 2, width / 2)
    return at @ np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]]) + (x, y)


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two convex polygons overlap, by projecting both on every edge normal: independent of the guard's own
    test."""
    for p in (a, b):
        edges = np.roll(p, -1, 0) - p
        for n in np.stack([-edges[:, 1], edges[:, 0]], 1):
            if (a @ n).max() < (b @ n).min() or (b @ n).max() < (a @ n).min():
                return False
    return True


def path_at(points: np.ndarray) -> np.ndarray:
    """Plan (8, 3) -> poses every 0.1 s (40, 3), by cubic Hermite between the points."""
    p = np.concatenate([np.zeros((1, 3)), points])
    out = []
    for a, b in itertools.pairwise(p):
        chord = np.hypot(*(b - a)[:2])
        turn = np.arctan2(np.sin(b[2] - a[2]), np.cos(b[2] - a[2]))
        ta, tb = (chord * np.array([np.cos(w), np.sin(w)]) for w in (a[2], b[2]))
        for u in (0.2, 0.4, 0.6, 0.8, 1.0):
            xy = (2 * u**3 - 3 * u**2 + 1) * a[:2] + (3 * u**2 - 2 * u**3) * b[:2]
            xy = xy + (u**3 - 2 * u**2 + u) * ta + (u**3 - u**2) * tb
            out.append((*xy, a[2] + u * turn))
    return np.array(out)


def impact(points: np.ndarray, objects: np.ndarray) -> float:
    """Ego speed at its first contact with an object that keeps its velocity and does not come from behind; -1 if
    none."""
    path = np.concatenate([np.zeros((1, 3)), path_at(points)])
    step = np.hypot(*np.diff(path[:, :2], axis=0).T) / 0.1
    first = len(path)
    for ox, oy, oyaw, speed, length, width in objects:
        touching, behind = [], False
        for k, (x, y, yaw) in enumerate(path):
            cx, cy = ox + speed * np.cos(oyaw) * k * 0.1, oy + speed * np.sin(oyaw) * k * 0.1
            if overlap(corners(x, y, yaw, GUARD.length, GUARD.width), corners(cx, cy, oyaw, length, width)):
                if not touching:
                    behind = (cx - x) * np.cos(yaw) + (cy - y) * np.sin(yaw) <= -GUARD.length / 2
                touching.append(k)
        if not behind:
            first = min([first, *(k for k in touching if k > 0)])
    return float(step[first - 1]) if first < len(path) else -1.0


@st.composite
def drivable(draw: st.DrawFn) -> tuple[np.ndarray, float]:
    speed = draw(st.floats(0, 15))
    accel = draw(hnp.arrays(float, 8, elements=st.floats(-4, 3)))
    tight = min(0.2, 5.0 / max(speed + 12, 1) ** 2)  # stays within the lateral limit even while accelerating
    curvature = draw(hnp.arrays(float, 8, elements=st.floats(-1, 1))) * tight
    return unicycle(speed, accel, curvature), speed


things = hnp.arrays(float, st.tuples(st.integers(0, 5), st.just(6)), elements=st.floats(0, 1)).map(
    lambda u: np.array([-15, -12, -np.pi, 0, 0.5, 0.5]) + u * np.array([60, 24, 2 * np.pi, 14, 9, 2])
)


@settings(max_examples=150, deadline=None)
@given(drivable(), things)
def test_never_more_harm_than_the_raw_plan(plan: tuple[np.ndarray, float], objects: np.ndarray) -> None:
    points, speed = plan
    raw, _ = GUARD.limit(points[None], np.array([speed]))
    out, changed = GUARD.check(points[None], np.array([speed]), [objects])
    assert impact(out[0], objects) <= impact(raw[0], objects) + 0.02  # the guard computes in float32
    if not changed[0]:
        np.testing.assert_array_equal(out[0], points)


@settings(max_examples=100, deadline=None)
@given(drivable())
def test_a_drivable_plan_is_left_alone(plan: tuple[np.ndarray, float]) -> None:
    points, speed = plan
    for objects in (None, [None], [np.zeros((0, 6))]):
        out, changed = GUARD.check(points[None], np.array([speed]), objects)
        np.testing.assert_array_equal(out[0], points)
        assert not changed[0]


wild = hnp.arrays(float, (4, 8, 3), elements=st.floats(-80, 80) | st.sampled_from([np.nan, np.inf]))
back_and_forth = np.full((4, 8, 3), 0.5)
back_and_forth[:, 0, 0] = -62.33
"""From 62 m behind it back to the car: an arc of several turns, of which a standing car drives the first metre."""


@settings(max_examples=150, deadline=None)
@given(wild, hnp.arrays(float, 4, elements=st.floats(0, 30)))
@example(back_and_forth, np.zeros(4))
def test_any_plan_is_made_drivable(points: np.ndarray, speed: np.ndarray) -> None:
    out, changed = GUARD.check(points, speed, None)
    assert np.isfinite(out).all()
    p = np.concatenate([np.zeros((4, 1, 3)), out], 1)
    d = np.diff(p, axis=1)
    turn = np.abs(np.arctan2(np.sin(d[..., 2]), np.cos(d[..., 2])))
    mid = p[:, :-1, 2] + np.arctan2(np.sin(d[..., 2]), np.cos(d[..., 2])) / 2
    forward = d[..., 0] * np.cos(mid) + d[..., 1] * np.sin(mid)
    assert (forward >= -0.06).all()  # never backwards
    mean = np.hypot(d[..., 0], d[..., 1]) / 0.5
    before = np.concatenate([speed[:, None] + 0.5 - 1.0, mean[:, :-1]], 1)
    assert (mean <= before + 4.0 * 0.5 * 1.1 + 0.1).all()
    assert (turn <= GUARD.max_curvature * mean * 0.5 * 1.2 + 0.1).all()
    assert (mean * turn / 0.5 <= GUARD.max_lat_accel * 1.3 + 0.5).all()
    assert changed[~np.isfinite(points).all((1, 2))].all()


def one(points: np.ndarray, speed: float, *objects: tuple[float, ...]) -> tuple[np.ndarray, bool]:
    out, changed = GUARD.check(points[None], np.array([speed]), [np.array(objects).reshape(-1, 6)])
    return out[0], bool(changed[0])


def test_stops_behind_a_standing_car_only_when_it_must() -> None:
    plan = straight(10.0)
    far, changed = one(plan, 10.0, (35.0, 0.0, 0.0, 0.0, 4.6, 1.9))
    assert not changed  # the planner still has time
    np.testing.assert_array_equal(far, plan)
    out, changed = one(plan, 10.0, (20.0, 0.0, 0.0, 0.0, 4.6, 1.9))
    assert changed
    assert out[-1, 0] + 2.3 < 20.0 - 2.3
    assert out[-1, 0] > 8.0  # braked along the path, not further than needed
    np.testing.assert_allclose(out[:, 1], 0, atol=1e-9)


def test_brakes_for_a_crossing_pedestrian_and_not_for_a_leaving_one() -> None:
    plan = straight(8.0)
    assert one(plan, 8.0, (12.0, -2.0, np.pi / 2, 1.4, 0.6, 0.6))[1]
    assert not one(plan, 8.0, (12.0, 2.0, np.pi / 2, 1.4, 0.6, 0.6))[1]


def test_a_fast_follower_does_not_make_it_brake() -> None:
    assert not one(straight(5.0), 5.0, (-12.0, 0.0, 0.0, 14.0, 4.6, 1.9))[1]


def test_a_neighbour_within_the_margin_does_not_hold_it() -> None:
    assert not one(straight(1.0), 1.0, (0.5, 2.05, 0.0, 0.0, 4.6, 1.9))[1]


def test_a_standing_car_is_not_to_blame() -> None:
    out, changed = one(np.zeros((8, 3)), 0.0, (10.0, 0.0, np.pi, 8.0, 4.6, 1.9))
    assert not changed
    assert (out == 0).all()


def test_undrivable_plans_are_repaired() -> None:
    sideways = np.zeros((8, 3))
    sideways[:, 1] = np.arange(1, 9) * 2.0
    out, changed = GUARD.check(np.stack([sideways, -straight(5.0), straight(30.0)]), np.array([4.0, 5.0, 5.0]), None)
    assert changed.all()
    assert out[0, 0, 1] < 1.0  # cannot jump to its left
    np.testing.assert_allclose(out[1], 0, atol=1e-9)  # will not reverse
    assert out[2, 0, 0] < 5.0 * 0.5 + 0.5 + 4.0 * 0.125 + 0.1


def test_a_lost_plan_becomes_a_stop() -> None:
    plan = straight(8.0)
    plan[3, 1] = np.nan
    out, changed = one(plan, 8.0)
    assert changed
    np.testing.assert_allclose(out[-1], (8.0, 0, 0))
    assert (np.diff(out[:, 0]) >= 0).all()


def test_cars_of_a_batch_do_not_see_each_others_objects() -> None:
    plans = np.stack([straight(10.0)] * 3)
    wall = np.array([[15.0, 0.0, 0.0, 0.0, 4.6, 1.9]])
    out, changed = GUARD.check(plans, np.full(3, 10.0), [None, wall, wall + 50])
    assert changed.tolist() == [False, True, False]
    alone, _ = GUARD.check(plans[1:2], np.full(1, 10.0), [wall])
    np.testing.assert_array_equal(out[1], alone[0])


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(float, 5, elements=st.floats(-1, 1)))
def test_box_test_agrees_with_polygons(u: np.ndarray) -> None:
    x, y, yaw, length, width = u * (6, 5, np.pi, 3, 1) + (0, 0, 0, 4, 2)
    got = boxes_touch(*(np.array([v]) for v in (x, y, length / 2, width / 2, yaw)), 2.3, 0.95)[0]
    assert got == overlap(corners(0, 0, 0, 4.6, 1.9), corners(x, y, yaw, length, width))


@pytest.mark.parametrize(
    ("points", "speed", "objects", "match"),
    [
        (np.zeros((2, 7, 3)), np.zeros(2), None, r"points \(S, 8, 3\)"),
        (np.zeros((2, 8, 3)), np.zeros(3), None, r"speed \(S,\)"),
        (np.zeros((1, 8, 3)), np.array([np.nan]), None, "speed is not finite"),
        (np.zeros((2, 8, 3)), np.zeros(2), [None], "1 for 2 cars"),
        (np.zeros((1, 8, 3)), np.zeros(1), [np.zeros((3, 5))], r"objects of car 0: must be \(n, 6\)"),
        (np.zeros((1, 8, 3)), np.zeros(1), [np.full((1, 6), np.nan)], "NaN or infinite"),
    ],
)
def test_bad_input_is_named(points: np.ndarray, speed: np.ndarray, objects: list | None, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        GUARD.check(points, speed, objects)

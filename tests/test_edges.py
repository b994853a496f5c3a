"""Ground that is road, ground that is not, and ground that a map does not classify."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry import edges
from drivefoundry.raster import GROUND, ROAD, SIDEWALK, class_at, drivable_at, ground_raster, stack_rasters
from drivefoundry.roadmap import load_map, make_map, save_map


def box(x0, y0, x1, y1):
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def street(**more):
    """A street of 8 m along x with an edge on its right from x = 0 to 60 and on its left throughout; beyond x = 60 on
    the right lies a car park."""
    lane = np.array([[0.0, 0.0], [100.0, 0.0]])
    right, left = np.array([[0.0, -4.0], [60.0, -4.0]]), np.array([[100.0, 4.0], [0.0, 4.0]])
    return make_map(lanes=[lane], drivable=[box(0, -4, 100, 4)], **{"road_edges": [right, left], **more})


def ground(road_map, x, y):
    stack = edges.stack_roads([road_map])
    return int(class_at(stack.classes, stack.frames, 0, x, y))


def kind(road_map, x, y):
    stack = edges.stack_roads([road_map])
    return int(edges.ground_at(stack.classes, stack.frames, 0, x, y))


def test_beyond_the_raster_an_open_map_says_nothing_and_a_complete_one_that_there_is_no_road():
    for x, y in ((1000.0, 0.0), (50.0, -500.0)):
        assert kind(street(), x, y) == edges.UNMAPPED
        assert kind(street(road_edges=None), x, y) == edges.NO_ROAD
    assert kind(street(), np.nan, 0.0) == edges.NO_ROAD
    assert kind(street(), 30.0, 0.0) == edges.MAPPED_ROAD
    assert kind(street(), 30.0, -5.0) == edges.NO_ROAD
    assert kind(street(), 80.0, -9.0) == edges.UNMAPPED


def test_behind_an_edge_is_no_road_and_beside_it_is_unknown():
    m = street()
    assert ground(m, 30.0, 0.0) == ROAD
    for y in (-4.3, -6.7, 4.3, 6.7):
        assert ground(m, 30.0, y) == GROUND
    assert ground(m, 30.0, -4.3 - edges.BAND) == edges.UNKNOWN
    for y in (-4.3, -10.0):
        assert ground(m, 80.0, y) == edges.UNKNOWN
    assert ground(m, 80.0, 4.3) == GROUND
    stack = edges.stack_roads([m])
    assert drivable_at(stack.classes, stack.frames, 0, 80.0, -10.0)
    assert not drivable_at(stack.classes, stack.frames, 0, 30.0, -5.0)


def test_a_map_without_edges_to_tell_is_complete():
    m = street(road_edges=None)
    stack, plain = edges.stack_roads([m]), stack_rasters([m])
    assert edges.unknown_ground(m) is None
    np.testing.assert_array_equal(stack.classes, plain.classes)
    assert ground(m, 80.0, -10.0) == GROUND


def test_a_map_that_knows_no_edge_knows_of_no_ground_that_it_is_no_road():
    m = street(road_edges=[], sidewalks=[box(0, -8, 60, -5)])
    assert ground(m, 30.0, -4.5) == edges.UNKNOWN
    assert ground(m, 30.0, -6.0) == SIDEWALK


def test_several_maps_in_one_stack():
    open_, complete = street(), street(road_edges=None)
    stack = edges.stack_roads([complete, open_, complete])
    assert [int(class_at(stack.classes, stack.frames, m, 80.0, -10.0)) for m in range(3)] == [
        GROUND, edges.UNKNOWN, GROUND
    ]  # fmt: skip
    assert ground_raster(open_).classes.max() < edges.UNKNOWN  # what the camera draws knows nothing of it


@pytest.mark.parametrize("road_edges", [None, [], [np.array([[0.0, -4.0], [60.0, -4.0]])]])
def test_edges_are_stored_with_the_map(road_edges):
    m = street(road_edges=road_edges)
    again = load_map(save_map(m))
    assert again.id == m.id
    assert (again.road_edges is None) == (road_edges is None)
    assert again.road_edges is None or len(again.road_edges) == len(road_edges)
    assert len({street(road_edges=e).id for e in (None, [], [np.array([[0.0, -4.0], [60.0, -4.0]])])}) == 3


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 12), st.integers(0, 10**6), st.booleans())
def test_an_island_is_no_road_and_a_yard_is_not_off_the_road(corners, seed, clockwise):
    """A closed edge has the road on its left: outside of a clockwise one, inside of a counter-clockwise one."""
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    if np.diff([*angle, angle[0] + 2 * np.pi]).max() > 2.5:
        return  # the middle lies outside
    ring = 30.0 + np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(4.0, 12.0, corners)[:, None]
    ring = np.concatenate([ring, ring[:1]])
    lane = np.array([[0.0, 50.0], [60.0, 50.0]])
    m = make_map(
        lanes=[lane], drivable=[box(0, 48, 60, 52), box(0, 0, 60, 2)], road_edges=[ring[::-1] if clockwise else ring]
    )
    for _ in range(20):
        p = rng.uniform(14.0, 46.0, 2)
        near = distance(ring, p)
        if abs(near - edges.BAND) < 0.5 or near < 0.5:
            continue
        off = near < edges.BAND and (inside(ring, p) == clockwise)
        assert ground(m, *p) == (GROUND if off else edges.UNKNOWN)


def distance(ring, p):
    a, e = ring[:-1], np.diff(ring, axis=0)
    u = np.clip(((p - a) * e).sum(1) / (e * e).sum(1), 0, 1)
    return np.hypot(*(p - a - u[:, None] * e).T).min()


def inside(ring, p):
    (ax, ay), (bx, by) = ring[:-1].T, ring[1:].T
    spans = (ay > p[1]) != (by > p[1])
    x = ax + (p[1] - ay) * (bx - ax) / np.where(spans, by - ay, 1.0)
    return bool((spans & (p[0] < x)).sum() % 2)

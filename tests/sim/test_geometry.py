"""Box overlap and projection on polylines: hand-worked cases and invariants."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drivefoundry.geometry import box_corners, boxes_overlap, first_pass, project_on_polyline, wrap

place = st.floats(-10, 10)
angle = st.floats(-math.pi, math.pi)
side = st.floats(0.1, 8)
box = st.tuples(place, place, angle, side, side)


def test_touching_and_apart():
    assert boxes_overlap(0, 0, 0, 4, 2, 4.0, 0, 0, 4, 2)
    assert not boxes_overlap(0, 0, 0, 4, 2, 4.01, 0, 0, 4, 2)
    assert not boxes_overlap(0, 0, 0, 4, 2, 0, 2.01, 0, 4, 2)
    # A diamond whose corner misses the other's corner, though their circles and axis-aligned bounds overlap.
    assert not boxes_overlap(0, 0, 0, 2, 2, 1.8, 1.8, math.pi / 4, 2, 2)
    assert boxes_overlap(0, 0, 0, 2, 2, 1.6, 1.6, math.pi / 4, 2, 2)


@given(box, box)
def test_overlap_is_symmetric(a, b):
    assert boxes_overlap(*a, *b) == boxes_overlap(*b, *a)


@given(box, box, place, place, angle)
def test_overlap_does_not_change_when_both_move(a, b, dx, dy, turn):
    def moved(v, grow):
        c, s = math.cos(turn), math.sin(turn)
        return (c * v[0] - s * v[1] + dx, s * v[0] + c * v[1] + dy, v[2] + turn, v[3] + grow, v[4] + grow)

    # Rounding may decide boxes that just touch: a hair of growth must not be needed, a hair of shrinking not suffice.
    if boxes_overlap(*a, *b):
        assert boxes_overlap(*moved(a, 1e-6), *moved(b, 1e-6))
    else:
        assert not boxes_overlap(*moved(a, -1e-6), *moved(b, -1e-6))


@given(box, box)
def test_overlap_agrees_with_clipping(a, b):
    """Clip box a by the four edges of box b (Sutherland and Hodgman 1974): a part remains exactly if they overlap."""

    def corners(v):
        out = np.zeros((4, 2))
        box_corners(*v, out)
        return [tuple(p) for p in out]

    left, clip = corners(a), corners(b)  # counter-clockwise
    for (ax, ay), (bx, by) in zip(clip, clip[1:] + clip[:1], strict=True):
        inside = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in left]
        cut = []
        for i, p in enumerate(left):
            q, fp, fq = left[i - 1], inside[i], inside[i - 1]
            if (fp >= 0) != (fq >= 0):
                u = fq / (fq - fp)
                cut.append((q[0] + u * (p[0] - q[0]), q[1] + u * (p[1] - q[1])))
            if fp >= 0:
                cut.append(p)
        left = cut
    grown, shrunk = (*a[:3], a[3] + 1e-6, a[4] + 1e-6), (*a[:3], a[3] - 1e-6, a[4] - 1e-6)
    if left:
        assert boxes_overlap(*grown, *b)
    else:
        assert not boxes_overlap(*shrunk, *b)


def test_corners_go_round_from_the_front_left():
    out = np.zeros((4, 2))
    box_corners(1.0, 2.0, math.pi / 2, 4.0, 2.0, out)
    assert np.allclose(out, [[0, 4], [0, 0], [2, 0], [2, 4]])


def test_projection():
    line = np.array([[0.0, 0], [10, 0], [10, 10]])
    s = np.array([0.0, 10, 20])
    assert project_on_polyline(line, s, 4.0, 1.0, -1) == (4.0, 1.0, 0)
    assert project_on_polyline(line, s, 11.0, 6.0, -1) == (16.0, -1.0, 1)
    at, lateral, _ = project_on_polyline(line, s, 13.0, -4.0, -1)  # outside of the corner: its distance, to the right
    assert (at, lateral) == (10.0, -5.0)
    assert project_on_polyline(line, s, -3.0, 2.0, -1)[:2] == (0.0, 2.0)  # before the start: offset across the line
    assert project_on_polyline(line, s, 9.0, 15.0, -1)[:2] == (20.0, 1.0)


@given(st.integers(0, 198), st.integers(0, 198), st.floats(-3, 3))
def test_a_hint_finds_the_same_foot_from_anywhere_on_a_smooth_line(i, hint, off):
    t = np.arange(200) * 0.01
    line = np.stack([100 * np.sin(t), 100 - 100 * np.cos(t)], 1)
    s = t * 100
    x, y = line[i] + off * np.array([-np.sin(t[i]), np.cos(t[i])])
    full, near = project_on_polyline(line, s, x, y, -1), project_on_polyline(line, s, x, y, hint)
    assert np.allclose(full[:2], near[:2])
    assert abs(full[1] - off) < 0.01


@given(st.floats(-50, 50))
def test_wrap(a):
    assert -math.pi <= wrap(a) <= math.pi
    assert math.isclose(math.cos(wrap(a)), math.cos(a), abs_tol=1e-9)


@given(st.floats(-0.7, 0.7), st.floats(12, 48), st.integers(2, 4))
def test_of_several_passes_the_first_is_found_even_if_another_is_nearer(off, x, rounds):
    """Round and round a square of 60 m, a little farther in each time."""
    square = np.array([[0, 0], [60, 0], [60, 60], [0, 60]], float)
    way = np.concatenate([square + 0.35 * k for k in range(rounds)] + [square[:1]])
    s = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(way, axis=0).T))])
    assert first_pass(way, len(way), x, off) == 0
    at, lateral, segment = project_on_polyline(way, s, x, off, -1)
    assert segment == 0
    assert abs(at - x) + abs(lateral - off) < 1e-9
    assert first_pass(way, len(way), x, 60.0 + off) == 2, "the far side is no pass of this one"

"""RoadMap: content ids, storage, lane geometry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefoundry.roadmap import arc_length, lane_polygon, load_map, make_map, offset_line, resample, save_map


def small_map(shift: float = 0.0, **more):
    lanes = [np.array([[0.0, 0.0], [50.0, 0.0]]) + shift, np.array([[50.0, 0.0], [80.0, 10.0]]) + shift]
    return make_map(lanes=lanes, lane_next=[[1], []], drivable=[lane_polygon(line, 3.2) for line in lanes], **more)


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def test_equal_content_has_an_equal_id_and_equal_bytes():
    assert small_map().id == small_map().id
    assert save_map(small_map()) == save_map(small_map())
    assert len(small_map().id) == 16


@pytest.mark.parametrize("change", [{"shift": 0.01}, {"lane_speed": [8.0, 9.0]}, {"buildings": [[0, 9, 0, 5, 5, 5]]}])
def test_any_change_changes_the_id(change):
    assert small_map(**change).id != small_map().id


def test_a_map_survives_storage():
    before = small_map(
        stop_lines=[[50, -1.6, 50, 1.6]],
        signal_heads=[[70, 0, 5, 3.1416]],
        lane_signal=[0, -1],
        lines=[np.zeros((3, 2))],
    )
    after = load_map(save_map(before))
    assert after.id == before.id
    assert np.array_equal(after.lanes[1], before.lanes[1])
    assert after.lane_next[0].ravel().tolist() == [1.0]
    assert after.lane_signal.tolist() == [0, -1]
    assert len(after.lane_next[1]) == 0


@pytest.mark.parametrize("data", [b"", b"not a map", save_map(small_map())[:200]])
def test_foreign_bytes_are_refused(data):
    with pytest.raises(ValueError, match="not a stored map"):
        load_map(data)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"lane_widths": [3.0]}, "unknown field lane_widths"),
        ({"lane_next": [[5], []]}, "lane_next"),
        ({"lane_signal": [0, -1]}, "lane_signal"),
        ({"lane_width": [3.0]}, "lane_width"),
        ({"lines": [np.zeros((3, 3))]}, "lines"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arrays, words):
    lanes = [np.array([[0.0, 0.0], [50.0, 0.0]]), np.array([[50.0, 0.0], [80.0, 10.0]])]
    with pytest.raises(ValueError, match=words):
        make_map(lanes=lanes, **arrays)


@given(st.floats(2.0, 6.0), st.floats(15.0, 60.0), st.floats(0.2, 2.5))
def test_a_bent_lane_keeps_its_width(width, radius, angle):
    a = np.linspace(0, angle, 40)
    line = radius * np.stack([np.sin(a), 1 - np.cos(a)], 1)
    length = radius * angle
    assert area(lane_polygon(line, width)) == pytest.approx(length * width, rel=0.01)
    left = offset_line(line, width / 2)
    distance = np.hypot(*(left[:, None] - resample(line, 0.05)[None]).transpose(2, 0, 1)).min(1)
    assert np.allclose(distance, width / 2, atol=0.02)


@given(st.floats(0.3, 5.0))
def test_resampling_keeps_ends_and_length(step):
    line = np.array([[0.0, 0.0, 8.0], [10.0, 0.0, 8.0], [10.0, 20.0, 12.0]])
    out = resample(line, step)
    assert np.allclose(out[[0, -1]], line[[0, -1]])
    gaps = np.diff(arc_length(out))
    assert gaps.max() <= step * 1.5
    assert arc_length(out)[-1] == pytest.approx(30.0, abs=step)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefoundry.label.frames import crop_box, frames_at, latest
from drivefoundry_car.log import encode_video


def test_crop_keeps_the_width_and_puts_the_horizon_where_the_model_has_it():
    left, upper, right, lower = crop_box(320, 240, 160, 140, (64, 160))
    assert (left, right) == (0, 320)
    assert lower - upper == pytest.approx(128)
    assert (140 - upper) / (lower - upper) == pytest.approx(28 / 64)


@given(st.integers(64, 2000), st.integers(64, 2000), st.floats(0, 1), st.floats(0, 1))
def test_crop_lies_inside_and_has_the_models_shape(width, height, cx, cy):
    left, upper, right, lower = crop_box(width, height, cx * width, cy * height, (64, 160))
    assert left >= 0
    assert upper >= 0
    assert right <= width + 1e-6
    assert lower <= height + 1e-6
    assert (right - left) / (lower - upper) == pytest.approx(2.5)


def test_larger_pictures_are_cropped_and_shrunk():
    frame = np.zeros((240, 320, 3), np.uint8)
    frame[84:212] = 200  # exactly the band that is kept
    video = encode_video(np.stack([frame] * 4), np.arange(4) * 0.1, (1076, 1076, 160, 140), (1.0, 0.0, 1.4, 0.0))
    out = frames_at(video, np.array([2]), (64, 160))
    assert out.shape == (1, 64, 160, 3)
    assert out[0, 2:-2].min() > 180
    assert frames_at(video, np.array([], int), (64, 160)).shape == (0, 64, 160, 3)


def test_a_decision_sees_the_last_frame_before_it_and_no_stale_one():
    video = encode_video(
        np.zeros((3, 64, 160, 3), np.uint8), np.array([0.0, 0.1, 0.5]), (95, 95, 80, 28), (1, 0, 1.5, 0)
    )
    index, ok = latest(video, np.array([-0.2, 0.02, 0.0995, 0.07, 0.3, 0.52]))
    assert index.tolist() == [0, 0, 1, 0, 1, 2]
    assert ok.tolist() == [False, True, True, True, False, True]

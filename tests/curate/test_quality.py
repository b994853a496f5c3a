from dataclasses import replace

import numpy as np
import pytest

from drivefoundry.curate.quality import motion_fault, picture_fault, resize, thumbnails, video_fault
from drivefoundry_car.log import cut, encode_video

RIG = ((95.3, 95.3, 80.0, 28.0), (1.0, 0.0, 1.5, 0.0))


def with_frames(drive, frames):
    return replace(drive, video=encode_video(frames, drive.t, *RIG))


def changed(drive, row, column, value):
    ego = drive.ego.copy()
    ego[row, column] = value
    return replace(drive, ego=ego)


def pictures(drive):
    assert drive.video is not None
    return picture_fault(drive, *thumbnails(drive.video))


@pytest.fixture
def drive(make_drive):
    return make_drive(steps=120, frames=True)


def test_a_good_clip_has_no_fault(drive):
    assert motion_fault(drive) is None
    assert video_fault(drive) is None
    assert pictures(drive) is None


def test_short(drive):
    assert motion_fault(cut(drive, 0, 3.0)) == "too short: 2.9 s, at least 6 s are needed"
    assert motion_fault(cut(drive, 0, 3.0), min_seconds=2.0) is None


@pytest.mark.parametrize("rate", [6.8, 8.0, 9.9, 10.1, 12.5, 15.0, 19.0])
def test_a_clock_of_another_rate(drive, rate):
    """Episodes count steps: what is not on the clock is dropped, never labelled by the wrong seconds."""
    assert motion_fault(replace(drive, t=drive.t * 10 / rate)).startswith("clock: a step of ")
    jitter = drive.t + np.random.default_rng(0).uniform(0, 0.04, len(drive.t))
    assert motion_fault(replace(drive, t=jitter)).startswith("clock: a step of ")


def test_impossible_motion(drive):
    jump = drive.ego.copy()
    jump[60:, 0] += 30
    assert (motion_fault(replace(drive, ego=jump)) or "").startswith("pose jumps 31.0 m in one step at 5.9 s")
    assert (motion_fault(changed(drive, slice(60, None), 2, 1.0)) or "").startswith("heading jumps")
    assert (motion_fault(changed(drive, slice(60, None), 3, 20.0)) or "").startswith("speed changes by 20 m/s^2")
    assert (motion_fault(changed(drive, slice(None), 3, 2.0)) or "").startswith("speed says 2.0 m in the second")
    assert motion_fault(changed(drive, 3, 5, np.nan)) == "ego state is not finite"
    assert (motion_fault(replace(drive, t=np.where(drive.t > 5, drive.t + 1, drive.t))) or "").startswith("clock")


def test_missing_or_broken_video(drive):
    assert video_fault(replace(drive, video=None)) == "video is missing"
    v = drive.video
    late = replace(v, t=v.t[40:], key=v.key[40:], packets=v.packets[40:])
    assert video_fault(replace(drive, video=late)) == "video has no frame for 4.0 s from 0.0 s"
    headless = replace(v, key=np.concatenate([[False], v.key[1:]]))
    assert video_fault(replace(drive, video=headless)) == "video does not begin with a key frame"


def test_black_empty_and_frozen_pictures(drive):
    n = len(drive.t)
    assert pictures(with_frames(drive, np.zeros((n, 64, 160, 3), np.uint8))) == "12 of 12 pictures are black"
    flat = np.full((n, 64, 160, 3), 120, np.uint8)
    assert pictures(with_frames(drive, flat)) == "12 of 12 pictures show nothing"
    rng = np.random.default_rng(0)
    one = np.repeat(rng.integers(0, 255, (1, 64, 160, 3), np.uint8), n, 0)
    assert "frozen while the car moves" in (pictures(with_frames(drive, one)) or "")
    still = changed(drive, slice(None), 3, 0.0)
    assert pictures(with_frames(still, one)) is None  # a standing car sees the same


def test_shrink_keeps_the_mean():
    x = np.random.default_rng(0).random((3, 64, 160)).astype(np.float32)
    small = resize(x, (16, 40))
    assert small.shape == (3, 16, 40)
    np.testing.assert_allclose(small.mean((1, 2)), x.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(small[0, 0, 0], x[0, :4, :4].mean(), rtol=1e-5)

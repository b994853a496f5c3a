import io

import av
import numpy as np
import pytest

from drivefoundry.sim.camera import Rig
from drivefoundry.sim.view import EGO, FILM_RIG, PLAN, brake_lamps, film, mp4, picture
from drivefoundry.types import Scene
from town import crossroads

TOWN = crossroads()
STEPS = 186


def scene():
    """The ego drives east at 6 m/s behind a car that brakes, past a person; a truck comes the other way."""
    t = np.arange(STEPS) * 0.1
    lead = np.maximum(0.0, np.cumsum(np.where(t < 8, 6.0, np.maximum(0.0, 6.0 - 2 * (t - 8)))) * 0.1)
    speed = np.gradient(lead, 0.1)
    xs = [-110 + 6.0 * t, -90 + lead, -60 + 0 * t, 100 - 9 * t]
    ys, yaws, v = [-1.75, -1.75, -8.5, 1.75], [0, 0, 1.5, np.pi], [6 + 0 * t, speed, 0 * t, 9 + 0 * t]
    tracks = np.stack([np.stack([x, y + 0 * t, a + 0 * t, s], 1) for x, y, a, s in zip(xs, ys, yaws, v, strict=True)])
    return Scene(
        id="s", source="town", place="town", map=TOWN,
        tracks=tracks.astype(np.float32), valid=np.ones((4, STEPS), bool),
        size=np.array([[4.6, 1.9, 1.5], [4.6, 1.9, 1.5], [0.5, 0.6, 1.75], [9.0, 2.5, 3.4]], np.float32),
        kind=np.array([0, 0, 2, 1]), ego=0, start=6,
        route=np.stack([np.arange(-120.0, 150.0, 2.0), np.full(135, -1.75)], 1), route_speed=np.full(135, 10.0),
        signals=np.full((1, STEPS), 3, np.uint8),
    ).validate()  # fmt: skip


def shots(**more):
    s = scene()
    part = slice(s.start, None)
    return film(s, s.tracks[s.ego, part], s.tracks[:, part], s.valid[:, part], **more)


def near(image, colour, tolerance=40):
    return (np.abs(image.astype(int) - np.array(colour)).max(-1) < tolerance).sum()


def test_film_is_a_camera_beside_a_map_with_the_ego_in_it():
    frames = shots()
    assert len(frames) == 90, "18 s at 5 frames a second"
    high, wide = FILM_RIG.height, FILM_RIG.width
    assert {f.shape for f in frames} == {(high, wide + high, 3)}
    above = frames[45][:, wide:]
    middle = above[int(high * 0.64) - 6 : int(high * 0.64) + 6, high // 2 - 3 : high // 2 + 3]
    assert near(middle, EGO) > 30
    assert not np.array_equal(frames[0][:, :wide], frames[45][:, :wide])


def test_plan_and_words_are_drawn():
    plan = np.stack([np.arange(1, 9) * 3.0, np.zeros(8), np.zeros(8)], 1)
    bare, told = shots(), shots(plans=np.repeat(plan[None], 36, 0), text=["car ahead brakes, keep distance"] * 36)
    wide = FILM_RIG.width
    assert near(told[20][:, wide:], PLAN) > near(bare[20][:, wide:], PLAN) + 20
    strip = np.s_[-16:, :wide]
    assert np.abs(told[20][strip].astype(int) - bare[20][strip]).mean() > 10
    road = np.s_[150:210, 200:280]
    assert told[20][road][..., 1].mean() > bare[20][road][..., 1].mean() + 10


def test_plan_moves_with_the_car_between_decisions():
    plan = np.stack([np.arange(1, 9) * 3.0, np.zeros(8), np.zeros(8)], 1)
    frames = shots(plans=np.repeat(plan[None], 36, 0), every=1)
    tops = []
    for f in frames[20:25]:
        rows = np.nonzero((np.abs(f[:, FILM_RIG.width :].astype(int) - PLAN).max(-1) < 60).any(1))[0]
        tops.append(rows.min())
    assert tops[-1] > tops[0], "an old plan's end comes nearer as the car drives on"


def test_mp4_plays_back_and_is_small():
    frames = shots()
    data = mp4(frames)
    assert len(data) < 400_000
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
    assert len(decoded) == len(frames)
    assert np.abs(decoded[45].astype(int) - frames[45]).mean() < 12
    assert mp4(frames) == data, "same frames, same bytes"


def test_picture_of_a_step():
    s = scene()
    assert picture(s).size == (FILM_RIG.width + FILM_RIG.height, FILM_RIG.height)
    small = Rig().scaled(320, 128)
    assert picture(s, 100, small).size == (448, 128)
    with pytest.raises(ValueError, match="step 500: the scene has"):
        picture(s, 500)
    s.valid[0, 50] = False
    with pytest.raises(ValueError, match="no state there"):
        picture(s, 50)


def test_brake_lamps_follow_deceleration():
    lamps = brake_lamps(scene().tracks)
    assert not lamps[1, 10:70].any()
    assert lamps[1, 85:105].all()
    assert lamps[1, 140:].all(), "standing"
    assert not lamps[3].any()


def test_shapes_that_do_not_fit_are_refused():
    s = scene()
    with pytest.raises(ValueError, match="film: valid"):
        film(s, s.tracks[0, 6:], s.tracks, s.valid)
    with pytest.raises(ValueError, match="for the scene's 4"):
        film(s, s.tracks[0], s.tracks[:2], s.valid[:2])
    with pytest.raises(ValueError, match="no frames"):
        mp4([])

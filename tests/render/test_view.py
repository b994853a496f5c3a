import io

import av
import numpy as np
import pytest

from drivefoundry.render.rig import View
from drivefoundry.render.view import EGO, FILM_VIEW, PLAN, Decisions, film, mp4, picture, wall
from shots import scene


def shots(**more):
    s = scene()
    part = slice(s.start, None)
    return film(s, s.tracks[s.ego, part], s.tracks[:, part], s.valid[:, part], **more)


def near(image, colour, tolerance=40):
    return (np.abs(image.astype(int) - np.array(colour)).max(-1) < tolerance).sum()


def test_film_is_a_camera_beside_a_map_with_the_ego_in_it():
    frames = shots()
    assert len(frames) == 90, "18 s at 5 frames a second"
    high, wide = FILM_VIEW.height, FILM_VIEW.width
    assert {f.shape for f in frames} == {(high, wide + high, 3)}
    above = frames[45][:, wide:]
    middle = above[int(high * 0.64) - 6 : int(high * 0.64) + 6, high // 2 - 3 : high // 2 + 3]
    assert near(middle, EGO) > 30
    assert not np.array_equal(frames[0][:, :wide], frames[45][:, :wide])


def test_plan_and_words_are_drawn():
    plan = np.stack([np.arange(1, 9) * 3.0, np.zeros(8), np.zeros(8)], 1)
    bare, told = (
        shots(),
        shots(decisions=Decisions(np.repeat(plan[None], 36, 0), ["car ahead brakes, keep distance"] * 36)),
    )
    wide = FILM_VIEW.width
    assert near(told[20][:, wide:], PLAN) > near(bare[20][:, wide:], PLAN) + 20
    strip = np.s_[-16:, :wide]
    assert np.abs(told[20][strip].astype(int) - bare[20][strip]).mean() > 10
    road = np.s_[150:210, 200:280]
    assert told[20][road][..., 1].mean() > bare[20][road][..., 1].mean() + 10


def test_plan_moves_with_the_car_between_decisions():
    plan = np.stack([np.arange(1, 9) * 3.0, np.zeros(8), np.zeros(8)], 1)
    frames = shots(decisions=Decisions(np.repeat(plan[None], 36, 0)), every=1)
    tops = []
    for f in frames[20:25]:
        rows = np.nonzero((np.abs(f[:, FILM_VIEW.width :].astype(int) - PLAN).max(-1) < 60).any(1))[0]
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
    assert picture(s).size == (FILM_VIEW.width + FILM_VIEW.height, FILM_VIEW.height)
    small = View().scaled(320, 128)
    assert picture(s, 100, small).size == (448, 128)
    with pytest.raises(ValueError, match="step 500: the scene has"):
        picture(s, 500)
    s.valid[0, 50] = False
    with pytest.raises(ValueError, match="no state there"):
        picture(s, 50)


def test_the_wall_shows_every_rig_and_weather_once():
    tiles = np.asarray(wall(scene())).astype(float)
    assert tiles.shape == (160 + 160 + 128 + 180 + 180, 960, 3)
    day, dusk = tiles[:160, 320:640], tiles[:160, 640:]
    night, rain, fog = tiles[160:320, :320], tiles[160:320, 320:640], tiles[160:320, 640:]
    assert night.mean() < 0.6 * dusk.mean() < 0.6 * day.mean()
    assert fog[:80].std() < 0.8 * day[:80].std()
    assert rain.mean() < day.mean()
    with pytest.raises(ValueError, match="step 500: the scene has"):
        wall(scene(), 500)


def test_shapes_that_do_not_fit_are_refused():
    s = scene()
    with pytest.raises(ValueError, match="film: valid"):
        film(s, s.tracks[0, 6:], s.tracks, s.valid)
    with pytest.raises(ValueError, match="for the scene's 4"):
        film(s, s.tracks[0], s.tracks[:2], s.valid[:2])
    with pytest.raises(ValueError, match="no frames"):
        mp4([])

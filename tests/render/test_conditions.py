"""Light and weather: the default is bit-identical to a clear day; others look plausible and depend only on the seed."""

import ctypes
from dataclasses import replace

import numpy as np
import pytest

from drivefoundry.render.camera import Renderer
from drivefoundry.render.conditions import Conditions
from drivefoundry.render.rig import Rig, View
from drivefoundry.render.snapshot import Snapshot
from shots import CAR, FIELD, TOWN, batch, shoot

BIG = View().scaled(256, 128)
MAPS = [TOWN, FIELD]
NIGHT = Conditions(hour=23.0)


def seen(conditions, view=BIG, **more):
    more = {"ego": (-60.0, -1.75, 0.0), "agents": [(-40.0, -1.75, 0.0, CAR, 0)], **more}
    return shoot([TOWN], more.pop("ego"), more.pop("agents"), view=view, conditions=[conditions], **more)


def test_the_default_is_a_clear_day():
    args = batch(8, 12)
    plain = Renderer(MAPS).render(Snapshot(*args))
    assert np.array_equal(plain, Renderer(MAPS).render(Snapshot(*args), conditions=[Conditions.clear()] * 8, step=5))
    assert np.array_equal(plain, Renderer(MAPS).render(Snapshot(*args), conditions=[Conditions(seed=9)] * 8))
    assert np.array_equal(plain, Renderer(MAPS).render(Snapshot(*args, indicator=np.zeros((8, 12), np.int8))))


def test_the_least_change_changes_little():
    args = batch(8, 12)
    plain = Renderer(MAPS).render(Snapshot(*args)).astype(int)
    nearly = Renderer(MAPS).render(Snapshot(*args), conditions=[Conditions(exposure=1.0001)] * 8)
    assert np.abs(plain - nearly).mean() < 2.5, "both ways of drawing show the same clear day"


def test_same_seed_same_bytes_for_any_batch_and_threads():
    args, drawn = batch(9, 10), [Conditions.draw(i) for i in range(9)]
    drawn[0] = Conditions(hour=21.0, rain=1.0, noise=5.0, seed=3)
    steps = np.arange(9)
    rig = Rig((View(), View(yaw=1.0, roll=0.1)))
    together = Renderer(MAPS, rig, threads=1).render(Snapshot(*args), conditions=drawn, step=steps)
    assert np.array_equal(
        together, Renderer(MAPS, rig, threads=3).render(Snapshot(*args), conditions=drawn, step=steps)
    )
    for i in range(9):
        one = Renderer(MAPS, rig).render(Snapshot(*(x[i : i + 1] for x in args)), conditions=drawn[i : i + 1], step=i)
        assert np.array_equal(together[i], one[0])


def test_nothing_hangs_on_what_memory_held_before():
    view, libc = replace(BIG, samples=1), ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    plain = seen(Conditions(noise=6.0, seed=1), view=view)
    for size in [*range(24, 1024, 16)] * 3:
        blocks = [libc.malloc(size) for _ in range(7)]
        for block in blocks:
            ctypes.memset(block, 0xFF, size)  # not a number, wherever it is read as one
        for block in blocks:
            libc.free(block)
        assert np.array_equal(plain, seen(Conditions(noise=6.0, seed=1), view=view))


def test_noise_hangs_on_seed_step_and_view_and_has_the_spread_asked_for():
    noisy = Conditions(noise=6.0, seed=1)
    first = seen(noisy, step=3)
    assert np.array_equal(first, seen(noisy, step=3))
    assert not np.array_equal(first, seen(noisy, step=4))
    assert not np.array_equal(first, seen(Conditions(noise=6.0, seed=2), step=3))
    difference = (first - seen(Conditions(exposure=1.0001)))[40:]
    assert 5.0 < difference.std() < 7.0
    assert abs(difference.mean()) < 1.5
    town = Snapshot(*(x[:1] * (i != 0) for i, x in enumerate(batch(1, 0))))
    pair = Renderer([TOWN], Rig((View(), View()))).render(town, conditions=[noisy])[0]
    assert not np.array_equal(pair[0], pair[1])


def test_the_sun_rises_in_the_east_and_sets_in_the_west():
    assert Conditions(hour=6.0).sun == pytest.approx((0.0, 0.0), abs=1e-9)
    assert Conditions(hour=18.0).sun[0] == pytest.approx(0.0, abs=1e-9)
    assert abs(Conditions(hour=18.0).sun[1]) == pytest.approx(np.pi)
    assert Conditions(hour=12.0).sun == pytest.approx((np.deg2rad(45.0), -np.pi / 2))
    x, y = np.cos(Conditions().sun[1]), np.sin(Conditions().sun[1])
    assert x / y == pytest.approx(0.55 / -0.83, rel=0.02), "a clear day's walls are lit as by this sun"


def test_darker_towards_the_night():
    sky = [seen(Conditions(hour=h))[:30].mean() for h in (12.0, 17.8, 18.3, 23.0)]
    assert sky == sorted(sky, reverse=True)
    assert sky[3] < 0.15 * sky[0]


def test_at_night_the_own_low_beam_lights_the_road_ahead_and_not_the_sky():
    dark = seen(NIGHT, agents=[])
    middle = slice(120, 136)
    assert dark[90:110, middle].mean() > 2 * dark[90:110, :16].mean() > 0
    assert dark[90:110, middle].mean() > 3 * dark[:20].mean()
    rear = seen(NIGHT, view=View(yaw=np.pi).scaled(256, 128), agents=[])
    assert rear[90:110, middle].mean() < 0.4 * dark[90:110, middle].mean()


def test_at_night_lamps_and_windows_shine():
    red = (seen(NIGHT, brake=True) - seen(NIGHT))[..., 0]
    assert red.max() > 60
    assert seen(NIGHT, signals=[3], ego=(-30.0, -5.25, 0.0))[..., 0].max() > 200
    oncoming = [(-35.0, 1.75, np.pi, CAR, 0)]
    assert seen(NIGHT, agents=oncoming).max(-1).max() > 220
    windows = seen(NIGHT, agents=[])[:50]
    assert ((windows[..., 0] > 120) & (windows[..., 2] < windows[..., 0] - 30)).sum() > 20


def test_fog_takes_contrast_with_distance():
    def contrast(fog, x):
        car = [(x, -1.75, 0.0, CAR, 0)]
        with_car, without = seen(Conditions(fog=fog), agents=car), seen(Conditions(fog=fog), agents=[])
        return np.abs(with_car - without).max()

    clear = [contrast(1e6, x) for x in (-48.0, -20.0, 10.0)]
    fog = [contrast(60.0, x) for x in (-48.0, -20.0, 10.0)]
    share = [f / c for f, c in zip(fog, clear, strict=True)]
    assert share[0] > 0.5 > share[1] > share[2]
    # Koschmieder: at the visibility itself 2 % of the contrast is left (and rounding).
    assert fog[2] <= 0.02 * 255 + 4


def test_rain_darkens_the_road_mirrors_lights_and_falls():
    dry, wet = Conditions(exposure=1.0001), Conditions(rain=0.8, seed=4)
    near = slice(110, 128)
    assert seen(wet, agents=[])[near].mean() < 0.85 * seen(dry, agents=[])[near].mean()
    assert not np.array_equal(seen(wet, step=1), seen(wet, step=2))
    ego = (-30.0, -5.25, 0.0)
    green = [seen(c, ego=ego, agents=[], signals=[1])[60:] - seen(c, ego=ego, agents=[])[60:] for c in (wet, dry)]
    assert green[0][..., 1].max() > 25 > green[1][..., 1].max()


def test_exposure_is_a_gain():
    bright, plain = seen(Conditions(exposure=1.5)), seen(Conditions(exposure=1.0001))
    assert np.abs(np.minimum(255, 1.5 * plain) - bright).max() <= 1.5


@pytest.mark.parametrize("distance", [8.0, 20.0, 40.0])
@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("yaw", [0.0, np.pi])
def test_indicators_blink_amber_on_their_side(distance, side, yaw):
    car = [(distance + 3.3, 0.0, yaw, CAR, 0)]
    turn = np.array([[side]], np.int8)
    off = shoot([FIELD], (0, 0, 0), car, view=BIG)
    lit = [shoot([FIELD], (0, 0, 0), car, view=BIG, indicator=turn, step=t) for t in range(16)]
    on = [not np.array_equal(frame, off) for frame in lit]
    assert on == [t % 8 < 4 for t in range(16)]
    rows, cols = np.nonzero((lit[0] - off)[..., 0] + (off - lit[0])[..., 2] > 40)
    assert len(cols) >= 2
    left_of_picture = side == (1 if yaw == 0.0 else -1)
    assert (cols.mean() < 128) == left_of_picture
    peak = lit[0][rows, cols][np.argmax(lit[0][rows, cols, 0] - lit[0][rows, cols, 2])]
    assert peak[0] > peak[1] > peak[2] + 40


def test_drawn_conditions_vary_and_hang_on_the_seed():
    drawn = [Conditions.draw(i) for i in range(200)]
    assert drawn[7] == Conditions.draw(7)
    assert len(set(drawn)) == 200
    assert 20 < sum(c.rain > 0 for c in drawn) < 120
    assert 20 < sum(np.isfinite(c.fog) for c in drawn) < 90
    assert 20 < sum(c.sun[0] < 0 for c in drawn) < 120
    assert all(np.isfinite(c.row()).all() for c in drawn)


@pytest.mark.parametrize(
    "wrong", [{"hour": 25.0}, {"rain": 1.5}, {"fog": 0.0}, {"noise": -1.0}, {"exposure": 0.0}, {"seed": -1}]
)
def test_conditions_that_cannot_be_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"Conditions.{next(iter(wrong))}"):
        Conditions(**wrong)


def test_shapes_that_do_not_fit_are_refused():
    args, camera = batch(4, 3), Renderer(MAPS)
    for wrong, more, message in (
        ({}, {"conditions": [NIGHT]}, "1 conditions for 4"),
        ({"indicator": np.zeros((4, 2), np.int8)}, {}, "indicator"),
        ({}, {"step": np.zeros(3, int)}, "step"),
    ):
        with pytest.raises(ValueError, match=message):
            camera.render(Snapshot(*args)._replace(**wrong), **more)

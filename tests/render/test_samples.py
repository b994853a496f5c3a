"""One sample per pixel: thin objects stay visible, and only the smoothness of edges changes."""

from dataclasses import replace

import numpy as np
import pytest

from drivefoundry.render.camera import Renderer
from drivefoundry.render.conditions import Conditions
from drivefoundry.render.rig import Rig, View
from drivefoundry.render.snapshot import Snapshot
from drivefoundry.roadmap import make_map
from drivefoundry.types import SIGNAL_GREEN, SIGNAL_RED, SIGNAL_YELLOW
from shots import FIELD, LANE, TOWN, batch, shoot

SMOOTH = View().scaled(256, 128)
ONE = replace(SMOOTH, samples=1)
SHIFTS = np.linspace(0.0, 1.0, 21)
"""Parts of a pixel."""


def looks(view, args, **more):
    return Renderer([TOWN, FIELD], Rig((view,))).render(Snapshot(*args), **more)[:, 0].astype(int)


def seen(frame, empty):
    return np.abs(frame - empty).max(-1) > 25


@pytest.mark.parametrize("weather", [None, [Conditions.draw(i) for i in range(9)]])
def test_frames_do_not_depend_on_batch_or_threads(weather):
    args, rig = batch(), Rig((ONE,))
    together = Renderer([TOWN, FIELD], rig, threads=1).render(Snapshot(*args), conditions=weather, step=5)
    assert np.array_equal(
        together, Renderer([TOWN, FIELD], rig, threads=3).render(Snapshot(*args), conditions=weather, step=5)
    )
    for i in range(9):
        alone = [x[i : i + 1] for x in args]
        sky = weather and weather[i : i + 1]
        assert np.array_equal(
            together[i], Renderer([TOWN, FIELD], rig).render(Snapshot(*alone), conditions=sky, step=5)[0]
        )


@pytest.mark.parametrize("weather", [None, [Conditions(hour=21.0, rain=0.5, fog=300.0)] * 9])
def test_ground_and_sky_are_the_same_and_things_stand_where_they_stood(weather):
    args = list(batch())
    smooth, one = looks(SMOOTH, args, conditions=weather), looks(ONE, args, conditions=weather)
    assert np.abs(smooth - one).mean() < 3.0
    assert not np.array_equal(smooth, one)
    args[0], args[3] = np.ones(9, int), np.zeros_like(args[3])
    smooth, one = looks(SMOOTH, args, conditions=weather), looks(ONE, args, conditions=weather)
    assert np.array_equal(smooth[:, :40], one[:, :40]), "the sky"
    assert np.abs(smooth - one).mean() < 1.5, "the ground, sharper"


@pytest.mark.parametrize("kind", [2, 3])
@pytest.mark.parametrize("distance", [40.0, 90.0])
def test_pedestrians_and_cyclists_never_fall_between_samples(kind, distance):
    size = (0.5, 0.6, 1.75) if kind == 2 else (1.8, 0.6, 1.75)
    empty, pixel = shoot([FIELD], (0, 0, 0), view=ONE), (distance - ONE.x) / ONE.fx
    for shift in SHIFTS:
        for turn in (0.0, 0.8):
            frame = shoot([FIELD], (0, 0, 0), [(distance, 3.0 + shift * pixel, turn, size, kind)], view=ONE)
            rows = seen(frame, empty).any(1).sum()
            assert rows >= 1.75 / pixel - 2, f"{rows} rows at a shift of {shift:.2f} px, turned by {turn}"


@pytest.mark.parametrize("state", [SIGNAL_RED, SIGNAL_YELLOW, SIGNAL_GREEN])
def test_a_signal_at_60_m_keeps_its_pole_and_its_lamp(state):
    strong, weak = {SIGNAL_RED: (0, 1), SIGNAL_YELLOW: (0, 2), SIGNAL_GREEN: (1, 0)}[state]
    with_head = make_map(
        lanes=LANE, signal_heads=[[60.0 + ONE.x, -6.0, 5.0, np.pi]], stop_lines=[[250.0, -1.6, 250.0, 1.6]]
    )
    foot = int(ONE.cy + ONE.fy * ONE.z / 60.0)
    for shift in SHIFTS:
        ego = (0.0, shift * 60.0 / ONE.fx, 0.0)
        frame = shoot([with_head], ego, signals=[state], view=ONE)
        glow = frame[..., strong] - frame[..., weak]
        v, u = np.unravel_index(np.argmax(glow), glow.shape)
        assert glow[v, u] > 100, f"no lamp at a shift of {shift:.2f} px"
        pole = seen(frame, shoot([FIELD], ego, view=ONE))[v:foot, u - 2 : u + 3]
        assert pole.any(1).all(), f"the pole has a gap at a shift of {shift:.2f} px"
        dark = shoot([with_head], ego, signals=[0], view=ONE)[v - 1 : v + 2, u - 3 : u + 4].max(-1)
        assert ((dark < 70).sum(1) >= 2).all(), f"no housing at a shift of {shift:.2f} px"

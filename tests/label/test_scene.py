from dataclasses import replace

import numpy as np
import pytest
from street import drive, standing, street

from drivefoundry.label.scene import ROUTE_ON_M, START, scene_from_clip
from drivefoundry.roadmap import arc_length
from drivefoundry.types import SIGNAL_OFF, SIGNAL_RED


def test_ego_comes_first_and_steps_are_the_drives():
    d = drive(others=[standing(40, 0), standing(-20, 3.5)], kinds=[0, 2])
    scene = scene_from_clip(d, street(), "clip")
    assert scene.ego == 0
    assert scene.start == START
    np.testing.assert_allclose(scene.tracks[0, :, :4], d.ego[:, :4], atol=1e-4)
    assert scene.kind.tolist() == [0, 0, 2]
    assert scene.place == "street/3"
    assert scene.id == "clip"


def test_signals_cover_the_map_and_unlogged_ones_are_off():
    m = street()
    logged = scene_from_clip(drive(light=SIGNAL_RED), m, "c")
    assert (logged.signals == SIGNAL_RED).all()
    assert logged.signals.shape == (1, 200)
    without = scene_from_clip(drive(signal_id=None, signal_state=None), m, "c")
    assert (without.signals == SIGNAL_OFF).all()


def test_route_that_ends_too_early_is_extended_along_the_lanes():
    d = drive(10.0, 100)  # ends at x = 100, where the turn begins
    short = replace(d, route=np.column_stack([np.arange(0, 101.0), np.zeros(101), np.full(101, 13.9)]))
    scene = scene_from_clip(short, street(), "c")
    s = arc_length(scene.route)
    end = s[np.hypot(*(scene.route - d.ego[-1, :2]).T).argmin()]
    assert s[-1] - end > ROUTE_ON_M - 2
    # It follows the bend to the north, and slows to the bend's limit on the way.
    assert scene.route[-1, 1] > 35
    assert abs(scene.route[-1, 0] - 120) < 0.5
    assert scene.route_speed.min() == pytest.approx(8.0)


def test_route_is_made_of_the_driven_path_where_the_log_has_none():
    scene = scene_from_clip(drive(route=None), street(), "c")
    off = np.hypot(*(scene.tracks[0, :, None, :2] - scene.route[None]).transpose(2, 0, 1)).min(1)
    assert off.max() < 1.5


def test_other_map_than_the_recorded_one_is_refused():
    d = drive()
    with pytest.raises(ValueError, match="recorded on map other"):
        scene_from_clip(replace(d, meta={**d.meta, "map": "other"}), street(), "c")


def test_signal_beyond_the_map_is_refused():
    with pytest.raises(ValueError, match="signal 7 is not on map"):
        scene_from_clip(drive(signal_id=np.array([7])), street(), "c")


def test_too_short_clip_is_refused():
    with pytest.raises(ValueError, match="too few for a scene"):
        scene_from_clip(drive(steps=18), street(), "c")

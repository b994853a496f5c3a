import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry import raster as r
from drivefoundry.roadmap import make_map
from town import HALF, crossroads

TOWN = crossroads()
STACK = r.stack_rasters([TOWN])


def at(x, y):
    return r.class_at(STACK.classes, STACK.frames, 0, x, y)


def test_every_class_is_where_the_map_puts_it():
    assert at(-50.0, -1.75) == r.ROAD
    assert at(0.0, 0.0) == r.ROAD
    assert at(-50.0, 0.05) == r.YELLOW
    assert at(-50.0, 6.85) == r.WHITE
    assert at(-50.0, 8.5) == r.SIDEWALK
    assert at(-50.0, 15.0) == r.GROUND
    assert at(-12.05, -3.0) == r.STOP_LINE


def test_dashes_leave_gaps_and_solid_lines_do_not():
    x = np.arange(-140.0, -20.0, 0.2)
    dashed = np.array([at(v, 3.52) == r.WHITE for v in x])
    assert dashed.mean() == pytest.approx(r.DASH_ON / r.DASH_PERIOD, abs=0.05)
    assert all(at(v, 6.85) == r.WHITE for v in x)


def test_crosswalk_stripes_run_with_the_traffic():
    across = np.array([at(-9.0, y) == r.CROSSWALK for y in np.arange(-6.9, 6.9, 0.1)])
    assert across.mean() == pytest.approx(0.5, abs=0.15)
    assert np.abs(np.diff(across.astype(int))).sum() >= 2 * 13 - 2, "a stripe each metre"
    along = [at(x, -6.75) for x in np.arange(-10.8, -7.7, 0.2)]
    assert len(set(along)) == 1, "one stripe or one gap all the way"


def test_paint_never_makes_ground_drivable():
    bare = make_map(lanes=TOWN.lanes, drivable=TOWN.drivable)
    stack = r.stack_rasters([bare])
    rng = np.random.default_rng(0)
    for x, y in rng.uniform(-160, 160, (500, 2)):
        assert r.drivable_at(STACK.classes, STACK.frames, 0, x, y) == r.drivable_at(
            stack.classes, stack.frames, 0, x, y
        )


@settings(max_examples=200, deadline=None)
@given(st.floats(-170, 170), st.floats(-170, 170))
def test_drivable_is_the_polygon_to_within_a_texel(x, y):
    edge = min(abs(abs(x) - HALF), abs(abs(y) - HALF), abs(abs(x) - 150), abs(abs(y) - 150))
    if edge > 0.2:
        inside = (abs(y) < HALF and abs(x) < 150) or (abs(x) < HALF and abs(y) < 150)
        assert r.drivable_at(STACK.classes, STACK.frames, 0, x, y) == inside
        assert r.DRIVABLE[at(x, y)] == inside


def test_beyond_the_raster_and_nan_are_ground():
    for x, y in ((1e9, 0.0), (-1e9, 0.0), (0.0, np.inf), (np.nan, 0.0), (0.0, np.nan)):
        assert at(x, y) == r.GROUND
        assert not r.drivable_at(STACK.classes, STACK.frames, 0, x, y)


def test_stacked_maps_answer_as_alone():
    small = crossroads(60.0)
    both = r.stack_rasters([small, TOWN])
    one = r.stack_rasters([small])
    rng = np.random.default_rng(1)
    for x, y in rng.uniform(-170, 170, (300, 2)):
        assert r.class_at(both.classes, both.frames, 1, x, y) == at(x, y)
        assert r.class_at(both.classes, both.frames, 0, x, y) == r.class_at(one.classes, one.frames, 0, x, y)


def test_raster_is_kept_and_painted_the_same_again():
    first = r.ground_raster(TOWN)
    assert r.ground_raster(TOWN) is first
    again = r._paint(TOWN, 0.2)
    assert np.array_equal(first.classes, again.classes)
    assert np.array_equal(first.texture, again.texture)


def test_old_rasters_are_forgotten():
    first = r.ground_raster(crossroads(30.0))
    for i in range(r.KEPT):
        r.ground_raster(crossroads(31.0 + i))
    assert r.ground_raster(crossroads(30.0)) is not first


def test_too_large_or_empty_a_map_is_refused():
    far = make_map(lanes=[np.array([[0.0, 0.0], [9e4, 9e4]])])
    with pytest.raises(ValueError, match="too many; cut the map"):
        r.ground_raster(far)
    with pytest.raises(ValueError, match="nothing to draw"):
        r.ground_raster(make_map(lanes=[]))

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry.render.camera import Renderer
from drivefoundry.render.rig import Rig, View
from drivefoundry.render.snapshot import Snapshot
from drivefoundry.roadmap import make_map
from drivefoundry.types import SIGNAL_GREEN, SIGNAL_RED, SIGNAL_YELLOW
from shots import CAR, FIELD, LANE, TOWN, batch, changed, shoot
from town import crossroads

BIG = View().scaled(640, 320)


def pixel(view, x, y, z):
    """Pinhole projection of a point in the ego frame, pitch 0."""
    depth = x - view.x
    return view.cx - view.fx * y / depth, view.cy + view.fy * (view.z - z) / depth


@pytest.mark.parametrize("view", [View(), BIG])
@pytest.mark.parametrize("x", [15.0, 40.0, 80.0])
def test_box_corners_project_as_in_a_pinhole(view, x):
    house = make_map(lanes=LANE, buildings=[[x, 2.0, 0.0, 6.0, 8.0, 4.0]])
    left, right, top, bottom = changed(shoot([house], (0, 0, 0), view=view), shoot([FIELD], (0, 0, 0), view=view))
    u0, v0 = pixel(view, x - 3, 6.0, 4.0)
    u1, v1 = pixel(view, x - 3, -2.0, 0.0)
    for seen, true in ((left, u0), (right, u1), (top, v0), (bottom, v1)):
        assert abs(seen - np.clip(true, 0, view.width)) <= 1.0


def test_pitch_moves_the_view_as_it_should():
    view = View(pitch=0.1)
    house = make_map(lanes=LANE, buildings=[[33.0, 0.0, 0.0, 6.0, 8.0, 3.0]])
    _, _, top, bottom = changed(shoot([house], (0, 0, 0), view=view), shoot([FIELD], (0, 0, 0), view=view))
    for seen, z in ((top, 3.0), (bottom, 0.0)):
        angle = np.arctan2(view.z - z, 30.0 - view.x) - view.pitch
        assert abs(seen - (view.cy + view.fy * np.tan(angle))) <= 1.0


@pytest.mark.parametrize("view", [View(), BIG])
@pytest.mark.parametrize("distance", [6.0, 10.0, 20.0, 40.0])
def test_lane_line_is_where_a_pinhole_projects_it(view, distance):
    frame = shoot([crossroads(blocks=False)], (-100.0, -1.75, 0.0), view=view)
    u, v = pixel(view, distance + view.x, 1.75, 0.0)
    row = frame[int(v)]
    yellow = row[:, 0] - row[:, 2]
    window = np.arange(max(0, int(u) - 8), min(view.width, int(u) + 9))
    weight = np.clip(yellow[window] - 12, 0, None)
    assert weight.max() > 20, "the line is there"
    true, _ = pixel(view, view.x + view.fy * view.z / (int(v) + 0.5 - view.cy), 1.75, 0.0)
    assert abs((weight * (window + 0.5)).sum() / weight.sum() - true) <= 1.0


def test_near_hides_far_in_any_order():
    red_behind, truck = (40.0, 0.0, 0.0, CAR, 0), (20.0, 0.0, 0.0, (9.0, 2.5, 3.4), 1)
    alone = shoot([FIELD], (0, 0, 0), [truck])
    # A hidden car changes nothing. Agents are coloured by index, so the truck keeps its own.
    assert np.array_equal(shoot([FIELD], (0, 0, 0), [truck, red_behind]), alone)
    house = make_map(lanes=LANE, buildings=[[20.0, 0.0, 0.0, 6.0, 12.0, 8.0]])
    assert np.array_equal(shoot([house], (0, 0, 0), [red_behind]), shoot([house], (0, 0, 0)))
    assert not np.array_equal(shoot([house], (0, 0, 0), [(12.0, 0.0, 0.0, CAR, 0)]), shoot([house], (0, 0, 0)))


@pytest.mark.parametrize("distance", [20.0, 40.0, 60.0])
@pytest.mark.parametrize(("state", "channel"), [(SIGNAL_RED, (0, 1)), (SIGNAL_GREEN, (1, 0)), (SIGNAL_YELLOW, (0, 2))])
def test_lamp_is_seen_by_the_approach_it_faces_and_not_from_behind(distance, state, channel):
    town = crossroads(blocks=False)
    strong, weak = channel
    lit = shoot([town], (8.0 - distance, -5.25, 0.0), signals=[state])
    dark = shoot([town], (8.0 - distance, -5.25, 0.0), signals=[0])
    glow = (lit - dark)[..., strong]
    assert (glow > 60).sum() >= 3, "at least a few pixels brighten"
    at = np.unravel_index(np.argmax(lit[..., strong] - lit[..., weak]), glow.shape)
    assert lit[at][strong] > 200
    assert lit[at][strong] - lit[at][weak] > 100
    behind = (10.0 + distance, 5.25, np.pi)
    assert np.array_equal(shoot([town], behind, signals=[state]), shoot([town], behind, signals=[0]))


def test_red_and_yellow_and_green_differ():
    seen = []
    for s in (SIGNAL_RED, SIGNAL_YELLOW, SIGNAL_GREEN):
        frame = shoot([TOWN], (-40.0, -5.25, 0.0), signals=[s])
        seen.append(frame)
    assert all(np.abs(a - b).max() > 100 for a, b in ((seen[0], seen[1]), (seen[1], seen[2]), (seen[0], seen[2])))


def test_truck_hides_a_lamp():
    truck = [(-20.0, -5.9, 0.0, (9.0, 2.5, 9.0), 1)]
    ego = (-32.0, -5.25, 0.0)
    assert np.array_equal(shoot([TOWN], ego, truck, signals=[3]), shoot([TOWN], ego, truck, signals=[0]))


@pytest.mark.parametrize("distance", [8.0, 20.0, 40.0])
@pytest.mark.parametrize("kind", [0, 1])
def test_brake_lamps_are_brighter_than_tail_lamps(distance, kind):
    size = CAR if kind == 0 else (9.0, 2.5, 3.4)
    agent = [(distance + size[0] / 2 + 1.0, 0.0, 0.0, size, kind)]
    on = shoot([FIELD], (0, 0, 0), agent, brake=True)
    off = shoot([FIELD], (0, 0, 0), agent)
    assert ((on - off)[..., 0] > 40).sum() >= 2
    from_front = [(distance + 4.0, 0.0, np.pi, size, kind)]
    ahead = np.abs(shoot([FIELD], (0, 0, 0), from_front, brake=True) - shoot([FIELD], (0, 0, 0), from_front))
    assert (ahead.max(-1) > 40).sum() == 0, "brake lamps do not show from the front"


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
@pytest.mark.parametrize("distance", [10.0, 30.0, 60.0])
def test_every_road_user_is_seen(kind, distance):
    size = [CAR, (9.0, 2.5, 3.4), (0.5, 0.6, 1.75), (1.8, 0.6, 1.75)][kind]
    frame = shoot([FIELD], (0, 0, 0), [(distance, 1.0, 0.0, size, kind)])
    left, right, top, bottom = changed(frame, shoot([FIELD], (0, 0, 0)))
    tall = View().fy * size[2] / (distance - 1.0 + size[0] / 2)
    assert bottom - top >= 0.8 * tall - 1
    assert right > left


def test_car_right_ahead_is_clipped_not_dropped():
    for gap in (0.1, 0.5, 3.0):
        frame = shoot([FIELD], (0, 0, 0), [(1.0 + gap + 2.3, 0.0, 0.0, CAR, 0)])
        empty = shoot([FIELD], (0, 0, 0))
        assert (np.abs(frame - empty).max(-1) > 12)[45:, 60:100].mean() > 0.9
    beside = shoot([FIELD], (0, 0, 0), [(2.5, 2.2, 0.0, CAR, 0)])
    assert (np.abs(beside - empty).max(-1) > 12)[40:, :20].mean() > 0.5
    behind = shoot([FIELD], (0, 0, 0), [(-5.0, 0.0, 0.0, CAR, 0)])
    assert np.array_equal(behind, empty)


def test_frames_do_not_depend_on_batch_or_threads():
    maps, args = [TOWN, crossroads(60.0)], batch()
    together = Renderer(maps, threads=1).render(Snapshot(*args))
    assert np.array_equal(together, Renderer(maps, threads=3).render(Snapshot(*args)))
    for i in range(len(together)):
        assert np.array_equal(together[i], Renderer(maps).render(Snapshot(*(x[i : i + 1] for x in args)))[0])


def test_each_view_sees_its_own_map():
    args, maps = batch(), [crossroads(90.0), crossroads(120.0)]
    both = Renderer(maps).render(Snapshot(*args))
    swapped = Renderer(maps[::-1]).render(Snapshot(1 - args[0], *args[1:]))
    assert np.array_equal(both, swapped)
    for i, m in enumerate(args[0]):
        alone = Renderer([maps[m]]).render(Snapshot(np.zeros(1, int), *(x[i : i + 1] for x in args[1:])))[0]
        assert np.array_equal(both[i], alone)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(-0.6, 0.6), st.sampled_from([(160, 64), (33, 17), (8, 90)]))
def test_any_poses_draw(seed, pitch, size):
    args = list(batch(3, 8, seed))
    rng = np.random.default_rng(seed)
    # Agents at, beside, around and behind the camera plane, and far off the map.
    args[2] = args[2].copy()
    args[2][:, :4, :2] = args[1][:, None, :2] + rng.normal(0, 1.5, (3, 4, 2))
    args[2][:, 4, 0] = 1e7
    args[1] = args[1].copy()
    args[1][0, :2] = 1e6
    frames = Renderer([TOWN, FIELD], Rig((View(*size, cx=size[0] / 2, cy=size[1] / 2, pitch=pitch),))).render(
        Snapshot(*args)
    )
    assert frames.shape == (3, 1, size[1], size[0], 3)
    assert frames.dtype == np.uint8


def test_bad_input_is_refused_by_name():
    args = list(batch())
    camera = Renderer([TOWN, FIELD])
    for i, value, message in (
        (0, np.full(9, 2), "map_index: past"),
        (1, np.full((9, 3), np.nan), "ego: a pose is not finite"),
        (2, np.full((9, 12, 4), np.inf), "agents: the state of a valid one is not finite"),
        (4, np.ones((9, 11, 3)), "size"),
        (7, np.zeros(9, int), "signals"),
    ):
        with pytest.raises(ValueError, match=message):
            camera.render(Snapshot(*[value if j == i else x for j, x in enumerate(args)]))
    with pytest.raises(ValueError, match="at least one map"):
        Renderer([])


def test_heads_without_states_are_dark_not_an_error():
    frame = Renderer([TOWN]).render(
        Snapshot(*[x[:1] * 0 if i == 0 else x[:1] for i, x in enumerate(batch()[:7])], np.zeros((1, 0)))
    )
    assert frame.std() > 10


@pytest.mark.parametrize("samples", [1, 2])
def test_a_lane_line_at_40_m_shows_wherever_the_car_stands(samples):
    view = replace(View().scaled(256, 128), samples=samples)
    row = int(view.cy + view.fy * view.z / 40.0)
    town = crossroads(blocks=False)
    for shift in np.arange(0.0, 0.53, 0.026):  # one pixel is 0.26 m there
        frame = shoot([town], (-100.0, -1.75 + shift, 0.0), view=view)
        u, _ = pixel(view, 41.0, 1.75 - shift, 0.0)
        line = frame[row, int(u) - 4 : int(u) + 5]
        asphalt = frame[row, int(u) + 9 : int(u) + 11].mean(0)
        yellow = (line[:, 0] - line[:, 2]) - (asphalt[0] - asphalt[2])
        assert yellow.max() > 30, f"shifted by {shift:.3f} m the yellow line is gone"
        edge, _ = pixel(view, 41.0, -5.05 - shift, 0.0)
        white = frame[row, int(edge) - 3 : int(edge) + 4].mean(-1).max()
        assert white > asphalt.mean() + 20, f"shifted by {shift:.3f} m the white edge line is gone"

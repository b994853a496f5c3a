"""Rigs: a view's picture agrees with its mount and lens, in any direction."""

import numpy as np
import pytest

from drivefoundry.render.camera import Renderer
from drivefoundry.render.rig import Rig, View
from drivefoundry.render.snapshot import Snapshot
from drivefoundry.roadmap import make_map
from shots import CAR, FIELD, LANE, TOWN, batch, changed, shoot


def brown_conrady(view, x, y, z):
    """Image position, px, of a point in the ego frame, m, from the definitions of mount, roll, distortion and lens."""
    c, s = np.cos(view.yaw), np.sin(view.yaw)
    ahead, left = (x - view.x) * c + (y - view.y) * s, (y - view.y) * c - (x - view.x) * s
    up, c, s = z - view.z, np.cos(view.pitch), np.sin(view.pitch)
    right, down, depth = -left, -ahead * s - up * c, ahead * c - up * s
    c, s = np.cos(view.roll), np.sin(view.roll)
    right, down = right * c + down * s, down * c - right * s
    u, v = right / depth, down / depth
    r2 = u * u + v * v
    bend = 1 + view.k1 * r2 + view.k2 * r2 * r2
    return view.cx + view.fx * u * bend, view.cy + view.fy * v * bend


@pytest.mark.parametrize(
    "bent",
    [
        {"k1": -0.2, "k2": 0.03},
        {"k1": 0.15},
        {"roll": 0.2},
        {"roll": -0.1, "k1": -0.1, "pitch": 0.08, "yaw": 0.4, "y": -0.5, "z": 2.0},
    ],
)
@pytest.mark.parametrize("at", [(16.0, 4.0, 1.0), (25.0, 3.0, 3.0), (14.0, 1.0, 0.5)])
def test_a_point_is_seen_where_the_formula_puts_it(bent, at):
    view = View(320, 200, 190.0, 190.0, 160.0, 90.0, **bent)
    x, y, z = at
    box = [[x, y, 0.0, 0.3, 0.3, z]]
    with_box = shoot([make_map(lanes=LANE, buildings=box)], (0, 0, 0), view=view)
    left, right, top, _ = changed(with_box, shoot([FIELD], (0, 0, 0), view=view))
    u, _ = brown_conrady(view, x, y, z)
    wide = view.fx * 0.3 / (x - 1.0)
    ends = [brown_conrady(view, x - 0.15, y + s, z)[1] for s in (-0.15, 0.15)]
    assert abs(top - min(ends)) <= 1.5
    if view.roll == 0.0:
        assert left - 1.5 - wide <= u <= right + 1.5 + wide


def test_rays_and_their_projection_are_inverse():
    view = View(k1=-0.2, k2=0.04, roll=0.3)
    rays = view.rays()
    c, s = np.cos(view.roll), np.sin(view.roll)
    x, y = rays[..., 0] * c + rays[..., 1] * s, rays[..., 1] * c - rays[..., 0] * s
    r2 = x * x + y * y
    bend = 1 + view.k1 * r2 + view.k2 * r2 * r2
    u, v = np.meshgrid(np.arange(160) + 0.5, np.arange(64) + 0.5)
    assert np.allclose(view.cx + view.fx * x * bend, u)
    assert np.allclose(view.cy + view.fy * y * bend, v)


def test_a_turned_view_sees_what_a_turned_car_sees():
    args = list(batch(6, 12))
    for turn in (0.7, -2.0, np.pi):
        around = Renderer([TOWN, FIELD], Rig((View(x=0.0, yaw=turn),))).render(Snapshot(*args))
        turned = list(args)
        turned[1] = args[1] + (0.0, 0.0, turn)
        assert np.array_equal(around, Renderer([TOWN, FIELD], Rig((View(x=0.0),))).render(Snapshot(*turned)))


def test_a_mount_to_the_side_is_a_car_driven_to_the_side():
    args = list(batch(6, 12))
    moved = list(args)
    yaw = args[1][:, 2]
    moved[1] = args[1] + np.stack([-0.8 * np.sin(yaw), 0.8 * np.cos(yaw), 0 * yaw], 1)
    beside = Renderer([TOWN, FIELD], Rig((View(y=0.8),))).render(Snapshot(*args))
    assert np.abs(beside.astype(int) - Renderer([TOWN, FIELD]).render(Snapshot(*moved))).mean() < 0.01


def test_each_view_of_a_rig_is_what_it_would_be_alone():
    rig = Rig((View(), View(yaw=1.0), View(roll=0.1), View(k1=-0.1, yaw=-1.0)))
    args = batch(5, 10)
    together = Renderer([TOWN, FIELD], rig).render(Snapshot(*args))
    assert together.shape == (5, 4, 64, 160, 3)
    for v, view in enumerate(rig.views):
        assert np.array_equal(together[:, v : v + 1], Renderer([TOWN, FIELD], Rig((view,))).render(Snapshot(*args)))


def test_what_is_behind_shows_in_the_rear_view_alone_and_near_hides_far_there_too():
    rig = Rig.six()
    behind, far = (-12.0, 0.0, 0.0, CAR, 0), (-40.0, 0.0, 0.0, CAR, 0)

    def six(*agents):
        n = len(agents)
        return Renderer([FIELD], rig).render(Snapshot(
            np.zeros(1, int), np.zeros((1, 3)), np.array([(*a[:3], 0.0) for a in agents]).reshape(1, n, 4),
            np.ones((1, n), bool), np.array([a[3] for a in agents], float).reshape(1, n, 3),
            np.zeros((1, n), int), np.zeros((1, n), bool), np.zeros((1, 0), int)))[0]  # fmt: skip

    empty, seen = six(), six(behind)
    touched = [not np.array_equal(a, b) for a, b in zip(empty, seen, strict=True)]
    assert touched == [False] * 5 + [True]
    assert np.array_equal(six(behind, far), seen)


def test_six_views_leave_no_gap_around():
    rig = Rig.six()
    for bearing in np.deg2rad(np.arange(0, 360, 4)):
        x, y = 40 * np.cos(bearing), 40 * np.sin(bearing)
        seen = []
        for view in rig.views:
            ahead = (x - view.x) * np.cos(view.yaw) + (y - view.y) * np.sin(view.yaw)
            left = (y - view.y) * np.cos(view.yaw) - (x - view.x) * np.sin(view.yaw)
            seen.append(ahead > 0 and abs(left / ahead) <= view.cx / view.fx)
        assert any(seen), f"nothing looks {np.rad2deg(bearing):.0f} degrees from ahead"


def test_presets():
    assert Rig.front() == Rig() == Rig((View(),))
    assert [len(r.views) for r in (Rig.front(), Rig.three(), Rig.six())] == [1, 3, 6]
    assert Rig.three().views[0] == View()
    big = Rig.six().scaled(320, 180)
    assert (big.width, big.height) == (320, 180)
    assert big.views[5].fx == pytest.approx(2 * Rig.six().views[5].fx)


def test_rigs_that_cannot_be_are_refused_by_name():
    with pytest.raises(ValueError, match="at least one view"):
        Rig(())
    with pytest.raises(ValueError, match="all views must have one size"):
        Rig((View(), View(width=200)))
    with pytest.raises(ValueError, match="width and height"):
        Rig((View(width=0),))
    with pytest.raises(ValueError, match="view 0: fx"):
        Rig((View(fx=0.0),))
    with pytest.raises(ValueError, match="view 0 has 3 samples"):
        Rig((View(samples=3),))
    with pytest.raises(ValueError, match="fold the picture"):
        Renderer([FIELD], Rig((View(k1=-0.9),)))

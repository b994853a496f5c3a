"""Bird's-eye maps for models: classes, route, lights and road users in their places, the ego heading up."""

import numpy as np
import pytest

from drivefoundry.raster import GROUND, ROAD
from drivefoundry.render.bev import BEHIND, CODES, EGO, LINES, ROUTE, USERS, Bev
from drivefoundry.render.snapshot import Snapshot
from drivefoundry.types import SIGNAL_RED
from shots import CAR, TOWN, batch
from town import crossroads

N, METRES = 96, 0.5


def above(ego, agents=(), signals=(0,), route=((0.0, 0.0), (0.0, 0.0)), maps=(TOWN,), index=0):
    """One map as numbers of CODES (N, N): agents is a list of (x, y, yaw, size, kind)."""
    n = len(agents)
    rgb = Bev(list(maps), N, METRES).render(
        Snapshot(
            np.array([index]), np.array([ego], float), np.array([(*a[:3], 0.0) for a in agents]).reshape(1, n, 4),
            np.ones((1, n), bool), np.array([a[3] for a in agents], float).reshape(1, n, 3),
            np.array([a[4] for a in agents], int).reshape(1, n), np.zeros((1, n), bool), np.array([signals]),
        ),
        np.array([CAR[:2]]), np.array([route]), np.array([len(route)]),
    )[0]  # fmt: skip
    same = (rgb[:, :, None] == CODES).all(-1)
    assert same.any(-1).all(), "no pixel has a colour of its own"
    return same.argmax(-1)


def place(ahead, left):
    return int((1 - BEHIND) * N - ahead / METRES), int(N / 2 - left / METRES)


@pytest.mark.parametrize("yaw", [0.0, 1.1, -2.5, np.pi])
def test_a_road_user_has_the_same_relative_position_at_any_heading(yaw):
    c, s = np.cos(yaw), np.sin(yaw)
    for ahead, left, kind in ((12.0, 5.0, 0), (-8.0, -9.0, 1), (6.0, -3.0, 2)):
        size = (9.0, 2.5, 3.4) if kind == 1 else (0.4, 0.4, 1.75) if kind == 2 else CAR
        agent = (20 + c * ahead - s * left, 30 + s * ahead + c * left, yaw + np.pi / 2, size, kind)
        codes = above((20.0, 30.0, yaw), [agent])
        rows, cols = np.nonzero(codes == USERS + kind)
        row, col = place(ahead, left)
        assert abs(rows.mean() + 0.5 - row) <= 1.0
        assert abs(cols.mean() + 0.5 - col) <= 1.0
        assert len(rows) == pytest.approx(size[0] * size[1] / METRES**2, rel=0.35, abs=1)
        wide, high = np.ptp(cols) + 1, np.ptp(rows) + 1
        assert wide >= high, "it stands across the ego's way"


def test_ground_route_and_lights():
    codes = above((-30.0, -1.75, 0.0), signals=[SIGNAL_RED], route=[(-30.0, -1.75), (0.0, -1.75), (0.0, 30.0)])
    assert codes[place(10.0, 1.75 + 4)] in (ROAD, ROUTE)
    assert codes[place(5.0, -14.0)] == GROUND
    assert codes[place(10.0, 0.0)] == ROUTE
    assert codes[place(0.0, 0.0)] == EGO
    assert (codes == LINES + SIGNAL_RED).sum() > 5
    assert not (above((-30.0, -1.75, 0.0)) == LINES + SIGNAL_RED).any()
    assert not (above((-30.0, -1.75, 0.0)) == ROUTE).any()
    rows, _ = np.nonzero(codes == LINES + SIGNAL_RED)
    assert abs(rows.mean() - place(18.0, 0.0)[0]) <= 1.0


def test_maps_do_not_depend_on_the_batch():
    maps = [TOWN, crossroads(60.0)]
    seen, rng = batch(7, 9), np.random.default_rng(1)
    more = [np.full((7, 2), 2.0), rng.normal(0, 30, (7, 5, 2)), np.full(7, 5)]
    together = Bev(maps, 64).render(Snapshot(*seen), *more)
    for i in range(7):
        alone = Snapshot(*(x[i : i + 1] for x in seen))
        assert np.array_equal(together[i], Bev(maps, 64).render(alone, *(x[i : i + 1] for x in more))[0])


def test_what_is_far_off_draws_nothing_and_breaks_nothing():
    plain = above((0.0, 0.0, 0.0))
    assert np.array_equal(plain, above((0.0, 0.0, 0.0), [(1e9, -1e9, 0.0, CAR, 0)]))
    assert (above((1e7, 0.0, 0.0)) == GROUND).mean() > 0.9


def test_bad_input_is_refused_by_name():
    with pytest.raises(ValueError, match="at least one map"):
        Bev([])
    with pytest.raises(ValueError, match="must be > 0"):
        Bev([TOWN], 0)
    with pytest.raises(ValueError, match="past the last of 1 maps"):
        above((0.0, 0.0, 0.0), index=1)
    with pytest.raises(ValueError, match="not finite"):
        above((np.nan, 0.0, 0.0))

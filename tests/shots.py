"""Places, poses and one-frame pictures for tests of the cameras."""

import numpy as np

from drivefoundry.render.camera import Renderer
from drivefoundry.render.rig import Rig, View
from drivefoundry.render.snapshot import Snapshot
from drivefoundry.roadmap import make_map
from drivefoundry.types import Scene
from town import crossroads

LANE = [np.array([[-100.0, 0.0], [300.0, 0.0]])]
FIELD = make_map(lanes=LANE)
TOWN = crossroads()
CAR = (4.6, 1.9, 1.5)


def shoot(maps, ego, agents=(), view=None, brake=False, signals=(), threads=None, index=0, indicator=None, **more):
    """One frame: agents is a list of (x, y, yaw, size, kind)."""
    n = len(agents)
    state = np.array([(*a[:3], 0.0) for a in agents]).reshape(1, n, 4)
    return (
        Renderer(maps, Rig((view or View(),)), threads)
        .render(
            Snapshot(
                np.array([index]),
                np.array([ego], float),
                state,
                np.ones((1, n), bool),
                np.array([a[3] for a in agents], float).reshape(1, n, 3),
                np.array([a[4] for a in agents], int).reshape(1, n),
                np.full((1, n), brake),
                np.array([signals], int).reshape(1, -1),
                indicator,
            ),
            **more,
        )[0, 0]
        .astype(int)
    )


def changed(a, b):
    rows, cols = np.nonzero(np.abs(a - b).max(-1) > 12)
    return cols.min(), cols.max() + 1, rows.min(), rows.max() + 1


def batch(s=9, a=12, seed=0):
    rng = np.random.default_rng(seed)
    ego = np.stack([rng.uniform(-120, 120, s), rng.uniform(-6, 6, s), rng.uniform(-3, 3, s)], 1)
    agents = np.concatenate(
        [rng.uniform(-120, 120, (s, a, 1)), rng.uniform(-8, 8, (s, a, 1)), rng.uniform(-3, 3, (s, a, 2))], 2
    )
    kind = rng.integers(0, 4, (s, a))
    size = np.array([CAR, (9.0, 2.5, 3.4), (0.5, 0.6, 1.75), (1.8, 0.6, 1.75)])[kind]
    return (
        rng.integers(0, 2, s),
        ego,
        agents,
        rng.random((s, a)) < 0.8,
        size,
        kind,
        rng.random((s, a)) < 0.5,
        rng.integers(0, 4, (s, 1)),
    )


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

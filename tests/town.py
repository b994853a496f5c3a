"""A hand-made crossroads with everything a camera can see, for tests of rooms that need a map but no SUMO."""

import numpy as np

from drivefoundry.roadmap import make_map
from drivefoundry.types import LINE_EDGE, LINE_WHITE_DASHED, LINE_YELLOW, RoadMap

HALF = 7.0
"""Half the width of both roads, m: two lanes of 3.5 m a direction."""


def box(x0, y0, x1, y1):
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def line(x0, y0, x1, y1):
    return np.stack([np.linspace(x0, x1, 30), np.linspace(y0, y1, 30)], 1)


def crossroads(reach: float = 150.0, blocks: bool = True) -> RoadMap:
    """Two four-lane roads of `reach` m each way crossing at the origin; one signal, for traffic going east."""
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    east = [line(-reach, y, reach, y) for y in (-1.75, -5.25)] + [line(reach, y, -reach, y) for y in (1.75, 5.25)]
    lanes = east + [a @ turn.T for a in east]
    painted, kinds = [], []
    for x0, x1 in ((-reach, -12.0), (12.0, reach)):
        for y, kind in (
            (0, LINE_YELLOW),
            (3.5, LINE_WHITE_DASHED),
            (-3.5, LINE_WHITE_DASHED),
            (6.8, LINE_EDGE),
            (-6.8, LINE_EDGE),
        ):
            painted += [line(x0, y, x1, y), line(x0, y, x1, y) @ turn.T]
            kinds += [kind, kind]
    walks = [box(-reach, s * HALF, -HALF, s * (HALF + 3)) for s in (-1, 1)] + [
        box(HALF, s * HALF, reach, s * (HALF + 3)) for s in (-1, 1)
    ]
    buildings = [
        (sx * x, sy * 20.0, 0.0, 18.0, 14.0, 9.0 + (i * 7 + 5 * (sx > 0)) % 17)
        for sx in (-1, 1)
        for sy in (-1, 1)
        for i, x in enumerate(range(24, int(reach), 22))
    ]
    return make_map(
        lanes=lanes,
        drivable=[box(-reach, -HALF, reach, HALF), box(-HALF, -reach, HALF, reach)],
        lines=painted,
        line_kind=kinds,
        crosswalks=[box(-11, -HALF, -7.5, HALF), box(-HALF, 7.5, HALF, 11)],
        sidewalks=walks + [w @ turn.T for w in walks],
        stop_lines=[[-12, -HALF, -12, 0]],
        signal_heads=[[9, -HALF - 0.5, 5, np.pi]],
        lane_signal=[0, 0] + [-1] * 6,
        buildings=buildings if blocks else [],
    )

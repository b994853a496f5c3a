"""Build a RoadMap from centre lines, road edges and paint, for sources whose lanes have no width.

A road extends from its lanes to its edges: rays cast across each lane end at the first road edge within reach, else at
the next lane (the gap between two lanes without an edge is road), else at the lane's own width. Rays also give a lane's
width (from the paint on both sides) and its neighbours. Points may have a height, which separates roads that cross at
different levels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit

from drivefoundry.clips.importers.traffic.recording import Lights
from drivefoundry.roadmap import make_map, resample
from drivefoundry.types import LINE_EDGE, MAX_ABS_POSITION_M, RoadMap, require

ACROSS = 2.0
"""Distance between rays along a lane, m."""
REACH = 12.0
"""Length of the rays that search for road edges and other lanes, m."""
PAINT = (1.2, 2.6)
"""Distances from a centre line, m, at which paint or an edge can be the border of its own lane."""
WIDTH, NARROW = 3.5, 1.5
"""Default width of a lane and of a bicycle lane, m."""
BESIDE = (2.2, 5.0)
"""Distances of neighbouring centre lines, m."""
SAME_WAY = 0.35
"""Largest angle between lanes of the same direction, rad."""
JOINS_M, STOREY = 1.0, 3.0
"""Greatest distance from a lane's end to its successors' beginnings, and least height of a bridge over a road, m."""
FINE = 0.05
"""Tolerance for thinning out lines, m."""
AROUND = 100.0
"""Map that is kept around the recorded road users, m."""
LAMP_AHEAD, LAMP_HEIGHT = (8.0, 35.0), 5.2
"""Lamp position, m: height above the end of the lanes that it controls, range of distances behind the stop line."""
SHARED_LINE = 2.5
"""Stop points within this distance, m, that face the same way are one stop line."""


@dataclass
class Features:
    """Map features of a source. Lines are (P, 3) x, y, height; polygons (P, 2).

    lanes by id, with a limit m/s (NaN unknown), successors' ids where the source has them, ids of bicycle lanes; road
    edges; painted lines with LINE_* kinds; crosswalks; areas that are road regardless of the lanes; lights: lane id ->
    (stop point (2,), states (T,)), where the lane begins at the stop line. complete: lanes and areas cover all drivable
    ground; otherwise there can be more, bounded only by road edges.
    """

    lanes: dict[str, np.ndarray] = field(default_factory=dict)
    limit: dict[str, float] = field(default_factory=dict)
    onward: dict[str, list[str]] = field(default_factory=dict)
    narrow: set[str] = field(default_factory=set)
    edges: list[np.ndarray] = field(default_factory=list)
    lines: list[np.ndarray] = field(default_factory=list)
    line_kind: list[int] = field(default_factory=list)
    crosswalks: list[np.ndarray] = field(default_factory=list)
    areas: list[np.ndarray] = field(default_factory=list)
    lights: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    complete: bool = False


def recorded_limit(tracks: np.ndarray, valid: np.ndarray) -> float:
    """Speed limit m/s for lanes without one: the 95th percentile of the recorded speeds of moving road users (tracks
    (N, T, 4), valid (N, T)), at least 8 m/s."""
    moving = tracks[..., 3][valid & (tracks[..., 3] > 1.0)]
    return float(max(8.0, np.percentile(moving, 95))) if len(moving) else 13.9


def around(f: Features, tracks: np.ndarray, valid: np.ndarray) -> tuple[Features, np.ndarray]:
    """Crop features to the road users' surroundings, with the origin at their centre (a whole metre); return both."""
    seen = tracks[..., :2][valid]
    low, high = seen.min(0), seen.max(0)
    wide = float((high - low).max())
    require(wide < MAX_ABS_POSITION_M, f"positions: {wide:.0f} m apart; mark outlying steps invalid")
    origin = np.round((low + high) / 2)
    box = np.concatenate([low - AROUND - origin, high + AROUND - origin])

    def moved(line: np.ndarray) -> np.ndarray:
        out = line.astype(np.float64, copy=True)
        out[:, :2] -= origin
        return out

    def near(line: np.ndarray) -> bool:
        return bool(((line[:, :2] >= box[:2]) & (line[:, :2] <= box[2:])).all(1).any())

    lanes = {k: thin(line) for k, v in f.lanes.items() if near(line := moved(v))}
    kept = [(thin(line), k) for v, k in zip(f.lines, f.line_kind, strict=True) if near(line := moved(v))]
    for k, line in lanes.items():
        require(
            bool((np.abs(line[:, :2]) < MAX_ABS_POSITION_M).all()),
            f"lane {k}: remove points far from the recording",
        )
    require(len(lanes) > 0, "lanes: none near the road users; a recording without a road cannot be driven")
    return Features(
        lanes=lanes,
        limit=f.limit,
        onward=f.onward,
        narrow=f.narrow,
        edges=[part for v in f.edges for part in _inside(moved(v), box)],
        lines=[line for line, _ in kept],
        line_kind=[k for _, k in kept],
        crosswalks=[line for v in f.crosswalks if near(line := moved(v))],
        areas=[part for v in f.areas if len(part := _clipped(moved(v), box)) > 2],
        lights={k: (at - origin, states) for k, (at, states) in f.lights.items() if k in lanes},
        complete=f.complete,
    ), origin


def road_map(f: Features, default_limit: float) -> tuple[RoadMap, Lights | None]:
    """Build a RoadMap and its lights from features (see `around`). default_limit m/s for lanes without one."""
    ids = list(f.lanes)
    index = {k: i for i, k in enumerate(ids)}
    lanes = list(f.lanes.values())
    dense = [resample(line, ACROSS) for line in lanes]
    points = np.concatenate(dense)
    owner = np.repeat(np.arange(len(dense)), [len(d) for d in dense])
    heading = np.concatenate([_headings(d) for d in dense])
    rays = np.column_stack([points, heading])
    edges, paint, centres = _segments(f.edges), _segments([*f.lines, *f.edges]), _segments(dense)
    to_edge, met = _cast(rays, edges[0], 0.0, REACH)
    to_paint = _cast(rays, paint[0], *PAINT)[0]
    to_lane, which = _cast(rays, centres[0], BESIDE[0], REACH)
    width = _widths(owner, len(lanes), to_paint, [k in f.narrow for k in ids])
    beside = _beside(owner, len(lanes), heading, to_lane, which, to_edge, centres)
    side = np.where(to_edge < REACH, to_edge, to_lane)
    side = np.maximum(np.where(side < REACH, side, 0.0), width[owner, None] / 2)
    onward = [[index[k] for k in f.onward[i] if k in index] if i in f.onward else None for i in ids]
    stops, heads, behind, lights = _lights(f, index, lanes, width)
    limit = np.array([f.limit.get(k, np.nan) for k in ids])
    following = [j if k is None else k for j, k in zip(_joins(lanes), onward, strict=True)]
    road = make_map(
        lanes=[line[:, :2] for line in lanes],
        lane_width=width,
        lane_speed=np.where(np.isnan(limit), default_limit, limit),
        lane_next=following,
        lane_left=beside[:, 0],
        lane_right=beside[:, 1],
        lane_junction=crossing(lanes),
        lane_signal=[max((behind.get(j, -1) for j in after), default=-1) for after in following],
        drivable=[*f.areas, *_strips(rays, owner, side)],
        lines=[*(line[:, :2] for line in f.lines), *(line[:, :2] for line in f.edges)],
        line_kind=[*f.line_kind, *[LINE_EDGE] * len(f.edges)],
        crosswalks=f.crosswalks,
        stop_lines=stops,
        signal_heads=heads,
        road_edges=None if f.complete else _facing_road(f.edges, edges, rays, met),
    )
    return road, lights


def has_length(line: np.ndarray) -> bool:
    """Whether a line (P, 2+) has a length; sources contain lanes of one point."""
    return len(line) > 1 and bool((line[:, :2] != line[0, :2]).any())


def rings_with_holes(rings: list[np.ndarray]) -> list[np.ndarray]:
    """Join the closed outlines (P, 2) of an area into polygons, each outer outline with the holes inside it.

    A ring inside an even number of others is an outer one. The joint runs there and back, so it is invisible to the
    even-odd rule.
    """
    depth = [sum(_contains(b, a[0]) for b in rings if b is not a) for a in rings]
    out = []
    for ring, d in zip(rings, depth, strict=True):
        if d % 2:
            continue
        holes = [h for h, e in zip(rings, depth, strict=True) if e == d + 1 and _contains(ring, h[0])]
        parts = [np.concatenate([h, h[:1], ring[:1]]) for h in holes]
        out.append(np.concatenate([ring, ring[:1], *parts]))
    return out


def _contains(ring: np.ndarray, point: np.ndarray) -> bool:
    a, b = ring, np.roll(ring, -1, axis=0)
    spans = (a[:, 1] > point[1]) != (b[:, 1] > point[1])
    rise = np.where(spans, b[:, 1] - a[:, 1], 1.0)
    return bool((spans & (point[0] < a[:, 0] + (point[1] - a[:, 1]) * (b[:, 0] - a[:, 0]) / rise)).sum() % 2)


def thin(line: np.ndarray) -> np.ndarray:
    """Simplify a line (P, D) within FINE (Douglas and Peucker 1973)."""
    return line[_kept(np.ascontiguousarray(line[:, :2]), FINE)] if len(line) > 2 else line


def crossing(lanes: list[np.ndarray]) -> np.ndarray:
    """(L,) bool: whether each of L centre lines (P, 2+) crosses another one inside both (lanes that merge or split only
    touch ends)."""
    out = np.zeros(len(lanes), np.bool_)
    segments, owner = _segments(lanes)
    _cross(segments, owner, out)
    return out


def _segments(lines: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Segments (m, 6), x, y, height of both ends, of lines (P, 2+), and the line of each (m,)."""
    parts = [np.column_stack([v, np.zeros(len(v))])[:, :3] if v.shape[1] < 3 else v[:, :3] for v in lines]
    if not parts:
        return np.zeros((0, 6)), np.zeros(0, np.int64)
    rows = [np.hstack([v[:-1], v[1:]]) for v in parts]
    return np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(r) for r in rows])


def _headings(line: np.ndarray) -> np.ndarray:
    d = np.gradient(line[:, :2], axis=0)
    return np.arctan2(d[:, 1], d[:, 0])


def _widths(owner: np.ndarray, lanes: int, to_paint: np.ndarray, narrow: list[bool]) -> np.ndarray:
    """Widths (L,) m: from border to border if rays meet one on both sides, twice the distance if on one side only."""
    out = np.where(narrow, NARROW, WIDTH)
    for i in range(lanes):
        hits = to_paint[owner == i]
        both = hits[np.isfinite(hits).all(1)].sum(1)
        one = 2.0 * hits[np.isfinite(hits)]
        if not narrow[i] and len(one) >= 0.3 * len(hits):
            out[i] = np.median(both if len(both) >= 0.3 * len(hits) else one)
    return out


def _beside(owner, lanes, heading, to_lane, which, to_edge, centres) -> np.ndarray:
    """(L, 2) left and right neighbour in the same direction, -1 if none: the lane that most rays meet first, without an
    edge in between."""
    segments, lane_of = centres
    out = np.full((lanes, 2), -1)
    for side in range(2):
        d, k = to_lane[:, side], which[:, side]
        ahead = segments[k, 3:5] - segments[k, :2]
        turn = np.arctan2(ahead[:, 1], ahead[:, 0]) - heading
        near = (k >= 0) & (d > BESIDE[0]) & (d < BESIDE[1]) & (to_edge[:, side] > d) & (np.cos(turn) > np.cos(SAME_WAY))
        for i in range(lanes):
            votes = np.bincount(lane_of[k[near & (owner == i)]], minlength=1)
            if votes.max() >= 0.4 * (owner == i).sum():
                out[i, side] = votes.argmax()
    return out


def _joins(lanes: list[np.ndarray]) -> list[list[int]]:
    """Successors of each lane by geometry: lanes that begin where it ends, in the same direction."""
    three = [np.column_stack([v, np.zeros(len(v))])[:, :3] for v in lanes]
    first, last = np.array([v[0] for v in three]), np.array([v[-1] for v in three])
    into = np.array([_headings(v)[0] for v in three])
    out_of = np.array([_headings(v)[-1] for v in three])
    gap = np.hypot(*(last[:, None, :2] - first[None, :, :2]).transpose(2, 0, 1))
    same = np.cos(out_of[:, None] - into[None]) > np.cos(2 * SAME_WAY)
    level = np.abs(last[:, None, 2] - first[None, :, 2]) < STOREY
    joined = (gap < JOINS_M) & same & level & ~np.eye(len(lanes), dtype=bool)
    return [np.flatnonzero(row).tolist() for row in joined]


def _lights(f: Features, index: dict[str, int], lanes: list[np.ndarray], width: np.ndarray):
    """Stop lines (G, 4), lamps (G, 4), {controlled lane: stop line} and the Lights (None without any)."""
    lines: list[tuple[np.ndarray, float, float]] = []
    far: list[float] = []
    behind: dict[int, int] = {}
    for k, (at, _) in f.lights.items():
        lane = index[k]
        yaw = float(_headings(lanes[lane])[0])
        shared = [
            g for g, (point, way, _) in enumerate(lines)
            if np.hypot(*(point - at)) < SHARED_LINE and np.cos(way - yaw) > 0.8
        ]  # fmt: skip
        if not shared:
            shared = [len(lines)]
            lines.append((at, yaw, float(width[lane])))
            far.append(LAMP_AHEAD[0])
        behind[lane] = shared[0]
        across = (lanes[lane][-1, :2] - at) @ [np.cos(yaw), np.sin(yaw)]
        far[shared[0]] = float(np.clip(max(across, far[shared[0]]), *LAMP_AHEAD))
    stops, heads = [], []
    for (at, yaw, wide), ahead in zip(lines, far, strict=True):
        along, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
        stops.append([*(at + wide / 2 * left), *(at - wide / 2 * left)])
        heads.append([*(at + ahead * along - 0.8 * left), LAMP_HEIGHT, np.arctan2(-along[1], -along[0])])
    if not lines:
        return stops, heads, behind, None
    ways = [resample(lanes[lane][:, :2], ACROSS)[:8] for lane in behind]
    states = np.array([shown for _, shown in f.lights.values()], np.uint8)
    return stops, heads, behind, Lights(ways, np.array(list(behind.values())), states)


def _facing_road(lines: list[np.ndarray], edges: tuple, rays: np.ndarray, met: np.ndarray) -> list[np.ndarray]:
    """Orient road edges (P, 2) so that the road, the side from which most rays meet them, is on their left; edges that
    no ray meets keep their direction, which is right for Waymo's. edges: their segments; met (n, 2): each ray's
    segment."""
    (i, side), (segments, line) = np.nonzero(met >= 0), edges
    a, b = segments[met[i, side], :2], segments[met[i, side], 3:5]
    (ex, ey), (px, py) = (b - a).T, (rays[i, :2] - a).T
    votes = np.zeros(len(lines))
    np.add.at(votes, line[met[i, side]], np.sign(ex * py - ey * px))
    return [v[:, :2] if n >= 0 else v[::-1, :2] for v, n in zip(lines, votes, strict=True)]


def _strips(rays: np.ndarray, owner: np.ndarray, side: np.ndarray) -> list[np.ndarray]:
    """The road around every lane as quadrilaterals between neighbouring rays, (4, 2) each."""
    normal = np.stack([-np.sin(rays[:, 3]), np.cos(rays[:, 3])], 1)
    left, right = rays[:, :2] + side[:, :1] * normal, rays[:, :2] - side[:, 1:] * normal
    k = np.flatnonzero(owner[1:] == owner[:-1])
    return list(np.stack([left[k], left[k + 1], right[k + 1], right[k]], 1))


def _inside(line: np.ndarray, box: np.ndarray) -> list[np.ndarray]:
    """Parts of a line inside the box (x0, y0, x1, y1), thinned out."""
    inside = np.asarray(((line[:, :2] >= box[:2]) & (line[:, :2] <= box[2:])).all(1))
    cuts = np.flatnonzero(np.diff(inside.astype(np.int8))) + 1
    return [thin(line[r]) for r in np.split(np.arange(len(line)), cuts) if len(r) > 1 and inside[r[0]]]


def _clipped(polygon: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Clip a polygon (P, 2) to the box; empty if outside (Sutherland and Hodgman 1974)."""
    points = thin(polygon[:, :2])
    for axis, bound, sign in ((0, box[0], 1), (1, box[1], 1), (0, box[2], -1), (1, box[3], -1)):
        if not len(points):
            break
        d = sign * (points[:, axis] - bound)
        after, e = np.roll(points, -1, axis=0), np.roll(d, -1)
        u = np.divide(d, d - e, out=np.zeros_like(d), where=d != e)
        cut = points + u[:, None] * (after - points)
        both = np.stack([points, cut], 1)
        points = both[np.stack([d >= 0, (d >= 0) != (e >= 0)], 1)]
    return points


@njit(cache=True, nogil=True)
def _kept(line, fine):
    """(P,) bool: the points needed to stay within `fine` of a line."""
    keep = np.zeros(len(line), np.bool_)
    keep[0] = keep[-1] = True
    waiting = [(0, len(line) - 1)]
    while len(waiting):
        a, b = waiting.pop()
        worst, at = fine, -1
        ex, ey = line[b, 0] - line[a, 0], line[b, 1] - line[a, 1]
        ee = ex * ex + ey * ey
        for i in range(a + 1, b):
            rx, ry = line[i, 0] - line[a, 0], line[i, 1] - line[a, 1]
            u = min(1.0, max(0.0, (rx * ex + ry * ey) / ee)) if ee > 0.0 else 0.0
            d = np.hypot(rx - u * ex, ry - u * ey)
            if d > worst:
                worst, at = d, i
        if at >= 0:
            keep[at] = True
            waiting.append((a, at))
            waiting.append((at, b))
    return keep


@njit(cache=True, nogil=True)
def _cast(rays, segments, least, reach):
    """Cast rays (n, 4) x, y, height, heading to both sides; return distances (n, 2) to the left and right, inf if
    nothing is met between `least` and `reach`, and the segments met (n, 2), -1 if none."""
    out, which = np.full((len(rays), 2), np.inf), np.full((len(rays), 2), -1)
    for k in range(len(segments)):
        ax, ay, bx, by = segments[k, 0], segments[k, 1], segments[k, 3], segments[k, 4]
        ex, ey = bx - ax, by - ay
        for i in range(len(rays)):
            x, y = rays[i, 0], rays[i, 1]
            if max(ax, bx) < x - reach or min(ax, bx) > x + reach or max(ay, by) < y - reach or min(ay, by) > y + reach:
                continue
            nx, ny = -np.sin(rays[i, 3]), np.cos(rays[i, 3])
            cross = nx * ey - ny * ex
            if abs(cross) < 1e-9:
                continue
            u = ((ax - x) * ey - (ay - y) * ex) / cross
            v = ((ax - x) * ny - (ay - y) * nx) / cross
            d = abs(u)
            side = 0 if u > 0.0 else 1
            if v < 0.0 or v > 1.0 or d < least or d > reach or d >= out[i, side]:
                continue
            if abs(segments[k, 2] + v * (segments[k, 5] - segments[k, 2]) - rays[i, 2]) > STOREY:
                continue
            out[i, side], which[i, side] = d, k
    return out, which


@njit(cache=True, nogil=True)
def _cross(segments, owner, out):
    """Set `out` (L,) for lanes whose segments cross those of another lane."""
    for i in range(len(segments)):
        ax, ay, bx, by = segments[i, 0], segments[i, 1], segments[i, 3], segments[i, 4]
        for j in range(i + 1, len(segments)):
            if owner[i] == owner[j] or (out[owner[i]] and out[owner[j]]):
                continue
            cx, cy, dx, dy = segments[j, 0], segments[j, 1], segments[j, 3], segments[j, 4]
            if max(ax, bx) < min(cx, dx) or min(ax, bx) > max(cx, dx):
                continue
            if max(ay, by) < min(cy, dy) or min(ay, by) > max(cy, dy):
                continue
            cross = (bx - ax) * (dy - cy) - (by - ay) * (dx - cx)
            if cross == 0.0:
                continue
            u = ((cx - ax) * (dy - cy) - (cy - ay) * (dx - cx)) / cross
            v = ((cx - ax) * (by - ay) - (cy - ay) * (bx - ax)) / cross
            inside = 0.02 < u < 0.98 and 0.02 < v < 0.98
            if inside and abs(segments[i, 2] - segments[j, 2]) < STOREY:
                out[owner[i]] = out[owner[j]] = True

"""Arrays in, RoadMap with a content id out; RoadMap in, bytes out, and back.

Drives and scenes name their map by this id, so the same surroundings are stored once, whoever imported them.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np

from drivefoundry.ragged import Ragged
from drivefoundry.types import RoadMap, require
from drivefoundry_car.arrays import from_bytes, to_bytes

_RAGGED = {"lanes": 2, "lane_next": 1, "drivable": 2, "lines": 2, "crosswalks": 2, "sidewalks": 2}
_PER_LANE: dict[str, tuple[type, float]] = {
    "lane_width": (np.float64, 3.2),
    "lane_speed": (np.float64, 13.9),
    "lane_left": (np.int32, -1),
    "lane_right": (np.int32, -1),
    "lane_junction": (np.bool_, 0),
    "lane_signal": (np.int32, -1),
}
_TABLES = {"stop_lines": 4, "signal_heads": 4, "buildings": 6}
_DECIMALS = 4
"""Coordinates are kept to 0.1 mm, so that the id does not depend on the last bits of a sum."""


def make_map(**arrays: Any) -> RoadMap:
    """Arrays in, validated RoadMap out; its id is the first 16 hex digits of a SHA-256 over them.

    Names are the fields of RoadMap. Sequences of points (lanes, lane_next, drivable, lines, crosswalks, sidewalks) are
    given as a Ragged or as a list of arrays. Only `lanes` must be given: what a source does not know is left out and
    becomes empty (no lines, no signals, no buildings), no neighbour, no successor, 3.2 m of width and 50 km/h. With
    `road_edges` the drivable area is not all that one may drive on, without them it is.
    ValueError names a field that is unknown or does not fit.
    """
    known = {f.name for f in fields(RoadMap)} - {"id"}
    unknown = sorted(set(arrays) - known)
    require(not unknown, f"make_map: unknown field {''.join(unknown[:1])}; RoadMap has {', '.join(sorted(known))}")
    require("lanes" in arrays, "make_map: lanes are missing; give a list of (P, 2) centre lines")
    n = len(arrays["lanes"])
    given: dict[str, Any] = {"lane_next": [np.zeros((0, 1))] * n, **arrays}
    parts: dict[str, Any] = {name: _ragged(name, given.get(name, []), dim) for name, dim in _RAGGED.items()}
    for name, (dtype, default) in _PER_LANE.items():
        parts[name] = _rounded(np.asarray(given.get(name, np.full(n, default)), dtype))
    for name, width in _TABLES.items():
        parts[name] = _rounded(np.asarray(given.get(name, []), np.float64).reshape(-1, width))
    if given.get("road_edges") is not None:  # a map without them has the id that it had before there were any
        parts["road_edges"] = _ragged("road_edges", given["road_edges"], 2)
    parts["line_kind"] = np.asarray(given.get("line_kind", np.zeros(len(parts["lines"]))), np.int32)
    successors = parts["lane_next"].points
    require(
        successors.size == 0 or bool((successors >= 0).all() and (successors < n).all()),
        f"RoadMap.lane_next: successors must be lane indices below {n}",
    )
    require(
        bool((parts["lane_signal"] < len(parts["signal_heads"])).all()),
        f"RoadMap.lane_signal: an index past the {len(parts['signal_heads'])} signal heads",
    )
    return RoadMap(id=_content_id(parts), **parts).validate()


def save_map(map: RoadMap) -> bytes:
    """RoadMap in, safetensors bytes out: the same bytes for the same map."""
    return to_bytes(dict(_flat(_parts(map))))


def _parts(map: RoadMap) -> dict[str, Any]:
    every = {f.name: getattr(map, f.name) for f in fields(RoadMap) if f.name != "id"}
    return {name: value for name, value in every.items() if value is not None}


@lru_cache(maxsize=64)
def load_map(data: bytes) -> RoadMap:
    """Bytes of `save_map` in, RoadMap out; ValueError on other bytes. The last 64 are kept: clips share maps."""
    try:
        raw = from_bytes(data, f"{len(data)} bytes")
        ragged = [*_RAGGED, *(["road_edges"] if "road_edges.points" in raw else [])]
        arrays: dict[str, Any] = {n: Ragged(raw.pop(n + ".points"), raw.pop(n + ".offsets")) for n in ragged}
    except (KeyError, ValueError) as error:
        raise ValueError(f"road map: not a stored map; import its drive again ({error})") from None
    return make_map(**arrays, **raw)


def lane_polygon(center: np.ndarray, width: float) -> np.ndarray:
    """Centre line (P, 2) and width m in, closed-implied polygon (2P, 2) out: left border forward, right border back."""
    left, right = offset_line(center, width / 2), offset_line(center, -width / 2)
    return np.concatenate([left, right[::-1]])


def offset_line(line: np.ndarray, distance: float) -> np.ndarray:
    """Line (P, 2) in, line (P, 2) shifted to the left by `distance` m out (negative: right), mitred at its corners."""
    line = np.asarray(line, np.float64)
    seg = np.diff(line, axis=0)
    seg /= np.maximum(np.hypot(seg[:, 0], seg[:, 1]), 1e-9)[:, None]
    before, after = np.vstack([seg[:1], seg]), np.vstack([seg, seg[-1:]])
    bisector = before + after
    bisector /= np.maximum(np.hypot(bisector[:, 0], bisector[:, 1]), 1e-9)[:, None]
    # the mitre is as long as the corner is sharp; beyond 60 degrees it is cut, else it would run away
    mitre = distance / np.maximum((bisector * after).sum(1), 0.5)
    return line + mitre[:, None] * np.stack([-bisector[:, 1], bisector[:, 0]], 1)


def arc_length(line: np.ndarray) -> np.ndarray:
    """Line (P, 2+) in, arc length (P,) m of its points out, 0 first."""
    d = np.diff(line[:, :2], axis=0)
    return np.concatenate([[0.0], np.cumsum(np.hypot(d[:, 0], d[:, 1]))])


def resample(line: np.ndarray, step: float) -> np.ndarray:
    """Line (P, D), x and y first, in; points about `step` m apart out, both ends kept, other columns interpolated."""
    s = arc_length(line)
    at = np.linspace(0.0, s[-1], max(2, round(s[-1] / step) + 1))
    return np.stack([np.interp(at, s, line[:, k]) for k in range(line.shape[1])], 1)


def _rounded(array: np.ndarray) -> np.ndarray:
    # + 0.0: no negative zeros in the hash
    return np.round(array, _DECIMALS) + 0.0 if array.dtype.kind == "f" else array


def _ragged(name: str, value: Ragged | list[Any], dim: int) -> Ragged:
    if not isinstance(value, Ragged):
        parts = [np.asarray(part, np.float64) for part in value]
        if dim == 1:
            parts = [part.reshape(-1, 1) for part in parts]
        for i, part in enumerate(parts):
            fits = part.ndim == 2 and part.shape[1] == dim
            require(fits, f"RoadMap.{name}: entry {i} has shape {part.shape}, not (P, {dim})")
        value = Ragged.of(parts, dim)
    return Ragged(_rounded(np.asarray(value.points, np.float64)), np.asarray(value.offsets, np.int64))


def _flat(parts: dict[str, Any]) -> list[tuple[str, np.ndarray]]:
    out: list[tuple[str, np.ndarray]] = []
    for name in sorted(parts):
        value = parts[name]
        if isinstance(value, Ragged):
            out += [(name + ".offsets", value.offsets), (name + ".points", value.points)]
        else:
            out.append((name, value))
    return out


def _content_id(parts: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, array in _flat(parts):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]

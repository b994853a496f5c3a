"""Build RoadMaps with content ids from arrays, and serialise them.

Drives and scenes refer to their map by this id, so the same surroundings are stored once, whoever imported them.
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
"""Coordinates are rounded to 0.1 mm, so that the id does not depend on the last bits of a sum."""


def make_map(**arrays: Any) -> RoadMap:
    """Build a validated RoadMap; its id is the first 16 hex digits of a SHA-256 over the arrays.

    Names are the fields of RoadMap. Sequences of points (lanes, lane_next, drivable, lines, crosswalks, sidewalks) are
    given as a Ragged or as a list of arrays. Only `lanes` is required; other fields default to empty (no lines, no
    signals, no buildings), no neighbour, no successor, a width of 3.2 m and 50 km/h. With `road_edges`, ground outside
    the drivable area may be drivable, too; without, it is not. ValueError names a field that is unknown or invalid.
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
    if given.get("road_edges") is not None:  # keeps the ids of maps without road edges
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
    """Serialise a map as safetensors bytes, identical for equal maps."""
    return to_bytes(dict(_flat(_parts(map))))


def _parts(map: RoadMap) -> dict[str, Any]:
    every = {f.name: getattr(map, f.name) for f in fields(RoadMap) if f.name != "id"}
    return {name: value for name, value in every.items() if value is not None}


@lru_cache(maxsize=64)
def load_map(data: bytes) -> RoadMap:
    """Read a map from the bytes of `save_map`. ValueError for other bytes. The last 64 are cached: clips share maps."""
    try:
        raw = from_bytes(data, f"{len(data)} bytes")
        ragged = [*_RAGGED, *(["road_edges"] if "road_edges.points" in raw else [])]
        arrays: dict[str, Any] = {n: Ragged(raw.pop(n + ".points"), raw.pop(n + ".offsets")) for n in ragged}
    except (KeyError, ValueError) as error:
        raise ValueError(f"road map: not a stored map; import its drive again ({error})") from None
    return make_map(**arrays, **raw)


def lane_polygon(center: np.ndarray, width: float) -> np.ndarray:
    """Polygon (2P, 2), implicitly closed, of a centre line (P, 2) and a width m: left border forward, right one
    back."""
    left, right = offset_line(center, width / 2), offset_line(center, -width / 2)
    return np.concatenate([left, right[::-1]])


def offset_line(line: np.ndarray, distance: float) -> np.ndarray:
    """Shift a line (P, 2) to the left by `distance` m (negative: right), mitred at its corners."""
    line = np.asarray(line, np.float64)
    seg = np.diff(line, axis=0)
    seg /= np.maximum(np.hypot(seg[:, 0], seg[:, 1]), 1e-9)[:, None]
    before, after = np.vstack([seg[:1], seg]), np.vstack([seg, seg[-1:]])
    bisector = before + after
    bisector /= np.maximum(np.hypot(bisector[:, 0], bisector[:, 1]), 1e-9)[:, None]
    # a mitre grows with the sharpness of the corner; beyond 60 degrees it is cut to stay bounded
    mitre = distance / np.maximum((bisector * after).sum(1), 0.5)
    return line + mitre[:, None] * np.stack([-bisector[:, 1], bisector[:, 0]], 1)


def arc_length(line: np.ndarray) -> np.ndarray:
    """Arc length (P,) m at each point of a line (P, 2+), starting at 0."""
    d = np.diff(line[:, :2], axis=0)
    return np.concatenate([[0.0], np.cumsum(np.hypot(d[:, 0], d[:, 1]))])


def resample(line: np.ndarray, step: float) -> np.ndarray:
    """Resample a line (P, D), x and y first, at about `step` m; both ends are kept, other columns interpolated."""
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

"""Scenes for simulation from a Drive and its map.

Scene steps are the drive's own 10 Hz steps: step i of the Scene is row i of the Drive.
"""

from __future__ import annotations

import numpy as np

from drivefoundry import route as routes
from drivefoundry.curate.split import place_of
from drivefoundry.roadmap import arc_length
from drivefoundry.types import AGENT_CAR, SIGNAL_OFF, RoadMap, Scene, require
from drivefoundry_car.log import Drive, clock

START = 15
"""Steps of history before simulation starts: 1.5 s, the length of the model's ego history."""
ROUTE_ON_M = 60.0
"""The route continues at least this far beyond the end of the ego's recording, for drivers who are faster."""
DEFAULT_SPEED = 13.9
"""Speed limit if neither route nor map has one, m/s (50 km/h)."""


def scene_from_clip(drive: Drive, map: RoadMap, clip_id: str) -> Scene:
    """The Scene of the recording car, from a drive with objects; the ego is agent 0.

    ValueError if the drive is too short, not on the 10 Hz clock, or names a map other than the one given.
    """
    steps = len(drive.t)
    require(steps > START + 5, f"clip {clip_id}: {steps} steps are too few for a scene; must be at least {START + 6}")
    steady = bool(clock.spans(drive.t, np.array([0]), 0, steps - 1)[0])
    require(steady, f"clip {clip_id}: states must be {clock.DT} s apart; import the drive again")
    named = drive.meta.get("map", map.id)
    require(named == map.id, f"clip {clip_id}: recorded on map {named}, but given map {map.id}")
    tracks, valid, size, kind = _agents(drive)
    route = drive.route if drive.route is not None and len(drive.route) > 1 else None
    if route is None:
        route = routes.driven(drive.ego[:, :2], DEFAULT_SPEED, map, yaw=float(drive.ego[0, 2]), on=ROUTE_ON_M)
    route = _far_enough(np.asarray(route, np.float64), drive.ego[-1, :2], map)
    return Scene(
        id=clip_id,
        source=drive.meta.get("source", "drive"),
        place=place_of(drive.meta),
        map=map,
        tracks=tracks,
        valid=valid,
        size=size,
        kind=kind,
        ego=0,
        start=START,
        route=route[:, :2],
        route_speed=route[:, 2],
        signals=_signals(drive, map),
        meta={**drive.meta, "clip": clip_id},
    ).validate()


def _agents(drive: Drive) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tracks (A, T, 4), valid (A, T), size (A, 3) and kind (A,) of the ego, then the objects."""
    ego = drive.ego[None, :, :4].astype(np.float32)
    ego_valid = np.asarray(np.isfinite(ego).all(2))
    size = np.array([drive.ego_size], np.float32)
    kind = np.array([AGENT_CAR])
    o = drive.objects
    if o is None or not len(o.track):
        return np.where(ego_valid[..., None], ego, 0), ego_valid, size, kind
    valid = np.concatenate([ego_valid, o.valid.astype(bool)])
    tracks = np.concatenate([ego, o.states.astype(np.float32)])
    return (
        np.where(valid[..., None], tracks, np.float32(0)),
        valid,
        np.concatenate([size, o.size.astype(np.float32)]),
        np.concatenate([kind, o.kind.astype(kind.dtype)]),
    )


def _signals(drive: Drive, map: RoadMap) -> np.ndarray:
    """(G, T) states of all signals of the map; those that the drive did not log are off."""
    out = np.full((len(map.signal_heads), len(drive.t)), SIGNAL_OFF, np.uint8)
    if drive.signal_id is not None and drive.signal_state is not None and len(drive.signal_id):
        ids = np.asarray(drive.signal_id, int)
        worst, name = int(ids.max()), drive.meta.get("drive", "?")
        require(worst < len(out), f"drive {name}: signal {worst} is not on map {map.id} ({len(out)} signals)")
        out[ids] = drive.signal_state
    return out


def _far_enough(route: np.ndarray, end: np.ndarray, map: RoadMap) -> np.ndarray:
    """Extend a route that ends sooner than ROUTE_ON_M beyond the ego's last position."""
    s = arc_length(route)
    at = s[int(np.argmin(np.hypot(*(route[:, :2] - end).T)))]
    missing = ROUTE_ON_M - (s[-1] - at)
    return routes.extend(route, missing, map) if missing > 0 else route

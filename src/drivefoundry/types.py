"""The nouns passed between rooms: RoadMap, Scene, Observation, Plan, Rollout, Episodes.

Units are SI, angles radians, frames right-handed with x forward and y left (the map frame: x east, y north).
Axis letters in shapes: S scenes, A agents, T time steps, L lanes, P points, N samples, K plan points.
Every type has `validate()`, which raises ValueError naming the field and the fix.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from drivefoundry.ragged import Ragged
from drivefoundry_car.vehicle import embodiment, inputs
from drivefoundry_car.vehicle.embodiment import CAR, Embodiment

DT = embodiment.STEP_S
"""Simulation and log step, s (10 Hz)."""
PLAN_DT, PLAN_POINTS = embodiment.PLAN_DT, embodiment.PLAN_POINTS
"""Grid of every plan: time between its points, s, and their number."""

AGENT_CAR, AGENT_TRUCK, AGENT_PEDESTRIAN, AGENT_CYCLIST = 0, 1, 2, 3
MAX_KIND_CODE = 16
"""Codes beyond the agents', up to this one, are static objects."""
SIGNAL_OFF, SIGNAL_GREEN, SIGNAL_YELLOW, SIGNAL_RED = 0, 1, 2, 3
COMMAND_STRAIGHT, COMMAND_LEFT, COMMAND_RIGHT = inputs.STRAIGHT, inputs.LEFT, inputs.RIGHT
LINE_WHITE, LINE_WHITE_DASHED, LINE_YELLOW, LINE_EDGE = 0, 1, 2, 3
PX, PY, PYAW, PSPEED = 0, 1, 2, 3
"""Columns of a track or ego state: x m, y m, yaw rad, speed m/s."""
MAX_ABS_POSITION_M = 1e5
"""Maximum distance of positions from the origin, m: tracks are float32, which still resolves centimetres there."""
MAX_SPEED_MPS = 150.0
"""Upper bound of road users' speeds, m/s."""


def require(ok: bool | np.bool_, message: str) -> None:
    """Raise ValueError(message) unless ok: the way in which all user data is refused."""
    if not ok:
        raise ValueError(message)


def short_id(scene_id: str) -> str:
    """The 12 hex digits that identify a scene in reports, tables and file names: for a scene cut from a clip the first
    of its id, which is a hash; for one from recorded traffic, whose id is a name, those of the name's SHA-256."""
    if len(scene_id) == 64 and not set(scene_id) - set("0123456789abcdef"):
        return scene_id[:12]
    return hashlib.sha256(scene_id.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class RoadMap:
    """Static surroundings of one place, in its map frame.

    lanes: centre lines in driving direction, L sequences of (P, 2) points; the other lane_* arrays are (L,) beside it.
    lane_next: successors of each lane, L ragged int lists as a Ragged with dim 1 (cast to int when read).
    """

    id: str
    """Content hash of the map, by which drives refer to it."""
    lanes: Ragged
    lane_width: np.ndarray
    """(L,) m."""
    lane_speed: np.ndarray
    """(L,) speed limit, m/s."""
    lane_next: Ragged
    lane_left: np.ndarray
    """(L,) index of the neighbour lane to the left in the same direction, -1 if none."""
    lane_right: np.ndarray
    lane_junction: np.ndarray
    """(L,) bool, lane lies inside a junction."""
    lane_signal: np.ndarray
    """(L,) index of the signal that guards the END of this lane (its stop line), -1 if none."""
    drivable: Ragged
    """Polygons whose union is the drivable area (lanes and junction areas)."""
    lines: Ragged
    """Painted line strips."""
    line_kind: np.ndarray
    """(len(lines),) LINE_* code."""
    crosswalks: Ragged
    """Polygons."""
    sidewalks: Ragged
    """Polygons."""
    stop_lines: np.ndarray
    """(G, 4) x0, y0, x1, y1 of the stop line of each signal g."""
    signal_heads: np.ndarray
    """(G, 4) x, y, z of the lamp centre and yaw it faces (towards approaching traffic) of each signal g."""
    buildings: np.ndarray
    """(B, 6) x, y, yaw, length, width, height of boxes."""
    road_edges: Ragged | None = None
    """Lines where the road ends, with the road on their left, if ground outside the drivable area may be drivable, too;
    None if it is not."""

    def validate(self) -> RoadMap:
        n, g = len(self.lanes), len(self.signal_heads)
        for name in ("lane_width", "lane_speed", "lane_left", "lane_right", "lane_junction", "lane_signal"):
            require(
                np.shape(getattr(self, name)) == (n,),
                f"RoadMap.{name}: must have one entry per lane, got {len(getattr(self, name))} for {n}",
            )
        require(len(self.lane_next) == n, f"RoadMap.lane_next: one list a lane, got {len(self.lane_next)} for {n}")
        for name in ("lanes", "lane_next", "drivable", "lines", "crosswalks", "sidewalks"):
            _require_parts(name, getattr(self, name))
        if self.road_edges is not None:
            _require_parts("road_edges", self.road_edges)
        _require_lengths(self.lanes)
        wide, fast = np.asarray(self.lane_width), np.asarray(self.lane_speed)
        require(bool(((wide > 0) & (wide < 100)).all()), "RoadMap.lane_width: must be > 0 m")
        require(
            bool(((fast > 0) & (fast < MAX_SPEED_MPS)).all()),
            f"RoadMap.lane_speed: must be 0 to {MAX_SPEED_MPS} m/s",
        )
        for name, most, what in (
            ("lane_next", n, "lanes"), ("lane_left", n, "lanes"), ("lane_right", n, "lanes"),
            ("lane_signal", g, "signal heads"),
        ):  # fmt: skip
            value = np.asarray(self.lane_next.points if name == "lane_next" else getattr(self, name))
            least = 0 if name == "lane_next" else -1
            known = bool(((value >= least) & (value < most)).all())
            require(known, f"RoadMap.{name}: an index past the {most} {what}")
        require(np.shape(self.line_kind) == (len(self.lines),), "RoadMap.line_kind: must have one entry per line")
        require(
            self.stop_lines.shape == (len(self.signal_heads), 4), "RoadMap.stop_lines: shape (G, 4), one a signal head"
        )
        for name, columns in (("stop_lines", 4), ("signal_heads", 4), ("buildings", 6)):
            value = getattr(self, name)
            require(value.shape[1:] == (columns,), f"RoadMap.{name}: must have {columns} columns, got {value.shape}")
            require(bool((np.abs(value) < MAX_ABS_POSITION_M).all()), f"RoadMap.{name}: must be near the origin")
        return self


def _require_parts(name: str, parts: Ragged) -> None:
    """Check that offsets cover the points, and that points are finite and within MAX_ABS_POSITION_M."""
    at = np.asarray(parts.offsets)
    whole = at.ndim == 1 and len(at) > 0 and at[0] == 0 and at[-1] == len(parts.points)
    require(whole and bool((np.diff(at) >= 0).all()), f"RoadMap.{name}: offsets must rise from 0 to the points' number")
    flat = parts.points.ndim == 2 and (name == "lane_next" or parts.points.shape[1] >= 2)
    require(flat, f"RoadMap.{name}: must be points (P, 2), got {parts.points.shape}")
    near = bool((np.abs(parts.points) < MAX_ABS_POSITION_M).all())
    require(
        near,
        f"RoadMap.{name}: must be within {MAX_ABS_POSITION_M:.0f} m; move the origin near the recording",
    )


def _require_lengths(lanes: Ragged) -> None:
    """Check that every lane has a length."""
    step = np.abs(np.diff(lanes.points[:, :2], axis=0)).sum(1)
    along = np.concatenate([[0.0], np.cumsum(step), [0.0]])
    first, last = np.asarray(lanes.offsets[:-1]), np.asarray(lanes.offsets[1:])
    long = (last - first > 1) & (along[last - 1] > along[first])
    require(
        bool(long.all()), f"RoadMap.lanes: lane {int(np.argmin(long)) if len(long) else 0} has no length; remove it"
    )


@dataclass(frozen=True)
class Scene:
    """One situation for simulation: map, tracks, lights and the ego's route. It contains nothing outside its window."""

    id: str
    source: str
    """Origin: 'sumo', 'commonroad', ..."""
    place: str
    """Place and seed of the recording; splits never share one."""
    map: RoadMap
    tracks: np.ndarray
    """(A, T, 4) float32 x, y, yaw, speed at 10 Hz; zero where invalid."""
    valid: np.ndarray
    """(A, T) bool."""
    size: np.ndarray
    """(A, 3) float32 length, width, height, m. Positions are box centres."""
    kind: np.ndarray
    """(A,) AGENT_* code."""
    ego: int
    """Index of the ego among the agents."""
    start: int
    """Step at which simulation starts; steps before it are history (>= 5, so that cameras have past frames)."""
    route: np.ndarray
    """(R, 2) lane-level centre line for the ego to follow, from behind the start to beyond the goal, ~1-2 m apart."""
    route_speed: np.ndarray
    """(R,) speed limit along the route, m/s."""
    signals: np.ndarray
    """(G, T) uint8 SIGNAL_* state of each signal of the map; (0, T) if the source has none."""
    meta: dict[str, str] = field(default_factory=dict)

    def validate(self) -> Scene:
        require(bool(self.id), "Scene.id: must not be empty")
        flat = self.valid.ndim == 2 and self.valid.dtype == bool
        require(flat, f"Scene.valid: (A, T) must be bool, got {self.valid.shape} {self.valid.dtype}")
        a, t = self.valid.shape
        require(
            self.tracks.shape == (a, t, 4),
            f"Scene.tracks: shape {self.tracks.shape} does not fit valid {self.valid.shape}",
        )
        require(self.size.shape == (a, 3), f"Scene.size: must have shape (A, 3), got {self.size.shape}")
        known = np.shape(self.kind) == (a,) and bool(np.isin(self.kind, range(MAX_KIND_CODE)).all())
        require(known, "Scene.kind: must be one AGENT_* code per agent")
        require(0 <= self.ego < a, f"Scene.ego: index {self.ego} is not among {a} agents")
        require(5 <= self.start < t, f"Scene.start: step {self.start} must leave 5 steps of history and lie before {t}")
        require(bool(self.valid[self.ego, self.start]), "Scene.ego: the ego has no state at the start step")
        require(
            bool(np.isfinite(self.tracks).all()), "Scene.tracks: NaN or infinite value; mark such steps invalid instead"
        )
        near = bool((np.abs(self.tracks[..., :2]) < MAX_ABS_POSITION_M).all())
        require(
            near,
            f"Scene.tracks: must be within {MAX_ABS_POSITION_M:.0f} m; move the origin near the recording",
        )
        slow = bool((np.abs(self.tracks[..., PSPEED]) < MAX_SPEED_MPS).all())
        require(slow, f"Scene.tracks: speeds must be below {MAX_SPEED_MPS} m/s; mark such steps invalid instead")
        require(bool((self.size > 0).all()), "Scene.size: every length, width and height must be > 0")
        require(bool((self.size < 100).all()), "Scene.size: must be in metres, below 100")
        self._require_route()
        require(
            self.signals.ndim == 2 and self.signals.shape[1] == t,
            f"Scene.signals: shape {self.signals.shape} where tracks have {t} steps; must be (G, T)",
        )
        known = len(self.signals) in (0, len(self.map.stop_lines))
        require(known, f"Scene.signals: {len(self.signals)} where the map has {len(self.map.stop_lines)} stop lines")
        require(bool(np.isin(self.signals, range(SIGNAL_RED + 1)).all()), "Scene.signals: must be SIGNAL_* states")
        self.map.validate()
        return self

    def _require_route(self) -> None:
        route, limit = np.asarray(self.route), np.asarray(self.route_speed)
        flat = route.ndim == 2 and len(route) >= 2 and route.shape[1] == 2
        require(flat, "Scene.route: needs at least two (x, y) points")
        require(
            bool((np.abs(route) < MAX_ABS_POSITION_M).all()),
            f"Scene.route: must be within {MAX_ABS_POSITION_M:.0f} m",
        )
        long = float(np.hypot(*np.diff(route, axis=0).T).sum())
        require(
            0.0 < long < MAX_ABS_POSITION_M,
            f"Scene.route: length must be > 0, got {long:.0f} m",
        )
        require(limit.shape == (len(route),), "Scene.route_speed: must have one entry per route point")
        require(
            bool(((limit > 0) & (limit < MAX_SPEED_MPS)).all()),
            f"Scene.route_speed: must be 0 to {MAX_SPEED_MPS} m/s",
        )


@dataclass(frozen=True)
class Observation:
    """What a policy sees at one decision of S cars at once. It contains no privileged state."""

    frames: dict[str, np.ndarray]
    """Camera -> (S, F, H, W, 3) uint8 RGB, oldest first, `Embodiment.frame_dt` apart, the last one current."""
    ego: np.ndarray
    """(S, history, state) float32 speed m/s, yaw rate rad/s, valid (0/1); `Embodiment.history_dt` apart."""
    route: np.ndarray
    """(S, features) float32: see `drivefoundry_car.vehicle.inputs.route_features`."""
    objects: list[np.ndarray] | None = None
    """Tracks of the car's perception, for its guard: S arrays (n, 6) x, y, yaw (ego frame), speed, length, width."""
    readings: dict[str, Any] = field(default_factory=dict)
    """Name -> reading of each of the policy's own sensors (its attribute `sensors`: name -> `simulator.SensorOf`)."""


@dataclass(frozen=True)
class Plan:
    """A policy's decision. points (S, 8, 3) x, y, yaw in the ego frame (box centre, not rear axle) at 0.5 .. 4.0 s."""

    points: np.ndarray
    tokens: np.ndarray | None = None
    """(S, 8) action codes, if the policy has a codec."""
    text: list[str] | None = None
    """Reasoning, one text per scene, if the policy gives it."""
    guarded: np.ndarray | None = None
    """(S,) bool: the guard changed the plan, if there is a guard."""
    motion: np.ndarray | None = None
    """(S, 5, 6) ego states at the next 5 steps, replacing the tracker: exact replay, for privileged drivers only."""


class Policy(Protocol):
    """Anything that drives: a constant, rules, a torch model, the car's engine, a driver in another process.

    Baselines that read the simulator's state also have `bind`, see `sim.policies.Privileged`.
    """

    name: str

    def reset(self, scenes: list[Scene]) -> None:
        """Forget everything; the next `act` is the first decision in these scenes."""
        ...

    def act(self, observation: Observation, /) -> Plan:
        """Make one decision for S cars at once; called at 2 Hz."""
        ...


@dataclass(frozen=True)
class Rollout:
    """Record of one policy driving S scenes in closed loop at 10 Hz (step 0 = Scene.start).

    Each scene has its own length, `lengths`; T is the longest. Beyond a scene's length the arrays are padding: its last
    ego state, invalid agents, zero plans.
    """

    policy: str
    scenes: list[str]
    ego: np.ndarray
    """(S, T, 6) x, y, yaw, speed, acceleration m/s^2, yaw rate rad/s."""
    agents: np.ndarray
    """(S, A, T, 4) states as simulated (the ego's own slot follows the ego)."""
    agents_valid: np.ndarray
    """(S, A, T) bool; False for padding and for the ego's own slot."""
    plans: np.ndarray
    """(S, D, 8, 3) plan of each decision, ego frame of that decision."""
    tokens: np.ndarray | None
    """(S, D, 8) action codes, or None."""
    text: list[list[str]] | None
    """[S][D] reasoning, or None."""
    guarded: np.ndarray
    """(S, D) bool: the guard changed the plan."""
    steps: np.ndarray | None = None
    """(S,) number of states of each scene, including the first; None if all scenes have T."""
    decision_dt: float = CAR.decision_dt
    """Time between decisions, s."""

    @property
    def lengths(self) -> np.ndarray:
        """(S,) number of states of each scene, including the first."""
        return np.full(len(self.ego), self.ego.shape[1]) if self.steps is None else self.steps

    def of(self, i: int) -> Rollout:
        """The drive of scene i alone, without padding."""
        one, steps = slice(i, i + 1), int(self.lengths[i])
        decisions = (steps - 1) // round(self.decision_dt / DT)
        return Rollout(
            self.policy, self.scenes[one], self.ego[one, :steps], self.agents[one, :, :steps],
            self.agents_valid[one, :, :steps], self.plans[one, :decisions],
            None if self.tokens is None else self.tokens[one, :decisions],
            None if self.text is None else [self.text[i][:decisions]], self.guarded[one, :decisions],
            np.array([steps]), self.decision_dt,
        )  # fmt: skip


@dataclass(frozen=True)
class Episodes:
    """Training samples, N decisions of one embodiment; neighbours share frames."""

    frames: dict[str, np.ndarray]
    """Camera, in the embodiment's order -> (F, H, W, 3) uint8; F may differ from camera to camera."""
    frame_index: np.ndarray
    """(N, cameras, 2) rows of each camera's frames: previous and current."""
    ego: np.ndarray
    """(N, history, state) as in Observation."""
    route: np.ndarray
    """(N, features) as in Observation."""
    future: np.ndarray
    """(N, 8, 3) x, y, yaw in the ego frame at 0.5 .. 4 s: the label."""
    text: list[str]
    """N reasoning strings, '' where unknown."""
    clip: list[str]
    """N clip ids."""
    t: np.ndarray
    """(N,) s within the clip."""
    weight: np.ndarray
    """(N,) loss weight."""
    correction: np.ndarray
    """(N,) bool: the label is a safety driver's correction, not the car's own motion."""
    embodiment: Embodiment = CAR

    def __len__(self) -> int:
        return len(self.future)

    def pictures(self, rows: np.ndarray | slice) -> dict[str, np.ndarray]:
        """Camera -> (n, 2, H, W, 3) frames of these decisions, as in an Observation."""
        return {
            name: np.ascontiguousarray(f[self.frame_index[rows, i]]) for i, (name, f) in enumerate(self.frames.items())
        }

    def validate(self) -> Episodes:
        n = len(self.future)
        for name in ("frame_index", "ego", "route", "text", "clip", "t", "weight", "correction"):
            got = len(getattr(self, name))
            require(got == n, f"Episodes.{name}: must have one entry per sample, got {got} for {n}")
        named, cameras = [*self.frames], [*self.embodiment.pictures]
        require(named == cameras, f"Episodes.frames: cameras must be {cameras}, got {named}")
        shape = (n, len(named), 2)
        require(self.frame_index.shape == shape, f"Episodes.frame_index: must be {shape}, got {self.frame_index.shape}")
        for i, (name, frames) in enumerate(self.frames.items()):
            size, got = (*self.embodiment.pictures[name], 3), frames.shape[1:]
            require(got == size, f"Episodes.frames: camera {name} must have {size}, got {got}")
            fits = n == 0 or int(self.frame_index[:, i].max()) < len(frames)
            require(fits, f"Episodes.frame_index: index past the last frame of camera {name}")
        require(bool(np.isfinite(self.future).all()), "Episodes.future: must be finite")
        return self

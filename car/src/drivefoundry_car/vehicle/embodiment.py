"""Embodiment: a vehicle as data, with everything that software must know about it.

Names with units, rates, the plan's grid, dimensions and limits are defined only here; the model's shape, labels,
engine, guard, simulator and importers read them. Frames: x forward, y left, z up, from the box centre on the ground.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from drivefoundry_car.documents import json_object, typed

STEP_S = 0.1
"""Step of logs and of the simulator, s; every interval of an embodiment is a multiple of it."""
PLAN_POINTS, PLAN_DT = 8, 0.5
"""Grid of every plan, of scores and of action codes: 8 points, 0.5 s apart, a 4 s horizon as in NAVSIM."""
FRONT = "front"
"""Name of the camera that looks ahead, which comes first."""
MAX_CAMERAS = 16


@dataclass(frozen=True)
class CameraSpec:
    """One camera: picture size, lens and mount, as the models see it.

    width, height px; fx, fy, cx, cy px (pixel i spans i..i+1, so a centred axis has cx = width / 2); x, y, z m; yaw
    rad, positive left; pitch rad, positive down; roll rad, positive where the camera leans right; k1, k2 radial
    distortion (Brown-Conrady).
    """

    width: int = 160
    height: int = 64
    fx: float = 95.3
    fy: float = 95.3
    cx: float = 80.0
    cy: float = 28.0
    x: float = 1.0
    y: float = 0.0
    z: float = 1.5
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    k1: float = 0.0
    k2: float = 0.0
    name: str = FRONT

    def scaled(self, width: int, height: int) -> Self:
        """The same mount and horizontal field of view at another picture size; rows are added or cut evenly about the
        optical axis."""
        k = width / self.width
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * k,
            fy=self.fy * k,
            cx=self.cx * k,
            cy=self.cy / self.height * height,
        )

    def mirrors(self, other: CameraSpec) -> bool:
        """Whether the other camera's picture, flipped, is this one's in a mirrored world (left and right swapped)."""
        same = ("width", "height", "fx", "fy", "cy", "x", "z", "pitch", "k1", "k2")
        turned = all(getattr(self, n) == -getattr(other, n) for n in ("y", "yaw", "roll"))
        return turned and self.cx == other.width - other.cx and all(getattr(self, n) == getattr(other, n) for n in same)


@dataclass(frozen=True)
class Feature:
    """One number that a model reads or writes: name, unit, and the factor that scales it to about 1."""

    name: str
    unit: str
    scale: float = 1.0


STATE = (Feature("speed", "m/s", 0.1), Feature("yaw_rate", "rad/s", 2.0), Feature("valid", "0 or 1"))
"""One entry of the ego history."""
ROUTE_AHEAD_M = (10, 20, 40)
"""Arc lengths at which the navigator's lane-level route is sampled ahead of the ego, m."""
COMMANDS = ("unknown", "straight", "left", "right")
ROUTE = (
    *(Feature(f"{axis}_{ahead}m", "10 m") for ahead in ROUTE_AHEAD_M for axis in "xy"), Feature("limit", "10 m/s"),
    Feature("known", "0 or 1"), *(Feature(f"command_{c}", "0 or 1") for c in COMMANDS),
)  # fmt: skip
"""The route as `inputs.route_features` encodes it: points ahead in the ego frame, speed limit, one-hot command."""
ACTION = (Feature("acceleration", "m/s^2"), Feature("curvature", "1/m"))
"""One action: held for PLAN_DT."""


@dataclass(frozen=True)
class Limits:
    """Physical limits of the vehicle, and the guard's limits."""

    accel_min: float = -8.0
    """Full braking on a dry road, m/s^2."""
    accel_max: float = 3.0
    """m/s^2."""
    jerk_max: float = 20.0
    """m/s^3."""
    curvature_max: float = 0.2
    """Curvature at the steering stop, 1/m."""
    curvature_rate_max: float = 0.3
    """1/(m s)."""
    grip: float = 8.0
    """Largest lateral acceleration that the tyres hold, m/s^2."""
    guard_accel: float = 4.0
    """Largest forward acceleration that the guard permits in a plan, m/s^2."""
    guard_lateral: float = 6.0
    """Largest lateral acceleration that it permits, m/s^2."""
    guard_curvature: float = 0.25
    """Largest curvature that it permits, 1/m."""


@dataclass(frozen=True)
class Embodiment:
    """One vehicle type. SI units; the defaults are the fleet's passenger car.

    frames: pictures of each camera per decision, the last one current; history: entries of `state` per decision, the
    last one current. Intervals: decision_dt between decisions, frame_dt between frames, history_dt between history
    entries.
    """

    name: str = "car"
    cameras: tuple[CameraSpec, ...] = (CameraSpec(),)
    frames: int = 2
    frame_dt: float = 0.5
    state: tuple[Feature, ...] = STATE
    history: int = 4
    history_dt: float = 0.5
    route: tuple[Feature, ...] = ROUTE
    action: tuple[Feature, ...] = ACTION
    decision_dt: float = 0.5
    plan_points: int = PLAN_POINTS
    plan_dt: float = PLAN_DT
    length: float = 4.6
    width: float = 1.9
    height: float = 1.6
    wheelbase: float = 2.85
    rear_axle: float = 1.288
    """Distance of the rear axle behind the box centre, m."""
    steering_ratio: float = 14.8
    limits: Limits = field(default_factory=Limits)

    @property
    def size(self) -> tuple[float, float, float]:
        """Length, width, height, m."""
        return self.length, self.width, self.height

    @property
    def decision_steps(self) -> int:
        """Steps of 0.1 s between decisions."""
        return round(self.decision_dt / STEP_S)

    @property
    def frame_steps(self) -> int:
        return round(self.frame_dt / STEP_S)

    @property
    def history_steps(self) -> int:
        return round(self.history_dt / STEP_S)

    @property
    def pictures(self) -> dict[str, tuple[int, int]]:
        """Camera -> height and width of its picture, px."""
        return {c.name: (c.height, c.width) for c in self.cameras}

    @property
    def mirrored(self) -> dict[str, str] | None:
        """Camera -> the camera whose flipped picture replaces it in a mirrored world; None if a camera has none."""
        found = {a.name: next((b.name for b in self.cameras if a.mirrors(b)), "") for a in self.cameras}
        return found if all(found.values()) else None

    def validate(self) -> Embodiment:
        """Check every field; return self. ValueError names the offending field."""
        names = [c.name for c in self.cameras]
        _require(bool(self.name.strip()), "name", "text", self.name)
        _require(0 < len(names) <= MAX_CAMERAS, "cameras", f"1 to {MAX_CAMERAS}", len(names))
        _require(names[0] == FRONT, "cameras[0].name", FRONT, names[0])
        _require(len({*names}) == len(names), "cameras", "unique", ", ".join(names))
        for c in self.cameras:
            _require(c.name.isidentifier(), "cameras.name", "letters, digits and _", c.name)
            for what in ("width", "height", "fx", "fy"):
                _require(getattr(c, what) > 0, f"cameras.{c.name}.{what}", "> 0", getattr(c, what))
        for what in ("decision_dt", "frame_dt", "history_dt"):
            value = getattr(self, what)
            whole = _finite(value) and value > 0 and abs(value / STEP_S - round(value / STEP_S)) < 1e-6
            _require(whole, what, f"a multiple of {STEP_S} s, > 0", value)
        _require(self.decision_dt <= PLAN_DT, "decision_dt", f"at most {PLAN_DT} s", self.decision_dt)
        for what in ("frame_dt", "history_dt"):
            _require(getattr(self, what) <= PLAN_DT, what, f"at most {PLAN_DT} s", getattr(self, what))
        grid = (self.plan_points, self.plan_dt)
        _require(grid == (PLAN_POINTS, PLAN_DT), "plan_points, plan_dt", f"{PLAN_POINTS}, {PLAN_DT}", grid)
        _require(self.frames == 2, "frames", "2, now and before", self.frames)
        _require(self.history == 4, "history", "4", self.history)
        for what, known in (("state", STATE), ("route", ROUTE), ("action", ACTION)):
            got = [(f.name, f.unit) for f in getattr(self, what)]
            _require(got == [(f.name, f.unit) for f in known], what, ", ".join(f.name for f in known), got)
        for what in ("length", "width", "height", "wheelbase", "steering_ratio"):
            value = getattr(self, what)
            _require(_finite(value) and 0 < value < 100, what, "> 0 and < 100", value)
        _require(0 <= self.rear_axle < self.length, "rear_axle", "within the vehicle", self.rear_axle)
        for f in fields(self.limits):
            value = getattr(self.limits, f.name)
            right = _finite(value) and (value < 0 if f.name == "accel_min" else value > 0)
            _require(right, f"limits.{f.name}", "< 0" if f.name == "accel_min" else "> 0", value)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in JSON."""
        return json.loads(json.dumps(asdict(self)))

    @staticmethod
    def of(raw: object, where: object) -> Embodiment:
        """Inverse of `to_dict`. ValueError starts with `where` and names the field."""
        try:
            return typed(Embodiment, raw, "embodiment", whole=True)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def differs(self, other: Embodiment) -> str:
        """The first field in which two embodiments differ, with both values; '' if they are equal."""
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if mine != theirs:
                values = [f"{len(v)} of them" if isinstance(v, tuple) else str(v) for v in (mine, theirs)]
                if isinstance(mine, tuple) and len(mine) == len(theirs):
                    mine, theirs = next((a, b) for a, b in zip(mine, theirs, strict=True) if a != b)
                    values = [str(mine), str(theirs)]
                return f"{f.name} is {values[0]}, not {values[1]}"
        return ""

    def require_same(self, vehicle: Embodiment, where: object) -> None:
        """Raise ValueError if the file at `where` was made for this embodiment and the vehicle is another."""
        if why := self.differs(vehicle):
            raise ValueError(
                f"{where}: made for {self.name!r}, this vehicle is {vehicle.name!r} ({why}); "
                "install a release for this vehicle"
            )


CAR = Embodiment()
"""The fleet's passenger car: one camera behind the windscreen, 80 degrees wide, decisions at 2 Hz."""


def from_json(text: str | bytes, where: object) -> Embodiment:
    """Parse an embodiment from the JSON text of file `where`. ValueError names file and field."""
    return Embodiment.of(json_object(text, where), where)


def _require(ok: bool, what: str, rule: str, got: object) -> None:
    if not ok:
        raise ValueError(f"{what} must be {rule}, got {str(got)[:60]}")


def _finite(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]

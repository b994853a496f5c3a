"""A Gymnasium vector environment of scenes: one environment per scene, one step per decision (0.5 s).

All scenes step as one batch of arrays. The same actions give identical results, for any batch and number of threads;
nothing is random, so seeds have no effect. Letters: S scenes, K objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numba import njit, prange

try:
    from gymnasium.spaces import Box, Dict, MultiBinary
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ModuleNotFoundError:
    raise ImportError("drivefoundry.sim.adapters.gym needs Gymnasium: pip install 'drivefoundry[gym]'") from None

from drivefoundry.sim.pack import pack
from drivefoundry.sim.referee import CONTACT, OFF_ROAD, RED_LIGHT, Referee
from drivefoundry.sim.sensors.cameras import CameraRig
from drivefoundry.sim.sensors.perception import PERFECT_RANGE
from drivefoundry.sim.sensors.suite import policy_inputs
from drivefoundry.sim.world import Kind, TrafficOf, World
from drivefoundry.types import DT, PLAN_DT, PLAN_POINTS, Scene, require
from drivefoundry_car.vehicle.codec import advance
from drivefoundry_car.vehicle.embodiment import CAR, Embodiment, Limits

OBJECTS = 16
"""Number of nearest road users in an observation without camera."""
Action = Literal["controls", "normalised", "plan"]
ACTIONS = ("controls", "normalised", "plan")
FAR = 1e5
"""Upper bound of observations, from that of positions in scenes (`types.MAX_ABS_POSITION_M`)."""
FASTEST = 40.0
"""Plans are sampled within reach of a car at this speed, m/s."""
SIGNALS = 4


def route_reward(info: dict[str, np.ndarray]) -> np.ndarray:
    """Metres along the route / 10, minus 1 at a collision, 1 off the road and 0.5 for a red light; (S,)."""
    return info["progress"] / 10.0 - info["contact"] - info["off_road"] - 0.5 * info["red_light"]


def held(controls: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Plans (S, 8, 3) that hold controls (S, 2), acceleration m/s^2 and curvature 1/m, from speeds (S,) m/s."""
    state = np.zeros((len(controls), 4))
    state[:, 3] = speed
    points = np.empty((len(controls), PLAN_POINTS, 3))
    for k in range(PLAN_POINTS):
        state = advance(state, controls)
        points[:, k] = state[:, :3]
    return points


@njit(cache=True, nogil=True, parallel=True)
def _nearest(ego, agents, seen, size, reach, out, there):
    """The nearest agents within reach of each ego, nearest first: x, y, yaw in the ego frame, speed, length, width."""
    for i in prange(len(ego)):
        most, found = out.shape[1], 0
        which, far = np.empty(most, np.int64), np.empty(most)
        for a in range(seen.shape[1]):
            d = np.hypot(agents[i, a, 0] - ego[i, 0], agents[i, a, 1] - ego[i, 1])
            if not seen[i, a] or d >= reach or (found == most and d >= far[most - 1]):
                continue
            k = min(found, most - 1)
            while k > 0 and far[k - 1] > d:
                which[k], far[k] = which[k - 1], far[k - 1]
                k -= 1
            which[k], far[k] = a, d
            found = min(found + 1, most)
        c, s = np.cos(ego[i, 2]), np.sin(ego[i, 2])
        for k in range(found):
            a = which[k]
            dx, dy = agents[i, a, 0] - ego[i, 0], agents[i, a, 1] - ego[i, 1]
            turn = agents[i, a, 2] - ego[i, 2]
            out[i, k, 0], out[i, k, 1], out[i, k, 2] = c * dx + s * dy, c * dy - s * dx, turn
            out[i, k, 2] = np.arctan2(np.sin(turn), np.cos(turn))
            out[i, k, 3], out[i, k, 4], out[i, k, 5] = agents[i, a, 3], size[i, a, 0], size[i, a, 1]
            there[i, k] = 1


class Driving(VectorEnv[dict[str, np.ndarray], np.ndarray, np.ndarray]):
    """One environment per scene; `num_envs` is the number of scenes.

    scenes: of any sources and lengths; traffic: see `sim.world`, except a live city, which cannot be reset; body: the
    vehicle, with its cameras; None for the default one without cameras; action: "controls", (2,) acceleration m/s^2 and
    curvature 1/m, held until the next decision, "normalised", the same in -1 .. 1 (full braking to full throttle, full
    lock right to left), or "plan", (8, 3) x, y, yaw in the ego frame at 0.5 .. 4.0 s, followed by a tracker until the
    next decision; seconds: maximum length of an episode, which otherwise lasts as long as the scene's log; reward:
    function from infos to (S,).

    Observations: ego (4, 3) and route (12,) as in `types.Observation`. With cameras also frames_NAME (2, H, W, 3) uint8
    of each, `frame_dt` ago and now. Without cameras objects (16, 6), the nearest within 60 m, visible or not: x, y, yaw
    in the ego frame, speed, length, width; objects_valid (16,); stop (5,): distance from the front to the next stop
    line along the route, m (60 if there is none within that), and its signal, one-hot: off, green, yellow, red.

    Infos, for the last step: progress m along the route; contact, off_road, red_light bool, as the judge defines them
    (`sim.referee`); seconds s since the episode's start. A contact or leaving the road terminates, the log's end or
    `seconds` truncates. The next step resets the scene: its action is ignored, and its reward is 0.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        scenes: Sequence[Scene],
        traffic: Kind | TrafficOf = "reactive",
        *,
        body: Embodiment | None = None,
        action: Action = "controls",
        seconds: float | None = None,
        reward: Callable[[dict[str, np.ndarray]], np.ndarray] = route_reward,
    ):
        require(len(scenes) > 0, "scenes: none given; give at least one")
        require(action in ACTIONS, f"action {action!r}: choose from {', '.join(ACTIONS)}")
        self.body = body or CAR
        self._every = self.body.decision_steps
        paired = self.body.frame_steps == self._every
        require(paired, f"body {self.body.name}: frame_dt must be decision_dt, got {self.body.frame_dt}")
        longest = np.inf if seconds is None else round(seconds / self.body.decision_dt)
        require(longest >= 1, f"seconds {seconds}: an episode lasts one decision, {self.body.decision_dt} s, at least")
        steps = [s.valid.shape[1] - 1 - s.start for s in scenes]
        for scene, n in zip(scenes, steps, strict=True):
            require(
                n >= self._every, f"scene {scene.id}: {n} steps after its start are too few, {self._every} are needed"
            )
        self.world = World(pack(list(scenes)), traffic, self.body)
        require(not self.world.traffic.endless, "traffic: a live city cannot be reset; use replay, reactive or free")
        self.referee = Referee(self.world)
        self.num_envs = len(scenes)
        self._limit = np.minimum(np.array(steps) // self._every, longest) * self._every
        self._over = np.zeros(self.num_envs, np.bool_)
        self._reward, self._action = reward, action
        self._eyes = None if body is None else CameraRig(self.world, body)
        if self._eyes is not None:
            self._eyes.watch()
            self._start = self._eyes.read()
            self._frames = {name: shown.copy() for name, shown in self._start.items()}
        self.single_action_space = _action_space(action, self.body.limits)
        self.single_observation_space = Dict(self._spaces())
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def _spaces(self) -> dict[str, Any]:
        spaces = {
            "ego": Box(-FAR, FAR, (self.body.history, len(self.body.state)), np.float32),
            "route": Box(-FAR, FAR, (len(self.body.route),), np.float32),
        }
        if self._eyes is not None:
            return spaces | {f"frames_{name}": Box(0, 255, s.shape[1:], np.uint8) for name, s in self._start.items()}
        return spaces | {
            "objects": Box(-FAR, FAR, (OBJECTS, 6), np.float32),
            "objects_valid": MultiBinary(OBJECTS),
            "stop": Box(*np.array([[-1.0, 0, 0, 0, 0], [PERFECT_RANGE, 1, 1, 1, 1]], np.float32)),
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reset all scenes, or those of options["reset_mask"], (S,) bool, to their start."""
        super().reset(seed=seed)
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_)))
        fits = mask.shape == (self.num_envs,) and mask.dtype == np.bool_
        require(fits, f"options['reset_mask']: ({self.num_envs},) must be bool, got {mask.dtype} {mask.shape}")
        self._restart(np.flatnonzero(mask))
        self._over &= ~mask
        self.referee.clear()
        return self._observation(), self._info(np.zeros(self.num_envs))

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Make one decision in all scenes with actions (S, 2) or (S, 8, 3); see the class."""
        actions = np.asarray(actions, np.float64)
        expected = self.action_space.shape
        require(actions.shape == expected, f"actions: must have shape {expected}, got {actions.shape}")
        require(bool(np.isfinite(actions).all()), "actions: NaN or infinite value; actions must be finite")
        world, referee = self.world, self.referee
        if self._action == "normalised":
            actions = physical(actions, self.body.limits)
        world.follow(actions if self._action == "plan" else held(actions, world.ego[:, 3]))
        before = referee.s.copy()
        referee.clear()
        for _ in range(self._every):
            world.advance()
            referee.watch()
        if self._eyes is not None:
            seen = self._eyes.look()
            self._frames = {name: np.stack([f[:, 1], seen[name]], 1) for name, f in self._frames.items()}
        anew = np.flatnonzero(self._over)
        self._restart(anew)
        before[anew] = referee.s[anew]
        info = self._info(referee.s - before)
        reward = np.where(self._over, 0.0, self._reward(info))
        terminated = referee.events[:, CONTACT] | referee.events[:, OFF_ROAD]
        truncated = world.now - world.packed.start >= self._limit
        self._over = terminated | truncated
        return self._observation(), reward, terminated, truncated, info

    def _restart(self, rows: np.ndarray) -> None:
        self.world.restart(rows)
        self.referee.restart(rows)
        if self._eyes is not None:
            for name, first in self._start.items():
                self._frames[name][rows] = first[rows]

    def _observation(self) -> dict[str, np.ndarray]:
        ego, route = policy_inputs(self.world, self.body)
        out = {"ego": ego, "route": route}
        if self._eyes is not None:
            return out | {f"frames_{name}": shown.copy() for name, shown in self._frames.items()}
        w, n = self.world, self.num_envs
        objects, there = np.zeros((n, OBJECTS, 6), np.float32), np.zeros((n, OBJECTS), np.int8)
        _nearest(w.ego, w.agents, w.seen, w.size, PERFECT_RANGE, objects, there)
        return out | {"objects": objects, "objects_valid": there, "stop": self._next_stop()}

    def _next_stop(self) -> np.ndarray:
        """Observation "stop"; a line counts until the front is 1 m past it."""
        stops, rows = self.world.packed.route_stops, np.arange(self.num_envs)
        gap = stops[..., 0] - (self.referee.s + self.world.ego_size[:, 0] / 2)[:, None]
        gap = np.where((gap > -1.0) & (gap < PERFECT_RANGE), gap, np.inf)
        first = gap.argmin(1)
        near = gap[rows, first] < np.inf
        signal = self.world.signals_now()[rows, stops[rows, first, 1].astype(int)]
        out = np.zeros((self.num_envs, 1 + SIGNALS), np.float32)
        out[:, 0] = np.minimum(gap[rows, first], PERFECT_RANGE)
        out[rows, 1 + np.where(near, signal, 0)] = 1.0
        return out

    def _info(self, progress: np.ndarray) -> dict[str, Any]:
        events = self.referee.events
        info: dict[str, Any] = {
            "progress": progress,
            "contact": events[:, CONTACT].copy(),
            "off_road": events[:, OFF_ROAD].copy(),
            "red_light": events[:, RED_LIGHT].copy(),
            "seconds": (self.world.now - self.world.packed.start) * DT,
        }
        # Gymnasium's convention for the environments that have values: all of them
        return info | {f"_{name}": np.ones(self.num_envs, np.bool_) for name in info}


def physical(actions: np.ndarray, limits: Limits) -> np.ndarray:
    """Controls (..., 2) m/s^2 and 1/m of normalised actions (..., 2) in -1 .. 1; 0 is neither throttle nor brake."""
    pedal, wheel = np.clip(actions[..., 0], -1.0, 1.0), np.clip(actions[..., 1], -1.0, 1.0)
    return np.stack(
        [np.where(pedal < 0.0, -limits.accel_min * pedal, limits.accel_max * pedal), limits.curvature_max * wheel], -1
    )


def _action_space(action: str, limits: Limits) -> Box:
    if action == "normalised":
        return Box(-1.0, 1.0, (2,), np.float32)
    if action == "controls":
        k = limits.curvature_max
        return Box(*np.array([[limits.accel_min, -k], [limits.accel_max, k]], np.float32))
    reach = FASTEST * PLAN_DT * np.arange(1, PLAN_POINTS + 1)
    bound = np.column_stack([reach, reach, np.full(PLAN_POINTS, np.pi)]).astype(np.float32)
    return Box(-bound, bound)

"""A Gymnasium environment of one car, in which each episode is one of several scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import Env
from PIL import Image

from drivefoundry.render.view import from_above
from drivefoundry.sim.adapters.gym import Driving
from drivefoundry.types import Scene, require

PIXELS = 400
"""Height and width of a rendered picture."""


class DrivingOne(Env[dict[str, np.ndarray], np.ndarray]):
    """One car in one scene at a time; observations, actions, rewards and infos are those of `gym.Driving`.

    `reset(seed=..)` restarts the random order of scenes; `reset(options={"scene": i})` selects scene i. render_mode
    "rgb_array": `render` returns a bird's-eye map around the car, (400, 400, 3) uint8, even with a camera (`body`),
    whose pictures are observations. options: those of `Driving`; actions are normalised by default.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012

    def __init__(self, scenes: Sequence[Scene], *, render_mode: str | None = None, **options: Any):
        require(len(scenes) > 0, "scenes: none given; give at least one")
        known = self.metadata["render_modes"]
        require(render_mode is None or render_mode in known, f"render_mode {render_mode!r}: choose from {known}")
        self.scenes, self.render_mode = list(scenes), render_mode
        self._options = {"action": "normalised", **options}
        self._at = 0
        self._inner = Driving(self.scenes[:1], **self._options)
        self._past: list[np.ndarray] = []
        self._over = True
        self.observation_space = self._inner.single_observation_space
        self.action_space = self._inner.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start a scene: sampled uniformly, or number options["scene"]."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(len(self.scenes)))
        number = (options or {}).get("scene", drawn)
        fits = isinstance(number, int | np.integer) and 0 <= number < len(self.scenes)
        require(fits, f"options['scene']: must be a number from 0 to {len(self.scenes) - 1}, got {number!r}")
        if number != self._at:
            self._at, self._inner = int(number), Driving([self.scenes[number]], **self._options)
        observation, info = self._inner.reset()
        self._past, self._over = [self._inner.world.ego[0, :3].copy()], False
        return _first(observation), _first(info) | {"scene": self.scenes[self._at].id}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Make one decision, 0.5 s; see `Driving.step`. ValueError after an episode's end, before reset."""
        require(not self._over, "step: the episode has ended; call reset first")
        observation, reward, terminated, truncated, info = self._inner.step(np.asarray(action)[None])
        self._past.append(self._inner.world.ego[0, :3].copy())
        self._over = bool(terminated[0] or truncated[0])
        values = _first(info) | {"scene": self.scenes[self._at].id}
        return _first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), values

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The current picture; None without a render mode. ValueError before the first reset."""
        if self.render_mode is None:
            return None
        require(len(self._past) > 0, "render: call reset first")
        world, scene = self._inner.world, self.scenes[self._at]
        users = len(scene.kind)
        image: Image.Image = from_above(
            scene, PIXELS, np.stack(self._past), world.agents[0, :users], world.seen[0, :users],
            world.signals_now()[0], None,
        )  # fmt: skip
        return np.asarray(image)


def _first(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a vector of one environment, without the leading axis."""
    return {name: value[0] for name, value in values.items() if not name.startswith("_")}

"""Plans by flow matching: from noise and the decoder's state to (acceleration, curvature) of each half second.

An alternative to action codes from the vocabulary. A velocity field carries noise at time 0 to controls at time 1 along
straight lines (Flow Matching, Lipman 2023; rectified flow, Liu 2023; as in the action head of pi-0, Black 2024).
Axes: B batch, D model width, N controls of a plan (8 times 2), scaled to about 1.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivefoundry.model.config import ModelConfig
from drivefoundry_car.vehicle.codec import (
    A_SCALE,
    CURVATURE_SCALE,
    HEADING_M,
    SPEED_S,
    STEP_S,
    STEPS,
    advance,
    speeds,
)

ACCELERATION = 2.0
"""Acceleration that is scaled to 1, m/s^2; curvatures use the codebook's asinh scale."""
EULER_STEPS = 10
DRAWS = 8
"""Times and noises sampled per plan in training: the head costs little beside the state that it reads."""
SHARPEST = 0.2
"""Largest curvature, 1/m: a circle with a radius of 5 m."""
CREEP_M = 0.05
"""Distance in half a second, m, below which curvature is undefined."""


def to_units(controls: Tensor) -> Tensor:
    """Scale controls (..., 2) in m/s^2 and 1/m to about 1."""
    return torch.stack([controls[..., 0] / ACCELERATION, torch.asinh(controls[..., 1] / CURVATURE_SCALE)], -1)


def nearest(controls: Tensor, codebook: Tensor) -> Tensor:
    """The code of codebook (K, 2) nearest to each of controls (..., 2), in the units that the codebook was built in."""
    scale = controls.new_tensor([ACCELERATION / A_SCALE, 1.0])
    return (
        torch.cdist((to_units(controls) * scale).flatten(0, -2), to_units(codebook) * scale)
        .argmin(-1)
        .view(controls.shape[:-1])
    )


def from_units(x: Tensor) -> Tensor:
    """Inverse of `to_units`."""
    return torch.stack([x[..., 0] * ACCELERATION, torch.sinh(x[..., 1].clamp(-4, 4)) * CURVATURE_SCALE], -1)


class FlowHead(nn.Module):
    """A velocity field over whole plans: two residual layers, conditioned on the decoder's state and on time."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.shape = (config.plan, 2)
        width, n = config.flow, 2 * config.plan
        self.read = nn.Linear(n + 1, width)
        self.given = nn.Linear(config.dim, width, bias=False)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, n)

    def velocity(self, x: Tensor, time: Tensor, state: Tensor) -> Tensor:
        """Velocity (B, N) at x (B, N) and time (B, 1) in 0 .. 1, given the state (B, D)."""
        y = self.read(torch.cat([x, time], -1)) + self.given(state)
        y = y + F.silu(self.first(F.silu(y)))
        y = y + F.silu(self.second(y))
        return self.out(y)

    def loss(self, state: Tensor, controls: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean squared error (B,) of the velocity, over DRAWS random times and noises per plan; state (B, D), controls
        (B, 8, 2) in m/s^2 and 1/m."""
        goal = to_units(controls.float()).flatten(1).repeat_interleave(DRAWS, 0)
        noise = torch.randn(goal.shape, generator=generator, device=goal.device)
        time = torch.rand(len(goal), 1, generator=generator, device=goal.device)
        x = (noise + time * (goal - noise)).to(state.dtype)
        way = self.velocity(x, time.to(state.dtype), state.repeat_interleave(DRAWS, 0)).float()
        return (way - (goal - noise)).square().mean(-1).view(-1, DRAWS).mean(-1)

    def plan(self, state: Tensor, noise: Tensor | None = None, steps: int = EULER_STEPS) -> Tensor:
        """Controls (B, 8, 2) float32 after Euler integration from noise (B, N), or from the noise's mean if None; state
        (B, D)."""
        x = torch.zeros(len(state), self.out.out_features, device=state.device) if noise is None else noise
        for k in range(steps):
            time = torch.full((len(state), 1), k / steps, dtype=state.dtype, device=state.device)
            x = x + self.velocity(x.to(state.dtype), time, state).float() / steps
        return from_units(x.unflatten(-1, self.shape))


def controls_of(future: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """The controls (N, 8, 2) that best follow plans (N, 8, 3) from current speeds (N,) m/s.

    In closed loop, like `drivefoundry_car.vehicle.codec.encode` but without a codebook: each step takes the turn that
    ends closest in position and heading, then the speed that ends closest along the path and to the plan's own speed;
    both least-squares problems have a closed form.
    """
    aim = speeds(future, speed)
    state = np.zeros((len(future), 4))
    state[:, 3] = np.maximum(speed, 0.0)
    out = np.zeros((len(future), STEPS, 2))
    for k in range(STEPS):
        x, y, yaw, v = state.T
        along = (future[:, k, 0] - x) * np.cos(yaw) + (future[:, k, 1] - y) * np.sin(yaw)
        aside = (future[:, k, 1] - y) * np.cos(yaw) - (future[:, k, 0] - x) * np.sin(yaw)
        head = (future[:, k, 2] - yaw + np.pi) % (2 * np.pi) - np.pi
        half, way = STEP_S / 2, np.maximum(along, 0.0)
        turn = (way * aside / 2 + HEADING_M**2 * head) / (way**2 / 4 + HEADING_M**2)
        bent = way / np.maximum(np.sinc(turn / (2 * np.pi)) * np.cos(turn / 2), 0.1)
        v1 = np.maximum((half * (bent - half * v) + SPEED_S**2 * aim[:, k]) / (half**2 + SPEED_S**2), 0.0)
        s = half * (v + v1)
        out[:, k, 0] = (v1 - v) / STEP_S
        out[:, k, 1] = np.clip(np.where(s > CREEP_M, turn / np.maximum(s, CREEP_M), 0.0), -SHARPEST, SHARPEST)
        state = advance(state, out[:, k])
    return out

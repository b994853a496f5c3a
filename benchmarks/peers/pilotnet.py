"""PilotNet (Bojarski 2016, arXiv:1604.07316, figure 4), widened to a given size, with plans as output.

Five convolutions and four linear layers as in the paper, all hidden widths multiplied by one factor, with ReLU in
between. It differs where the task does: the input is a pair of pictures 0.5 s apart, so that motion is visible; the
output is (acceleration, curvature) of eight half seconds instead of one steering angle. Ego motion can be an input: it
is concatenated to the features before the linear layers. Without it, the net also estimates the current speed.
Axes: B batch, H W pixels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivefoundry.model.blocks.flow import from_units
from drivefoundry.model.vla import ego_changes
from drivefoundry_car.vehicle.codec import HEADING_M, STEP_S, STEPS

CONVOLUTIONS = ((24, 5, 2), (36, 5, 2), (48, 5, 2), (64, 3, 1), (64, 3, 1))
"""Channels, kernel, stride."""
LINEAR = (1164, 100, 50, 10)
TOLD = 24
"""Number of features of ego history and route, as in the VLA."""
FAST = 10.0
"""Unit of estimated speeds, m/s."""


class PilotNet(nn.Module):
    """`factor` times as wide as the paper's; ego_inputs: it gets ego history and route in addition to the pictures."""

    def __init__(self, image: tuple[int, int], factor: float, ego_inputs: bool):
        super().__init__()
        self.ego_inputs = ego_inputs
        layers: list[nn.Module] = []
        before, (h, w) = 6, image
        for channels, kernel, stride in CONVOLUTIONS:
            layers += [nn.Conv2d(before, round(factor * channels), kernel, stride), nn.ReLU()]
            before, h, w = round(factor * channels), (h - kernel) // stride + 1, (w - kernel) // stride + 1
        self.eyes = nn.Sequential(*layers, nn.Flatten())
        widths = [before * h * w + (TOLD if ego_inputs else 0), *(round(factor * n) for n in LINEAR)]
        hidden = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
        last = nn.Linear(widths[-1], 2 * STEPS + 1)
        nn.init.zeros_(last.weight)  # starts as constant velocity
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(*hidden, last)

    def forward(self, frames: Tensor, ego: Tensor, route: Tensor, light: Tensor | None = None) -> Tensor:
        """Plans (B, 8, 3) x, y m and yaw rad in the ego frame, float32, of frames (B, 2, H, W, 3) uint8, ego (B, 4, 3),
        route (B, 12) and light (B, 2), gain and offset, or None. Convolutions and matmuls are bf16."""
        x = frames.permute(0, 1, 4, 2, 3).flatten(1, 2).float() / 64 - 2.0
        if light is not None:
            gain, offset = light.float().view(-1, 2, 1, 1, 1).unbind(1)
            x = x * gain + offset
        with torch.autocast(x.device.type, torch.bfloat16):
            y = self.eyes(x.contiguous(memory_format=torch.channels_last))
            y = self.head(torch.cat([y, ego_changes(ego), route], 1) if self.ego_inputs else y).float()
        speed = ego[:, -1, 0] if self.ego_inputs else FAST * F.softplus(y[:, -1])
        return rolled(from_units(y[:, :-1].unflatten(1, (STEPS, 2))), speed)


def rolled(controls: Tensor, speed: Tensor) -> Tensor:
    """`drivefoundry_car.vehicle.codec.integrate_controls` with gradients: plans (B, 8, 3) of controls (B, 8, 2) from
    speeds (B,) m/s."""
    zero = torch.zeros_like(speed)
    x, y, yaw, v, out = zero, zero, zero, speed, []
    for a, curvature in (c.unbind(-1) for c in controls.unbind(1)):
        v1 = (v + a * STEP_S).clamp(min=0.0)
        way = 0.5 * (v + v1) * STEP_S
        half = 0.5 * curvature * way
        chord = way * torch.sinc(half / torch.pi)
        x, y, yaw, v = x + chord * torch.cos(yaw + half), y + chord * torch.sin(yaw + half), yaw + 2 * half, v1
        out.append(torch.stack([x, y, yaw], -1))
    return torch.stack(out, 1)


def plan_loss(plans: Tensor, future: Tensor) -> Tensor:
    """Mean distance (B,) m between plans and the driven future (B, 8, 3), with headings weighted as in the codec."""
    off = (plans - future) * plans.new_tensor([1.0, 1.0, HEADING_M])
    return (off.square().sum(-1) + 1e-4).sqrt().mean(-1)


def of_size(image: tuple[int, int], parameters: int, ego_inputs: bool) -> PilotNet:
    """The PilotNet whose size is closest to `parameters`, with a factor in hundredths."""
    with torch.device("meta"):
        counts = {
            k: sum(p.numel() for p in PilotNet(image, k / 100, ego_inputs).parameters()) for k in range(50, 600, 2)
        }
    return PilotNet(image, min(counts, key=lambda k: abs(counts[k] - parameters)) / 100, ego_inputs)

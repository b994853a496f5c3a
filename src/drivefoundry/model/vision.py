"""Two camera frames in, patch tokens out.

Axes: B batch, H W pixels, P patches, D model width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig

CELL = 8
"""Side of the stem's first, shared patches, px."""


class PatchStem(nn.Module):
    """Patch tokens from frames at t - 0.5 s and t, by two matmuls with a GELU between: 8x8 px cells, then a patch of
    cells.

    The first layer sees the frame now and its difference to the one before (a linear change of basis in which motion
    is not drowned by brightness). Matmuls over whole cells, not convolutions: several times faster on a CPU, where
    narrow convolutions are bound by memory.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.grid = (config.image[0] // config.patch, config.image[1] // config.patch)
        self.cells = config.patch // CELL
        self.cell = nn.Linear(config.frames * 3 * CELL * CELL, config.stem)
        self.patch = nn.Linear(self.cells * self.cells * config.stem, config.dim)
        self.position = nn.Parameter(torch.zeros(config.patches, config.dim))

    def forward(self, frames: Tensor, light: Tensor | None = None) -> Tensor:
        """frames (B, 2, H, W, 3) uint8; light (B, 2) gain and offset of brightness, or None. Returns (B, P, D)."""
        b, f, c = len(frames), frames.shape[1], frames.shape[-1]
        (rows, cols), n = self.grid, self.cells
        x = frames.view(b, f, rows, n, CELL, cols, n, CELL, c).permute(
            0, 2, 5, 3, 6, 1, 4, 7, 8
        )  # bytes move, not floats
        x = x.reshape(b, rows * cols, n * n, f, CELL * CELL * c).to(self.cell.weight.dtype)
        before, now = x.unbind(3)
        motion = (now - before) * (1 / 32)
        now = now * (1 / 64) - 2.0
        if light is not None:
            gain, offset = light.to(now.dtype).view(b, 2, 1, 1, 1).unbind(1)
            now, motion = now * gain + offset, motion * gain
        y = F.gelu(self.cell(torch.cat([now, motion], -1)), approximate="tanh")
        return self.patch(y.flatten(2)) + self.position

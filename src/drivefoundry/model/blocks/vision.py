"""Image tokens from camera frames.

Axes: B batch, M moments (pairs of successive frames of a camera), H W pixels, P patches, D model width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivefoundry.model.blocks.decoder import Decoder, rope_table
from drivefoundry.model.config import CELL, ModelConfig

Frames = Mapping[str, Tensor]
"""Camera -> pictures (B, F, H, W, 3) uint8, oldest first."""


class PatchStem(nn.Module):
    """Patch tokens of a frame and the one before it, by two matmuls with a GELU in between: 8x8 px cells, then a patch
    of cells. All cameras share the weights; each has its own positions.

    The first layer sees the current frame and its difference from the one before (a linear change of basis in which
    brightness does not drown out motion). Matmuls over whole cells, not convolutions, are several times faster on a
    CPU, where narrow convolutions are limited by memory bandwidth.
    """

    def __init__(self, config: ModelConfig, width: int):
        super().__init__()
        self.side = config.patch
        self.cells = config.patch // CELL
        self.cell = nn.Linear(2 * 3 * CELL * CELL, config.stem)
        self.patch = nn.Linear(self.cells * self.cells * config.stem, width)
        self.position = nn.Parameter(torch.zeros(config.patches, width))

    def patches_of(self, frames: Tensor, light: Tensor | None, position: Tensor) -> Tensor:
        """Tokens (B, P, D) of frames (B, 2, H, W, 3) uint8; light (B, 2): gain and offset of brightness, or None;
        position (P, D)."""
        b, f, c = len(frames), frames.shape[1], frames.shape[-1]
        rows, cols, n = frames.shape[2] // self.side, frames.shape[3] // self.side, self.cells
        x = frames.view(b, f, rows, n, CELL, cols, n, CELL, c).permute(
            0, 2, 5, 3, 6, 1, 4, 7, 8
        )  # moves bytes, not floats
        x = x.reshape(b, rows * cols, n * n, f, CELL * CELL * c).to(self.cell.weight.dtype)
        before, now = x.unbind(3)
        gain, offset = now.new_ones(1), now.new_zeros(1)
        if light is not None:
            gain, offset = light.to(now.dtype).view(b, 2, 1, 1, 1).unbind(1)
        motion = (now - before) * (gain / 32)
        now = torch.addcmul(offset - 2.0 * gain, now, gain / 64)
        y = F.gelu(self.cell(torch.cat([now, motion], -1)), approximate="tanh")
        return self.patch(y.flatten(2)) + position


class Tower(nn.Module):
    """A vision transformer and its projector: patch tokens of one moment, which all see each other, mapped to the
    decoder's width.

    ViT (Dosovitskiy 2021) with the decoder's own blocks (RMSNorm, SwiGLU; the stem's learned positions, no rotation),
    and a two-layer projector as in LLaVA-1.5 (Liu 2024).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config.tower
        self.blocks = Decoder(self.config)
        self.project_in = nn.Linear(config.vit_dim, config.dim)
        self.project_out = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, P, vit_dim) to (B, P, D)."""
        p = x.shape[1]
        still = rope_table(self.config, 1).to(x.device).expand(-1, p, -1)
        y = self.blocks(x, still, still.new_zeros(1, p, p), keep=p)
        return self.project_out(F.gelu(self.project_in(y), approximate="tanh"))


class Vision(PatchStem):
    """The stem, and the tower if the shape has one, applied to every moment of every camera; with several moments, a
    learned embedding marks the moment of each token."""

    def __init__(self, config: ModelConfig):
        super().__init__(config, config.vit_dim if config.vision == "vit" else config.dim)
        self.tower = Tower(config) if config.vision == "vit" else None
        moments = config.frames - 1
        self.moment = nn.Parameter(torch.zeros(moments, config.dim)) if moments > 1 else None
        self.tokens = {name: h // config.patch * (w // config.patch) for name, (h, w) in config.cameras.items()}

    def forward(self, frames: Frames, light: Tensor | None = None) -> Tensor:
        """Tokens (B, cameras * (F - 1) * P, D): all moments of the first camera, then of the next.

        frames: camera -> (B, F, H, W, 3) uint8, oldest first; light (B, 2) as in `patches_of`.
        """
        positions = self.position.split([*self.tokens.values()])
        seen = [self._camera(frames[name], light, p) for name, p in zip(self.tokens, positions, strict=True)]
        return seen[0] if len(seen) == 1 else torch.cat(seen, 1)

    def _camera(self, frames: Tensor, light: Tensor | None, position: Tensor) -> Tensor:
        b, f = frames.shape[:2]
        moments = frames
        if f > 2:
            moments = torch.stack([frames[:, :-1], frames[:, 1:]], 2).flatten(0, 1)
            light = None if light is None else light.repeat_interleave(f - 1, 0)
        x = self.patches_of(moments, light, position)
        if self.tower is not None:
            x = self.tower(x)
        if self.moment is None:
            return x
        return (x.view(b, f - 1, *x.shape[1:]) + self.moment[:, None]).flatten(1, 2)

"""Gradients in, updated weights out: bf16 weights for the matmuls, fp32 masters for the optimiser.

Keeping a bf16 copy of the weights, rather than autocasting them, leaves activations and residual stream in bf16 too,
which halves the memory traffic of everything that is not a matmul.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class MasterWeights:
    """AdamW on fp32 masters of a model whose own weights are cast to `dtype`. Summed over ranks where there are
    several."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, weight_decay: float, betas: tuple[float, float]):
        self.params = [p for p in model.parameters() if p.requires_grad]
        total = sum(p.numel() for p in self.params)
        device = self.params[0].device
        flat, self._gradient = (torch.empty(total, device=device) for _ in range(2))
        sizes = [p.numel() for p in self.params]
        shapes = [p.shape for p in self.params]
        self.masters = [m.view(s) for m, s in zip(flat.split(sizes), shapes, strict=True)]
        with torch.no_grad():
            for master, grad, p in zip(self.masters, self._gradient.split(sizes), self.params, strict=True):
                master.copy_(p)
                master.grad = grad.view(p.shape)
                p.data = p.data.to(dtype)
        decayed = [m for m in self.masters if m.ndim >= 2]
        plain = [m for m in self.masters if m.ndim < 2]
        groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": weight_decay}]
        groups += [{"params": plain, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)

    @torch.no_grad()
    def gather(self) -> Tensor:
        """Move the model's gradients to the masters (summed over ranks) and clear them; returns their norm."""
        for master, p in zip(self.masters, self.params, strict=True):
            assert master.grad is not None
            if p.grad is None:
                master.grad.zero_()
            else:
                master.grad.copy_(p.grad)
                p.grad = None
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self._gradient)
        return self._gradient.norm()

    @torch.no_grad()
    def step(self, lr: float, norm: float, clip: float) -> None:
        """One update with the gathered gradients, scaled down to norm `clip` if larger."""
        if norm > clip:
            self._gradient.mul_(clip / norm)
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the masters into the model's own weights."""
        for p, master in zip(self.params, self.masters, strict=True):
            p.copy_(master)

    def state(self) -> dict[str, Any]:
        return {"masters": [m.detach().clone() for m in self.masters], "adam": self.adam.state_dict()}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        for master, saved in zip(self.masters, state["masters"], strict=True):
            master.copy_(saved)
        self.adam.load_state_dict(state["adam"])
        self.publish()

    def float_model(self, model: nn.Module) -> nn.Module:
        """Give the model its fp32 masters as weights (the end of training)."""
        for p, master in zip(self.params, self.masters, strict=True):
            p.data = master.detach().clone()
        return model

"""Gradients in, updated weights out: bf16 weights for the matmuls, fp32 masters for the optimiser.

Keeping a bf16 copy of the weights, rather than autocasting them, leaves activations and residual stream in bf16 too,
which halves the memory traffic of everything that is not a matmul.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

SMALLEST = 32
"""Linear layers with fewer inputs than this (physical quantities) are left to AdamW, as are embeddings."""
MOMENTUM = 0.95
_POLAR = (3.4445, -4.7750, 2.0315)


def polar(x: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Matrices (G, m, n), m <= n, in; roughly their orthogonal polar factors out, by three steps of a quintic.

    Coefficients: Muon (Jordan 2024). Singular values above a hundredth of a matrix's norm end within 0.4 .. 1.2; more
    steps come closer to 1 and cost more than they teach.
    """
    x = (x / (1.01 * x.flatten(1).norm(dim=1) + 1e-7)[:, None, None]).to(dtype)
    a, b, c = _POLAR
    for _ in range(3):
        g = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(g, g, g, beta=b, alpha=c), x, beta=a)
    return x.float()


class MasterWeights:
    """An optimiser on fp32 masters of a model whose own weights are cast to `dtype`. Gradients are summed over ranks.

    AdamW; with `muon`, the weights of linear layers take orthogonalised momentum steps instead (Muon, Jordan 2024),
    scaled to the size of AdamW's (Liu 2025) so that both share one learning rate.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        weight_decay: float,
        betas: tuple[float, float],
        muon: bool = False,
    ):
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.dtype, self.weight_decay = dtype, weight_decay
        sizes, device = [p.numel() for p in self.params], self.params[0].device
        flat, self._gradient = (torch.empty(sum(sizes), device=device) for _ in range(2))
        views = zip(flat.split(sizes), self._gradient.split(sizes), self.params, strict=True)
        linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear) and m.in_features >= SMALLEST}
        self.masters, self._grads, decayed, plain = [], [], [], []
        self.hidden: list[int] = []
        with torch.no_grad():
            for i, (master, grad, p) in enumerate(views):
                master, grad = master.view(p.shape).copy_(p), grad.view(p.shape)
                master.grad = grad
                p.data = p.data.to(dtype)
                self.masters.append(master)
                self._grads.append(grad)
                if muon and id(p) in linear:
                    self.hidden.append(i)
                else:
                    (decayed if p.ndim >= 2 else plain).append(master)
        self.momentum = [torch.zeros_like(self.masters[i]) for i in self.hidden]
        groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": weight_decay}]
        groups += [{"params": plain, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)

    @torch.no_grad()
    def gather(self) -> Tensor:
        """Move the model's gradients to the masters (summed over ranks) and clear them; returns their norm."""
        for grad, p in zip(self._grads, self.params, strict=True):
            if p.grad is None:
                grad.zero_()
            else:
                grad.copy_(p.grad)
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
        self._muon(lr)
        self.publish()

    def _muon(self, lr: float) -> None:
        """Matrices of one shape (lying, so that the smaller side comes first) go through `polar` together."""
        alike: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for i, momentum in zip(self.hidden, self.momentum, strict=True):
            momentum.lerp_(self._grads[i], 1 - MOMENTUM)
            update, master = self._grads[i].lerp(momentum, MOMENTUM), self.masters[i]
            if update.shape[0] > update.shape[1]:
                update, master = update.T, master.T
            alike.setdefault(tuple(update.shape), []).append((update, master))
        for shape, members in alike.items():
            steps = polar(torch.stack([update for update, _ in members]), self.dtype)
            for step, (_, master) in zip(steps, members, strict=True):
                master.mul_(1 - lr * self.weight_decay).add_(step, alpha=-0.2 * shape[1] ** 0.5 * lr)

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the masters into the model's own weights."""
        for p, master in zip(self.params, self.masters, strict=True):
            p.copy_(master)

    def state(self) -> dict[str, Any]:
        """A copy of everything that the next step depends on."""
        return {
            "masters": [m.detach().clone() for m in self.masters],
            "momentum": [m.clone() for m in self.momentum],
            "adam": copied(self.adam.state_dict()),
        }

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        for mine, saved in zip(self.masters + self.momentum, state["masters"] + state["momentum"], strict=True):
            mine.copy_(saved)
        self.adam.load_state_dict(copied(state["adam"]))
        self.publish()

    def float_model(self, model: nn.Module) -> nn.Module:
        """Give the model its fp32 masters as weights (the end of training)."""
        for p, master in zip(self.params, self.masters, strict=True):
            p.data = master.detach().clone()
        return model


def copied(tree: Any) -> Any:
    """Nested dicts and lists with every tensor cloned (an optimiser's state_dict refers to the living tensors)."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        return {k: copied(v) for k, v in tree.items()}
    return [copied(v) for v in tree] if isinstance(tree, list) else tree

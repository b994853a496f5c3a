"""Optimiser with mixed precision: bf16 weights for the matmuls, fp32 masters for the updates.

Keeping a bf16 copy of the weights, instead of autocasting them, leaves activations and residual stream in bf16, too,
which halves the memory traffic of everything other than matmuls.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from drivefoundry.train.distributed.threads import ALONE, ThreadedBackward
from drivefoundry.train.state import copied

SMALLEST = 32
"""Linear layers with fewer inputs than this (physical quantities) use AdamW, as embeddings do."""
MOMENTUM = 0.95
Hidden = tuple[Tensor, Tensor, Tensor]
"""Master of a hidden matrix, its gradient and its momentum."""
_POLAR = (6.77834, -19.09623, 13.95642), (3.16891, -2.79646, 0.71883)
"""Coefficients of the quintics a x + b x^3 + c x^5 whose composition maps 0.03 .. 1 closest to 1: to 0.62 .. 1.38."""


def polar(x: Tensor) -> Tensor:
    """Approximate orthogonal polar factors of matrices (G, m, n).

    As in Muon (Jordan 2024), by odd polynomials of x, but with two fitted to each other (as in Polar Express, Amsel
    2025) instead of three identical ones. They have a smaller range to cover, because x is divided by the root of its
    Gram matrix's norm, a tighter bound of the largest singular value than the norm of x. Steps are computed on the Gram
    matrix of the smaller side, whose polynomials commute, and the resulting factor is applied to x once.
    """
    tall = x.shape[1] > x.shape[2]
    g = x.mT @ x if tall else x @ x.mT
    size = (1.01 * g.float().flatten(1).norm(dim=1) + 1e-30).rsqrt()[:, None, None].to(x.dtype)
    g = g * size.square()
    first = _quintic(g, _POLAR[0])
    by = _quintic(first @ (g @ first), _POLAR[1]) @ first * size
    return x @ by if tall else by @ x


def _quintic(g: Tensor, coefficients: tuple[float, float, float]) -> Tensor:
    """a + b g + c g^2, which multiplied by x gives the quintic of x."""
    a, b, c = coefficients
    out = torch.baddbmm(g, g, g, beta=b, alpha=c)
    out.diagonal(dim1=1, dim2=2).add_(a)
    return out


class MasterWeights:
    """An optimiser on fp32 masters of a model whose own weights are cast to `dtype`. Gradients are summed over ranks.

    AdamW; with `muon`, the weights of linear layers take orthogonalised momentum steps instead (Muon, Jordan 2024),
    scaled to the size of AdamW's (Liu 2025) so that both share one learning rate. With `ema` > 0, training returns the
    exponential moving average of the masters with that decay (Polyak 1992).
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        weight_decay: float,
        betas: tuple[float, float],
        muon: bool = False,
        ema: float = 0.0,
    ):
        self.net, self.dtype, self.weight_decay, self.ema = model, dtype, weight_decay, ema
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.hidden = [i for i, there in enumerate(is_hidden(model)) if there] if muon else []
        self.masters: list[Tensor] = []
        self._grads: list[Tensor] = []
        self._make_masters()
        self._optimisers(betas)

    @torch.no_grad()
    def _make_masters(self) -> None:
        """Masters and their gradients as views of one array each; the model's own weights in `dtype`."""
        sizes, device = [p.numel() for p in self.params], self.params[0].device
        flat, self._gradient = (torch.empty(sum(sizes), device=device) for _ in range(2))
        for master, grad, p in zip(flat.split(sizes), self._gradient.split(sizes), self.params, strict=True):
            master, grad = master.view(p.shape).copy_(p), grad.view(p.shape)
            master.grad = grad
            p.data = p.data.to(self.dtype)
            self.masters.append(master)
            self._grads.append(grad)

    def _optimisers(self, betas: tuple[float, float]) -> None:
        """AdamW for all but the hidden masters, momentum for those; weight decay only for matrices."""
        rest = [m for i, m in enumerate(self.masters) if i not in self.hidden]
        self.momentum = [torch.zeros_like(self.masters[i]) for i in self.hidden]
        self.average = [m.detach().clone() for m in self.masters] if self.ema else []
        groups: list[dict[str, Any]] = [
            {"params": [m for m in rest if m.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [m for m in rest if m.ndim < 2], "weight_decay": 0.0},
        ]
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
    def step(self, lr: float, norm: float, clip: float, threads: ThreadedBackward = ALONE) -> None:
        """Update the weights with the gathered gradients, scaled down to norm `clip` if larger."""
        if norm > clip:
            self._clip(clip / norm)
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self._muon(lr, threads)
        if self.ema:
            for mean, master in zip(self.average, self.masters, strict=True):
                mean.lerp_(master, 1 - self.ema)
        self.publish()

    def _clip(self, by: float) -> None:
        self._gradient.mul_(by)

    def _whole(self, x: Tensor) -> Tensor:
        """All of a matrix, of which this rank may hold only a part."""
        return x

    def _part(self, x: Tensor, of: Tensor) -> Tensor:
        """This rank's part of a whole matrix, distributed like `of`."""
        return x

    def _muon(self, lr: float, threads: ThreadedBackward) -> None:
        """Apply `polar` to matrices of the same shape together, in groups that keep every thread busy."""
        alike: dict[torch.Size, list[Hidden]] = {}
        for i, momentum in zip(self.hidden, self.momentum, strict=True):
            alike.setdefault(momentum.shape, []).append((self.masters[i], self._grads[i], momentum))
        work: list[list[Hidden]] = []
        for members in alike.values():
            n = -(-len(members) // threads.count)
            work += [members[at : at + n] for at in range(0, len(members), n)]
        work.sort(key=lambda members: -len(members) * members[0][2].numel())
        threads.each(partial(self._turn, lr), work)

    @torch.no_grad()
    def _turn(self, lr: float, members: list[Hidden]) -> None:
        """Muon's step for matrices of one shape."""
        shape = members[0][2].shape
        updates = torch.empty((len(members), *shape), dtype=self.dtype, device=members[0][0].device)
        for update, (_, grad, momentum) in zip(updates, members, strict=True):
            update.copy_(self._whole(grad.lerp(momentum.lerp_(grad, 1 - MOMENTUM), MOMENTUM)))
        for step, (master, _, _) in zip(polar(updates), members, strict=True):
            master.mul_(1 - lr * self.weight_decay).add_(self._part(step, master), alpha=-0.2 * max(shape) ** 0.5 * lr)

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the masters into the model's own weights."""
        for p, master in zip(self.params, self.masters, strict=True):
            p.copy_(master)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on; not copied, so the next step changes it."""
        return {
            "masters": [m.detach() for m in self.masters],
            "momentum": list(self.momentum),
            "average": list(self.average),
            "adam": self.adam.state_dict(),
        }

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        for name in ("masters", "momentum", "average"):
            for mine, saved in zip(getattr(self, name), state[name], strict=True):
                mine.copy_(saved)
        self.adam.load_state_dict(copied(state["adam"]))
        self.publish()

    def float_model(self, model: nn.Module) -> nn.Module:
        """Copy the fp32 masters, or their moving average, to a model: the trained one or a copy of it."""
        trained = [p for p in model.parameters() if p.requires_grad]
        for p, master in zip(trained, self.average or self.masters, strict=True):
            p.data = master.detach().clone()
        return model


def is_hidden(model: nn.Module) -> list[bool]:
    """Whether each trained parameter is the matrix of a linear layer inside the model."""
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear) and m.in_features >= SMALLEST}
    return [id(p) in linear for p in model.parameters() if p.requires_grad]

"""Gradients in, updated weights out: bf16 weights for the matmuls, fp32 masters for the optimiser.

Keeping a bf16 copy of the weights, rather than autocasting them, leaves activations and residual stream in bf16 too,
which halves the memory traffic of everything that is not a matmul.
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
"""Linear layers with fewer inputs than this (physical quantities) are left to AdamW, as are embeddings."""
MOMENTUM = 0.95
Hidden = tuple[Tensor, Tensor, Tensor]
"""The master of a hidden matrix, its gradient and its momentum."""
_POLAR = (6.77834, -19.09623, 13.95642), (3.16891, -2.79646, 0.71883)
"""The quintics a x + b x^3 + c x^5 that take 0.03 .. 1, one after the other, nearest to 1: within 0.62 .. 1.38."""


def polar(x: Tensor) -> Tensor:
    """Matrices (G, m, n) in; roughly their orthogonal polar factors out.

    As in Muon (Jordan 2024), by odd polynomials of x, but two fitted to each other (as in Polar Express, Amsel 2025)
    instead of three alike; they have less to lift, for x is divided by the root of its Gram matrix's norm, which the
    largest singular value does not exceed either and comes nearer to than to the norm of x. Steps are taken on the Gram
    matrix of the smaller side, whose polynomials commute, and what they multiply x by is applied once.
    """
    tall = x.shape[1] > x.shape[2]
    g = x.mT @ x if tall else x @ x.mT
    size = (1.01 * g.float().flatten(1).norm(dim=1) + 1e-30).rsqrt()[:, None, None].to(x.dtype)
    g = g * size.square()
    first = _quintic(g, _POLAR[0])
    by = _quintic(first @ (g @ first), _POLAR[1]) @ first * size
    return x @ by if tall else by @ x


def _quintic(g: Tensor, coefficients: tuple[float, float, float]) -> Tensor:
    """a + b g + c g^2, which times x is the quintic of x."""
    a, b, c = coefficients
    out = torch.baddbmm(g, g, g, beta=b, alpha=c)
    out.diagonal(dim1=1, dim2=2).add_(a)
    return out


class MasterWeights:
    """An optimiser on fp32 masters of a model whose own weights are cast to `dtype`. Gradients are summed over ranks.

    AdamW; with `muon`, the weights of linear layers take orthogonalised momentum steps instead (Muon, Jordan 2024),
    scaled to the size of AdamW's (Liu 2025) so that both share one learning rate. With `ema`, the share of itself that
    it keeps at each step, a running mean of the masters is what training leaves (Polyak 1992).
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
        """AdamW for all but the hidden masters, momentum for those; weight decay for matrices alone."""
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
        """One update with the gathered gradients, scaled down to norm `clip` if larger."""
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
        """All of a matrix of which this rank may hold a part."""
        return x

    def _part(self, x: Tensor, of: Tensor) -> Tensor:
        """The part of a whole matrix that this rank holds of `of`."""
        return x

    def _muon(self, lr: float, threads: ThreadedBackward) -> None:
        """Matrices of one shape go through `polar` together, as many at once as keep every thread busy."""
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
        """Muon's step of matrices of one shape."""
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
        """Everything that the next step depends on, alive: the next step changes it."""
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
        """Give a model, the trained one or a copy of it, the fp32 masters or their running mean as weights."""
        trained = [p for p in model.parameters() if p.requires_grad]
        for p, master in zip(trained, self.average or self.masters, strict=True):
            p.data = master.detach().clone()
        return model


def is_hidden(model: nn.Module) -> list[bool]:
    """Of each trained parameter, whether it is the matrix of a linear layer within the model."""
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear) and m.in_features >= SMALLEST}
    return [id(p) in linear for p in model.parameters() if p.requires_grad]

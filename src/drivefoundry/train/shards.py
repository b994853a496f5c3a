"""A model cut over ranks (FSDP2), its optimiser, and checkpoints in shards that any number of ranks can read again."""

from __future__ import annotations

import copy
import shutil
import time
import warnings
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from drivefoundry.model.decoder import Decoder
from drivefoundry.types import require

from .corpus import Batch
from .optim import MasterWeights, is_hidden


def sharded(model: nn.Module, dtype: torch.dtype, mesh: DeviceMesh | None = None) -> FSDPModule:
    """The model, its parameters cut over the ranks of `mesh` (all by default), block by block: gathered in `dtype`
    where they are needed, gradients summed in fp32 (FSDP2)."""
    mesh = mesh or init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for decoder in [m for m in model.modules() if isinstance(m, Decoder)]:
        for block in decoder.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
    whole = fully_shard(model, mesh=mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # the loss is a sum over ranks, not a mean
            module.set_force_sum_reduction_for_comms(True)
    return cast(FSDPModule, whole)


class ShardedWeights(MasterWeights):
    """The optimiser on this rank's shards, which are the fp32 masters; the caller's model waits in host memory."""

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        weight_decay: float,
        betas: tuple[float, float],
        muon: bool = False,
        ema: float = 0.0,
    ):
        self.dtype, self.weight_decay, self.ema = dtype, weight_decay, ema
        self.net = cast(nn.Module, sharded(copy.deepcopy(model), dtype))
        model.cpu()
        # logits are views of what the model returns; nothing changes them in place
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        self.params = self.masters = [p for p in self.net.parameters() if p.requires_grad]
        self._grads: list[Tensor] = []
        self.hidden = [i for i, there in enumerate(is_hidden(self.net)) if there] if muon else []
        self._optimisers(betas)
        for p in self.adam.param_groups[0]["params"] + self.adam.param_groups[1]["params"]:
            # as AdamW makes them at its first step; here at once, so that a checkpoint has somewhere to go
            moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            self.adam.state[p] = {"step": torch.zeros((), dtype=torch.float32)} | moments

    @torch.no_grad()
    def gather(self) -> Tensor:
        self._grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        for p, grad in zip(self.params, self._grads, strict=True):
            p.grad = grad
        squares = torch.stack([local(g).square().sum() for g in self._grads]).sum()
        dist.all_reduce(squares)
        return squares.sqrt()

    def _clip(self, by: float) -> None:
        for grad in self._grads:
            grad.mul_(by)

    def publish(self) -> None:
        for p in self.params:
            p.grad = None

    def _whole(self, x: Tensor) -> Tensor:
        return x.full_tensor() if isinstance(x, DTensor) else x

    def _part(self, x: Tensor, of: Tensor) -> Tensor:
        if not isinstance(of, DTensor):
            return x
        return distribute_tensor(x, of.device_mesh, of.placements, src_data_rank=None)  # every rank has the whole

    @torch.no_grad()
    def float_model(self, model: nn.Module) -> nn.Module:
        """Every rank's model gets all weights."""
        mine = [p for p in model.parameters() if p.requires_grad]
        for p, master in zip(mine, self.average or self.masters, strict=True):
            p.data = self._whole(master.detach()).cpu()
        return model


def local(x: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return x.to_local() if isinstance(x, DTensor) else x


def alike(share: list[Batch], text: int) -> list[Batch]:
    """A rank's batches in, one with text of `text` tokens, if any, and one without out, so that every rank gathers
    the same parameters as often: what a rank lacks is one sample of its other batch without weight."""
    require(
        bool(share), "train config: with shard, batch must hold a sample for each rank and micro-batch; raise batch"
    )
    if not text:
        return share
    there = {batch.text is not None: batch for batch in share}
    for talks in (True, False):
        if talks not in there:
            other = there[not talks]
            one = {k: v[:1] for k, v in vars(other).items() if isinstance(v, Tensor)}
            words = other.tokens.new_zeros(1, text) if talks else None
            there[talks] = replace(other, **(one | {"text": words, "weight": torch.zeros(1)}))
    return [there[True], there[False]]


class StateShards:
    """A directory of checkpoints, their step as name, each in the shards of its ranks; the newest whole one counts."""

    def __init__(self, folder: Path):
        self.folder, self.cost = folder, 0.0
        # the writer's collectives must not mix with those of training
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        self._written: tuple[Path, Future[Any]] | None = None

    def save(self, living: dict[str, Any], still: dict[str, Any]) -> None:
        self.wait()
        start, tree = time.perf_counter(), living | still
        place = self.folder / f"{tree['step']:09d}"
        if dist.get_rank() == 0:
            shutil.rmtree(place, ignore_errors=True)
        dist.barrier(self._group)
        future = async_save(tree, checkpoint_id=place, process_group=self._group)
        assert isinstance(future, Future)
        self._written = place, future
        self.cost = time.perf_counter() - start

    def load(self, like: dict[str, Any]) -> dict[str, Any] | None:
        there = sorted(p.parent for p in self.folder.glob("*/.metadata"))  # which is written when all shards are
        if not there:
            return None
        load(like, checkpoint_id=there[-1], process_group=self._group)
        return like

    def writing(self) -> bool:
        return self._written is not None and not self._written[1].done()

    def wait(self) -> None:
        if self._written is None:
            return
        (place, future), self._written = self._written, None
        future.result()
        dist.barrier(self._group)
        if dist.get_rank() == 0:
            for old in self.folder.iterdir():
                if old != place:
                    shutil.rmtree(old)

    def forget(self) -> None:
        self.wait()
        dist.barrier(self._group)
        if dist.get_rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

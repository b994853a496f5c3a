"""Sharded training (FSDP2): the model, its optimiser, and sharded checkpoints that any number of ranks can load."""

from __future__ import annotations

import copy
import logging
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
from torch.distributed.tensor import DTensor, distribute_tensor

from drivefoundry.model.blocks.decoder import Block
from drivefoundry.model.vla import VLA
from drivefoundry.train.dataset import Batch
from drivefoundry.train.distributed.tensor_parallel import apply_parallelism, divisible, fused, interleaved, local
from drivefoundry.train.optim import MasterWeights
from drivefoundry.types import require


def shard_model(model: VLA, dtype: torch.dtype, tensor: int = 1) -> VLA:
    """A copy of the model, sharded over all ranks, `tensor` of which share each matmul of the blocks; the caller's
    model stays in host memory. ValueError if the numbers of ranks do not fit."""
    world = dist.get_world_size()
    divisible(model.config, tensor)
    require(world % tensor == 0, f"train config: tensor {tensor} does not divide {world} ranks; start a multiple of it")
    net = apply_parallelism(copy.deepcopy(model), world // tensor, tensor, dtype)
    model.cpu()
    # logits are views of the model's output; nothing changes them in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)  # `_whole` gathers in two steps
    return net


class ShardedWeights(MasterWeights):
    """The optimiser of a model from `shard_model`: this rank's shards are the fp32 masters."""

    def _make_masters(self) -> None:
        self.masters = list(self.params)
        net = cast(VLA, self.net)
        self.tensor = net.config.heads // cast(Block, net.decoder.blocks[0]).heads
        twice = {id(p) for p in fused(net.decoder)}
        self._fused = {i for i, p in enumerate(self.params) if id(p) in twice}

    def _optimisers(self, betas: tuple[float, float]) -> None:
        super()._optimisers(betas)
        for p in self._adams():
            # as AdamW creates them at its first step; here at once, so that a checkpoint can be loaded into them
            moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            self.adam.state[p] = {"step": torch.zeros((), dtype=torch.float32)} | moments

    def _adams(self) -> list[Tensor]:
        """AdamW's masters in the order of its state."""
        return [p for group in self.adam.param_groups for p in group["params"]]

    @torch.no_grad()
    def gather(self) -> Tensor:
        self._grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        for p, grad in zip(self.params, self._grads, strict=True):
            p.grad = grad
        first = dist.get_rank() % self.tensor == 0  # among ranks that hold identical weights outside the matmuls
        counted = [g for g in self._grads if first or (isinstance(g, DTensor) and g.device_mesh.ndim == 2)]
        squares = torch.stack([local(g).square().sum() for g in counted]).sum()
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
        return distribute_tensor(x, of.device_mesh, of.placements, src_data_rank=None)  # every rank has all of it

    def state(self) -> dict[str, Any]:
        return super().state() | {"tensor": self.tensor}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Load a state saved by any number of ranks; rows of fused matrices are reordered for `tensor` parts."""
        before = state["tensor"]
        if before != self.tensor:
            place = {id(m): i for i, m in enumerate(self.masters)}
            adams = {k: place[id(p)] for k, p in enumerate(self._adams())}
            kept = {"masters": range(len(self.masters)), "momentum": self.hidden}
            kept["average"] = kept["masters"] if self.ema else []
            for name, indices in kept.items():
                mine = [self._ordered(x, i, before) for x, i in zip(state[name], indices, strict=True)]
                state = state | {name: mine}
            moments = {k: {n: self._ordered(x, adams[k], before) for n, x in of.items()}
                       for k, of in state["adam"]["state"].items()}  # fmt: skip
            state = state | {"adam": state["adam"] | {"state": moments}}
        super().load(state)

    def _ordered(self, x: Tensor, index: int, before: int) -> Tensor:
        """Reorder what belongs to a parameter from `before` parts to this run's parts."""
        if index not in self._fused or not isinstance(x, DTensor):
            return x
        return self._part(interleaved(self._whole(x), self.tensor, before), x)

    @torch.no_grad()
    def float_model(self, model: nn.Module) -> nn.Module:
        """Gather all weights into every rank's model."""
        mine = [p for p in model.parameters() if p.requires_grad]
        for i, (p, master) in enumerate(zip(mine, self.average or self.masters, strict=True)):
            whole = self._whole(master.detach())
            p.data = (interleaved(whole, 1, self.tensor) if i in self._fused else whole).cpu()
        return model


def equalized(share: list[Batch], text: int, times: int = 1) -> list[Batch]:
    """Give every rank one batch with text of `text` tokens, if any rank has one, and one without, so that all ranks
    gather the same parameters equally often. A missing batch is a zero-weight sample of the other one; each is padded
    with zero-weight samples to a multiple of `times` samples."""
    require(
        bool(share), "train config: with shard, batch must hold a sample for each rank and micro-batch; raise batch"
    )
    there = {batch.text is not None: batch for batch in share}
    for with_text in (True, False) if text else ():
        if with_text not in there:
            other = there[not with_text]
            words = other.tokens.new_zeros(1, text) if with_text else None
            there[with_text] = replace(other.each(lambda x: x[:1]), text=words, weight=torch.zeros(1))
    return [_filled(there[with_text], times) for with_text in (True, False) if with_text in there]


def _filled(batch: Batch, times: int) -> Batch:
    n = len(batch)
    if n % times == 0:
        return batch
    rows = torch.arange(n + -n % times).clamp(max=n - 1)
    held = batch.each(lambda x: x[rows])
    held.weight[n:] = 0.0
    return held


class StateShards:
    """A directory of checkpoints, named by step, each in its ranks' shards; the newest complete one counts."""

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
        there = sorted(p.parent for p in self.folder.glob("*/.metadata"))  # written once all shards are
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

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
    """A copy of the model, cut over all ranks, `tensor` of which share each matmul of the blocks; the caller's model
    waits in host memory. Raises ValueError where so many cannot."""
    world = dist.get_world_size()
    divisible(model.config, tensor)
    require(world % tensor == 0, f"train config: tensor {tensor} does not divide {world} ranks; start a multiple of it")
    net = apply_parallelism(copy.deepcopy(model), world // tensor, tensor, dtype)
    model.cpu()
    # logits are views of what the model returns; nothing changes them in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)  # `_whole` gathers in two steps
    return net


class ShardedWeights(MasterWeights):
    """The optimiser on what `cut` made: this rank's shards are the fp32 masters."""

    def _make_masters(self) -> None:
        self.masters = list(self.params)
        net = cast(VLA, self.net)
        self.tensor = net.config.heads // cast(Block, net.decoder.blocks[0]).heads
        twice = {id(p) for p in fused(net.decoder)}
        self._fused = {i for i, p in enumerate(self.params) if id(p) in twice}

    def _optimisers(self, betas: tuple[float, float]) -> None:
        super()._optimisers(betas)
        for p in self._adams():
            # as AdamW makes them at its first step; here at once, so that a checkpoint has somewhere to go
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
        first = dist.get_rank() % self.tensor == 0  # of the ranks that hold the same of what no matmul's parts are
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
        return distribute_tensor(x, of.device_mesh, of.placements, src_data_rank=None)  # every rank has the whole

    def state(self) -> dict[str, Any]:
        return super().state() | {"tensor": self.tensor}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Of any number of ranks and parts: rows of fused matrices lie as `tensor` parts of them want."""
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
        """What belongs to a parameter, of parts as they were `before`, as this run's parts want it."""
        if index not in self._fused or not isinstance(x, DTensor):
            return x
        return self._part(interleaved(self._whole(x), self.tensor, before), x)

    @torch.no_grad()
    def float_model(self, model: nn.Module) -> nn.Module:
        """Every rank's model gets all weights."""
        mine = [p for p in model.parameters() if p.requires_grad]
        for i, (p, master) in enumerate(zip(mine, self.average or self.masters, strict=True)):
            whole = self._whole(master.detach())
            p.data = (interleaved(whole, 1, self.tensor) if i in self._fused else whole).cpu()
        return model


def equalized(share: list[Batch], text: int, times: int = 1) -> list[Batch]:
    """A rank's batches in, one with text of `text` tokens, if any, and one without out, so that every rank gathers
    the same parameters as often: what a rank lacks is one sample of its other batch without weight. Each is filled up
    to a number of samples that `times` divides, by such as have no weight."""
    require(
        bool(share), "train config: with shard, batch must hold a sample for each rank and micro-batch; raise batch"
    )
    there = {batch.text is not None: batch for batch in share}
    for talks in (True, False) if text else ():
        if talks not in there:
            other = there[not talks]
            words = other.tokens.new_zeros(1, text) if talks else None
            there[talks] = replace(other.each(lambda x: x[:1]), text=words, weight=torch.zeros(1))
    return [_filled(there[talks], times) for talks in (True, False) if talks in there]


def _filled(batch: Batch, times: int) -> Batch:
    n = len(batch)
    if n % times == 0:
        return batch
    rows = torch.arange(n + -n % times).clamp(max=n - 1)
    held = batch.each(lambda x: x[rows])
    held.weight[n:] = 0.0
    return held


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

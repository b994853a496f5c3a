"""Apply FSDP2 and tensor parallelism to a model: weights sharded by rows, the blocks' matrix products split over ranks.

Tensor parallelism after Megatron-LM (Shoeybi 2019): queries, keys, values, gate and up are split by rows (whole heads),
the two matrices that lead back to the residual stream by columns, whose results are summed.
"""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from drivefoundry.model.blocks.decoder import Block, Decoder
from drivefoundry.model.config import ModelConfig
from drivefoundry.types import require

Net = TypeVar("Net", bound=nn.Module)


def apply_parallelism(net: Net, shard: int, tensor: int, dtype: torch.dtype = torch.bfloat16) -> Net:
    """Split a decoder, or a model with one, in place over the shard x tensor ranks of the process group: rank r is part
    r % tensor of shard r // tensor. Everything outside that decoder's blocks is split over the shards only."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (shard, tensor), mesh_dim_names=("shard", "tensor"))
    if tensor > 1:
        parallelize_blocks(net if isinstance(net, Decoder) else cast(Decoder, net.decoder), mesh["tensor"])
    _sharded(net, dtype, mesh["shard"])
    return net


def _sharded(model: nn.Module, dtype: torch.dtype, mesh: DeviceMesh) -> None:
    """Shard parameters over the ranks of `mesh`, block by block: gathered in `dtype` when needed, gradients summed in
    fp32 (FSDP2)."""
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for decoder in [m for m in model.modules() if isinstance(m, Decoder)]:
        for block in decoder.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # the loss is a sum over ranks, not a mean
            module.set_force_sum_reduction_for_comms(True)


def parallelize_blocks(decoder: Decoder, mesh: DeviceMesh) -> None:
    """Split every block's matmuls over the devices of a one-dimensional mesh; each then computes its own heads."""
    parts = mesh.size()
    plan = {name: ColwiseParallel() for name in ("q", "kv", "gate_up")} | {n: RowwiseParallel() for n in ("o", "down")}
    with torch.no_grad():
        for p in fused(decoder):
            p.copy_(interleaved(p, parts))
    for block in decoder.blocks:
        assert isinstance(block, Block)
        parallelize_module(block, mesh, dict(plan))
        block.heads, block.kv_heads = block.heads // parts, block.kv_heads // parts


def fused(decoder: Decoder) -> list[nn.Parameter]:
    """The blocks' parameters that consist of two matrices, or biases, stacked by rows."""
    blocks = cast(list[Block], list(decoder.blocks))
    return [p for block in blocks for layer in (block.kv, block.gate_up) for p in layer.parameters()]


def interleaved(x: Tensor, parts: int, before: int = 1) -> Tensor:
    """Reorder the rows of a fused matrix [a; b] such that each of `parts` equal parts is a fused matrix [part of a;
    part of b]; `before`: the number of such parts in x."""
    whole = x.unflatten(0, (before, 2, -1)).transpose(0, 1).flatten(1, 2)
    return whole.unflatten(1, (parts, -1)).transpose(0, 1).flatten(0, 2)


def divisible(config: ModelConfig, tensor: int) -> None:
    """Raise ValueError if `tensor` devices cannot share a block's matmuls."""
    c = config
    whole = c.kv_heads % tensor == 0 and c.heads % tensor == 0 and c.ffn % tensor == 0
    require(
        whole,
        f"layout: {tensor} tensor-parallel devices do not divide {c.heads} heads, {c.kv_heads} key-value heads and "
        f"ffn {c.ffn}; take a common divisor",
    )


def local(x: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return x.to_local() if isinstance(x, DTensor) else x

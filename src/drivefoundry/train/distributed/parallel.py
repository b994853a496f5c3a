"""Plan how a model size is laid out on a number of devices: weights sharded (FSDP2), matmuls split (TP).

    python -m drivefoundry.train.distributed.parallel [72B] [--devices 64]
    python -m torch.distributed.run --nproc-per-node 2 -m drivefoundry.train.distributed.parallel [72B]

The first prints the plan of a size, computed on the meta device; the second also runs a small stack of that size's
blocks forward and backward on its ranks, split in either way (see `tensor_parallel`), and compares it with one process.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from drivefoundry.model.blocks.decoder import Decoder, rope_table
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.presets import PRESETS, memory, preset, stack
from drivefoundry.model.vla import VLA
from drivefoundry.train.distributed.ranks import rank_and_world
from drivefoundry.train.distributed.tensor_parallel import apply_parallelism, divisible, interleaved

NODE = 8
"""Devices per node, whose links are fast enough to share each matmul."""
WIDE = 8192
"""Minimum width of blocks for tensor parallelism."""
GB = 1e9


@dataclass(frozen=True)
class MeshLayout:
    """Layout of a model on shard x tensor devices."""

    config: ModelConfig
    shard: int
    """Number of devices over which each weight's rows are sharded, to be gathered block by block."""
    tensor: int
    """Number of devices that share each block's matmuls."""

    def validate(self) -> MeshLayout:
        divisible(self.config, self.tensor)
        return self

    def bytes_per_device(self) -> dict[str, float]:
        """Memory of training with bf16 and fp32 AdamW, bytes: state (masters, gradients and two moments in fp32,
        sharded over all devices; outside the blocks over `shard` only), two gathered blocks, and a token of activations
        with checkpointing of each block, and of one block without."""
        c, asked = self.config, memory(self.config)
        count = asked.weights // 2
        blocks = stack(c) - c.dim
        kept = blocks / (self.shard * self.tensor) + (count - blocks) / self.shard
        return {
            "state": 16 * kept,
            "gathered": 2 * 2 * max(blocks / c.layers / self.tensor, (1 if c.tied else 2) * c.vocab * c.dim),
            "token": asked.recomputed + asked.activations / c.layers,
        }

    def text(self) -> str:
        """The plan as text, with shapes from the meta device."""
        with torch.device("meta"):
            model = VLA(self.config)
        c, need, block = self.config, self.bytes_per_device(), model.decoder.blocks[0]
        lines = [
            f"{model.parameter_count() / 1e9:.2f} B weights, {c.layers} blocks of {sum_of(block) / 1e9:.3f} B, on "
            f"{self.shard * self.tensor} devices: shard {self.shard} (FSDP2) x tensor {self.tensor}",
            f"a device holds {need['state'] / GB:.1f} GB of weights, gradients and optimiser state, up to "
            f"{need['gathered'] / GB:.1f} GB of gathered weights, and {need['token'] / 1e6:.2f} MB a token of "
            "activations, with activation checkpointing",
        ]
        for name, p in block.named_parameters():
            how = {"q": "rows", "kv": "rows", "gate_up": "rows", "o": "columns", "down": "columns"}
            cut = how.get(name.partition(".")[0], "whole") if self.tensor > 1 else "whole"
            part = f"{cut} / {self.tensor}" if cut != "whole" else cut
            shape = str(tuple(p.shape))
            lines.append(f"  decoder.blocks.*.{name:<16}{shape:<16} tensor: {part}; shard: rows / {self.shard}")
        rest = (sum_of(model) - sum_of(model.decoder)) / 1e9
        lines.append(f"  embeddings, head, vision, inputs: {rest:.2f} B, tensor: whole; shard: rows / {self.shard}")
        return "\n".join(lines)


def layout(config: ModelConfig, devices: int) -> MeshLayout:
    """The default layout: shards over all devices; from WIDE on, blocks are also split over the devices of a node, as
    far as the number of heads allows."""
    tensor = 1
    if config.dim >= WIDE:
        fits = [t for t in range(1, min(NODE, devices) + 1) if devices % t == 0]
        tensor = max(t for t in fits if config.kv_heads % t == 0 and config.heads % t == 0 and config.ffn % t == 0)
    return MeshLayout(config, devices // tensor, tensor).validate()


def sum_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def scaled_down(config: ModelConfig) -> ModelConfig:
    """Two blocks of the same kind with every width divided by 32."""
    return replace(
        config, layers=2, dim=config.dim // 32, heads=config.heads // 4, kv_heads=config.kv_heads // 4,
        head_dim=config.head_dim // 8, ffn=config.ffn // 32,
    )  # fmt: skip


def dry_run(config: ModelConfig, shard: int, tensor: int) -> tuple[float, float]:
    """Largest relative differences of a decoder's outputs and gradients on shard x tensor ranks from those on one rank,
    fp32; the batch is divided over the shards."""
    rank, _ = rank_and_world(alone=True)
    torch.manual_seed(0)
    one = Decoder(config)
    with torch.no_grad():
        for p in one.parameters():
            p.add_(0.02 * torch.randn_like(p))
    many = copy.deepcopy(one)
    apply_parallelism(many, shard, tensor, torch.float32)
    length = 24
    x, rope = torch.randn(2 * shard, length, config.dim), rope_table(config, length)
    mask = torch.full((1, length, length), -1e4).triu(1)
    mine = slice(2 * (rank // tensor), 2 * (rank // tensor) + 2)
    expected = one(x, rope, mask, length)
    expected.square().sum().backward()
    got = many(x[mine], rope, mask, length)
    got.square().sum().backward()
    off = [relative(got, expected[mine])]
    for (name, p), q in zip(one.named_parameters(), many.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        fused = tensor > 1 and (".kv." in name or ".gate_up." in name)
        whole = q.grad.full_tensor() if isinstance(q.grad, DTensor) else q.grad
        off.append(relative(whole, interleaved(p.grad, tensor) if fused else p.grad))
    worst = torch.tensor([off[0], max(off[1:])])
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return float(worst[0]), float(worst[1])


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest value of b."""
    return float((a - b).detach().abs().max() / b.detach().abs().max())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m drivefoundry.train.distributed.parallel", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("size", nargs="?", default="72B", choices=list(PRESETS))
    parser.add_argument("--devices", type=int, default=64)
    asked = parser.parse_args()
    config, world = preset(asked.size), int(os.environ.get("WORLD_SIZE", "1"))
    first = os.environ.get("RANK", "0") == "0"
    if first:
        print(layout(config, asked.devices).text(), flush=True)
    same, small = True, scaled_down(config)
    for tensor in [t for t in range(1, world + 1) if world > 1 and world % t == 0 and small.kv_heads % t == 0]:
        ahead, back = dry_run(small, world // tensor, tensor)
        same &= max(ahead, back) < 1e-4
        if first:
            how = f"{small.layers} blocks of width {small.dim}, shard {world // tensor} x tensor {tensor}"
            print(f"dry run, {how}: forward differs by {ahead:.1e}, backward by {back:.1e}", flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

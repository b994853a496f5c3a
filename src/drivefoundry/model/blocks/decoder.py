"""The Llama-family decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU, key-value cache.

Axes: B batch, T tokens, S keys, D model width, H heads, N key-value heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivefoundry.model.blocks.attention import Packing, attend, attend_packed
from drivefoundry.model.config import ModelConfig


@dataclass
class Cache:
    """Keys and values of every layer, (B, S, N, K) each; the first `filled` positions are written."""

    keys: list[Tensor]
    values: list[Tensor]
    filled: int = 0

    @staticmethod
    def empty(config: ModelConfig, batch: int, room: int, like: Tensor) -> Cache:
        shape = (batch, room, config.kv_heads, config.head_dim)
        return Cache(
            [like.new_empty(shape) for _ in range(config.layers)], [like.new_empty(shape) for _ in range(config.layers)]
        )

    def add(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values (B, T, N, K) after the filled positions; return all so far. The caller advances
        `filled`."""
        end = self.filled + k.shape[1]
        self.keys[layer][:, self.filled : end] = k
        self.values[layer][:, self.filled : end] = v
        return self.keys[layer][:, :end], self.values[layer][:, :end]


def rope_table(config: ModelConfig, length: int) -> Tensor:
    """(2, length, K/2): cosine and sine of each position's rotation (RoFormer, Su 2021; half-split layout as in
    Llama)."""
    rate = config.rope_theta ** (-torch.arange(0, config.head_dim, 2) / config.head_dim) / rope_stretch(config)
    angle = torch.arange(length)[:, None] * rate
    return torch.stack([angle.cos(), angle.sin()])


def rope_stretch(config: ModelConfig) -> Tensor:
    """(K/2,) factor by which each rotation is slowed to extend the context: low frequencies by the whole factor, high
    ones not at all, smoothly in between (Llama 3.1)."""
    if config.rope_scaling is None:
        return torch.ones(config.head_dim // 2)
    factor, low, high, context = config.rope_scaling
    turns = context * config.rope_theta ** (-torch.arange(0, config.head_dim, 2) / config.head_dim) / (2 * torch.pi)
    fast = ((turns - low) / (high - low)).clamp(0, 1)
    return 1 / (fast + (1 - fast) / factor)


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """x (B, T, H, K), rope (2, T, K/2)."""
    cos, sin = rope.to(x.dtype)[:, :, None].unbind(0)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Block(nn.Module):
    """One decoder layer, with one matmul for query, key and value and one for gate and up."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        d, k = config.dim, config.head_dim
        self.norm1 = nn.Parameter(torch.ones(d))
        self.norm2 = nn.Parameter(torch.ones(d))
        self.eps = config.norm_eps
        self.q = nn.Linear(d, config.heads * k, bias=config.qkv_bias)
        self.kv = nn.Linear(d, 2 * config.kv_heads * k, bias=config.qkv_bias)
        self.o = nn.Linear(config.heads * k, d, bias=False)
        self.gate_up = nn.Linear(d, 2 * config.ffn, bias=False)
        self.down = nn.Linear(config.ffn, d, bias=False)

    def forward(
        self, x: Tensor, rope: Tensor, mask: Tensor | Packing, read: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """x (B, T, D); rope (2, T, K/2); mask (B or 1, T, S), or the layout of a packed batch, whose x is (1, N, D);
        read (2, R, K/2): the end of rope. Returns the last R positions, (B, R, D).

        The last layer computes only the positions that are read (actions and text); the others serve only as keys and
        values.
        """
        b, t, d = x.shape
        keep = read.shape[1]
        y = F.rms_norm(x, (d,), self.norm1, self.eps)
        k, v = self.kv(y).view(b, t, 2, self.kv_heads, self.head_dim).unbind(2)
        k = rotate(k, rope)
        if cache is not None:
            k, v = cache.add(self.layer, k, v)
        if keep == 0:
            return x[:, :0]
        if keep < t:
            x, y = x[:, -keep:], y[:, -keep:]
        q = rotate(self.q(y).view(b, keep, self.heads, self.head_dim), read * self.head_dim**-0.5)
        seen = attend_packed(q, k, v, mask) if isinstance(mask, Packing) else attend(q, k, v, mask)
        x = x + self.o(seen)
        gate, up = self.gate_up(F.rms_norm(x, (d,), self.norm2, self.eps)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    """The stack of blocks and the final norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.blocks = nn.ModuleList([Block(config, i) for i in range(config.layers)])
        self.norm = nn.Parameter(torch.ones(config.dim))
        self.eps = config.norm_eps
        self._compiled: list[Callable[..., Tensor]] = []

    def compile_blocks(self) -> None:
        """Compile each block for training (cached decoding stays eager) into one small graph that all layers share. On
        CPU the wrapper is C++ too, so that it runs without the GIL."""
        kind = torch.compile
        if self.norm.device.type == "cpu":
            kind = partial(torch.compile, options={"cpp_wrapper": True})
        self._compiled = [kind(block.forward, dynamic=False) for block in self.blocks]

    def forward(self, x: Tensor, rope: Tensor, mask: Tensor | Packing, keep: int, cache: Cache | None = None) -> Tensor:
        """Normed last `keep` positions, (B, keep, D), of x (B, T, D), or (1, N, D) for a packed batch; with a cache, x
        continues it."""
        t, last = x.shape[1], len(self.blocks) - 1
        read = rope if keep == t else rope[:, t - keep :]
        if isinstance(mask, Packing):  # one graph for any number of tokens
            for rows in (x, rope, read):
                torch._dynamo.maybe_mark_dynamic(rows, 1)
        fast = self._compiled if cache is None and torch.is_grad_enabled() else self.blocks
        for i, block in enumerate(fast or self.blocks):
            if fast is self._compiled and x.shape[0] > 1:  # one graph for any batch: how many have text varies
                for rows in (x, mask) if isinstance(mask, Tensor) and mask.shape[0] > 1 else (x,):
                    torch._dynamo.mark_dynamic(rows, 0)
            x = block(x, rope, mask, read if i == last else rope, cache)
        if cache is not None:
            cache.filled += t
        return F.rms_norm(x, (x.shape[-1],), self.norm, self.eps)

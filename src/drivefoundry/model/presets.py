"""Named model sizes from 0.1M to 72B parameters, and their memory.

Up to 64M the shapes are our own, trained from scratch with a small BPE. Above that, the decoder has the shape of a
public model, so that its weights can be loaded (`backbones`): 135M SmolLM2-135M, 2B Qwen2.5-1.5B, 8B Llama-3.1-8B, 32B
and 72B Qwen2.5 of that size. From 2B on, a vision tower of 0.4B parameters precedes it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from drivefoundry.model.config import CELL, ModelConfig
from drivefoundry.model.text import OWN
from drivefoundry.types import require


def _own(dim: int, layers: int, heads: int, kv_heads: int, head_dim: int, ffn: int, stem: int) -> ModelConfig:
    return ModelConfig(dim=dim, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=head_dim, ffn=ffn, stem=stem)


def _qwen(dim: int, layers: int, heads: int, kv_heads: int, ffn: int, vocab: int, tied: bool = False) -> ModelConfig:
    return ModelConfig(
        dim=dim, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=128, ffn=ffn, qkv_bias=True, tied=tied,
        text_vocab=OWN + vocab, text_shift=OWN, rope_theta=1e6, stem=256,
    )  # fmt: skip


def _with_tower(config: ModelConfig) -> ModelConfig:
    return replace(
        config, image=(256, 640), vision="vit", vit_dim=1152, vit_layers=27, vit_heads=16, vit_ffn=2880, max_text=256
    )


PRESETS = {
    "0.1M": _own(64, 1, 2, 1, 32, 192, 24),
    "0.3M": _own(96, 2, 3, 1, 32, 256, 32),
    "1M": _own(160, 3, 5, 5, 32, 448, 48),
    "4M": _own(320, 3, 5, 5, 64, 896, 64),
    "16M": _own(512, 5, 8, 4, 64, 1408, 96),
    "64M": _own(768, 9, 12, 4, 64, 2176, 128),
    "135M": ModelConfig(
        dim=576, layers=30, heads=9, kv_heads=3, head_dim=64, ffn=1536, norm_eps=1e-5, rope_theta=1e5, stem=96,
        text_vocab=OWN + 49_152, text_shift=OWN,
    ),
    "2B": _with_tower(_qwen(1536, 28, 12, 2, 8960, 151_936, tied=True)),
    "8B": _with_tower(
        ModelConfig(
            dim=4096, layers=32, heads=32, kv_heads=8, head_dim=128, ffn=14_336, norm_eps=1e-5, tied=False,
            text_vocab=OWN + 128_256, text_shift=OWN, rope_theta=5e5, rope_scaling=(8.0, 1.0, 4.0, 8192), stem=256,
        )
    ),
    "32B": _with_tower(_qwen(5120, 64, 40, 8, 27_648, 152_064)),
    "72B": _with_tower(_qwen(8192, 80, 64, 8, 29_568, 152_064)),
}  # fmt: skip
SIZES = tuple(PRESETS)
FROM_NOTHING = tuple(name for name, shape in PRESETS.items() if not shape.text_shift)
"""The sizes that need no backbone."""


def preset(name: str, **changes: object) -> ModelConfig:
    """A size's shape by name (SIZES), with any fields changed. ValueError for an unknown name."""
    require(name in PRESETS, f"model size {name!r}: known sizes are {', '.join(SIZES)}")
    return replace(PRESETS[name], **changes).validate()  # type: ignore[arg-type]


def parameters(config: ModelConfig) -> int:
    """Number of weights of a VLA of this shape, without building one."""
    c, d = config, config.dim
    inputs = (c.history * c.ego_features + 1 + c.route_features + 1) * d + 2 * (d + 1) * d
    vocabulary = (1 if c.tied else 2) * c.vocab * d
    flow = 0
    if c.action == "flow":
        noise, w = 2 * c.plan, c.flow
        flow = (noise + 1 + d + 1) * w + 2 * (w + 1) * w + (w + 1) * noise
    return _vision(c) + inputs + vocabulary + flow + stack(c)


def stack(config: ModelConfig) -> int:
    """Number of weights of the decoder: its blocks and the final norm."""
    c, d = config, config.dim
    q, kv = c.heads * c.head_dim, 2 * c.kv_heads * c.head_dim
    block = 2 * d * q + d * kv + 3 * d * c.ffn + 2 * d + (q + kv if c.qkv_bias else 0)
    return c.layers * block + d


def _vision(c: ModelConfig) -> int:
    width = c.vit_dim if c.vision == "vit" else c.dim
    cells = (c.patch // CELL) ** 2
    count = (2 * 3 * CELL * CELL + 1) * c.stem + (cells * c.stem + 1) * width + c.patches * width
    count += (c.frames - 1) * c.dim if c.frames > 2 else 0
    if c.vision == "vit":
        count += stack(c.tower) + (c.vit_dim + 1) * c.dim + (c.dim + 1) * c.dim
    return count


class ShapeMemory(NamedTuple):
    """Memory of a shape in bytes, in total over all devices that share it."""

    weights: int
    """bf16 weights for inference."""
    training: int
    """Mixed precision with AdamW, 16 bytes per weight: bf16 weights and gradients, fp32 master weights and two
    moments."""
    activations: int
    """Per training token: what the decoder keeps in bf16 for the backward pass, without attention scores."""
    recomputed: int
    """The same with activation checkpointing of every block, which keeps only the block's input."""
    cache: int
    """Per generated token: bf16 keys and values."""


def memory(config: ModelConfig) -> ShapeMemory:
    """Memory of a shape.

    Activations are what each block's backward pass reads: the inputs of the block and of both norms, queries, keys and
    values, the attention output, the gate, the up projection and their product.
    """
    c, count = config, parameters(config)
    q, kv = c.heads * c.head_dim, 2 * c.kv_heads * c.head_dim
    return ShapeMemory(
        weights=2 * count,
        training=16 * count,
        activations=2 * c.layers * (4 * c.dim + 2 * q + kv + 3 * c.ffn),
        recomputed=2 * c.layers * c.dim,
        cache=2 * c.layers * kv,
    )

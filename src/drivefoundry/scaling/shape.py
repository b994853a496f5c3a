"""Parameters, FLOP and bytes of a decoder's shape, without creating weights.

Names as in `model.config`: `layers` blocks of `heads` x `head_dim` queries on `kv_heads` keys, SwiGLU of `ffn`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from drivefoundry.model import presets
from drivefoundry.model.config import ModelConfig
from drivefoundry.settings import nearest
from drivefoundry.types import require


@dataclass(frozen=True)
class Shape:
    """A Llama-family decoder: RMSNorm, RoPE, grouped queries, SwiGLU."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool = False
    """Whether embedding and head share weights."""
    bias: bool = False
    """Whether queries, keys and values have biases (Qwen2.5)."""
    other: int = 0
    """Parameters outside the decoder that are used for every sample: vision, ego motion, route."""

    def block(self) -> int:
        """Parameters of one layer."""
        qkv = (self.heads + 2 * self.kv_heads) * self.head_dim
        attention = self.width * (qkv + self.heads * self.head_dim) + (qkv if self.bias else 0)
        return attention + 3 * self.width * self.ffn + 2 * self.width

    def table(self) -> int:
        """Parameters of the embedding, or of the head."""
        return self.vocab * self.width

    def parameters(self) -> int:
        """Total parameters."""
        return self.layers * self.block() + (1 if self.tied else 2) * self.table() + self.width + self.other

    def training_flop_per_token(self, context: float) -> float:
        """FLOP per token: 6 per multiplying parameter, plus attention over `context` tokens (PaLM, appendix B).
        Parameters outside the decoder count for every token, since nearly all tokens are image tokens."""
        working = self.layers * self.block() + self.table() + self.other
        return 6.0 * working + 12.0 * self.layers * self.heads * self.head_dim * context

    def validate(self) -> Shape:
        for name in ("layers", "width", "heads", "kv_heads", "head_dim", "ffn", "vocab"):
            require(getattr(self, name) > 0, f"shape.{name}: must be > 0, got {getattr(self, name)}")
        require(self.other >= 0, f"shape.other: must be >= 0, got {self.other}")
        return self


def of(config: ModelConfig) -> Shape:
    """Shape of a VLA's config; `parameters()` counts every weight of that VLA."""
    c = config
    decoder = Shape(
        c.layers, c.dim, c.heads, c.kv_heads, c.head_dim, c.ffn, c.vocab, tied=c.tied, bias=c.qkv_bias
    )  # fmt: skip
    return replace(decoder, other=presets.parameters(c) - decoder.parameters())


def size(name: str) -> str | None:
    """The project's name of a size, case-insensitive, or None."""
    return next((known for known in presets.SIZES if known.lower() == name.lower()), None)


def named(name: str) -> Shape:
    """Shape of a named size, case-insensitive ("8B"), or for a number of parameters ("3e9", "13B"). ValueError
    otherwise."""
    found = size(name)
    if found is not None:
        return of(presets.preset(found))
    number, unit = name[:-1], {"m": 1e6, "b": 1e9}.get(name[-1:].lower(), 0.0)
    try:
        target = float(number) * unit if unit else float(name)
    except ValueError:
        target = 0.0
    message = f"model {name!r}: {nearest(name, presets.SIZES)}; or a number of parameters: 3e9, 13B"
    require(1e6 <= target <= 1e13, message)
    return sized(target)


def sized(parameters: float) -> Shape:
    """The shape closest to a number of parameters, with the usual aspect ratio: width 100 per layer."""

    vocab = 152_064 if parameters > 1e9 else 32_768 if parameters > 5e7 else 1024
    shapes = []
    for width in range(64, 32_768, 64):
        k = 128 if width >= 1024 else 64 if width >= 320 else 32
        heads = width // k
        keys = next(n for n in (8, 4, 2, 1) if heads % n == 0)
        one = Shape(1, width, heads, keys, k, -(-7 * width // 2 // 64) * 64, vocab)
        layers = round((parameters - 2 * one.table()) / one.block())
        if layers > 0:
            shapes.append(replace(one, layers=layers))
    off = lambda s: abs(s.parameters() / parameters - 1) + 0.02 * abs(math.log(s.width / s.layers / 100))  # noqa: E731
    return min(shapes, key=off)

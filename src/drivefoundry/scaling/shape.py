"""A decoder's shape in, its parameters, FLOP and bytes out; no weights are made.

Names as in `model.config`: `layers` blocks of `heads` x `head_dim` queries on `kv_heads` keys, SwiGLU of `ffn`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from drivefoundry.model import config as model
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
    """Embedding and head share their weights."""
    bias: bool = False
    """Queries, keys and values have biases (Qwen2.5)."""
    other: int = 0
    """Parameters beside the decoder that work on every sample: the eyes, the ego's motion, the route."""

    def block(self) -> int:
        """Parameters of one layer."""
        qkv = (self.heads + 2 * self.kv_heads) * self.head_dim
        attention = self.width * (qkv + self.heads * self.head_dim) + (qkv if self.bias else 0)
        return attention + 3 * self.width * self.ffn + 2 * self.width

    def table(self) -> int:
        """Parameters of the embedding, or of the head."""
        return self.vocab * self.width

    def parameters(self) -> int:
        """All of them."""
        return self.layers * self.block() + (1 if self.tied else 2) * self.table() + self.width + self.other

    def training_flop_per_token(self, context: float) -> float:
        """6 for each parameter that multiplies, and attention over `context` tokens (PaLM, appendix B): FLOP. What
        stands beside the decoder counts for every token, as nearly all are of images."""
        working = self.layers * self.block() + self.table() + self.other
        return 6.0 * working + 12.0 * self.layers * self.heads * self.head_dim * context

    def validate(self) -> Shape:
        for name in ("layers", "width", "heads", "kv_heads", "head_dim", "ffn", "vocab"):
            require(getattr(self, name) > 0, f"shape.{name}: above 0 wanted, got {getattr(self, name)}")
        require(self.other >= 0, f"shape.other: 0 or more wanted, got {self.other}")
        return self


def of(config: model.ModelConfig) -> Shape:
    """The shape of a VLA's config; `parameters()` counts every weight of that VLA."""
    d = config.dim
    cells = (config.patch // 8) ** 2
    stem = (config.frames * 3 * 64 + 1) * config.stem + (cells * config.stem + 1) * d + config.patches * d
    ego = (config.history * config.ego_features + 1) * d + (d + 1) * d
    route = (config.route_features + 1) * d + (d + 1) * d
    return Shape(
        config.layers, d, config.heads, config.kv_heads, config.head_dim, config.ffn, config.vocab,
        tied=True, other=stem + ego + route,
    )  # fmt: skip


LARGE = {
    "2B": Shape(28, 2048, 16, 8, 128, 6144, 151_936),
    "8B": Shape(32, 4096, 32, 8, 128, 14_336, 128_256),
    "32B": Shape(64, 5120, 40, 8, 128, 27_648, 152_064, bias=True),
    "72B": Shape(80, 8192, 64, 8, 128, 29_568, 152_064, bias=True),
}
"""Public shapes: Qwen3-1.7B with a head of its own, Llama-3.1-8B, Qwen2.5-32B, Qwen2.5-72B."""


def known() -> list[str]:
    """Names that `named` takes."""
    return [*model.SIZES, *(name for name in LARGE if name not in model.SIZES)]


def named(name: str) -> Shape:
    """A size's shape by name, in any case ("8B"), or one of so many parameters ("3e9", "13B"). ValueError else."""
    names = {known_name.lower(): known_name for known_name in known()}
    found = names.get(name.lower())
    if found is not None:
        return of(model.preset(found)) if found in model.SIZES else LARGE[found]
    number, unit = name[:-1], {"m": 1e6, "b": 1e9}.get(name[-1:].lower(), 0.0)
    try:
        wanted = float(number) * unit if unit else float(name)
    except ValueError:
        wanted = 0.0
    message = f"model {name!r}: {nearest(name, known())}; or so many parameters: 3e9, 13B"
    require(1e6 <= wanted <= 1e13, message)
    return sized(wanted)


def sized(parameters: float) -> Shape:
    """The shape that comes nearest to so many parameters, about as slender as the public ones: width 100 a layer."""

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

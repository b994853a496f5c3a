"""ModelConfig: every number that shapes a VLA, and the size dial."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace

from drivefoundry.types import PLAN_POINTS, require

SPECIALS = 8
"""Ids kept after the action codes: task, think, act and room for later tasks."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape of one VLA. Ids: text 0 .. text_vocab-1, then `codes` action codes, then SPECIALS."""

    dim: int = 320
    layers: int = 3
    heads: int = 5
    kv_heads: int = 5
    head_dim: int = 64
    ffn: int = 896
    image: tuple[int, int] = (64, 160)
    """Height, width, px: a whole number of patches each."""
    patch: int = 16
    frames: int = 2
    stem: int = 64
    """Width of the patch stem's first layer."""
    history: int = 4
    ego_features: int = 3
    ego_changes: bool = False
    """The ego's history is read as changes from the present, all of like size (`drivefoundry_car.inputs.ego_changes`):
    sharper where a plan is judged by what the driver did, but in closed loop the model then leans on its own motion."""
    route_features: int = 12
    text_vocab: int = 512
    max_text: int = 40
    """Longest reasoning, tokens, its end mark included."""
    codes: int = 128
    rope_theta: float = 10_000.0
    bidirectional: bool = True
    """Prefix tokens (image, ego, route) see each other both ways; text and actions are causal in any case."""

    @property
    def patches(self) -> int:
        return (self.image[0] // self.patch) * (self.image[1] // self.patch)

    @property
    def prefix(self) -> int:
        """Prefix length in tokens: task, image patches, ego, route."""
        return self.patches + 3

    @property
    def plan(self) -> int:
        return PLAN_POINTS

    @property
    def vocab(self) -> int:
        return self.text_vocab + self.codes + SPECIALS

    @property
    def task_id(self) -> int:
        return self.text_vocab + self.codes

    @property
    def think_id(self) -> int:
        return self.task_id + 1

    @property
    def act_id(self) -> int:
        return self.task_id + 2

    def validate(self) -> ModelConfig:
        h, w = self.image
        require(
            h % self.patch == 0 and w % self.patch == 0,
            f"ModelConfig.image: {h}x{w} is not whole {self.patch} px patches",
        )
        require(self.patch % 8 == 0, f"ModelConfig.patch: a multiple of 8 px wanted, got {self.patch}")
        require(
            self.heads % self.kv_heads == 0, f"ModelConfig.kv_heads: {self.kv_heads} does not divide {self.heads} heads"
        )
        require(self.head_dim % 2 == 0, f"ModelConfig.head_dim: must be even for RoPE, got {self.head_dim}")
        require(self.frames == 2, f"ModelConfig.frames: two frames wanted (now and 0.5 s ago), got {self.frames}")
        return self

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> ModelConfig:
        """Raises ValueError where a key is unknown."""
        raw = json.loads(text)
        known = {f.name for f in fields(ModelConfig)}
        unknown = sorted(set(raw) - known)
        require(not unknown, f"model config: unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return ModelConfig(**{**raw, "image": tuple(raw.get("image", ModelConfig.image))}).validate()


def _shape(dim: int, layers: int, heads: int, kv_heads: int, head_dim: int, ffn: int, stem: int) -> ModelConfig:
    return ModelConfig(dim=dim, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=head_dim, ffn=ffn, stem=stem)


_PRESETS = {
    "0.1M": _shape(64, 1, 2, 1, 32, 192, 24),
    "0.3M": _shape(96, 2, 3, 1, 32, 256, 32),
    "1M": _shape(160, 3, 5, 5, 32, 448, 48),
    "4M": _shape(320, 3, 5, 5, 64, 896, 64),
    "16M": _shape(512, 5, 8, 4, 64, 1408, 96),
    "64M": _shape(768, 9, 12, 4, 64, 2176, 128),
}
SIZES = tuple(_PRESETS)


def preset(name: str, **changes: object) -> ModelConfig:
    """A size's shape by name (SIZES), with any fields changed. Raises ValueError for an unknown name."""
    require(name in _PRESETS, f"model size {name!r}: known sizes are {', '.join(SIZES)}")
    return replace(_PRESETS[name], **changes).validate()  # type: ignore[arg-type]

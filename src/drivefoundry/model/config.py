"""ModelConfig: all parameters of a VLA's shape. `presets` has named sizes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

from drivefoundry.types import PLAN_POINTS, require
from drivefoundry_car.documents import json_object
from drivefoundry_car.vehicle.embodiment import FRONT, MAX_CAMERAS, Embodiment

CELL = 8
"""Side of the cells that the vision stem's first layer reads, px."""
SPECIALS = 8
"""Ids reserved after the action codes: task, think, act and room for later tasks."""
LARGEST = {"layers": 1024, "vit_layers": 1024, "heads": 1024, "head_dim": 4096, "text_vocab": 1 << 24, "frames": 64,
           "text_end": 1 << 24, "patch": 1024}  # fmt: skip
"""Upper bounds of fields; 2^20 for all others."""
_MAY_BE_ZERO = ("vit_dim", "vit_layers", "vit_heads", "vit_ffn", "text_shift", "text_end")
Action = Literal["codes", "flow"]
"""How plans leave the model: as codes of the vocabulary, or by flow matching from the state at the act mark."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape of one VLA. Ids: text 0 .. text_vocab-1, then `codes` action codes, then SPECIALS."""

    dim: int = 320
    layers: int = 3
    heads: int = 5
    kv_heads: int = 5
    head_dim: int = 64
    ffn: int = 896
    qkv_bias: bool = False
    """Biases on queries, keys and values, as in Qwen2."""
    tied: bool = True
    """Whether the embeddings are also the output head; otherwise the head is a matrix of its own."""
    norm_eps: float = 1e-6
    image: tuple[int, int] = (64, 160)
    """Height and width of the front camera's picture, px; multiples of the patch size."""
    others: tuple[tuple[str, int, int], ...] = ()
    """Name, height and width of each further camera."""
    patch: int = 16
    frames: int = 2
    """Frames per camera, the last one current; each pair of successive frames becomes image tokens."""
    vision: Literal["patch", "vit"] = "patch"
    """Whether image tokens come straight from patches, or from a tower of `vit_layers` over them and a projector."""
    stem: int = 64
    """Width of the patch stem's first layer."""
    vit_dim: int = 0
    vit_layers: int = 0
    vit_heads: int = 0
    vit_ffn: int = 0
    history: int = 4
    ego_features: int = 3
    ego_changes: bool = False
    """Whether the ego history is read as changes from the present, all of comparable scale
    (`drivefoundry_car.vehicle.inputs.ego_changes`): more accurate in open loop, but in closed loop the model then
    relies too much on its own motion."""
    route_features: int = 12
    text_vocab: int = 512
    text_shift: int = 0
    """For a backbone's tokenizer: number of our ids (PAD, EOS, UNK) that precede its own; 0 for our small BPE."""
    text_end: int = 0
    """For a backbone's tokenizer: the id, among its own, that EOS replaces."""
    max_text: int = 40
    """Maximum reasoning length, tokens, including the end mark."""
    codes: int = 128
    action: Action = "codes"
    flow: int = 256
    """Width of the flow head, if there is one."""
    rope_theta: float = 10_000.0
    rope_scaling: tuple[float, float, float, int] | None = None
    """Llama 3.1: factor, low and high frequency factor, original context; None as in the RoFormer paper."""
    bidirectional: bool = True
    """Whether prefix tokens (image, ego, route) see each other both ways; text and actions are always causal."""

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Camera -> height and width of its picture, front camera first."""
        return {FRONT: self.image, **{name: (h, w) for name, h, w in self.others}}

    @property
    def patches(self) -> int:
        """Patches of one moment of all cameras."""
        return sum((h // self.patch) * (w // self.patch) for h, w in self.cameras.values())

    @property
    def prefix(self) -> int:
        """Prefix length in tokens: task, image patches of every camera and pair of frames, ego, route."""
        return (self.frames - 1) * self.patches + 3

    @property
    def plan(self) -> int:
        return PLAN_POINTS

    @property
    def tower(self) -> ModelConfig:
        """Shape of the vision tower's blocks, which are decoder blocks."""
        heads, width = self.vit_heads, self.vit_dim // self.vit_heads
        return ModelConfig(
            dim=self.vit_dim, layers=self.vit_layers, heads=heads, kv_heads=heads, head_dim=width, ffn=self.vit_ffn
        )

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
        _require_sizes(self)
        for name, (h, w) in self.cameras.items():
            field = "image" if name == FRONT else f"others.{name}"
            whole = h % self.patch == 0 and w % self.patch == 0
            require(whole, f"ModelConfig.{field}: must be a multiple of the {self.patch} px patches, got {h}x{w}")
        require(len(self.cameras) == 1 + len(self.others), "ModelConfig.others: two cameras have the same name")
        require(self.patch % CELL == 0, f"ModelConfig.patch: must be a multiple of 8 px, got {self.patch}")
        require(
            self.heads % self.kv_heads == 0, f"ModelConfig.kv_heads: {self.kv_heads} does not divide {self.heads} heads"
        )
        require(self.head_dim % 2 == 0, f"ModelConfig.head_dim: must be even for RoPE, got {self.head_dim}")
        require(self.frames >= 2, f"ModelConfig.frames: must be >= 2 (now and before), got {self.frames}")
        require(self.vision in ("patch", "vit"), f"ModelConfig.vision: must be 'patch' or 'vit', got {self.vision!r}")
        require(self.action in ("codes", "flow"), f"ModelConfig.action: must be 'codes' or 'flow', got {self.action!r}")
        if self.vision == "vit":
            fits = self.vit_heads > 0 and self.vit_dim % self.vit_heads == 0 and self.vit_layers > 0
            require(fits, "ModelConfig.vit_dim: a tower needs vit_layers > 0 and vit_dim a multiple of vit_heads")
        return self

    def seeing(self, embodiment: Embodiment) -> ModelConfig:
        """The same shape with the cameras of an embodiment."""
        image, *others = ((c.name, c.height, c.width) for c in embodiment.cameras)
        return replace(self, image=image[1:], others=tuple(others), frames=embodiment.frames).validate()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes, name: object = "model config") -> ModelConfig:
        """Parse a configuration. ValueError, starting with `name`, for unknown keys or values of a wrong type."""
        raw = json_object(text, name)
        known = {f.name for f in fields(ModelConfig)}
        unknown = sorted(set(raw) - known)
        require(not unknown, f"{name}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        tuples = {k: tuple(raw[k]) for k in ("image", "rope_scaling") if isinstance(raw.get(k), list)}
        if isinstance(raw.get("others"), list):
            tuples["others"] = tuple(tuple(o) if isinstance(o, list) else o for o in raw["others"])
        try:
            return ModelConfig(**{**raw, **tuples}).validate()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def _require_sizes(c: ModelConfig) -> None:
    """Check types and sizes of all fields. ValueError names the field."""
    for field in fields(ModelConfig):
        value, default = getattr(c, field.name), field.default
        what = f"ModelConfig.{field.name}"
        if type(default) is bool:
            require(type(value) is bool, f"{what}: must be true or false, got {str(value)[:40]!r}")
        elif type(default) is int:
            least = 0 if field.name in _MAY_BE_ZERO else 1
            fits = type(value) is int and least <= value <= LARGEST.get(field.name, 1 << 20)
            most = LARGEST.get(field.name, 1 << 20)
            require(fits, f"{what}: must be a whole number from {least} to {most}, got {str(value)[:40]!r}")
        elif type(default) is float:
            fits = type(value) in (int, float) and 0 < value < 1e30
            require(fits, f"{what}: must be a number > 0, got {str(value)[:40]!r}")
        elif type(default) is str:
            require(isinstance(value, str), f"{what}: must be text, got {str(value)[:40]!r}")
    pair = (
        isinstance(c.image, tuple) and len(c.image) == 2 and all(type(n) is int and 1 <= n <= 1 << 14 for n in c.image)
    )
    require(pair, f"ModelConfig.image: must be height and width in px, got {str(c.image)[:40]!r}")
    fits = isinstance(c.others, tuple) and len(c.others) < MAX_CAMERAS
    for other in c.others if fits else ():
        fits &= isinstance(other, tuple) and len(other) == 3 and type(other[0]) is str
        fits = fits and all(type(n) is int and 1 <= n <= 1 << 14 for n in other[1:])
    require(fits, f"ModelConfig.others: must be name, height and width of each camera, got {str(c.others)[:60]!r}")
    r = c.rope_scaling
    four = r is None or (
        isinstance(r, tuple) and len(r) == 4 and all(type(x) in (int, float) and 0 < x < 1e30 for x in r)
    )
    require(four, f"ModelConfig.rope_scaling: must be four numbers > 0, got {str(r)[:40]!r}")

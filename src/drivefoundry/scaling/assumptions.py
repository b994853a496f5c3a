"""All assumptions of a plan, each with its source; any can be changed with `--set key=value`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from drivefoundry.model.config import ModelConfig
from drivefoundry.scaling.chips import Chip
from drivefoundry.scaling.shape import Shape
from drivefoundry.types import require

MAY_BE_ZERO = ("work.text", "work.signals_mbit_s", "reserve_gb", "overlap", "snapshot_seconds", "kwh_cny")


def _given(value: Any, why: str) -> Any:
    return field(default=value, metadata={"why": why})


@dataclass(frozen=True)
class Work:
    """The training data and its tokens: at each decision all cameras' patches, three tokens of task, ego and route, the
    reasoning, and the actions."""

    clips: float = _given(30e6, "clips in the training set")
    clip_seconds: float = _given(20.0, "length of a clip")
    epochs: float = _given(1.0, "passes over the clips")
    decisions_hz: float = _given(2.0, "decisions per second, one sample each")
    cameras: int = _given(7, "views per decision; two frames of a view share their tokens")
    image_height: int = _given(448, "px, model input")
    image_width: int = _given(784, "px, model input")
    patch: int = _given(28, "px, side of one token's patch (14 px patches, merged 2 x 2)")
    text: int = _given(40, "reasoning tokens per decision")
    actions: int = _given(8, "plan tokens per decision")
    video_mbit_s: float = _given(4.0, "one camera's compressed video")
    signals_mbit_s: float = _given(1.0, "everything else in a clip, without lidar")
    pixel_bytes: float = _given(0.2, "bytes per pixel of a training frame, as JPEG")
    copies: float = _given(1.5, "stored bytes per byte (erasure code 8 + 4)")

    @staticmethod
    def reading(config: ModelConfig) -> Work:
        """The inputs of a model of this project; models with a vision tower read all cameras of a car."""
        h, w = config.image
        cameras = len(config.cameras) * (config.frames - 1) if config.vision == "patch" else Work.cameras
        return Work(cameras=cameras, image_height=h, image_width=w, patch=config.patch, text=config.max_text)

    @property
    def patches(self) -> int:
        """Patch tokens of one view."""
        return (self.image_height // self.patch) * (self.image_width // self.patch)

    @property
    def decision_tokens(self) -> int:
        return self.cameras * self.patches + 3 + self.text + self.actions

    @property
    def decisions(self) -> float:
        """Decisions per clip."""
        return self.clip_seconds * self.decisions_hz

    @property
    def sample_bytes(self) -> float:
        """Bytes of one decision in a training shard: its newest frames, and two bytes per other token."""
        pixels = self.cameras * self.image_height * self.image_width
        return pixels * self.pixel_bytes + 2.0 * (3 + self.text + self.actions)

    @property
    def clip_bytes(self) -> float:
        """Bytes of one raw clip."""
        return self.clip_seconds * (self.cameras * self.video_mbit_s + self.signals_mbit_s) * 1e6 / 8


@dataclass(frozen=True)
class Assumptions:
    """Assumptions about the model, the chip, the work and the cluster."""

    shape: Shape
    chip: Chip
    work: Work
    mfu: float = _given(0.40, "program goodput: model FLOP/s relative to the chip's peak while steps run")
    scheduling: float = _given(0.97, "scheduling goodput: share of time during which the job has all its cards")
    batch_tokens: float = _given(16e6, "tokens per step (Llama 3 405B: 16 M)")
    card_mtbf_hours: float = _given(50_000.0, "between failures of one card (Llama 3: 419 in 54 days of 16,384 cards)")
    restart_minutes: float = _given(10.0, "from a failure to the next step (MegaScale: found and diagnosed within 10)")
    snapshot_seconds: float = _given(2.0, "stall of all ranks per checkpoint, in addition to the copy")
    host_gb_s: float = _given(10.0, "copy rate from a card to its host's memory")
    store_gb_s: float = _given(2.0, "write rate from a module to the checkpoint store")
    weight_bytes: float = _given(2.0, "bytes per parameter in bf16")
    gradient_bytes: float = _given(4.0, "bytes per gradient, summed in fp32")
    optimiser_bytes: float = _given(
        12.0, "bytes of master weight and Adam's two moments in fp32; the content of a checkpoint"
    )
    reserve_gb: float = _given(6.0, "memory per card for context, communication and fragmentation")
    overlap: float = _given(0.8, "share of sharding traffic that overlaps with compute")
    link_share: float = _given(0.8, "share of a link's rate that collectives reach")
    life_years: float = _given(4.0, "depreciation period of a module")
    pue: float = _given(1.25, "power usage effectiveness of the data centre")
    kwh_cny: float = _given(0.6, "electricity")
    cny_per_usd: float = _given(7.2, "exchange rate")

    def validate(self) -> Assumptions:
        self.shape.validate()
        self.chip.validate()
        for key, value, why in leaves(self):
            if why:  # shape and chip validate themselves
                enough = value > 0 or (value == 0 and key in MAY_BE_ZERO)
                require(enough, f"{key}: must be > 0, got {value:g}")
        for key in ("mfu", "scheduling", "overlap", "link_share"):
            require(getattr(self, key) <= 1.0, f"{key}: must be a share of at most 1, got {getattr(self, key):g}")
        small = min(self.work.image_height, self.work.image_width)
        require(small >= self.work.patch, f"work.patch: {self.work.patch} px is more than the image's {small} px")
        return self


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every `--set` key, its value, and its explanation ('' if the name is enough)."""
    for one in fields(value):
        inner = getattr(value, one.name)
        if is_dataclass(inner):
            yield from leaves(inner, f"{prefix}{one.name}.")
        else:
            yield f"{prefix}{one.name}", inner, one.metadata.get("why", "")

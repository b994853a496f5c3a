"""Every number that a plan stands on, with where it comes from; all can be changed by `--set key=value`."""

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
    """What is learned from, and how it becomes tokens: at each decision all cameras' patches, three tokens of task, ego
    and route, the reasoning, and the actions."""

    clips: float = _given(30e6, "clips in the training set")
    clip_seconds: float = _given(20.0, "length of a clip")
    epochs: float = _given(1.0, "times that each clip is seen")
    decisions_hz: float = _given(2.0, "decisions a second, each one sample")
    cameras: int = _given(7, "views a decision; two frames of a view share their tokens")
    image_height: int = _given(448, "px, as the model sees it")
    image_width: int = _given(784, "px, as the model sees it")
    patch: int = _given(28, "px, side of what becomes one token (14 px patches, merged two by two)")
    text: int = _given(40, "tokens of reasoning a decision")
    actions: int = _given(8, "tokens of plan a decision")
    video_mbit_s: float = _given(4.0, "one camera's compressed video")
    signals_mbit_s: float = _given(1.0, "everything else a clip holds, lidar left out")
    pixel_bytes: float = _given(0.2, "a training frame's pixel, as JPEG")
    copies: float = _given(1.5, "stored bytes for each byte (erasure code 8 + 4)")

    @staticmethod
    def reading(config: ModelConfig) -> Work:
        """What a model of this project sees; those with a vision tower through as many cameras as a car has."""
        h, w = config.image
        cameras = config.cameras * (config.frames - 1) if config.vision == "patch" else Work.cameras
        return Work(cameras=cameras, image_height=h, image_width=w, patch=config.patch, text=config.max_text)

    @property
    def patches(self) -> int:
        """Of one view."""
        return (self.image_height // self.patch) * (self.image_width // self.patch)

    @property
    def decision_tokens(self) -> int:
        return self.cameras * self.patches + 3 + self.text + self.actions

    @property
    def decisions(self) -> float:
        """In a clip."""
        return self.clip_seconds * self.decisions_hz

    @property
    def sample_bytes(self) -> float:
        """Of one decision in a training shard: its newest frames, and two bytes a token of the rest."""
        pixels = self.cameras * self.image_height * self.image_width
        return pixels * self.pixel_bytes + 2.0 * (3 + self.text + self.actions)

    @property
    def clip_bytes(self) -> float:
        """Of one raw clip."""
        return self.clip_seconds * (self.cameras * self.video_mbit_s + self.signals_mbit_s) * 1e6 / 8


@dataclass(frozen=True)
class Assumptions:
    """The model, the chip, the work, and what a cluster does to them."""

    shape: Shape
    chip: Chip
    work: Work
    mfu: float = _given(0.40, "program goodput: model FLOP against the chip's peak while steps run")
    scheduling: float = _given(0.97, "scheduling goodput: share of time in which the job has all its cards")
    batch_tokens: float = _given(16e6, "tokens a step (Llama 3 405B: 16 M)")
    card_mtbf_hours: float = _given(50_000.0, "between failures of one card (Llama 3: 419 in 54 days of 16,384 cards)")
    restart_minutes: float = _given(10.0, "from a failure to the next step (MegaScale: found and diagnosed within 10)")
    snapshot_seconds: float = _given(2.0, "all ranks stop for a checkpoint, beside the copy itself")
    host_gb_s: float = _given(10.0, "a card to its host's memory")
    store_gb_s: float = _given(2.0, "a module to the checkpoint store")
    weight_bytes: float = _given(2.0, "a parameter in bf16")
    gradient_bytes: float = _given(4.0, "a gradient, summed in fp32")
    optimiser_bytes: float = _given(12.0, "master weight and two moments of Adam in fp32; what a checkpoint holds")
    reserve_gb: float = _given(6.0, "a card keeps for context, communication and fragments")
    overlap: float = _given(0.8, "share of sharding traffic that hides behind compute")
    link_share: float = _given(0.8, "of a link's rate that collectives reach")
    life_years: float = _given(4.0, "over which a module is written off")
    pue: float = _given(1.25, "power of the hall for power of the machines")
    kwh_cny: float = _given(0.6, "electricity")
    cny_per_usd: float = _given(7.2, "exchange rate")

    def validate(self) -> Assumptions:
        self.shape.validate()
        self.chip.validate()
        for key, value, why in leaves(self):
            if why:  # shape and chip have looked after their own
                enough = value > 0 or (value == 0 and key in MAY_BE_ZERO)
                require(enough, f"{key}: must be > 0, got {value:g}")
        for key in ("mfu", "scheduling", "overlap", "link_share"):
            require(getattr(self, key) <= 1.0, f"{key}: a share, at most 1, wanted, got {getattr(self, key):g}")
        small = min(self.work.image_height, self.work.image_width)
        require(small >= self.work.patch, f"work.patch: {self.work.patch} px is more than the image's {small} px")
        return self


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every key as `--set` takes it, its value, and why it is so ('' where the name says all)."""
    for one in fields(value):
        inner = getattr(value, one.name)
        if is_dataclass(inner):
            yield from leaves(inner, f"{prefix}{one.name}.")
        else:
            yield f"{prefix}{one.name}", inner, one.metadata.get("why", "")

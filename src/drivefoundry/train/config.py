"""Hyperparameters of training: of the Trainer, and of each stage of the loop.

Does not import torch, because recipes, the command line and its help read these classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

from drivefoundry.bounds import in_range, one_of, positive, validate_parts
from drivefoundry.model.config import Action
from drivefoundry.seeds import MAX_SEED
from drivefoundry.types import require

STEPS = 100_000_000
C = TypeVar("C", bound="TrainConfig")


@dataclass(frozen=True)
class Augment:
    """Augmentation of training samples."""

    flip: float = 0.5
    """Share of samples mirrored left to right: image, yaw rate, route, plan and text."""
    brightness_jitter: float = 0.15
    """Standard deviation of brightness gain and offset."""
    history_dropout: float = 0.5
    """Share of samples that see only the current ego state, without its history, so that the model does not copy its
    own past."""
    image_dropout: float = 0.0
    """Share of samples with grey pictures: if there are few pictures, the model must not memorise them."""
    max_shift_px: int = 0
    """Maximum horizontal shift of both pictures of a sample, px; vertical shifts are at most half as large."""
    text: float = 0.5
    """Share of samples with reasoning text; the rest learn to act without it."""

    def validate(self) -> Augment:
        in_range(self, 0, 1, "flip", "brightness_jitter", "history_dropout", "image_dropout", "text")
        in_range(self, 0, 32, "max_shift_px")
        return self


@dataclass(frozen=True)
class Objective:
    """Training loss: that of the plan (`VLA.action_loss`) and the cross entropy of the reasoning tokens."""

    text: float = 0.2
    """Weight of the reasoning tokens relative to the plan."""
    tolerance: float = 0.15
    """Distance from the plan within which a code counts as almost right, m; see
    drivefoundry_car.vehicle.codec.soft_targets."""
    teacher: float = 0.7
    """Distillation: weight of the teacher's distribution in the target; the rest is the labels'."""
    temperature: float = 1.0
    """Softmax temperature of the teacher."""

    def validate(self) -> Objective:
        in_range(self, 0, 100, "text")
        positive(self, 100, "tolerance", "temperature")
        in_range(self, 0, 1, "teacher")
        return self


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters of one run, which ends after `seconds` or `steps`, whichever comes first."""

    seconds: float = 0.0
    steps: int = 0
    batch: int = 64
    """Samples per step."""
    accumulate: int = 1
    """Number of micro-batches per step, whose gradients are summed."""
    lr: float = 4e-3
    """Peak learning rate."""
    warmup: float = 0.04
    """Share of the run over which the learning rate rises."""
    decay: float = 0.4
    """Share of the run over which it decays again (WSD); 1.0 - warmup gives a plain decay."""
    schedule: str = "wsd"
    """'wsd' (linear decay) or 'cosine' (decays from the end of warm-up)."""
    final_lr: float = 0.02
    """Final learning rate, as a share of `lr`."""
    optimiser: str = "muon"
    """'muon' (with AdamW for everything but the linear layers) or 'adamw'."""
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    """Maximum norm of the gradient."""
    ema: float = 0.0
    """Decay of the exponential moving average of the weights that training returns; 0 disables EMA."""
    precision: str = "bf16"
    """'bf16' or 'fp32'."""
    seed: int = 0
    compile: bool | None = None
    """Whether to compile the blocks; None: if the run is long enough to pay for it and there is a C++ compiler."""
    recompute: bool = False
    """Activation checkpointing: keep only each block's input for the backward pass and compute the rest again."""
    shard: bool = False
    """Shard the weights and the optimiser's state over ranks (FSDP2); saved state is then a directory."""
    tensor: int = 1
    """With `shard`: number of ranks that share each matmul of the decoder's blocks (tensor parallelism) and see the
    same samples. A saved state can be resumed with other numbers."""
    save_every_s: float = 30.0
    faults_every_s: float = 0.0
    """Mean time between failures, s, from which the optimal interval between saves follows, instead of save_every_s."""
    log_every: int = 10
    spike: float = 4.0
    """A step whose loss exceeds the running mean by this factor, or is not finite, is skipped."""
    patience: int = 10
    """After this many bad steps in a row, return to the last good weights with half the learning rate."""
    augment: Augment = field(default_factory=Augment)
    objective: Objective = field(default_factory=Objective)

    def validate(self) -> TrainConfig:
        require(self.seconds > 0 or self.steps > 0, "steps: set seconds or steps, otherwise the run would never end")
        in_range(self, 0, 1e9, "seconds", "save_every_s", "faults_every_s")
        in_range(self, 0, STEPS, "steps")
        in_range(self, 1, 65_536, "batch", "accumulate", "tensor")
        require(self.tensor == 1 or self.shard, "tensor: above 1 it needs shard=true")
        positive(self, 1000, "lr", "clip")
        in_range(self, 0, 1, "warmup", "decay", "final_lr", "weight_decay")
        require(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            f"betas: must be two shares below 1, got {self.betas}",
        )
        require(0 <= self.ema < 1, f"ema: must be at least 0 and below 1, got {self.ema:g}")
        one_of(self, ("bf16", "fp32"), "precision")
        one_of(self, ("muon", "adamw"), "optimiser")
        one_of(self, ("wsd", "cosine"), "schedule")
        in_range(self, 0, MAX_SEED, "seed")
        in_range(self, 1, STEPS, "log_every", "patience")
        positive(self, 1e12, "spike")
        validate_parts(self)
        return self


@dataclass(frozen=True)
class PretrainConfig(TrainConfig):
    """Behaviour cloning of a base model. Actions only: reasoning comes with fine-tuning, once vision is trained."""

    steps: int = 450
    augment: Augment = field(default_factory=lambda: Augment(text=0.0))
    size: str = "4M"
    backbone: str | None = None
    """A language model to build the model around, instead of one of `size` from scratch: "smollm2", a .gguf file, a
    Hugging Face directory, or the output of `drivefoundry model import`."""
    backbone_lr: float = 3e-4
    """Peak learning rate of pre-training and fine-tuning with a backbone, both with AdamW."""
    ego_changes: bool = False
    action: Action = "codes"
    """How plans leave the model. ego_changes, action: see model.config.ModelConfig."""

    def validate(self) -> PretrainConfig:
        from drivefoundry.model.presets import FROM_NOTHING

        super().validate()
        one_of(self, FROM_NOTHING, "size")
        positive(self, 1, "backbone_lr")
        if self.backbone is not None:
            from drivefoundry.model.backbones.load import backbone_path  # imports torch

            try:
                backbone_path(self.backbone)
            except ValueError as error:
                raise ValueError(f"backbone: {error}") from None
        return self

    def around_backbone(self, config: C) -> C:
        """`config`, adapted to the backbone if there is one: with AdamW, like the backbone's own training, because
        Muon's steps would take longer than the forward and backward pass; and with `backbone_lr`."""
        return config if self.backbone is None else replace(config, optimiser="adamw", lr=self.backbone_lr)


@dataclass(frozen=True)
class SftConfig(TrainConfig):
    """Supervised fine-tuning with reasoning. Half of the first turn's samples have it, half do not: one model serves
    both the fast and the slow mode."""

    steps: int = 90
    """Steps in the first turn."""
    lr: float = 2e-3
    warmup: float = 0.1
    decay: float = 0.6
    augment: Augment = field(default_factory=lambda: Augment(text=0.5))
    turn_steps: int = 260
    """Steps in each later turn, which also learns the new clips."""
    turn_text: float = 0.2
    """Share of samples with reasoning in later turns: with the reasoning visible, actions are learnt from it instead of
    the picture."""
    new_share: float = 0.5
    """Share of a later turn's samples from cars that a model drove."""

    def validate(self) -> SftConfig:
        super().validate()
        in_range(self, 1, STEPS, "turn_steps")
        in_range(self, 0, 1, "turn_text")
        positive(self, 1, "new_share")
        return self

    def of_turn(self, turn: int) -> SftConfig:
        """The run of one turn, counted from 1."""
        if turn == 1:
            return self
        return replace(self, steps=self.turn_steps, augment=replace(self.augment, text=self.turn_text))


@dataclass(frozen=True)
class DistilConfig(TrainConfig):
    """A much smaller student of the reinforced model."""

    steps: int = 500
    """Steps in the first turn."""
    batch: int = 128
    augment: Augment = field(default_factory=lambda: Augment(text=0.25))
    objective: Objective = field(default_factory=lambda: Objective(teacher=0.9))
    size: str = "0.3M"
    turn_steps: int = 300
    """Steps in each later turn, which continues with the last student."""
    new_share: float = 0.5
    """As in SftConfig."""
    polish_steps: int = 220
    """Steps of reinforcement on the student's own plans, after imitating the teacher."""
    polish_lr: float = 3e-4

    def validate(self) -> DistilConfig:
        from drivefoundry.model.presets import FROM_NOTHING

        super().validate()
        one_of(self, FROM_NOTHING, "size")
        in_range(self, 1, STEPS, "turn_steps")
        in_range(self, 0, STEPS, "polish_steps")
        positive(self, 1, "new_share", "polish_lr")
        return self

    def of_turn(self, turn: int) -> DistilConfig:
        """The run of one turn, counted from 1."""
        return self if turn == 1 else replace(self, steps=self.turn_steps)


@dataclass(frozen=True)
class AdaptConfig(TrainConfig):
    """Adaptation of the fleet's base model to minutes of a real camera: many epochs over few pictures."""

    steps: int = 80
    lr: float = 1e-3
    augment: Augment = field(
        default_factory=lambda: Augment(text=0.0, history_dropout=0.0, image_dropout=0.5, max_shift_px=8)
    )
    action: Action = "flow"
    """How plans leave the model and its base. At speed, the codes' curvatures are too coarse for a yaw rate."""
    phases: int = 5
    """As in CurateConfig, for the training part."""

    def validate(self) -> AdaptConfig:
        super().validate()
        in_range(self, 1, 5, "phases")
        return self


@dataclass(frozen=True)
class ValidationConfig:
    """How models are measured on validation samples during training: see train.validation.Validation."""

    samples: int = 256
    times: int = 3
    """Number of evenly spaced measurements during each training, in addition to the one at its end."""
    keep_best: bool = False
    patience: int = 0

    def validate(self) -> ValidationConfig:
        in_range(self, 1, 1_000_000, "samples")
        in_range(self, 1, 1000, "times")
        in_range(self, 0, 1000, "patience")
        return self

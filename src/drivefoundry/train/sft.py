"""Supervised fine-tuning on episodes with reasoning: the model learns to say why it acts."""

from __future__ import annotations

from pathlib import Path

from drivefoundry.model.checkpoint import load_checkpoint
from drivefoundry.train.dataset import Augment
from drivefoundry.train.pretrain import fit
from drivefoundry.train.trainer import OnStep, TrainConfig, TrainReport
from drivefoundry.types import Episodes

SFT = TrainConfig(seconds=60.0, lr=1e-3, warmup=0.1, decay=0.6, augment=Augment(text=0.5))
"""Half of the samples carry their reasoning, half do not: one model serves the fast mode and the slow one."""


def sft(
    episodes: list[Episodes],
    out: Path,
    init: Path,
    config: TrainConfig = SFT,
    state: Path | None = None,
    log: Path | None = None,
    on_step: OnStep | None = None,
) -> TrainReport:
    """Fine-tune the checkpoint `init` on episodes with reasoning (those without train actions alone) into directory
    `out`."""
    return fit(load_checkpoint(init), episodes, out, config, state, log, on_step)

"""Episodes in, base model out: behaviour cloning from scratch, or on from the last release."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from drivefoundry.model.checkpoint import Loaded, load_checkpoint, save_checkpoint
from drivefoundry.model.config import ModelConfig
from drivefoundry.model.presets import preset
from drivefoundry.model.text import TextCodec, train_tokenizer
from drivefoundry.model.vla import VLA
from drivefoundry.types import Episodes, require
from drivefoundry_car.codec import fit_codebook

from .corpus import Augment, Corpus
from .trainer import OnStep, TrainConfig, Trainer, TrainReport

PRETRAIN = TrainConfig(seconds=120.0, augment=Augment(text=0.0))
"""Actions alone: reasoning comes with SFT, when the eyes are trained."""


def fresh(episodes: list[Episodes], shape: ModelConfig, seed: int = 0) -> Loaded:
    """An untrained model of the given shape, with a codebook and a tokenizer fitted to these episodes."""
    filled = [e for e in episodes if len(e)]
    require(bool(filled), "training episodes: none given; curate and label some clips first")
    height, width = filled[0].frames.shape[1:3]
    shape = replace(shape, image=(height, width)).validate()
    future = np.concatenate([e.future for e in filled])
    speed = np.concatenate([e.ego[:, -1, 0] for e in filled])
    tokenizer = TextCodec(train_tokenizer(sorted({t for e in filled for t in e.text if t}), shape.text_vocab))
    torch.manual_seed(seed)
    return Loaded(VLA(shape), fit_codebook(future, speed, shape.codes, seed), tokenizer, shape)


def fit(
    start: Loaded,
    episodes: list[Episodes],
    out: Path,
    config: TrainConfig,
    state: Path | None,
    log: Path | None,
    on_step: OnStep | None,
) -> TrainReport:
    """Train `start` on the episodes and save it as the checkpoint directory `out`; `state` lets a killed run go on."""
    sizes = {e.frames.shape[1:3] for e in episodes if len(e)}
    image = start.config.image
    require(sizes <= {image}, f"training episodes: frames must be {image[0]}x{image[1]} px, as the model was built for")
    corpus = Corpus.of(episodes, start.codebook, start.tokenizer, start.config.max_text, config.objective.tolerance)
    trainer = Trainer(start.model, corpus, config, state, log, on_step)
    report = trainer.run()
    if trainer.rank == 0:
        save_checkpoint(out, start.model, start.codebook, start.tokenizer)
    trainer.forget()
    return report


def pretrain(
    episodes: list[Episodes],
    out: Path,
    config: TrainConfig = PRETRAIN,
    size: str = "4M",
    init: Path | None = None,
    state: Path | None = None,
    log: Path | None = None,
    on_step: OnStep | None = None,
    ego_changes: bool = False,
) -> TrainReport:
    """Train a model of `size` that reads its ego's history so (see ModelConfig), or go on from the checkpoint `init`
    (its codebook and tokenizer stay), into directory `out`."""
    shape = replace(preset(size), ego_changes=ego_changes)
    start = load_checkpoint(init) if init is not None else fresh(episodes, shape, config.seed)
    return fit(start, episodes, out, config, state, log, on_step)

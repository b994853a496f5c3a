"""Behaviour cloning: from scratch, around a language model, or starting from a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from drivefoundry.model.backbones.load import adopt, load_backbone
from drivefoundry.model.checkpoint import Loaded, load_checkpoint, save_checkpoint
from drivefoundry.model.config import Action, ModelConfig
from drivefoundry.model.presets import preset
from drivefoundry.model.text import TextCodec, train_tokenizer
from drivefoundry.model.vla import VLA
from drivefoundry.train.config import PretrainConfig, TrainConfig
from drivefoundry.train.dataset import EpisodeDataset
from drivefoundry.train.trainer import OnStep, RunFiles, Trainer, TrainReport
from drivefoundry.train.validation import Validation
from drivefoundry.types import PLAN_POINTS, Episodes, require
from drivefoundry_car.vehicle.codec import fit_codebook


def fresh(episodes: list[Episodes], shape: ModelConfig, seed: int = 0) -> Loaded:
    """An untrained model of the given shape, with a codebook and a tokenizer fitted to these episodes."""
    body = _filled(episodes)[0].embodiment
    shape = shape.seeing(body)
    codebook, tokenizer = fitted_codebook(episodes, shape.codes, seed), own_tokenizer(episodes, shape)
    torch.manual_seed(seed)
    return Loaded(VLA(shape), codebook, tokenizer, shape, body)


def imported(backbone: str | Path, seed: int = 0, **changes: object) -> Loaded:
    """An untrained model around a backbone (any argument of `load_backbone`), with changes to its shape as in `adopt`,
    and a codebook not fitted to any episodes."""
    model, tokenizer = adopt(load_backbone(backbone), seed, **changes)
    nothing = np.zeros((0, PLAN_POINTS, 3))
    return Loaded(model.eval(), fit_codebook(nothing, np.zeros(0), model.config.codes), tokenizer, model.config)


def around(
    episodes: list[Episodes], backbone: str, ego_changes: bool, seed: int = 0, action: Action = "codes"
) -> Loaded:
    """An untrained model around a backbone, or one imported as a checkpoint directory, which keeps its shape; its
    codebook is fitted to these episodes, and its vocabulary is the backbone's."""
    if (Path(backbone) / "codebook.safetensors").is_file():
        start = load_checkpoint(Path(backbone))
    else:
        body = _filled(episodes)[0].embodiment
        eyes = ModelConfig().seeing(body)
        seen = {"image": eyes.image, "others": eyes.others}
        start = replace(imported(backbone, seed, ego_changes=ego_changes, action=action, **seen), embodiment=body)
    return replace(start, codebook=fitted_codebook(episodes, start.config.codes, seed))


def fitted_codebook(episodes: list[Episodes], codes: int, seed: int = 0) -> np.ndarray:
    """A codebook (codes, 2) fitted to the driven motion in these episodes."""
    filled = _filled(episodes)
    future, speed = (np.concatenate(x) for x in zip(*((e.future, e.ego[:, -1, 0]) for e in filled), strict=True))
    return fit_codebook(future, speed, codes, seed)


def own_tokenizer(episodes: list[Episodes], shape: ModelConfig) -> TextCodec:
    """A small BPE fitted to the reasoning of these episodes."""
    return TextCodec(train_tokenizer(sorted({t for e in episodes for t in e.text if t}), shape.text_vocab))


def _filled(episodes: list[Episodes]) -> list[Episodes]:
    filled = [e for e in episodes if len(e)]
    require(bool(filled), "training episodes: none given; curate and label some clips first")
    return filled


def fit(
    start: Loaded,
    episodes: list[Episodes],
    out: Path,
    config: TrainConfig,
    files: RunFiles | None = None,
    on_step: OnStep | None = None,
    val: Validation | None = None,
) -> TrainReport:
    """Train `start` on the episodes and save it as the checkpoint directory `out`; a killed run resumes from
    `files.state`."""
    for e in episodes:
        why = e.embodiment.differs(start.embodiment)
        require(not why, f"training episodes: not of the embodiment that the model was built for ({why})")
    c, tolerance = start.config, config.objective.tolerance
    dataset = EpisodeDataset.of(episodes, start.codebook, start.tokenizer, c.max_text, tolerance, c.action)
    trainer = Trainer(
        start.model, dataset, config, *(files or RunFiles()), on_step, val.of(start, config.objective) if val else None
    )
    report = trainer.run()
    if trainer.rank == 0:
        save_checkpoint(out, start.model, start.codebook, start.tokenizer, start.embodiment)
    trainer.forget()
    return report


def pretrain(
    episodes: list[Episodes],
    out: Path,
    config: PretrainConfig,
    files: RunFiles | None = None,
    on_step: OnStep | None = None,
    val: Validation | None = None,
) -> TrainReport:
    """Train a model of `config.size`, or one around `config.backbone` (see `around`), into directory `out`."""
    c = config
    if c.backbone is not None:
        start = around(episodes, c.backbone, c.ego_changes, c.seed, c.action)
    else:
        start = fresh(episodes, replace(preset(c.size), ego_changes=c.ego_changes, action=c.action), c.seed)
    return fit(start, episodes, out, config, files, on_step, val)


def fine_tune(
    episodes: list[Episodes],
    out: Path,
    init: Path,
    config: TrainConfig,
    files: RunFiles | None = None,
    on_step: OnStep | None = None,
    val: Validation | None = None,
) -> TrainReport:
    """Continue training the checkpoint `init`, keeping its shape, codebook and tokenizer, and save it to directory
    `out`. Episodes without reasoning train actions only."""
    return fit(load_checkpoint(init), episodes, out, config, files, on_step, val)

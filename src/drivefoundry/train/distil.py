"""Distil a teacher into a much smaller student.

The teacher reads every sample once, and its distribution over action codes is stored; a mirrored sample uses the
mirrored distribution. This costs one forward pass per sample, however many epochs the student trains for. Only plans
are transferred: a student of a teacher with a backbone has its own vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from drivefoundry.model.checkpoint import Loaded, load_checkpoint, save_checkpoint
from drivefoundry.model.presets import preset
from drivefoundry.model.vla import VLA
from drivefoundry.train.config import DistilConfig, Objective
from drivefoundry.train.dataset import EpisodeDataset
from drivefoundry.train.pretrain import own_tokenizer
from drivefoundry.train.trainer import OnStep, RunFiles, Trainer, TrainReport
from drivefoundry.train.validation import Validation
from drivefoundry.types import Episodes, require
from drivefoundry_car.vehicle.codec import integrate_controls, soft_targets


@torch.no_grad()
def teacher_opinion(
    teacher: VLA, dataset: EpisodeDataset, codebook: np.ndarray, goal: Objective, batch: int = 64
) -> np.ndarray:
    """The teacher's distribution over each next code, given the label's codes so far, (N, 8, K) float16; for a flow
    head the soft targets of its plan."""
    teacher = teacher.to(torch.bfloat16).eval()
    device = teacher.embed.device
    out = np.empty(dataset.target.shape, np.float16)
    for lo in range(0, len(dataset), batch):
        rows = np.arange(lo, min(lo + batch, len(dataset)))
        frames = {name: torch.from_numpy(f).to(device) for name, f in dataset.pictures(rows).items()}
        ego, route = (torch.from_numpy(a[rows]).to(device) for a in (dataset.ego, dataset.route))
        if teacher.flow is not None:
            speed, controls = dataset.ego[rows, -1, 0], teacher.act(frames, ego, route)[:, 0]
            out[rows] = soft_targets(integrate_controls(controls.cpu().numpy(), speed), codebook, speed, goal.tolerance)
            continue
        tokens = torch.from_numpy(dataset.tokens[rows]).to(device)
        logits = teacher(frames, ego, route, None, tokens).action.float()
        out[rows] = torch.softmax(logits / goal.temperature, -1).cpu().numpy()
    return out


def distil(
    episodes: list[Episodes],
    out: Path,
    teacher: Path,
    config: DistilConfig,
    init: Path | None = None,
    files: RunFiles | None = None,
    on_step: OnStep | None = None,
    val: Validation | None = None,
) -> TrainReport:
    """Train a student of `config.size`, or the earlier student `init`, on the outputs of the checkpoint `teacher`.

    The student inherits the teacher's codebook and tokenizer; instead of a backbone's tokenizer, one is fitted to the
    episodes. ValueError if `init` has a different codebook.
    """
    master = load_checkpoint(teacher)
    goal = config.objective
    if init is None:
        start = _student(master, episodes, config.size, config.seed)
    else:
        start = load_checkpoint(init)
        require(
            np.array_equal(start.codebook, master.codebook), f"{init}: its codebook is not the teacher's; start afresh"
        )
    dataset = EpisodeDataset.of(episodes, start.codebook, start.tokenizer, start.config.max_text, goal.tolerance)
    opinion = teacher_opinion(master.model, dataset, master.codebook, goal)
    opinion *= np.float16(goal.teacher)
    dataset.target[:] = opinion + np.float16(1 - goal.teacher) * dataset.target
    validator = val.of(start, goal) if val else None
    trainer = Trainer(start.model, dataset, config, *(files or RunFiles()), on_step, validator)
    report = trainer.run()
    if trainer.rank == 0:
        save_checkpoint(out, start.model, start.codebook, start.tokenizer, start.embodiment)
    trainer.forget()
    return report


def _student(master: Loaded, episodes: list[Episodes], size: str, seed: int) -> Loaded:
    """An untrained student of `size` with the teacher's inputs and action codes."""
    words = () if master.config.text_shift else ("text_vocab", "max_text")
    shape = replace(
        preset(size), **{k: getattr(master.config, k) for k in ("image", "others", "frames", "codes", *words)}
    ).validate()
    tokenizer = master.tokenizer if words else own_tokenizer(episodes, shape)
    torch.manual_seed(seed)
    return Loaded(VLA(shape), master.codebook, tokenizer, shape, master.embodiment)

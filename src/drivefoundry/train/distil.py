"""Teacher and episodes in, a much smaller student out.

The teacher reads every sample once and its distribution over action codes is kept; a mirrored sample uses the mirrored
one. That costs one forward pass a sample however many epochs the student takes, and it trains faster than the teacher
reads.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from drivefoundry.model.checkpoint import Loaded, load_checkpoint, save_checkpoint
from drivefoundry.model.presets import preset
from drivefoundry.model.vla import VLA
from drivefoundry.types import Episodes, require

from .corpus import Augment, Corpus
from .trainer import OnStep, TrainConfig, Trainer, TrainReport

DISTIL = TrainConfig(seconds=60.0, lr=4e-3, augment=Augment(text=0.25))


@torch.no_grad()
def teacher_opinion(teacher: VLA, corpus: Corpus, temperature: float = 1.0, batch: int = 256) -> np.ndarray:
    """The teacher's distribution over each next code, given the label's codes so far, (N, 8, K) float16."""
    teacher = teacher.to(torch.bfloat16).eval()
    device = teacher.embed.device
    out = np.empty(corpus.target.shape, np.float16)
    for lo in range(0, len(corpus), batch):
        rows = np.arange(lo, min(lo + batch, len(corpus)))
        arrays = (corpus.pictures(rows), corpus.ego[rows], corpus.route[rows])
        frames, ego, route = (torch.from_numpy(a).to(device) for a in arrays)
        tokens = torch.from_numpy(corpus.tokens[rows]).to(device)
        logits = teacher(frames, ego, route, None, tokens).action.float()
        out[rows] = torch.softmax(logits / temperature, -1).cpu().numpy()
    return out


def distil(
    episodes: list[Episodes],
    out: Path,
    teacher: Path,
    config: TrainConfig = DISTIL,
    size: str = "0.3M",
    init: Path | None = None,
    state: Path | None = None,
    log: Path | None = None,
    on_step: OnStep | None = None,
) -> TrainReport:
    """Train a student of `size`, or the earlier student `init`, on the opinion of the checkpoint `teacher` into `out`.

    The student takes over the teacher's codebook and tokenizer. Raises ValueError where `init` has another codebook.
    """
    master = load_checkpoint(teacher)
    goal = config.objective
    corpus = Corpus.of(episodes, master.codebook, master.tokenizer, master.config.max_text, goal.tolerance)
    opinion = teacher_opinion(master.model, corpus, goal.temperature)
    opinion *= np.float16(goal.teacher)
    corpus.target[:] = opinion + np.float16(1 - goal.teacher) * corpus.target
    if init is None:
        keep = ("image", "text_vocab", "max_text", "codes")
        shape = replace(preset(size), **{k: getattr(master.config, k) for k in keep})
        torch.manual_seed(config.seed)
        start = Loaded(VLA(shape.validate()), master.codebook, master.tokenizer, shape)
    else:
        start = load_checkpoint(init)
        require(
            np.array_equal(start.codebook, master.codebook), f"{init}: its codebook is not the teacher's; start afresh"
        )
    trainer = Trainer(start.model, corpus, config, state, log, on_step)
    report = trainer.run()
    if trainer.rank == 0:
        save_checkpoint(out, start.model, master.codebook, master.tokenizer)
    trainer.forget()
    return report

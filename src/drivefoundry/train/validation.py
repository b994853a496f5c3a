"""Validation during training: loss and open-loop error on held-out samples.

The weights that training would return (fp32, or their moving average) are measured as policies use them, in a bf16
copy: this does not touch the training's weights, random numbers or compiled graphs, so a training gives bit-identical
results with and without it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from drivefoundry.model.checkpoint import Loaded
from drivefoundry.model.vla import VLA, CodebookVote
from drivefoundry.train.dataset import Augment, EpisodeDataset, Sampler, batches, to_device
from drivefoundry.train.losses import Objective, batch_loss
from drivefoundry.train.optim import MasterWeights
from drivefoundry.types import Episodes, require
from drivefoundry_car.vehicle.codec import integrate_controls

PLAIN = Augment(flip=0.0, brightness_jitter=0.0, history_dropout=0.0, text=0.0)
BATCH = 64


@dataclass(frozen=True)
class Validation:
    """Validation samples and schedule. every: steps between measurements, in addition to the one at the end. keep_best:
    return the weights with the lowest measured loss instead of the last ones. patience: stop after this many
    measurements in a row without a lower loss; 0: never."""

    episodes: Episodes
    every: int
    keep_best: bool = False
    patience: int = 0

    def of(self, start: Loaded, objective: Objective) -> Validator:
        """The validator of a model about to be trained; its loss is that of the labels' plans."""
        require(len(self.episodes) > 0, "validation: no samples; give longer drives in the validation place")
        require(self.every > 0, f"validation: every must be > 0, got {self.every}")
        c = start.config
        dataset = EpisodeDataset.of([self.episodes], start.codebook, None, c.max_text, objective.tolerance, c.action)
        return Validator(self, start.model, dataset, start.codebook, objective)


class Validator:
    """Measures a model in training. last: the newest figures; best: the lowest loss; stopped: patience ran out."""

    def __init__(
        self, plan: Validation, model: VLA, dataset: EpisodeDataset, codebook: np.ndarray, objective: Objective
    ):
        self.plan, self.dataset, self.codebook, self.objective = plan, dataset, codebook, objective
        self.model = copy.deepcopy(model)
        self.last: dict[str, float] = {}
        self.best, self.since, self.stopped = float("inf"), 0, False
        self.kept: list[Tensor] = []

    def due(self, step: int, progress: float) -> bool:
        return step % self.plan.every == 0 or progress >= 1.0

    def measure(self, weights: MasterWeights, rank: int, world: int) -> dict[str, float]:
        """Loss of the plan (val_loss) and mean displacement of the chosen plan over 4 s, m (val_ade)."""
        weights.float_model(self.model)  # with sharded weights, every rank gathers its part
        best = [p.detach().cpu().clone() for p in self.model.parameters()] if self.plan.keep_best else []
        found = torch.zeros(2, dtype=torch.float64)
        if rank == 0:
            with torch.random.fork_rng(), torch.no_grad():
                torch.manual_seed(0)
                found[:] = torch.tensor(self._figures(self.model.eval().to(torch.bfloat16)))
        if world > 1:
            found = found.to(next(self.model.parameters()).device)
            dist.broadcast(found, 0)
        loss, ade = found.tolist()
        self.last = {"val_loss": loss, "val_ade": ade}
        self.since += 1
        if loss < self.best:
            self.best, self.since, self.kept = loss, 0, best
        self.stopped = 0 < self.plan.patience <= self.since
        return self.last

    def _figures(self, model: VLA) -> tuple[float, float]:
        size = min(BATCH, len(self.dataset))
        sampler, vote = Sampler(len(self.dataset), 0), CodebookVote.of(self.codebook, model.embed.device)
        losses, errors = [], []
        for step in range(len(self.dataset) // size):
            (batch,) = batches(self.dataset, sampler, step, size, PLAIN)
            batch = to_device(batch, model.embed.device)
            losses.append(batch_loss(model, batch, self.objective)[1]["action"])
            controls = model.plan(batch.frames, batch.ego, batch.route, vote)[1].float().cpu().numpy()
            rows = sampler.rows(step * size, size)
            plans = integrate_controls(controls, self.dataset.ego[rows, -1, 0])
            off = plans[..., :2] - self.dataset.future[rows][..., :2]
            errors.append(float(np.hypot(off[..., 0], off[..., 1]).mean()))
        return float(np.mean(losses)), float(np.mean(errors))

    def state(self) -> dict[str, Any]:
        """State that the next measurement depends on."""
        return {
            "last": dict(self.last),
            "best": self.best,
            "since": self.since,
            "stopped": self.stopped,
            "kept": self.kept,
        }

    def load(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    @torch.no_grad()
    def finish(self, model: VLA) -> None:
        """Copy the best measured weights to the model, if they are to be kept."""
        for p, best in zip(model.parameters(), self.kept, strict=True) if self.kept else ():
            p.copy_(best)

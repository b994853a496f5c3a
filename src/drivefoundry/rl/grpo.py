"""Dr. GRPO: reinforce a fine-tuned model with a reward on plans sampled in recorded situations.

Group-relative policy optimisation without the divisions that bias it (Liu 2025, "Understanding R1-Zero-Like Training"):
a plan's advantage is its reward minus its group's mean, not divided by the group's standard deviation, and a plan's
log-probability is summed, not averaged over its length. The loss also has a KL term to the initial model and behaviour
cloning of the labels as an anchor. Each batch of plans is used for one update, on policy, so no ratio needs clipping.

Axes: S states, N plans sampled per state, K codes.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drivefoundry.model.checkpoint import load_checkpoint, save_checkpoint
from drivefoundry.model.vla import VLA, CodebookVote
from drivefoundry.rl.config import GrpoConfig
from drivefoundry.rl.reward import PlanReward
from drivefoundry.train.dataset import EpisodeDataset
from drivefoundry.train.optim import MasterWeights
from drivefoundry.types import Episodes, require
from drivefoundry_car.vehicle.codec import decode, integrate_controls


@dataclass(frozen=True)
class GrpoReport:
    """Result of a run."""

    reward: np.ndarray
    """(steps,) mean reward of all plans sampled in each step."""
    before: float
    """Mean reward of the greedy plan on the held-out states, before and after the run."""
    after: float
    kept: bool
    """Whether the trained model was saved; False if its reward fell and the initial model was saved instead."""
    seconds: float


class Situations(NamedTuple):
    """Recorded states to sample plans in."""

    episodes: list[Episodes]
    rows: np.ndarray
    """(n,) indices into the joined episodes."""
    share: np.ndarray
    """(n,) relative frequency with which each is sampled."""


def grpo(
    situations: Situations,
    reward: PlanReward,
    init: Path,
    out: Path,
    config: GrpoConfig,
    log: Path | None = None,
    on_step: Callable[[int, int, dict[str, float]], None] | None = None,
) -> GrpoReport:
    """Reinforce checkpoint `init` in the situations, and save to directory `out`.

    log: file to append each step's metrics to, as JSON lines. on_step(step, steps, metrics) is called after each step.
    ValueError for a checkpoint with a flow head, or if there are no more situations than validation states.
    """
    config.validate()
    start = time.perf_counter()
    episodes, rows, share = situations
    loaded = load_checkpoint(init)
    require(loaded.model.flow is None, f"{init}: plans come from a flow head; rl samples codes (ModelConfig.action)")
    require(
        len(rows) > config.validation_states,
        f"rl: {len(rows)} situations; must be more than the {config.validation_states} validation states",
    )
    dataset = EpisodeDataset.of(episodes, loaded.codebook, loaded.tokenizer, loaded.config.max_text)
    task = _Task(dataset, reward, loaded.codebook)
    rng = np.random.default_rng(config.seed)
    shuffled = rng.permutation(len(rows))
    held_back, learnt = rows[shuffled[: config.validation_states]], shuffled[config.validation_states :]
    rows, share = rows[learnt], share[learnt] / share[learnt].sum()
    untouched = copy.deepcopy(loaded.model)
    learner = _Learner(loaded.model, task, config)
    before = task.greedy(learner.reference, held_back)
    rewards, began = [], time.perf_counter()
    for step in range(config.steps):
        metrics = learner.step(rng.choice(rows, config.states, p=share), step)
        rewards.append(metrics["reward"])
        if log is not None:
            with log.open("a") as file:
                file.write(json.dumps({"step": step + 1} | {k: float(f"{v:.6g}") for k, v in metrics.items()}) + "\n")
        if on_step is not None:
            plans = (step + 1) * config.states * config.samples
            on_step(step + 1, config.steps, metrics | {"samples_per_s": plans / (time.perf_counter() - began)})
    learner.model.eval()
    after = task.greedy(learner.model, held_back)
    learner.weights.float_model(learner.model)
    kept = after >= before
    save_checkpoint(out, learner.model if kept else untouched, loaded.codebook, loaded.tokenizer, loaded.embodiment)
    return GrpoReport(np.array(rewards), before, after, kept, time.perf_counter() - start)


@dataclass(frozen=True)
class _Task:
    dataset: EpisodeDataset
    reward: PlanReward
    codebook: np.ndarray

    def inputs(self, model: VLA, rows: np.ndarray) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        d, device = self.dataset, model.embed.device
        frames = {name: torch.from_numpy(f).to(device) for name, f in d.pictures(rows).items()}
        return frames, torch.from_numpy(d.ego[rows]).to(device), torch.from_numpy(d.route[rows]).to(device)

    @torch.no_grad()
    def greedy(self, model: VLA, rows: np.ndarray) -> float:
        """Mean reward of the greedy plan, with the label's progress in the group's reference."""
        vote = CodebookVote.of(self.codebook, model.embed.device)
        controls = model.plan(*self.inputs(model, rows), vote)[1].cpu().numpy()
        speed = self.dataset.ego[rows, -1, 0]
        labels = decode(self.dataset.tokens[rows], self.codebook, speed)
        plans = np.stack([integrate_controls(controls, speed), labels], 1)
        return float(self.reward(rows, plans)[:, 0].mean())


class _Learner:
    """The model in training, and the frozen copy of it that it must stay close to."""

    def __init__(self, model: VLA, task: _Task, config: GrpoConfig) -> None:
        self.model, self.task, self.config = model, task, config
        self.reference = copy.deepcopy(model).to(torch.bfloat16).requires_grad_(False)
        self.weights = MasterWeights(model, torch.bfloat16, 0.0, (0.9, 0.95))
        self.generator = torch.Generator(device=model.embed.device).manual_seed(config.seed)
        model.train()

    def step(self, rows: np.ndarray, step: int) -> dict[str, float]:
        """Sample, score, update once."""
        config, dataset = self.config, self.task.dataset
        frames, ego, route = self.task.inputs(self.model, rows)
        n = config.samples
        codes = self.model.act(frames, ego, route, temperature=config.temperature, n=n, generator=self.generator)
        speed = np.repeat(dataset.ego[rows, -1, 0], n)
        plans = decode(codes.reshape(-1, codes.shape[-1]).cpu().numpy(), self.task.codebook, speed)
        label = decode(dataset.tokens[rows], self.task.codebook, dataset.ego[rows, -1, 0])
        # The label is driven too: its progress is part of the group's reference, but its reward is not.
        every = np.concatenate([plans.reshape(len(rows), n, *plans.shape[1:]), label[:, None]], 1)
        scored = self.task.reward(rows, every)
        r = torch.from_numpy(scored[:, :n].astype(np.float32)).to(ego.device)
        advantage = r - r.mean(1, keepdim=True)
        labels = torch.from_numpy(dataset.tokens[rows]).to(ego.device)
        groups = torch.cat([codes, labels[:, None]], 1)
        logp = F.log_softmax(self.model(frames, ego, route, None, groups).action.float(), -1)
        with torch.no_grad():
            logq = F.log_softmax(self.reference(frames, ego, route, None, groups).action.float(), -1)
        taken = logp.gather(-1, groups[..., None])[..., 0].sum(-1)
        gain = (advantage * taken[:, :n]).mean()
        kl = (logp[:, :n].exp() * (logp[:, :n] - logq[:, :n])).sum(-1).sum(-1).mean()
        anchor = -taken[:, n].mean() / groups.shape[-1]
        (-gain + config.kl * kl + config.bc_weight * anchor).backward()
        norm = float(self.weights.gather())
        self.weights.step(config.lr * min(1.0, (step + 1) / 4), norm, config.clip)
        return {
            "reward": float(r.mean()), "label_reward": float(scored[:, n].mean()),
            "best": float(r.max(1).values.mean()), "spread": float(r.std(1).mean()), "kl": float(kl.detach()),
            "anchor": float(anchor.detach()), "grad_norm": norm,
        }  # fmt: skip

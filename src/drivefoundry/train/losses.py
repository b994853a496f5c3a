"""A batch in, its loss out: action codes, reasoning text, and a teacher's opinion where there is one.

Axes: B batch, L text tokens, K codes, V text vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drivefoundry.model.text import PAD
from drivefoundry.model.vla import VLA
from drivefoundry_car.codec import warp

from .corpus import Batch


@dataclass(frozen=True)
class Objective:
    """What is minimised."""

    text: float = 0.2
    """Weight of the reasoning tokens beside the action tokens."""
    neighbours: float = 1.0
    """Width over which an action's target spreads to codes nearby, in the codec's units (0: one code alone)."""
    teacher: float = 0.7
    """Share of the action loss that comes from the teacher, where the corpus carries its logits."""
    temperature: float = 1.0
    """Softening of teacher and student."""

    def kernel(self, codebook: np.ndarray) -> Tensor:
        """(K, K) float32: row i is the target distribution when code i is right."""
        if self.neighbours <= 0:
            return torch.eye(len(codebook))
        at = warp(codebook.astype(np.float64))
        far = ((at[:, None] - at[None]) ** 2).sum(-1)
        q = np.exp(-far / (2 * self.neighbours**2))
        return torch.from_numpy((q / q.sum(1, keepdims=True)).astype(np.float32))


def batch_loss(model: VLA, batch: Batch, objective: Objective, kernel: Tensor) -> tuple[Tensor, dict[str, float]]:
    """This batch's part of the step's loss (the parts of all batches and ranks add up), and what it is made of."""
    logits = model(batch.frames, batch.ego, batch.route, batch.text, batch.tokens, batch.light)
    logp = F.log_softmax(logits.action.float(), -1)
    ce = -(kernel[batch.tokens] * logp).sum(-1).mean(-1)
    share = batch.weight / batch.action_sum
    action = (ce * share).sum()
    loss, parts = action, {"action": action}
    if batch.soft is not None:
        t = objective.temperature
        teacher = torch.softmax(batch.soft.float() / t, -1)
        student = logp if t == 1.0 else F.log_softmax(logits.action.float() / t, -1)
        kl = (F.kl_div(student, teacher, reduction="none").sum((-1, -2)) / batch.tokens.shape[1] * share).sum() * t * t
        loss = (1 - objective.teacher) * action + objective.teacher * kl
        parts["kl"] = kl
    if batch.text is not None and logits.text is not None:
        each = F.cross_entropy(logits.text.float().flatten(0, 1), batch.text.flatten(), reduction="none").view(
            batch.text.shape
        )
        text = (each * (batch.text != PAD) * batch.weight[:, None]).sum() / batch.text_sum
        loss = loss + objective.text * text
        parts["text"] = text
    parts["loss"] = loss
    parts["agree"] = ((logits.action.argmax(-1) == batch.tokens).float().mean(-1) * share).sum()
    return loss, {name: float(value.detach()) for name, value in parts.items()}

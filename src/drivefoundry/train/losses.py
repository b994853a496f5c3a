"""Loss of a batch: the plan's, and the reasoning text's if there is any.

Axes: B batch, L text tokens, K codes, V text vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from drivefoundry.model.text import PAD
from drivefoundry.model.vla import VLA
from drivefoundry.train.config import Objective
from drivefoundry.train.dataset import Batch


def batch_loss(model: VLA, batch: Batch, objective: Objective) -> tuple[Tensor, dict[str, float]]:
    """This batch's part of the step's loss (parts of all batches and ranks add up), and its components.

    agree: share of most likely codes that are the label's; only if plans are codes.
    """
    logits = model(batch.frames, batch.ego, batch.route, batch.text, batch.tokens, batch.light)
    generator = None if model.flow is None else torch.Generator(batch.ego.device).manual_seed(batch.noise_seed)
    share = batch.weight / batch.action_sum
    loss = (model.action_loss(logits, batch.target, generator) * share).sum()
    parts = {"action": loss}
    if batch.text is not None and logits.text is not None:
        ids, weight = batch.text, (batch.text != PAD) * batch.weight[:, None]
        if logits.text.ndim == 2:  # packed
            ids, weight = ids[batch.text != PAD], weight[batch.text != PAD]
        each = F.cross_entropy(logits.text.float().flatten(0, -2), ids.flatten(), reduction="none")
        parts["text"] = (each.view(ids.shape) * weight).sum() / batch.text_sum
        loss = loss + objective.text * parts["text"]
    parts["loss"] = loss
    if model.flow is None:
        parts["agree"] = ((logits.action.argmax(-1) == batch.tokens).float().mean(-1) * share).sum()
    return loss, {name: float(value.detach()) for name, value in parts.items()}

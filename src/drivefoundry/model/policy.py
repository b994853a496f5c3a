"""A checkpoint in, a driver out: observations of many cars at once in, plans out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from drivefoundry.types import Observation, Plan, Scene
from drivefoundry_car.codec import driven

from .checkpoint import load_checkpoint
from .vla import Vote


class TorchPolicy:
    """Drives greedily with a checkpoint (bf16).

    reason: also write reasoning at every `reason_every`-th decision, which stands until the next; it is for the
    reader, the plan does not wait for it.
    """

    privileged: Literal[False] = False

    def __init__(self, checkpoint: Path, name: str, reason: bool = False, reason_every: int = 4):
        self.name = name
        self.reason, self.reason_every = reason, reason_every
        loaded = load_checkpoint(checkpoint)
        self.model = loaded.model.to(torch.bfloat16)
        self.codebook, self.tokenizer = loaded.codebook, loaded.tokenizer
        self.vote = Vote.of(loaded.codebook, self.model.embed.device)
        self._decision = 0
        self._text: list[str] = []

    def reset(self, scenes: list[Scene]) -> None:
        self._decision, self._text = 0, [""] * len(scenes)

    def plan(self, observation: Observation) -> Plan:
        device = self.model.embed.device
        arrays = (observation.frames, observation.ego, observation.route)
        frames, ego, route = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays)
        tokens, controls = (x.cpu().numpy() for x in self.model.plan(frames, ego, route, self.vote))
        if self.reason and (self._decision % self.reason_every == 0 or len(self._text) != len(tokens)):
            cache = self.model.start(frames, ego, route, self.model.config.max_text)
            self._text = self.tokenizer.decode(self.model.generate_text(cache).cpu().numpy())
        self._decision += 1
        points = driven(controls, observation.ego[:, -1, 0])
        return Plan(points, tokens, list(self._text) if self.reason else None)

"""A checkpoint as a policy that plans for many cars at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from drivefoundry.model.checkpoint import load_checkpoint
from drivefoundry.model.vla import CodebookVote
from drivefoundry.types import Observation, Plan, Scene
from drivefoundry_car.vehicle.codec import integrate_controls

ROWS = 32
"""Cars per group: every matrix product has one shape, whatever the batch."""


class TorchPolicy:
    """Drives greedily with a checkpoint (bf16).

    The rounding of a row of a matrix product depends on the number of rows, so cars are processed in groups of ROWS,
    with the last one padded: what a car does then does not depend on the number of cars. For a given shape the
    libraries sum all rows in the same order, but not across machines or numbers of threads.

    reason: also generate reasoning at every `reason_every`-th decision, and keep it until the next one. It is for
    people; the plan does not depend on it.
    """

    reads_objects = False

    def __init__(self, checkpoint: Path, name: str, reason: bool = False, reason_every: int = 4):
        self.name = name
        self.reason, self.reason_every = reason, reason_every
        loaded = load_checkpoint(checkpoint)
        self.model = loaded.model.to(torch.bfloat16)
        self.codebook, self.tokenizer, self.embodiment = loaded.codebook, loaded.tokenizer, loaded.embodiment
        self.vote = CodebookVote.of(loaded.codebook, self.model.embed.device)
        self._decision = 0
        self._text: list[str] = []

    def reset(self, scenes: list[Scene]) -> None:
        self._decision, self._text = 0, [""] * len(scenes)

    def act(self, observation: Observation) -> Plan:
        o = observation
        n = len(o.ego)
        due = self.reason and (self._decision % self.reason_every == 0 or len(self._text) != n)
        if due:
            self._text = []
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for first in range(0, n, ROWS):
            rows = np.minimum(np.arange(first, first + ROWS), n - 1)
            device = self.model.embed.device
            frames = {name: torch.from_numpy(f[rows]).to(device) for name, f in o.frames.items()}
            ego, route = (torch.from_numpy(a[rows]).to(device) for a in (o.ego, o.route))
            codes, driven_by = (x.cpu().numpy() for x in self.model.plan(frames, ego, route, self.vote))
            found.append((codes, driven_by))
            if due:
                cache = self.model.start(frames, ego, route, self.model.config.max_text)
                self._text += self.tokenizer.decode(self.model.generate_text(cache).cpu().numpy())
        self._text = self._text[:n]
        tokens, controls = (np.concatenate(parts)[:n] for parts in zip(*found, strict=True))
        self._decision += 1
        points = integrate_controls(controls, observation.ego[:, -1, 0])
        return Plan(points, tokens, list(self._text) if self.reason else None)

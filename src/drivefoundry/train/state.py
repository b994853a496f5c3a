"""Save a run's state during training to a file that survives any kill.

Rank 0 writes it if ranks hold the same weights; for ranks that each hold a part, see `fsdp`.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from drivefoundry_car.durable import PUBLIC, replacing, sweep

MARK = "whole"
"""Empty file that marks a sharded checkpoint as finished by all ranks."""


class StateStore(Protocol):
    """Storage of a run's state."""

    def save(self, living: dict[str, Any], still: dict[str, Any]) -> None:
        """Start writing both together, once the changing part is copied. Raises an error of the previous write."""
        ...

    def load(self, like: dict[str, Any]) -> dict[str, Any] | None:
        """The last saved state, in the form of `like`; None if there is none."""
        ...

    def writing(self) -> bool: ...

    def wait(self) -> None:
        """Wait until a started write is on disk."""
        ...

    def forget(self) -> None: ...

    @property
    def cost(self) -> float:
        """Seconds of training time that the last save took: its copy, and its writer's CPU time, which may compete with
        training; 0 before the first."""
        ...


def save_interval(cost: float, between_faults: float) -> float:
    """Interval between saves that loses the least time, s, if a save costs `cost` s and faults occur every
    `between_faults` s on average (Young 1974; Daly 2006)."""
    return math.sqrt(2 * cost * between_faults)


def copied(tree: Any, device: torch.device | None = None) -> Any:
    """Clone every tensor in nested dicts and lists (an optimiser's state_dict refers to the live tensors), to `device`
    if given."""
    if isinstance(tree, Tensor):
        return tree.detach().clone() if device is None else tree.detach().to(device, copy=True)
    if isinstance(tree, dict):
        return {k: copied(v, device) for k, v in tree.items()}
    return [copied(v, device) for v in tree] if isinstance(tree, list) else tree


class StateFile:
    """One file, moved into place once complete and on disk."""

    def __init__(self, file: Path):
        self.file = file
        sweep(file.parent, file.name)
        self._writer = ThreadPoolExecutor(1, "state")
        self._written: Future[float] | None = None
        self._copying = self._writing = 0.0

    def save(self, living: dict[str, Any], still: dict[str, Any]) -> None:
        self.wait()
        start = time.perf_counter()
        tree = copied(living, torch.device("cpu")) | still
        self._copying = time.perf_counter() - start
        self._written = self._writer.submit(self._write, tree)

    def _write(self, tree: dict[str, Any]) -> float:
        start = time.thread_time()
        with replacing(self.file, mode=PUBLIC) as file:  # torch's own files do not report a full disk
            torch.save(tree, file)
        return time.thread_time() - start

    def load(self, like: dict[str, Any]) -> dict[str, Any] | None:
        return torch.load(self.file, weights_only=True, map_location="cpu") if self.file.exists() else None

    def writing(self) -> bool:
        return self._written is not None and not self._written.done()

    @property
    def cost(self) -> float:
        if self._written is not None and self._written.done():
            self.wait()
        return self._copying + self._writing

    def wait(self) -> None:
        if self._written is not None:
            written, self._written = self._written, None
            self._writing = written.result()

    def forget(self) -> None:
        self.wait()
        self.file.unlink(missing_ok=True)

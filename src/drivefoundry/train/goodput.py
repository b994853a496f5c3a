"""Goodput: the share of a run's time that contributed to training, over all its restarts.

Goodput is the product of two shares of time and of the machine's efficiency in that time:

scheduling = time in which processes of this run were alive / time since the first of them started;
runtime    = time of steps that count / time in which processes were alive. Not counted: imports, reading the dataset,
             compilation, the first step after each start, copying checkpoints, skipped steps, and the steps between the
             last checkpoint and a kill, which are repeated;
program    = FLOP that the model needs / (time of steps that count x measured matrix peak): MFU (PaLM, Chowdhery 2022).

After Google's ML goodput (2024). Wall-clock times stay in the run log and in reports; no artefact contains them.
"""

from __future__ import annotations

import json
import os
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from drivefoundry.model.config import ModelConfig
from drivefoundry_car.durable import write_text

BEAT_S = 0.5
"""Interval of heartbeats, s; up to this much time may be counted as downtime after a kill."""


class Goodput(NamedTuple):
    """The three factors, each 0..1."""

    scheduling: float
    runtime: float
    program: float

    @property
    def whole(self) -> float:
        """The product: the share of the machine's potential computation over all that time that went into training."""
        return self.scheduling * self.runtime * self.program


class RunLog:
    """Start and last heartbeat of each process of a training, s since 1970, in a small file that outlives them.

    After a restart a span starts with its process; the first span starts here, because its process may have had other
    work before.
    """

    def __init__(self, file: Path | None):
        self.file, now = file, time.time()
        before = json.loads(file.read_text()) if file is not None and file.exists() else []
        restarted = bool(before) and process_start() > before[-1][1]
        self.spans: list[list[float]] = [*before, [process_start() if restarted else now, now]]
        self._written = 0.0
        self.heartbeat()

    def heartbeat(self) -> None:
        """Extend this process's span, and write it at most every BEAT_S."""
        now = self.spans[-1][1] = time.time()
        if self.file is None or now - self._written < BEAT_S:
            return
        write_text(self.file, json.dumps(self.spans))
        self._written = now

    def forget(self) -> None:
        if self.file is not None:
            self.file.unlink(missing_ok=True)

    def goodput(self, useful: float, program: float) -> Goodput:
        """useful: seconds of counted steps over all restarts; program: see above."""
        self.heartbeat()
        alive = sum(seen - began for began, seen in self.spans)
        whole = self.spans[-1][1] - self.spans[0][0]
        return Goodput(min(alive / max(whole, 1e-9), 1.0), min(useful / max(alive, 1e-9), 1.0), program)


@cache
def process_start() -> float:
    """When this process started, s since 1970; if the system does not say, the time of the first call."""
    about, clock = Path("/proc/self/stat"), Path("/proc/uptime")
    if not (about.exists() and clock.exists()):
        return time.time()
    ticks = int(about.read_text().rpartition(")")[2].split()[19])
    return time.time() - float(clock.read_text().split()[0]) + ticks / os.sysconf("SC_CLK_TCK")


def share_of_peak(rate: float, ranks: int, dtype: torch.dtype, device: str = "cpu") -> float:
    """MFU of `ranks` ranks that together reach `rate` FLOP/s. If it exceeds the peak, other work disturbed the
    measurement of the peak, which is repeated."""
    if rate > ranks * matrix_peak(dtype, device):
        matrix_peak.cache_clear()
    return rate / (ranks * matrix_peak(dtype, device))


@cache
def matrix_peak(dtype: torch.dtype, device: str = "cpu") -> float:
    """Measured dense matmul rate of this machine, FLOP/s: the best of a few 1,536-cubed products."""
    n, best = 1536, 0.0
    a, b = torch.randn(n, n, device=device, dtype=dtype), torch.randn(n, n, device=device, dtype=dtype)
    for _ in range(5):
        start = time.perf_counter()
        float((a @ b)[0, 0])
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def forward_flop(c: ModelConfig, text: float) -> float:
    """Matmul FLOP of one sample's forward pass with `text` reasoning tokens, counting only what is computed."""
    t, out = c.prefix + text + c.plan, text + c.plan
    width, kv = c.heads * c.head_dim, 2 * c.kv_heads * c.head_dim
    pixels = sum(h * w for h, w in c.cameras.values()) * 3 * c.frames
    stem = 2 * pixels * c.stem + 2 * c.patches * (c.patch // 8) ** 2 * c.stem * c.dim
    rows = (c.layers - 1) * t + out
    layer = rows * 2 * (2 * c.dim * width + 3 * c.dim * c.ffn) + c.layers * t * 2 * c.dim * kv + rows * 4 * t * width
    return float(stem + layer + 2 * c.dim * (c.plan * c.codes + text * c.text_vocab))

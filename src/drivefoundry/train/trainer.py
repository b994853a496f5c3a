"""Model and corpus in, trained model out: one loop for every recipe.

A step is a pure function of (seed, step) and the weights, so a run killed at any moment and started again goes on to
the same losses, bit for bit, when it is boxed by steps; a run boxed by time takes its learning rate from the clock.
Ranks (torchrun, gloo or NCCL) share each step's samples; their gradients are summed, so 1 and N ranks learn the same.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from drivefoundry.model.vla import VLA
from drivefoundry.types import require

from .corpus import Augment, Batch, Corpus, Order, batches
from .losses import Objective, batch_loss
from .optim import MasterWeights

OnStep = Callable[[int, int, dict[str, float]], None]
"""Called as on_step(step, total steps as far as known, metrics)."""


@dataclass(frozen=True)
class TrainConfig:
    """Hyper-parameters of one run. Boxed by `seconds`, by `steps`, or by whichever comes first."""

    seconds: float = 0.0
    steps: int = 0
    batch: int = 64
    lr: float = 4e-3
    warmup: float = 0.04
    """Share of the run over which the learning rate rises."""
    decay: float = 0.4
    """Share of the run over which it falls again (WSD); 1.0 - warmup is a plain decay."""
    schedule: str = "wsd"
    """'wsd' (linear fall) or 'cosine' (falls from the end of warm-up)."""
    final_lr: float = 0.02
    """Learning rate at the end, as a share of `lr`."""
    optimiser: str = "muon"
    """'muon' (AdamW beside it for all but the linear layers) or 'adamw'."""
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    precision: str = "bf16"
    """'bf16' or 'fp32'."""
    seed: int = 0
    compile: bool | None = None
    """Compile the blocks; None: where the run is long enough to pay for it and a C++ compiler is there."""
    save_every_s: float = 30.0
    log_every: int = 10
    spike: float = 4.0
    """A step whose loss exceeds the running mean this many-fold, or is not finite, is skipped."""
    patience: int = 10
    """After so many bad steps in a row, go back to the last good weights at half the learning rate."""
    augment: Augment = field(default_factory=Augment)
    objective: Objective = field(default_factory=Objective)

    def validate(self) -> TrainConfig:
        require(self.seconds > 0 or self.steps > 0, "train config: set seconds or steps, else the run would never end")
        require(self.batch > 0, f"train config: batch must be positive, got {self.batch}")
        require(self.precision in ("bf16", "fp32"), f"train config: precision {self.precision!r} is not bf16 or fp32")
        require(self.optimiser in ("muon", "adamw"), f"train config: optimiser {self.optimiser!r} is not muon or adamw")
        require(self.schedule in ("wsd", "cosine"), f"train config: schedule {self.schedule!r} is not wsd or cosine")
        return self


@dataclass(frozen=True)
class TrainReport:
    """What a run did. losses (steps,) of this process's part of the run; mfu relative to this machine's measured
    matrix peak."""

    steps: int
    samples: int
    seconds: float
    losses: np.ndarray
    samples_per_s: float
    mfu: float
    goodput: float
    skipped: int


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of ranks; joins the process group when torchrun started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


@cache
def matrix_peak(dtype: torch.dtype, device: str = "cpu") -> float:
    """Measured dense matmul rate here, FLOP/s: the best of a few 1,536-cubed products."""
    n, best = 1536, 0.0
    a, b = torch.randn(n, n, device=device, dtype=dtype), torch.randn(n, n, device=device, dtype=dtype)
    for _ in range(5):
        start = time.perf_counter()
        float((a @ b)[0, 0])
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Learning rate at `progress` (0..1) of the run."""
    if progress < config.warmup:
        return config.lr * max(progress / config.warmup, 1e-2)
    if config.schedule == "cosine":
        u = min((progress - config.warmup) / max(1 - config.warmup, 1e-9), 1.0)
        return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * u)))
    left = min(max((1 - progress) / max(config.decay, 1e-9), 0.0), 1.0)
    return config.lr * (config.final_lr + (1 - config.final_lr) * left)


class Trainer:
    """`Trainer(model, corpus, config).run()` trains the model in place.

    state: file to continue from if it exists, and to write while training (atomically; removed by whoever keeps the
    result). log: JSONL file of the metrics that hang on nothing but the samples, so that a run that was killed leaves
    the same one; time and throughput go to `on_step` and the report. Both are written by rank 0 alone.
    """

    def __init__(
        self,
        model: VLA,
        corpus: Corpus,
        config: TrainConfig,
        state: Path | None = None,
        log: Path | None = None,
        on_step: OnStep | None = None,
    ):
        self.model, self.corpus, self.config = model, corpus, config.validate()
        self.state_file, self.log_file, self.on_step = state, log, on_step
        self.rank, self.world = rank_and_world()
        self.device = next(model.parameters()).device
        self.dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        muon = config.optimiser == "muon"
        self.weights = MasterWeights(model, self.dtype, config.weight_decay, config.betas, muon)
        self.order = Order(len(corpus), config.seed)
        self.step, self.elapsed, self.lost, self.skipped, self.bad = 0, 0.0, 0.0, 0, 0
        self.mean_loss, self.lr_scale = 0.0, 1.0
        self.losses: list[float] = []
        self._good = self.weights.state()
        if self._pays_to_compile():
            torch._dynamo.reset()
            model.decoder.compile_blocks()
        if state is not None and state.exists():
            self._load(torch.load(state, weights_only=True))
        if log is not None and log.exists() and self.rank == 0:
            rows = [row for row in log.read_text().splitlines(True) if row.endswith("\n")]
            log.write_text("".join(row for row in rows if json.loads(row)["step"] <= self.step))

    def _pays_to_compile(self) -> bool:
        if self.config.compile is not None:
            return self.config.compile
        there = shutil.which(os.environ.get("CXX", "g++")) is not None
        return there and (self.config.seconds > 75 or (not self.config.seconds and self.config.steps >= 600))

    def progress(self) -> float:
        """Share of the run that is done, by steps or by the clock, whichever is further; the same on every rank."""
        done = [self.step / self.config.steps] if self.config.steps else []
        if self.config.seconds:
            clock = torch.tensor(self.elapsed)
            if self.world > 1:
                dist.broadcast(clock, 0)
            done.append(float(clock) / self.config.seconds)
        return min(max(done), 1.0)

    def run(self) -> TrainReport:
        """Train to the end of the box. Leaves fp32 weights in the model. Raises ValueError if training diverges for
        good."""
        self.model.train()
        saved = time.perf_counter()
        while (progress := self.progress()) < 1.0:
            start = time.perf_counter()
            metrics = self._one_step(progress)
            self.step += 1
            took = time.perf_counter() - start
            self.elapsed += took
            if len(self.losses) == 1:
                self.lost += took  # the first step compiles and warms up
            self._report(metrics)
            if self.state_file is not None and time.perf_counter() - saved > self.config.save_every_s:
                before = time.perf_counter()
                self.save()
                saved = time.perf_counter()
                self.elapsed += saved - before
                self.lost += saved - before
        self._report({}, final=True)
        if self.state_file is not None:
            self.save()
        self.weights.float_model(self.model)
        self.model.eval()
        return self.report()

    def _one_step(self, progress: float) -> dict[str, float]:
        total: dict[str, float] = {}
        share = batches(
            self.corpus, self.order, self.step, self.config.batch, self.config.augment, self.rank, self.world
        )
        for batch in share:
            loss, parts = batch_loss(self.model, to_device(batch, self.device), self.config.objective)
            loss.backward()
            for name, value in parts.items():
                total[name] = total.get(name, 0.0) + value
        norm = self.weights.gather()
        names = ("loss", "action", "text", "agree")
        sums = torch.tensor([total.get(n, 0.0) for n in names], dtype=torch.float64)
        if self.world > 1:
            dist.all_reduce(sums)
        metrics = dict(zip(names, sums.tolist(), strict=True)) | {"grad_norm": float(norm)}
        self._update(metrics, learning_rate(self.config, progress) * self.lr_scale)
        self.losses.append(metrics["loss"])
        return metrics

    def _update(self, metrics: dict[str, float], lr: float) -> None:
        """Take the step, unless it is a spike: then skip it, and after too many go back to the last good weights."""
        loss, norm = metrics["loss"], metrics["grad_norm"]
        metrics["lr"] = lr
        settled = self.step > 20
        if math.isfinite(loss) and math.isfinite(norm) and not (settled and loss > self.config.spike * self.mean_loss):
            self.weights.step(lr, norm, self.config.clip)
            self.mean_loss = loss if self.mean_loss == 0 else 0.98 * self.mean_loss + 0.02 * loss
            self.bad = 0
            if self.step % 200 == 0:
                self._good = self.weights.state()
            return
        self.skipped += 1
        self.bad += 1
        if self.bad > self.config.patience:
            self.bad = 0
            self.lr_scale *= 0.5
            require(
                self.lr_scale > 0.1,
                f"training diverged at step {self.step} (loss {loss:g}); lower lr from {self.config.lr:g}",
            )
            self.weights.load(self._good)

    def report(self) -> TrainReport:
        busy = max(self.elapsed - self.lost, 1e-9)
        samples = self.step * self.config.batch
        rate = samples / busy
        talk = self.config.augment.text if self.corpus.has_text else 0.0
        c = self.model.config
        flop = 3 * ((1 - talk) * forward_flop(c, 0) + talk * forward_flop(c, self.corpus.text.shape[1]))
        mfu = rate * flop / (self.world * matrix_peak(self.dtype, self.device.type))
        goodput = busy / max(self.elapsed, 1e-9) * (1 - self.skipped / max(self.step, 1))
        return TrainReport(self.step, samples, self.elapsed, np.array(self.losses), rate, mfu, goodput, self.skipped)

    def _report(self, metrics: dict[str, float], final: bool = False) -> None:
        if not final and self.step % self.config.log_every:
            return
        now = self.report()
        line = {"step": self.step, **metrics, "skipped": self.skipped}
        if self.rank == 0 and self.log_file is not None and not final:
            with self.log_file.open("a") as f:
                f.write(json.dumps({k: float(f"{v:.6g}") for k, v in line.items()}) + "\n")
        line |= {
            "seconds": self.elapsed,
            "samples_per_s": now.samples_per_s,
            "mfu": now.mfu,
            "goodput": now.goodput,
        }
        if self.on_step is not None:
            expected = self.step / max(self.progress(), 1e-9)
            self.on_step(self.step, max(round(expected), self.step), {k: float(v) for k, v in line.items()})

    def save(self) -> None:
        """Write the state aside and move it into place, so that a kill at any moment leaves a whole file."""
        assert self.state_file is not None
        if self.rank != 0:
            return
        aside = self.state_file.with_name(f".{self.state_file.name}.part")
        keep = ("step", "elapsed", "lost", "skipped", "bad", "mean_loss", "lr_scale")
        config = json.dumps(asdict(self.config), sort_keys=True)
        with aside.open("wb") as file:  # opened here, for torch's own files do not say that the disk is full
            torch.save({n: getattr(self, n) for n in keep} | {"weights": self.weights.state(), "config": config}, file)
        os.replace(aside, self.state_file)

    def _load(self, saved: dict[str, Any]) -> None:
        mine = json.dumps(asdict(self.config), sort_keys=True)
        require(
            saved["config"] == mine, f"{self.state_file}: made with other settings; delete it to train from the start"
        )
        self.weights.load(saved["weights"])
        self._good = self.weights.state()
        for name in ("step", "elapsed", "lost", "skipped", "bad", "mean_loss", "lr_scale"):
            setattr(self, name, saved[name])


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with its tensors on `device`."""
    if device.type == "cpu":
        return batch
    moved: dict[str, Any] = {k: v.to(device) for k, v in vars(batch).items() if isinstance(v, Tensor)}
    return replace(batch, **moved)


def forward_flop(c: Any, text: int) -> float:
    """Matmul FLOP of one sample's forward pass with `text` reasoning tokens, counting only what is computed."""
    t, out = c.prefix + text + c.plan, text + c.plan
    width, kv = c.heads * c.head_dim, 2 * c.kv_heads * c.head_dim
    pixels = c.image[0] * c.image[1] * 3 * c.frames
    stem = 2 * pixels * c.stem + 2 * c.patches * (c.patch // 8) ** 2 * c.stem * c.dim
    rows = (c.layers - 1) * t + out
    layer = rows * 2 * (2 * c.dim * width + 3 * c.dim * c.ffn) + c.layers * t * 2 * c.dim * kv + rows * 4 * t * width
    return float(stem + layer + 2 * c.dim * (c.plan * c.codes + text * c.text_vocab))

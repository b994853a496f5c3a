"""The Trainer: one loop for all training.

A step is a pure function of (seed, step), the weights and, in its rounding, the number of threads (see `threads`). So a
run limited by steps that is killed and restarted reaches the same losses, bit for bit; a run limited by time takes its
learning rate from the clock.
Ranks (torchrun, gloo or NCCL) share each step's samples and sum their gradients, so 1 and N ranks learn the same. They
hold the same weights or, with `shard`, a part each, and with `tensor` they share the matmuls, too.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from drivefoundry.compute import keep_memory
from drivefoundry.model.blocks.wrapping import checkpoint_activations, compiled, restore_forward
from drivefoundry.model.vla import VLA
from drivefoundry.train.config import TrainConfig
from drivefoundry.train.dataset import Batch, EpisodeDataset, Sampler, batches, to_device
from drivefoundry.train.distributed.ranks import rank_and_world
from drivefoundry.train.distributed.threads import ThreadedBackward, threads_for
from drivefoundry.train.goodput import Goodput, RunLog, forward_flop, share_of_peak
from drivefoundry.train.losses import batch_loss
from drivefoundry.train.optim import MasterWeights
from drivefoundry.train.state import StateFile, StateStore, copied, save_interval
from drivefoundry.train.validation import Validator
from drivefoundry.types import require

OnStep = Callable[[int, int, dict[str, float]], None]


class RunFiles(NamedTuple):
    """Files of a training run."""

    state: Path | None = None
    """What a killed run resumes from; deleted at the end."""
    log: Path | None = None
    """The metrics of its steps, as JSON lines."""


"""Called as on_step(step, total steps if known, metrics)."""


@dataclass(frozen=True)
class TrainReport:
    """Result of a run. losses (steps,): of this process's part of the run. goodput = scheduling x runtime x mfu: the
    share of all time in which the run was alive, over all restarts, the share of that in steps that count, and their
    share of this machine's measured matrix peak (see `goodput`)."""

    steps: int
    samples: int
    seconds: float
    losses: np.ndarray
    samples_per_s: float
    mfu: float
    goodput: float
    skipped: int
    scheduling: float
    runtime: float
    validation: dict[str, float]
    """The last measurement, see `validation.Validator.measure`; empty without one."""


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
    """`Trainer(model, dataset, config).run()` trains the model in place.

    state: file to continue from if it exists, and to write during training, always complete; `forget` removes it.
    log: JSONL file of the metrics that depend only on the samples, identical for a run that was killed and resumed;
    time and throughput go to `on_step` and the report. Only rank 0 writes.
    """

    def __init__(
        self,
        model: VLA,
        dataset: EpisodeDataset,
        config: TrainConfig,
        state: Path | None = None,
        log: Path | None = None,
        on_step: OnStep | None = None,
        validator: Validator | None = None,
    ):
        self.validator = validator
        self.model, self.dataset, self.config = model, dataset, config.validate()
        self.log_file, self.on_step = log, on_step
        self.rank, self.world = rank_and_world(config.shard)
        self.run_log = RunLog(state.with_suffix(".lives.tmp") if state is not None and self.rank == 0 else None)
        self.device = next(model.parameters()).device
        self.dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        muon = config.optimiser == "muon"
        kind = MasterWeights if not config.shard else fsdp().ShardedWeights
        net = model if not config.shard else fsdp().shard_model(model, self.dtype, config.tensor)
        self.weights = kind(net, self.dtype, config.weight_decay, config.betas, muon, config.ema)
        self.net = cast(VLA, self.weights.net)
        self.sampler = Sampler(len(dataset), config.seed)
        rest = model.config.prefix + model.slots
        self.text_tokens = dataset.text_tokens(rest)
        self.step, self.elapsed, self.lost, self.skipped, self.bad = 0, 0.0, 0.0, 0, 0
        self.mean_loss, self.lr_scale = 0.0, 1.0
        self.losses: list[float] = []
        self._good = copied(self.weights.state())
        if self._pays_to_compile():
            compiled(self.net, config.shard)
        own = config.batch // (self.world * config.accumulate)
        self.threads = ThreadedBackward(1 if config.shard else threads_for(own, self.device), self.weights.params, rest)
        if config.recompute:
            checkpoint_activations(self.net)
        self.state: StateStore | None = None
        if state is not None:
            self.state = StateFile(state) if not config.shard else fsdp().StateShards(state)
            self._load(state)
        self._saved, self._save_due = time.perf_counter(), False
        if log is not None and log.exists() and self.rank == 0:
            rows = [row for row in log.read_text().splitlines(True) if row.endswith("\n")]
            log.write_text("".join(row for row in rows if json.loads(row)["step"] <= self.step))

    def _pays_to_compile(self) -> bool:
        if self.config.compile is not None:
            return self.config.compile
        there = shutil.which(os.environ.get("CXX", "g++")) is not None
        return there and (self.config.seconds > 75 or (not self.config.seconds and self.config.steps >= 600))

    def progress(self) -> float:
        """Completed share of the run, by steps or by the clock, whichever is further; the same on every rank."""
        if self.validator is not None and self.validator.stopped:
            return 1.0
        done = [self.step / self.config.steps] if self.config.steps else []
        if self.config.seconds:
            clock = torch.tensor(self.elapsed, device=self.device)
            if self.world > 1:
                dist.broadcast(clock, 0)
            done.append(float(clock) / self.config.seconds)
        return min(max(done), 1.0)

    def run(self) -> TrainReport:
        """Train to the end. Leaves fp32 weights in the model. ValueError if training diverges despite retries."""
        keep_memory()
        self.net.train()
        try:
            self._steps()
        finally:
            self.threads.close()
        self._report({}, final=True)
        if self.state is not None:
            self.save()
            self.state.wait()
        restore_forward(self.net)
        self.weights.float_model(self.model)
        if self.validator is not None:
            self.validator.finish(self.model)
        self.model.eval()
        return self.report()

    def _steps(self) -> None:
        while (progress := self.progress()) < 1.0:
            start = time.perf_counter()
            metrics = self._one_step(progress)
            self.step += 1
            took = time.perf_counter() - start
            self.elapsed += took
            if len(self.losses) == 1:
                self.lost += took  # the first step compiles and warms up
            self._report(metrics | self._validated())
            self.run_log.heartbeat()
            if self._save_due:
                before = time.perf_counter()
                self.save()
                self._saved = time.perf_counter()
                self.elapsed += self._saved - before
                self.lost += self._saved - before

    def _validated(self) -> dict[str, float]:
        """Validation figures of this step, if due; the time does not count as training."""
        if self.validator is None or not self.validator.due(self.step, self.progress()):
            return {}
        before = time.perf_counter()
        found = self.validator.measure(self.weights, self.rank, self.world)
        took = time.perf_counter() - before
        self.elapsed += took
        self.lost += took
        return found

    def _one_step(self, progress: float) -> dict[str, float]:
        total: dict[str, float] = {}
        for micro in range(self.config.accumulate):
            for parts in self.threads.backward(self._loss, self._share(micro)):
                for name, value in parts.items():
                    total[name] = total.get(name, 0.0) + value
        norm = self.weights.gather()
        names = ("loss", "action", "text", "agree")
        counts = self.rank % self.config.tensor == 0  # ranks that share matmuls have the same loss
        mine = [total.get(n, 0.0) * counts for n in names]
        sums = torch.tensor([*mine, float(self._wants_save())], dtype=torch.float64)
        if self.world > 1:
            sums = sums.to(self.device)
            dist.all_reduce(sums)
        *values, save = sums.tolist()
        self._save_due = save > 0
        metrics = dict(zip(names, values, strict=True)) | {"grad_norm": float(norm)}
        self._update(metrics, learning_rate(self.config, progress) * self.lr_scale)
        self.losses.append(metrics["loss"])
        return metrics

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        return batch_loss(self.net, to_device(batch, self.device), self.config.objective)

    def _share(self, micro: int = 0) -> list[Batch]:
        """This rank's batches of one micro-batch of the step."""
        c, readers = self.config, self.world // self.config.tensor
        part, parts = self.rank // c.tensor + readers * micro, readers * c.accumulate
        share = batches(self.dataset, self.sampler, self.step, c.batch, c.augment, part, parts)
        with_text = self.dataset.has_text and c.augment.text > 0
        # compiled, a shared matmul has one graph for sizes that its ranks divide and one for others
        return fsdp().equalized(share, self.dataset.text.shape[1] * with_text, c.tensor) if c.shard else share

    def _update(self, metrics: dict[str, float], lr: float) -> None:
        """Take the step, unless it is a spike: then skip it, and after too many return to the last good weights."""
        loss, norm = metrics["loss"], metrics["grad_norm"]
        metrics["lr"] = lr
        settled = self.step > 20
        if math.isfinite(loss) and math.isfinite(norm) and not (settled and loss > self.config.spike * self.mean_loss):
            self.weights.step(lr, norm, self.config.clip, self.threads)
            self.mean_loss = loss if self.mean_loss == 0 else 0.98 * self.mean_loss + 0.02 * loss
            self.bad = 0
            if self.step % 200 == 0:
                self._good = copied(self.weights.state())
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
        busy = self.elapsed - self.lost
        samples = self.step * self.config.batch
        rate = samples / busy if busy > 1e-6 else 0.0  # unknown until a step has passed that did not compile
        text_share = self.config.augment.text if self.dataset.has_text else 0.0
        c = self.model.config
        flop = 3 * ((1 - text_share) * forward_flop(c, 0) + text_share * forward_flop(c, self.text_tokens))
        mfu = share_of_peak(rate * flop, self.world, self.dtype, self.device.type)
        good = self.goodput(mfu)
        losses = np.array(self.losses)
        measured = {} if self.validator is None else dict(self.validator.last)
        return TrainReport(
            self.step, samples, self.elapsed, losses, rate, mfu, good.whole, self.skipped, good.scheduling,
            good.runtime, measured,
        )  # fmt: skip

    def goodput(self, mfu: float) -> Goodput:
        """The factors so far, over all restarts of this run."""
        return self.run_log.goodput(max(self.elapsed - self.lost, 0.0) * (1 - self.skipped / max(self.step, 1)), mfu)

    def _report(self, metrics: dict[str, float], final: bool = False) -> None:
        if not final and self.step % self.config.log_every and "val_loss" not in metrics:
            return
        line = {"step": self.step, **metrics, "skipped": self.skipped}
        if self.rank == 0 and self.log_file is not None and not final:
            with self.log_file.open("a") as f:
                f.write(json.dumps({k: float(f"{v:.6g}") for k, v in line.items()}) + "\n")
        if self.on_step is not None:
            now = self.report()
            times = ("seconds", "samples_per_s", "mfu", "goodput", "scheduling", "runtime")
            line |= {name: getattr(now, name) for name in times}
            expected = self.step / max(self.progress(), 1e-9)
            self.on_step(self.step, max(round(expected), self.step), {k: float(v) for k, v in line.items()})

    def _wants_save(self) -> bool:
        """Whether rank 0 decides that the next save is due."""
        if self.state is None or self.rank != 0 or self.state.writing():
            return False
        every = self.config.save_every_s
        if self.config.faults_every_s:
            every = save_interval(self.state.cost, self.config.faults_every_s)
        return time.perf_counter() - self._saved > every

    def save(self) -> None:
        """Start writing the state, from which a killed run resumes."""
        assert self.state is not None
        if self.rank == 0 or self.config.shard:
            self.state.save(*self._tree())

    def _tree(self) -> tuple[dict[str, Any], dict[str, Any]]:
        keep = ("step", "elapsed", "lost", "skipped", "bad", "mean_loss", "lr_scale")
        config = json.dumps(asdict(replace(self.config, tensor=1)), sort_keys=True)
        living = {n: getattr(self, n) for n in keep} | {"config": config, "weights": self.weights.state()}
        if self.validator is not None:
            living["validation"] = self.validator.state()
        return living, {"good": self._good}

    def _load(self, place: Path) -> None:
        assert self.state is not None
        living, still = self._tree()
        mine = living["config"]
        saved = self.state.load(living | still)
        if saved is None:
            return
        require(saved.pop("config") == mine, f"{place}: made with other settings; delete it to train from the start")
        self.weights.load(saved.pop("weights"))
        self._good = saved.pop("good")
        if self.validator is not None:
            self.validator.load(saved.pop("validation"))
        for name, value in saved.items():
            setattr(self, name, value)

    def forget(self) -> None:
        """Remove the state; the trained model is stored elsewhere."""
        if self.state is not None and (self.rank == 0 or self.config.shard):
            self.state.forget()
            self.run_log.forget()


def fsdp() -> ModuleType:
    """The module of sharded training, imported on demand because its imports take a second."""
    from drivefoundry.train.distributed import fsdp as module

    return module

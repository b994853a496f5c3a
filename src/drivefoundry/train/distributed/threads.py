"""Data parallelism over the threads of one process: on CPU, one thread per core is faster than all cores on each
operation, because threads then wait for each other once per step instead of at thousands of small operations.

Samples/s of a 4M decoder at 64 samples per step on two cores, compiled, OMP_WAIT_POLICY=passive: 128 to 161 with one
thread per core, 75 to 93 with both cores on each operation; beside two busy processes 76 to 86 and 49 to 55. Without
that policy (uncompiled), both cores on each operation drop from 97..115 to 32..35, since threads that spin burn
their own share.

Compiled graphs must release the GIL while they run, see `Decoder.compile_blocks`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from drivefoundry.model.blocks.attention import should_pack
from drivefoundry.model.text import PAD
from drivefoundry.train.dataset import Batch

ENOUGH = 16
"""Minimum number of samples for a thread to be worth it."""

A = TypeVar("A")
Loss = Callable[[Batch], tuple[Tensor, dict[str, float]]]
FEW = 3
"""Number of samples not worth a separate part."""
Took = tuple[list[Tensor | None], list[dict[str, float]]]
"""One thread's gradients, and the components of its batches' losses."""


def threads_for(samples: int, device: torch.device) -> int:
    """Number of threads for a rank's `samples` per step: one per core, or fewer with more cores each if samples are
    few."""
    return max(min(torch.get_num_threads(), samples // ENOUGH), 1) if device.type == "cpu" else 1


def split(batches: Sequence[Batch], count: int, rest: int) -> list[list[Batch]]:
    """Divide a step's batches among `count` threads: equal numbers of tokens, in as few parts as possible.

    rest: tokens of a sample besides its text.
    """
    if count == 1:
        return [list(batches)]
    tokens = [_tokens(batch, rest) for batch in batches]
    each = sum(c * len(b) for c, b in zip(tokens, batches, strict=True)) / count
    out: list[list[Batch]] = [[] for _ in range(count)]
    before = 0.0
    for c, batch in zip(tokens, batches, strict=True):
        ends = [round((each * (thread + 1) - before) / c) for thread in range(count)]
        ends = [len(batch) if end > len(batch) - FEW else 0 if end < FEW else end for end in ends]
        for thread, (lo, hi) in enumerate(pairwise([0, *ends])):
            if hi > lo:
                out[thread].append(
                    replace(batch.each(lambda x, lo=lo, hi=hi: x[lo:hi]), noise_seed=batch.noise_seed + thread)
                )
        before += c * len(batch)
    return out


def _packs(batch: Batch, rest: int) -> bool:
    return batch.text is not None and should_pack(batch.text != PAD, rest)


def _tokens(batch: Batch, rest: int) -> float:
    """Number of tokens computed per sample."""
    if batch.text is None:
        return rest
    tokens = int((batch.text != PAD).sum()) if _packs(batch, rest) else batch.text.numel()
    return rest + tokens / len(batch)


class ThreadedBackward:
    """Threads that each run forward and backward on a part of the samples; with `count` 1, the caller's own thread. A
    sample has `rest` tokens besides its text.

    Gradients are added in the order of the threads, so the result of a step depends only on their number.
    """

    def __init__(self, count: int = 1, params: Sequence[nn.Parameter] = (), rest: int = 0):
        self.count, self.params, self.rest = count, params, rest
        self._threads = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None
        self._known: set[Hashable] = set()

    def backward(self, loss: Loss, batches: Sequence[Batch]) -> list[dict[str, float]]:
        """Add the gradients of the batches to the parameters'; returns the components of their losses.

        Only one thread at a time can compile, so threads that get a new kind of batch run one after the other.
        """
        if self.count == 1:
            return [_plain(loss, batch) for batch in batches]
        shares = split(batches, self.count, self.rest)
        kinds = {(len(b) == 1, b.text is None, _packs(b, self.rest)) for share in shares for b in share}
        jobs: list[Future[Took]] = []
        for share in shares:
            jobs.append(self._threads_of_own().submit(self._gradients, loss, share))
            if not kinds <= self._known:
                jobs[-1].exception()
        done = [job.result() for job in jobs]
        self._known |= kinds
        for gradients, _ in done:
            for p, gradient in zip(self.params, gradients, strict=True):
                if gradient is not None:
                    p.grad = gradient if p.grad is None else p.grad + gradient
        return [parts for _, several in done for parts in several]

    def each(self, work: Callable[[A], None], items: Sequence[A]) -> None:
        """Run work(item) for every item, each on whichever thread is free."""
        if self.count == 1:
            for item in items:
                work(item)
        else:
            deque(self._threads_of_own().map(work, items), 0)

    def _threads_of_own(self) -> ThreadPoolExecutor:
        if self._pool is None:
            each = self._threads // self.count
            self._pool = ThreadPoolExecutor(self.count, "backward", torch.set_num_threads, (each,))
        return self._pool

    def _gradients(self, loss: Loss, share: Sequence[Batch]) -> Took:
        total: list[Tensor | None] = [None] * len(self.params)
        several = []
        for batch in share:
            value, parts = loss(batch)
            several.append(parts)
            for i, gradient in enumerate(torch.autograd.grad(value, self.params, allow_unused=True)):
                there = total[i]
                if gradient is not None:
                    total[i] = gradient if there is None else there + gradient
        return total, several

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
            torch.set_num_threads(self._threads)  # later threads inherit a thread's setting


ALONE = ThreadedBackward()
"""The caller's own thread."""


def _plain(loss: Loss, batch: Batch) -> dict[str, float]:
    value, parts = loss(batch)
    value.backward()
    return parts

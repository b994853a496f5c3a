"""Choose the parallel layout that fits a number of cards and costs least, by formula.

Data ranks x tensor ranks x pipeline stages; groups of data ranks share ("shard") the optimiser's state, or weights and
gradients as well (ZeRO, Rajbhandari et al. 2020). Activations: what this project's block stores for its backward pass
with fused attention, split over tensor ranks (sequence parallelism, Korthikanti et al. 2022). Pipeline: 1F1B, bubble
(p - 1) / (m + p - 1) (Narayanan et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product

from drivefoundry.scaling.assumptions import Assumptions
from drivefoundry.scaling.chips import GIGA, TERA
from drivefoundry.types import require

LEAST_LEFT = 0.05
"""Least share of a step for compute in a usable layout."""


@dataclass(frozen=True)
class RankMemory:
    """Bytes on the fullest rank."""

    weights: float
    gradients: float
    optimiser: float
    gathered: float
    """Temporarily gathered blocks, if weights are sharded."""
    activations: float
    logits: float
    reserve: float

    @property
    def total(self) -> float:
        parts = (self.weights, self.gradients, self.optimiser, self.gathered)
        return sum(parts) + self.activations + self.logits + self.reserve


@dataclass(frozen=True)
class Division:
    """How a step is divided. data x tensor x pipeline = used cards; data ranks form groups of `shard`."""

    data: int
    tensor: int
    pipeline: int
    shard: int
    sharded: str
    """'nothing', 'optimiser', or 'all': weights and gradients as well."""
    samples: int
    """Decisions per micro-batch."""
    recompute: bool
    """Whether activations within a block are recomputed in its backward pass."""
    micro_batches: float
    """Micro-batches per step and data rank."""

    @property
    def cards(self) -> int:
        return self.data * self.tensor * self.pipeline


@dataclass(frozen=True)
class ParallelLayout(Division):
    """A division with what it costs."""

    memory: RankMemory
    traffic: float
    """Share of a step spent waiting for the network, or for memory during the weight update."""
    bubble: float
    """Share of a step during which pipeline stages wait for each other."""
    again: float
    """Share of a step spent recomputing activations."""

    @property
    def left(self) -> float:
        """Share of a step that is neither waiting nor recomputation."""
        return 1.0 - self.traffic - self.bubble - self.again


def choose(a: Assumptions, cards: int) -> ParallelLayout:
    """The layout on at most `cards` cards that fits their memory and leaves most time for compute.

    ValueError if none fits, with the memory that the smallest one needs.
    """
    room, best, leanest, score = a.chip.memory_gb * GIGA, None, float("inf"), 0.0
    for found in layouts(a, cards):
        leanest = min(leanest, found.memory.total)
        worth = found.cards * max(found.left, LEAST_LEFT / 2) * (1.0 - 0.001 * _pieces(found))
        if found.memory.total <= room and found.left > LEAST_LEFT and worth > score:
            best, score = found, worth
    where = f"{cards:,} cards of {a.chip.name}: no layout"
    require(
        leanest <= room or leanest == float("inf"),
        f"{where} fits {a.chip.memory_gb:g} GB per card, the smallest needs {leanest / GIGA:,.0f} GB; give more cards",
    )
    require(
        best is not None,
        f"{where} leaves time to compute: too many cards for {a.batch_tokens:,.0f} batch_tokens per step",
    )
    assert best is not None
    return best


def layouts(a: Assumptions, cards: int) -> Iterator[ParallelLayout]:
    """All candidates: tensor ranks within a module, up to 16 stages, groups of powers of two."""
    shape = a.shape
    tensors = [t for t in (1, 2, 4, 8) if t <= a.chip.cards and shape.heads % t == shape.kv_heads % t == 0]
    stages = [p for p in (1, 2, 4, 8, 16) if shape.layers % p == 0]
    for t, p in product(tensors, stages):
        ranks = cards // (t * p)
        shard = 1
        while shard <= ranks:
            data = ranks // shard * shard
            for sharded in ("nothing",) if shard == 1 else ("optimiser", "all"):
                for samples, recompute in product((1, 2, 4, 8), (False, True)):
                    micro = a.batch_tokens / (samples * a.work.decision_tokens * data)
                    if micro >= 1.0:
                        yield _laid_out(a, Division(data, t, p, shard, sharded, samples, recompute, micro))
            shard *= 2


def _pieces(found: ParallelLayout) -> int:
    """Complexity of a layout, for breaking ties in favour of the simpler one."""
    return found.tensor.bit_length() + found.pipeline.bit_length() + found.shard.bit_length()


def _laid_out(a: Assumptions, d: Division) -> ParallelLayout:
    step = a.shape.training_flop_per_token(a.work.decision_tokens) * a.batch_tokens
    step /= d.cards * a.chip.tflops * TERA * a.mfu
    return ParallelLayout(
        **asdict(d),
        memory=_memory(a, d),
        traffic=_traffic(a, d, step) / step,
        bubble=(d.pipeline - 1) / (d.micro_batches + d.pipeline - 1),
        again=a.mfu / 3 if d.recompute else 0.0,
    )


def stage_parameters(a: Assumptions, t: int, p: int) -> float:
    """Parameters on the fullest rank, before sharding."""
    shape = a.shape
    ends = shape.parameters() - shape.layers * shape.block()
    return (shape.layers // p * shape.block() + (ends if p == 1 else max(shape.table(), ends - shape.table()))) / t


def _memory(a: Assumptions, d: Division) -> RankMemory:
    shape, tokens, t, p = a.shape, d.samples * a.work.decision_tokens, d.tensor, d.pipeline
    mine = stage_parameters(a, t, p)
    whole = mine / d.shard if d.sharded == "all" else mine
    inside = 8 * shape.width + 4 * (shape.heads + shape.kv_heads) * shape.head_dim + 8 * shape.ffn  # bytes a token
    layers, flying = shape.layers // p, min(p, d.micro_batches)
    kept = flying * layers * 2 * shape.width + inside if d.recompute else flying * layers * inside
    answers = d.samples * (a.work.text + a.work.actions)
    return RankMemory(
        weights=a.weight_bytes * whole,
        gradients=a.gradient_bytes * whole,
        optimiser=a.optimiser_bytes * mine / d.shard,
        gathered=(2 * a.weight_bytes + a.gradient_bytes) * shape.block() / t if d.sharded == "all" else 0.0,
        activations=tokens * kept / t,
        logits=answers * shape.vocab * 6.0 / t,
        reserve=a.reserve_gb * GIGA,
    )


def _traffic(a: Assumptions, d: Division, step: float) -> float:
    """Seconds, of a step of `step` s, not overlapped with compute: gathering and scattering of shards, reductions over
    groups, tensor ranks, and the optimiser's pass over its memory."""
    t, shard = d.tensor, d.shard
    link = a.chip.link_gb_s / 2 * GIGA * a.link_share
    net = a.chip.network_gbit_s / 8 * GIGA * a.link_share
    mine = stage_parameters(a, t, d.pipeline)
    rate = link if shard * t <= a.chip.cards else net
    times = d.micro_batches if d.sharded == "all" else 1.0
    moved = (2 if d.sharded == "all" else 1) * a.weight_bytes + a.gradient_bytes / 2
    sharding = times * moved * mine * (shard - 1) / shard / rate
    groups = d.data // shard
    reach = link if d.data * t <= a.chip.cards else net
    sums = 2 * (a.gradient_bytes / 2) * mine / shard * (groups - 1) / groups / reach
    hidden = max((1 - a.overlap) * (sharding + sums), sharding + sums - step)
    tokens = d.samples * a.work.decision_tokens
    rounds = 12 if d.recompute else 8
    tensor = d.micro_batches * a.shape.layers / d.pipeline * rounds * tokens * a.shape.width * 2 * (t - 1) / t / link
    update = 2 * (a.optimiser_bytes + a.weight_bytes) * mine / shard / (a.chip.memory_tb_s * TERA)
    return hidden + tensor + update

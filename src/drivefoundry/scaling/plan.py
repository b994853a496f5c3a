"""Plan a training run from assumptions and a deadline or a number of cards.

Runtime goodput follows Daly, "A higher order estimate of the optimum checkpoint interval" (2006): failures come at
random with mean M between them, a checkpoint stops the run for d after each W of work, a failure costs a restart R.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from drivefoundry.scaling.assumptions import Assumptions
from drivefoundry.scaling.chips import EXA, GIGA, TERA
from drivefoundry.scaling.layout import ParallelLayout, choose
from drivefoundry.types import require

DAY = 86_400.0
TRIES = 60
LEAST_RUNTIME = 0.05


@dataclass(frozen=True)
class GoodputFactors:
    """The three factors, and their product relative to the chips' peak."""

    scheduling: float
    runtime: float
    program: float

    @property
    def useful(self) -> float:
        """Share of time spent on steps that are not lost: the figure that operators publish as above 90 %."""
        return self.scheduling * self.runtime

    @property
    def total(self) -> float:
        return self.useful * self.program


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoint size, stall and optimal interval."""

    bytes: float
    stall_s: float
    """Time that all ranks stop."""
    write_s: float
    """Time until the copy in the hosts' memory has been written to the store."""
    interval_s: float
    failures_a_day: float


@dataclass(frozen=True)
class TrainingPlan:
    """A training run. Cost in CNY, sizes in bytes, rates in bytes per second."""

    assumptions: Assumptions
    parameters: float
    tokens: float
    flop: float
    data_hours: float
    cards: int
    modules: int
    idle: int
    """Cards that the layout does not use: spares."""
    eflops: float
    """Peak of the cards."""
    layout: ParallelLayout
    checkpoints: Checkpoints
    goodput: GoodputFactors
    days: float
    step_s: float
    raw_bytes: float
    shard_bytes: float
    checkpoint_store_bytes: float
    node_feed: float
    """Bytes per second that each module reads."""
    cluster_cny: float
    run_cny: float
    """The run's share of depreciation, and electricity."""

    def to_dict(self) -> dict:
        """All fields, including computed properties."""
        fields = asdict(self)
        fields["goodput"] |= {"useful": self.goodput.useful, "total": self.goodput.total}
        fields["layout"] |= {"cards": self.layout.cards, "left": self.layout.left}
        fields["layout"]["memory"]["total"] = self.layout.memory.total
        rate = self.assumptions.cny_per_usd
        return fields | {"cluster_usd": self.cluster_cny / rate, "run_usd": self.run_cny / rate}


def young(stall: float, mtbf: float) -> float:
    """Work between checkpoints, s, after Young (1974): sqrt(2 d M)."""
    return math.sqrt(2.0 * stall * mtbf)


def daly(stall: float, mtbf: float) -> float:
    """Work between checkpoints, s, after Daly (2006), eq. 37; M if a checkpoint takes longer than 2 M."""
    if stall >= 2.0 * mtbf:
        return mtbf
    x = stall / (2.0 * mtbf)
    return young(stall, mtbf) * (1.0 + math.sqrt(x) / 3.0 + x / 9.0) - stall


def runtime_goodput(work: float, stall: float, restart: float, mtbf: float) -> float:
    """Share of useful time with random failures (Daly, eq. 20): W / (M e^(R/M) (e^((W + d)/M) - 1))."""
    if not math.isfinite(mtbf):
        return work / (work + stall)
    if (work + stall + restart) / mtbf > 500.0:
        return 0.0
    return work / (mtbf * math.exp(restart / mtbf) * math.expm1((work + stall) / mtbf))


def plan(a: Assumptions, days: float | None = None, cards: int | None = None) -> TrainingPlan:
    """Plan a run within `days`, or on `cards`. ValueError says why it is impossible."""
    a.validate()
    require((days is None) != (cards is None), "plan: give either a deadline in days or a number of cards")
    if cards is not None:
        require(cards >= 1, f"cards: must be >= 1, got {cards}")
        return _planned(a, cards)
    assert days is not None
    require(days > 0, f"days: must be > 0, got {days:g}")
    ideal = flop_of(a) / (days * DAY * a.chip.tflops * TERA * a.mfu * a.scheduling)
    count = _whole(ideal, a.chip.cards)
    for _ in range(TRIES):
        made = _planned(a, count)
        if made.days <= days:
            lean = _planned(a, _whole(made.layout.cards, a.chip.cards))  # without cards that the layout does not use
            return lean if lean.days <= days else made
        require(made.goodput.runtime > LEAST_RUNTIME and count < 1e7, _too_soon(days, made))
        count = max(_whole(count * made.days / days, a.chip.cards), _more(count, a.chip.cards))
    raise ValueError(_too_soon(days, made))


def flop_of(a: Assumptions) -> float:
    """Model FLOP of the entire run."""
    return a.shape.training_flop_per_token(a.work.decision_tokens) * tokens_of(a)


def tokens_of(a: Assumptions) -> float:
    """Tokens of the entire run."""
    work = a.work
    return work.clips * work.epochs * work.decisions * work.decision_tokens


def _whole(cards: float, module: int) -> int:
    """Round up to full modules, or to a power of two within one module."""
    if cards > module / 2:
        return math.ceil(cards / module - 1e-9) * module
    return 1 << max(0, math.ceil(math.log2(max(cards, 1.0)) - 1e-9))


def _more(cards: int, module: int) -> int:
    return cards * 2 if cards < module else cards + module


def _too_soon(days: float, made: TrainingPlan) -> str:
    mtbf = DAY / made.checkpoints.failures_a_day / 3600
    return (
        f"plan: {days:g} days cannot be met: {made.cards:,} cards fail every {mtbf:.2g} h, take {made.days:.3g} days; "
        "give more days, a longer card_mtbf_hours, a shorter restart_minutes or a larger batch_tokens"
    )


def _planned(a: Assumptions, cards: int) -> TrainingPlan:
    laid = choose(a, cards)
    flop = flop_of(a)
    saved = _checkpoints(a, laid)
    mtbf = DAY / saved.failures_a_day
    restart = 60.0 * a.restart_minutes + saved.write_s  # work not yet in the store is repeated
    goodput = GoodputFactors(a.scheduling, runtime_goodput(saved.interval_s, saved.stall_s, restart, mtbf), a.mfu)
    speed = laid.cards * a.chip.tflops * TERA * a.mfu
    lasting = max(goodput.useful, 1e-12)
    seconds = flop / speed / lasting
    modules = math.ceil(cards / a.chip.cards)
    work, samples = a.work, a.work.clips * a.work.decisions
    power = cards * a.chip.watts * a.pue / 1000.0
    price = a.chip.module_cny / a.chip.cards
    return TrainingPlan(
        assumptions=a,
        parameters=a.shape.parameters(),
        tokens=tokens_of(a),
        flop=flop,
        data_hours=work.clips * work.clip_seconds / 3600.0,
        cards=cards,
        modules=modules,
        idle=cards - laid.cards,
        eflops=cards * a.chip.tflops * TERA / EXA,
        layout=laid,
        checkpoints=saved,
        goodput=goodput,
        days=seconds / DAY,
        step_s=a.batch_tokens * flop / tokens_of(a) / speed,
        raw_bytes=work.clips * work.clip_bytes * work.copies,
        shard_bytes=samples * work.sample_bytes * work.copies,
        checkpoint_store_bytes=3 * saved.bytes * work.copies,
        node_feed=samples * work.epochs * work.sample_bytes / (flop / speed) / modules,
        cluster_cny=modules * a.chip.module_cny,
        run_cny=cards * price * seconds / DAY / 365.0 / a.life_years + power * seconds / 3600.0 * a.kwh_cny,
    )


def _checkpoints(a: Assumptions, laid: ParallelLayout) -> Checkpoints:
    """Checkpoint cost: one group of data ranks copies its shares to the hosts, and the hosts to the store."""
    size = a.optimiser_bytes * a.shape.parameters()
    writers = laid.shard * laid.tensor * laid.pipeline
    stall = a.snapshot_seconds + size / writers / (a.host_gb_s * GIGA)
    write = size / math.ceil(writers / a.chip.cards) / (a.store_gb_s * GIGA)
    failures = 24.0 * laid.cards / a.card_mtbf_hours
    interval = max(daly(stall, DAY / failures), write)
    return Checkpoints(size, stall, write, interval, failures)

"""Format plans as text: every figure with its arithmetic, and every assumption with its key."""

from __future__ import annotations

from collections.abc import Sequence

from drivefoundry.scaling.assumptions import leaves
from drivefoundry.scaling.chips import GIGA, TERA, Chip, fleet_of
from drivefoundry.scaling.layout import ParallelLayout
from drivefoundry.scaling.plan import TrainingPlan

Row = tuple[str, str, str]
"""(name, value, derivation)."""


def plan_text(p: TrainingPlan, name: str) -> str:
    """Format a plan as a page of text."""
    a = p.assumptions
    head = f"{name} on {amount(a.work.clips)} clips: {count(p.cards)} {a.chip.name} for {span(86_400 * p.days)}"
    groups = (
        ("The work", _work(p)),
        ("The cluster", _cluster(p)),
        ("The layout", _layout(p)),
        ("Failures and checkpoints", _failures(p)),
        ("Data", _data(p)),
        ("Money", _money(p)),
    )
    parts = [head, "=" * len(head), ""]
    for title, rows in groups:
        parts += [title, *_lines(rows), ""]
    assumed = [(key, _short(value), why) for key, value, why in leaves(a) if key not in ("chip.name", "chip.source")]
    parts += ["Assumptions (change any: --set KEY=VALUE)", *_lines(assumed), f"  chip: {a.chip.source}"]
    return "\n".join(parts)


def fleet_text(eflops: float, chip: Chip, cny_per_usd: float) -> str:
    """Format the arithmetic from peak EFLOPS to cards, modules and cost."""
    one = fleet_of(eflops, chip)
    rows = [
        ("cards", f"{one.cards:,.0f}", f"{eflops:g} x 1e18 / {chip.tflops:g}e12 FLOP/s per card"),
        ("modules", f"{one.modules:,.0f}", f"of {chip.cards} cards"),
        ("cost", f"{_millions(one.cny)} CNY", f"{_millions(chip.module_cny)} CNY per module"),
        ("", f"{_millions(one.cny / cny_per_usd)} USD", f"{cny_per_usd:g} CNY per USD"),
    ]
    return "\n".join([f"{eflops:g} EFLOPS of {chip.name}", *_lines(rows), f"  chip: {chip.source}"])


def _work(p: TrainingPlan) -> list[Row]:
    a, work = p.assumptions, p.assumptions.work
    each = a.shape.training_flop_per_token(work.decision_tokens)
    attention = 12.0 * a.shape.layers * a.shape.heads * a.shape.head_dim * work.decision_tokens
    made = f"{work.cameras} x {work.patches} patches + 3 + {work.text} text + {work.actions} actions"
    return [
        ("parameters", amount(p.parameters), f"{a.shape.layers} layers x {a.shape.width:,}"),
        ("tokens per decision", count(work.decision_tokens), made),
        (
            "tokens",
            amount(p.tokens),
            f"x {work.decisions:g} decisions per clip x {amount(work.clips)} x {work.epochs:g}",
        ),
        ("FLOP per token", f"{each:.3g}", f"6 N {each - attention:.3g} + attention {attention:.3g}"),
        ("FLOP", f"{p.flop:.3g}", "of the model, forward and backward"),
    ]


def _cluster(p: TrainingPlan) -> list[Row]:
    a, unit = p.assumptions, fleet_of(1.0, p.assumptions.chip)
    unit_cost = f"1 EFLOPS = {unit.cards:,.0f} cards = {unit.modules:,.0f} modules = {_millions(unit.cny)} CNY"
    spared = f", {p.idle} of them spare" if p.idle else ""
    good = p.goodput
    return [
        ("cards", count(p.cards), f"{count(p.modules)} module{'s' * (p.modules > 1)} of {a.chip.cards}{spared}"),
        ("peak", f"{p.eflops:.3g} EFLOPS", f"x {a.chip.tflops:g} TFLOPS; {unit_cost}"),
        ("goodput", f"{100 * good.total:.1f} % of peak", "scheduling x runtime x program"),
        ("  scheduling", f"{100 * good.scheduling:.1f} %", "assumed"),
        ("  runtime", f"{100 * good.runtime:.1f} %", "from failures and checkpoints, below"),
        ("  program", f"{100 * good.program:.1f} %", "MFU, assumed"),
        ("useful", f"{100 * good.useful:.1f} %", "scheduling x runtime: operators aim for more than 90 %"),
        (
            "time",
            span(86_400 * p.days),
            f"{p.flop:.3g} / ({p.layout.cards * a.chip.tflops * TERA:.3g} x {good.total:.3f}) s",
        ),
        ("step", f"{p.step_s:.1f} s", f"{amount(a.batch_tokens)} tokens"),
    ]


def _layout(p: TrainingPlan) -> list[Row]:
    laid, a = p.layout, p.assumptions
    memory = laid.memory
    again = ", activations recomputed" if laid.recompute else ""
    micro = f"{laid.micro_batches:,.1f} per step and data rank{again}"
    return [
        ("ranks", count(laid.cards), f"{laid.data} data x {laid.tensor} tensor x {laid.pipeline} pipeline"),
        ("sharded", laid.sharded, _sharded(laid)),
        ("micro-batch", f"{laid.samples} decision{'s' * (laid.samples > 1)}", micro),
        ("memory per rank", f"{memory.total / GIGA:.1f} GB", f"of {a.chip.memory_gb:g} GB; the fullest rank"),
        ("  weights", _gb(memory.weights + memory.gathered), "with temporarily gathered blocks"),
        ("  gradients", _gb(memory.gradients), ""),
        ("  optimiser", _gb(memory.optimiser), ""),
        ("  activations", _gb(memory.activations + memory.logits), "and logits"),
        ("  reserve", _gb(memory.reserve), ""),
        ("step waits", f"{100 * (1 - laid.left):.1f} %", _waits(laid)),
        ("kernels need", f"{100 * a.mfu / laid.left:.0f} % of peak", f"to still reach an MFU of {100 * a.mfu:.0f} %"),
    ]


def _sharded(laid: ParallelLayout) -> str:
    if laid.shard == 1:
        return "each data rank holds its full part"
    what = "weights, gradients and optimiser" if laid.sharded == "all" else "the optimiser's state"
    return f"{what}, over groups of {laid.shard} data ranks"


def _waits(laid: ParallelLayout) -> str:
    return (
        f"network and memory {100 * laid.traffic:.1f}, pipeline bubble {100 * laid.bubble:.1f}, recomputation "
        f"{100 * laid.again:.1f}; within the MFU"
    )


def _failures(p: TrainingPlan) -> list[Row]:
    a, saved = p.assumptions, p.checkpoints
    between = f"one every {span(86_400 / saved.failures_a_day)}: {a.card_mtbf_hours:,.0f} h per card"
    return [
        ("failures", f"{saved.failures_a_day:.2f} per day", between),
        ("checkpoint", size(saved.bytes), f"{a.optimiser_bytes:g} bytes per parameter"),
        ("  all stop for", span(saved.stall_s), "copy to the hosts' memory"),
        ("  written within", span(saved.write_s), "while training continues"),
        ("  every", span(saved.interval_s), "Daly's optimum, or as fast as it can be written"),
        ("restart", span(60 * a.restart_minutes), "after each failure"),
    ]  # fmt: skip


def _data(p: TrainingPlan) -> list[Row]:
    work = p.assumptions.work
    each = f"{size(work.clip_bytes)} per clip x {work.copies:g} copies"
    return [
        ("driving", f"{p.data_hours:,.0f} h", f"{amount(work.clips)} clips of {work.clip_seconds:g} s"),
        ("raw clips", size(p.raw_bytes), each),
        ("training shards", size(p.shard_bytes), f"{size(work.sample_bytes)} per decision"),
        ("checkpoints", size(p.checkpoint_store_bytes), "three kept"),
        ("feed per module", f"{size(p.node_feed)}/s", "that its loaders read and decode"),
    ]


def _money(p: TrainingPlan) -> list[Row]:
    a, rate = p.assumptions, p.assumptions.cny_per_usd
    return [
        ("cluster", f"{_millions(p.cluster_cny)} CNY", f"{count(p.modules)} x {_millions(a.chip.module_cny)}"),
        ("", f"{_millions(p.cluster_cny / rate)} USD", f"{rate:g} CNY per USD"),
        ("this run", f"{_millions(p.run_cny)} CNY", f"its share of {a.life_years:g} years, and electricity"),
        ("", f"{_millions(p.run_cny / rate)} USD", ""),
    ]


def _lines(rows: Sequence[Row]) -> list[str]:
    wide, long = max(18, *(len(r[0]) for r in rows)), max(16, *(len(r[1]) for r in rows))
    return [f"  {name:{wide}}  {value:>{long}}   {how}".rstrip() for name, value, how in rows]


def amount(value: float) -> str:
    """Format a large number: 8.03 B."""
    for unit, power in ((" T", 1e12), (" B", 1e9), (" M", 1e6)):
        if value >= power:
            return f"{value / power:.3g}{unit}" if value < 999.5 * power else f"{value / power:,.0f}{unit}"
    return f"{value:,.0f}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Format bytes in powers of a thousand."""
    for unit, power in (("EB", 1e18), ("PB", 1e15), ("TB", TERA), ("GB", GIGA), ("MB", 1e6), ("kB", 1e3)):
        if value >= power:
            return f"{value / power:.3g} {unit}" if value < 999.5 * power else f"{value / power:,.0f} {unit}"
    return f"{value:.0f} B"


def span(seconds: float) -> str:
    """Format a duration."""
    for unit, long in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 999.5 * long:
            return f"{seconds / long:,.0f} {unit}"
        if seconds >= 1.5 * long:
            return f"{seconds / long:.3g} {unit}"
    return f"{seconds:.2g} s"


def _gb(value: float) -> str:
    return f"{value / GIGA:.1f} GB"


def _millions(value: float) -> str:
    return f"{value / 1e6:,.3g} M" if value < 1e9 else f"{value / 1e6:,.0f} M"


def _short(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,.10g}" if value < 1e15 else f"{value:g}"
    return str(value)

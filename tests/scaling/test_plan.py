"""Plans: published arithmetic, consistent formulas, and messages for impossible plans."""

import json
import math
from dataclasses import replace

import pytest

from drivefoundry.scaling import shape
from drivefoundry.scaling.assumptions import Assumptions, Work, leaves
from drivefoundry.scaling.chips import CHIPS, fleet_of
from drivefoundry.scaling.layout import choose, layouts
from drivefoundry.scaling.plan import daly, flop_of, plan, runtime_goodput, tokens_of, young
from drivefoundry.scaling.report import amount, fleet_text, plan_text, size, span
from drivefoundry.settings import with_settings


def assume(model="8B", chip="A800", *settings):
    return with_settings(Assumptions(shape.named(model), CHIPS[chip], Work()), settings)


def test_the_published_arithmetic():
    one = fleet_of(1.0, CHIPS["A800"])
    assert one.cards == 3125.0
    assert round(one.modules) == 391  # "about 390"
    assert one.cny == pytest.approx(370e6, rel=0.005)
    assert fleet_of(2.51, CHIPS["A800"]).cards == pytest.approx(7_800, rel=0.01)
    assert fleet_of(5.39, CHIPS["A800"]).cards == pytest.approx(16_800, rel=0.005)
    text = fleet_text(5.39, CHIPS["A800"], 7.2)
    assert "16,844" in text
    assert "2,105" in text
    assert "1 EFLOPS = 3,125 cards = 391 modules = 371 M CNY" in plan_text(plan(assume(), cards=64), "8B")


@pytest.mark.parametrize("chip", ["A800", "H100", "910B"])
@pytest.mark.parametrize(("model", "days"), [("0.3M", 30), ("2B", 30), ("8B", 30), ("32B", 30), ("72B", 60)])
def test_a_deadline_is_met_with_what_fits(model, days, chip):
    made = plan(assume(model, chip), days=days)
    a, laid = made.assumptions, made.layout
    assert made.days <= days
    assert laid.memory.total <= a.chip.memory_gb * 1e9
    assert laid.data * laid.tensor * laid.pipeline + made.idle == made.cards
    assert laid.data % laid.shard == 0
    assert a.shape.layers % laid.pipeline == 0
    assert laid.micro_batches * laid.samples * a.work.decision_tokens * laid.data == pytest.approx(a.batch_tokens)
    assert made.modules == math.ceil(made.cards / 8)
    # the same days from first principles
    rate = laid.cards * a.chip.tflops * 1e12 * a.mfu
    assert made.days * 86_400 * rate * made.goodput.scheduling * made.goodput.runtime == pytest.approx(made.flop)
    assert made.goodput.total == pytest.approx(a.scheduling * made.goodput.runtime * a.mfu)


def test_cards_give_days_and_days_give_cards():
    by_days = plan(assume(), days=20.0)
    by_cards = plan(assume(), cards=by_days.cards)
    assert by_cards.days == by_days.days
    assert plan(assume(), cards=by_days.cards - 24).days > 20.0


def test_flop_storage_and_tokens_by_hand():
    a = assume("8B", "A800", "work.clips=1000", "work.cameras=2", "work.epochs=3", "work.copies=1")
    work = a.work
    assert work.patches == 16 * 28
    assert work.decision_tokens == 2 * 448 + 3 + 40 + 8
    assert tokens_of(a) == 1000 * 3 * 40 * 947
    assert flop_of(a) == pytest.approx(a.shape.training_flop_per_token(947) * tokens_of(a))
    made = plan(a, cards=8)
    assert made.data_hours == pytest.approx(1000 * 20 / 3600)
    assert made.raw_bytes == pytest.approx(1000 * 20 * 9e6 / 8)
    assert made.shard_bytes == pytest.approx(1000 * 40 * (2 * 448 * 784 * 0.2 + 102))
    busy = made.flop / (8 * 320e12 * 0.4)
    assert made.node_feed == pytest.approx(3 * made.shard_bytes / busy)
    assert made.cluster_cny == 0.95e6
    assert made.checkpoints.bytes == pytest.approx(12 * made.parameters)


def test_memory_of_one_card_by_hand():
    a = assume("2B", "H100")
    laid = next(one for one in layouts(a, 1) if one.samples == 1 and not one.recompute)
    n = a.shape.parameters()
    assert laid.memory.weights + laid.memory.gradients + laid.memory.optimiser == pytest.approx(18 * n)
    assert laid.memory.total == pytest.approx(18 * n + laid.memory.activations + laid.memory.logits + 6e9)
    again = next(one for one in layouts(a, 1) if one.samples == 1 and one.recompute)
    assert again.memory.activations < 0.2 * laid.memory.activations
    assert again.left < laid.left


def test_sharding_takes_memory_away():
    a = assume("8B", "A800")
    same = [o for o in layouts(a, 64) if (o.tensor, o.pipeline, o.samples, o.recompute) == (1, 1, 1, False)]
    everything = [o.memory.total for o in same if o.sharded == "all"]
    assert everything == sorted(everything, reverse=True)
    two = {o.shard: o.memory for o in same if o.sharded == "optimiser"}
    assert two[8].optimiser == pytest.approx(two[2].optimiser / 4)
    assert two[8].weights == two[2].weights


def test_more_memory_or_faster_links_never_cost_more():
    a = assume("32B", "A800")
    before = choose(a, 512).left
    assert choose(replace(a, chip=replace(a.chip, memory_gb=160.0)), 512).left >= before
    assert choose(replace(a, chip=replace(a.chip, link_gb_s=900.0, network_gbit_s=800.0)), 512).left >= before


def test_checkpoint_intervals():
    assert young(60, 22_500) == pytest.approx(1643, abs=1)
    assert daly(60, 1e9) == pytest.approx(young(60, 1e9) - 60, rel=0.001)
    assert daly(100, 40) == 40
    # Daly's interval is where his goodput is best
    for stall, restart, mtbf in ((60, 600, 22_500), (5, 600, 18_000), (300, 900, 8_000)):
        best = daly(stall, mtbf)
        there = runtime_goodput(best, stall, restart, mtbf)
        assert all(runtime_goodput(f * best, stall, restart, mtbf) < there * 1.0005 for f in (0.5, 0.8, 1.25, 2.0))
    assert runtime_goodput(100, 0, 0, 1e12) == pytest.approx(1.0)
    assert runtime_goodput(90, 10, 600, math.inf) == pytest.approx(0.9)
    assert runtime_goodput(1e9, 10, 600, 1000) == 0.0


def test_failures_eat_large_clusters():
    runtime = [plan(assume("72B"), cards=n).goodput.runtime for n in (512, 4096, 10_000)]
    assert runtime == sorted(runtime, reverse=True)
    assert runtime[0] > 0.99
    assert plan(assume("72B", "A800", "card_mtbf_hours=5000"), cards=10_000).goodput.runtime < 0.75


@pytest.mark.parametrize(
    ("do", "line"),
    [
        (lambda: plan(assume("8B", "own"), days=3), "chip.tflops: must be > 0, got 0; give it with --set"),
        (lambda: plan(assume("8B", "A800", "mfu=1.4"), days=3), "mfu: must be a share of at most 1, got 1.4"),
        (lambda: plan(assume("8B", "A800", "work.clips=-1"), days=3), "work.clips: must be > 0, got -1"),
        (lambda: plan(assume("8B", "A800", "work.patch=999"), days=3), "work.patch: 999 px is more than"),
        (lambda: plan(assume("8B", "A800", "shape.layers=0"), days=3), "shape.layers: must be > 0, got 0"),
        (lambda: plan(assume()), "give either a deadline in days or a number of cards"),
        (lambda: plan(assume(), cards=0), "cards: must be >= 1, got 0"),
        (lambda: plan(assume(), days=0.0), "days: must be > 0, got 0"),
        (lambda: plan(assume("72B"), cards=16), "no layout fits 80 GB per card, the smallest needs [89]"),
        (lambda: plan(assume("72B"), days=0.5), "too many cards for 16,000,000 batch_tokens per step"),
        (
            lambda: plan(assume("8B", "A800", "card_mtbf_hours=20"), days=20),
            "20 days cannot be met: .* cards fail every",
        ),
        (lambda: fleet_of(0.0, CHIPS["A800"]), "EFLOPS: must be > 0"),
    ],
)
def test_plans_that_cannot_be_are_refused(do, line):
    with pytest.raises(ValueError, match=line):
        do()


def test_the_page_shows_every_assumption():
    a = assume("72B", "H100", "kwh_cny=0.75", "scheduling=0.93")
    text = plan_text(plan(a, days=60), "72B")
    for key, _, _ in leaves(a):
        assert key in text or key in ("chip.name", "chip.source")
    assert "0.75" in text
    assert a.chip.source in text
    assert max(map(len, text.splitlines())) <= 130


def test_a_plan_as_json():
    told = json.loads(json.dumps(plan(assume(), days=30).to_dict()))
    good = told["goodput"]
    assert good["total"] == pytest.approx(good["scheduling"] * good["runtime"] * good["program"])
    assert told["run_usd"] == pytest.approx(told["run_cny"] / 7.2)
    assert told["assumptions"]["chip"]["tflops"] == 320.0


def test_amounts_as_people_say_them():
    assert [amount(v) for v in (8.03e9, 3.8e12, 30e6, 91, 999.7e6)] == ["8.03 B", "3.8 T", "30 M", "91", "1,000 M"]
    assert [size(v) for v in (872e9, 3.26e15, 120, 999.9e9)] == ["872 GB", "3.26 PB", "120 B", "1,000 GB"]
    assert [span(v) for v in (2.7, 600, 7200, 5 * 86_400)] == ["2.7 s", "10 min", "2 h", "5 days"]

"""The simulated cluster agrees with closed forms, conserves time, and fails where it must."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefoundry.scaling.goodput.cluster import CAUSES, Cluster, Job, mixed
from drivefoundry.scaling.goodput.simulation import simulate
from drivefoundry.scaling.goodput.sweep import BOUND, NEVER, Knob, Point, broken, crossings, point, sweep_text, turned
from drivefoundry.scaling.plan import daly, runtime_goodput

QUIET = Cluster(card_mtbf_hours=math.inf, slow_mtbf_hours=math.inf, link_mtbf_hours=math.inf, spares=0.0)


def whole(c, seed=0):
    return simulate(c, [Job(c.modules)], seed)


def test_without_failures_nothing_is_lost():
    found = whole(replace(QUIET, cards=800, restart_minutes=0.0, snapshot_seconds=0.0))
    assert found.goodput == 1.0
    assert not any(found.causes.values())
    # starts and checkpoints cost what they last
    found = whole(replace(QUIET, cards=800, restart_minutes=30, checkpoint_minutes=9, snapshot_seconds=60))
    assert found.causes["restart"] == pytest.approx(0.5 / 720)
    assert found.runtime == pytest.approx(0.9, abs=0.002)


@pytest.mark.parametrize("minutes", [5.0, 27.3, 120.0, None])
def test_failures_cost_what_dalys_formula_gives(minutes):
    c = replace(
        QUIET, cards=8000, card_mtbf_hours=50_000.0, days=1500.0, repair_hours=0.0, asynchronous=False,
        snapshot_seconds=20.0, write_seconds=40.0, checkpoint_minutes=minutes,
    )  # fmt: skip
    mtbf = 50_000 * 3600 / 8000
    work = daly(60.0, mtbf) if minutes is None else 60 * minutes
    assert whole(c).runtime == pytest.approx(runtime_goodput(work, 60.0, 600.0, mtbf), rel=0.01)


def test_dalys_interval_is_the_best():
    c = replace(QUIET, cards=8000, card_mtbf_hours=50_000.0, days=1500.0, repair_hours=0.0, snapshot_seconds=60.0)
    best = daly(60.0, 50_000 * 3600 / 8000) / 60
    reached = {f: whole(replace(c, checkpoint_minutes=f * best)).runtime for f in (0.25, 0.5, 1.0, 2.0, 4.0)}
    assert max(reached, key=lambda f: reached[f]) == 1.0


def test_one_module_fails_and_is_repaired():
    c = replace(QUIET, cards=8, card_mtbf_hours=8 * 100.0, repair_hours=10.0, restart_minutes=0.0, days=4000.0)
    found = simulate(replace(c, snapshot_seconds=0.0, write_seconds=0.0, checkpoint_minutes=1.0), [Job(1)])
    assert found.scheduling == pytest.approx(100 / 110, rel=0.02)  # mean up / (up + repair)
    assert found.causes["repair"] == pytest.approx(10 / 110, rel=0.1)
    assert found.failures == pytest.approx(4000 * 24 / 110, rel=0.1)


def test_slow_modules_slow_everybody_until_they_are_found():
    c = replace(QUIET, cards=8000, slow_mtbf_hours=100_000.0, slow_speed=0.7, spares=0.02, restart_minutes=1.0)
    job = [Job(900)]
    never = simulate(replace(c, detect_minutes=None), job, 1)
    soon = simulate(replace(c, detect_minutes=10.0), job, 1)
    assert never.program < 0.85
    assert soon.program > 0.99
    assert soon.causes["restart"] > never.causes["restart"]  # swapping is not free
    assert never.runtime > 0.99


def test_work_written_late_is_lost():
    c = replace(QUIET, cards=8000, card_mtbf_hours=50_000.0, repair_hours=0.0, days=300.0, checkpoint_minutes=20.0)
    early, late = (whole(replace(c, write_seconds=s)).causes["lost work"] for s in (0.0, 900.0))
    failures = whole(c).failures
    more = (late - early) * 300 * 86_400 / failures
    assert more == pytest.approx(900.0, rel=0.1)


def test_links_that_are_cut():
    c = replace(QUIET, cards=8000, link_mtbf_hours=20_000.0, link_seconds=60.0, restart_minutes=0.0, days=200.0)
    found = whole(replace(c, timeout_seconds=1e9))
    assert found.causes["links"] == pytest.approx(60 / (60 + 20_000 * 3600 / 8000), rel=0.1)
    assert found.causes["lost work"] == 0.0
    assert whole(replace(c, timeout_seconds=60.0)).causes["lost work"] > 0.0


def test_a_job_does_its_work_and_leaves():
    c = replace(QUIET, cards=800, days=10.0, restart_minutes=0.0, snapshot_seconds=10.0, checkpoint_minutes=10.0)
    found = simulate(c, [Job(100, hours=60.0), Job(100, hours=60.0), Job(50, hours=1.0, submitted=2.0)])
    assert found.finished == 3
    work = (100 * 60 * 2 + 50) / (100 * 240)
    assert found.goodput == pytest.approx(work, rel=1e-9)


def test_the_first_in_rank_goes_first_and_small_ones_fill_up():
    c = replace(QUIET, cards=80, days=1.0, restart_minutes=0.0, snapshot_seconds=0.0)
    # two of 6 modules cannot run together; one of 4 overtakes the second
    found = simulate(c, [Job(6, 24.0), Job(6, 24.0, 0.1), Job(4, 24.0, 0.2)])
    assert found.scheduling == pytest.approx((6 * 24 + 4 * 23.8) / 240)
    # one of higher rank takes all modules for its five hours; the other keeps its work and goes on
    high = simulate(c, [Job(10, 18.5), Job(10, 5.0, 1.0, priority=1)])
    assert high.finished == 2
    assert high.scheduling == pytest.approx(23.5 / 24)


def test_a_large_job_takes_modules_from_small_ones():
    c = replace(QUIET, cards=800, card_mtbf_hours=5_000.0, repair_hours=48.0, days=20.0)
    alone = simulate(c, [Job(90)], 3)
    taking = simulate(c, [Job(90, priority=1), *(Job(1) for _ in range(10))], 3)
    waits = alone.causes["waiting"]
    assert taking.causes["waiting"] <= waits
    assert taking.goodput > alone.goodput


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000), st.floats(0, 0.1), st.booleans(), st.floats(500, 50_000), st.floats(0.1, 60),
    st.sampled_from([None, 5.0, 60.0]), st.floats(0.0, 1.0),
)  # fmt: skip
def test_all_time_is_accounted_for(seed, spares, asynchronous, mtbf, restart, detect, share):
    c = Cluster(
        cards=400, days=4.0, spares=spares, asynchronous=asynchronous, card_mtbf_hours=mtbf, restart_minutes=restart,
        detect_minutes=detect, slow_mtbf_hours=2_000.0, link_mtbf_hours=1_000.0,
    )  # fmt: skip
    jobs = mixed(c, share, seed)
    found = simulate(c, jobs, seed)
    assert sum(found.causes.values()) + found.goodput == pytest.approx(1.0, abs=1e-9)
    assert all(share >= -1e-9 for share in found.causes.values())
    assert all(0 <= f <= 1 + 1e-9 for f in (found.scheduling, found.runtime, found.program))
    assert set(found.causes) == set(CAUSES)
    assert np.isfinite(found.course).all()
    again = simulate(c, jobs, seed)
    assert (again.goodput, again.events, again.causes) == (found.goodput, found.events, found.causes)


def test_ten_thousand_cards_stay_above_ninety_and_break():
    base = Cluster()
    assert point(base, 3).goodput > BOUND
    restarts = turned(base, Knob("restart_minutes", "minutes to restart", (5, 10, 30)), 2)
    assert [p.goodput > BOUND for p in restarts.points] == [True, True, False]
    (at,) = restarts.breaks
    assert 10 < at < 30
    assert broken(restarts).startswith("breaks above about ")
    spares = turned(base, Knob("spares", "share of modules kept spare", (0.0, 0.015, 0.1)), 2)
    assert [p.goodput > BOUND for p in spares.points] == [False, True, False]
    text = sweep_text(base, restarts.points[0], [restarts, spares])
    assert "10,000 cards for 30 days" in text
    assert "--set restart_minutes=" in text


def test_crossings_lie_between_points():
    made = [Point(v, 1, 1, 1, g, g, g, {}) for v, g in ((1, 0.8), (10, 1.0), (100, 0.85), (NEVER, 0.95))]
    first, second, third = crossings(made)
    assert first == pytest.approx(10**0.5)
    assert 10 < second < 100
    assert third == 100


@pytest.mark.parametrize(
    ("c", "jobs", "line"),
    [
        (Cluster(cards=4), [], "cards: must be at least one module of 8, got 4"),
        (Cluster(spares=1.0), [], "spares: must be a share < 1, got 1"),
        (Cluster(slow_speed=0.2), [], "slow_speed: must be 0.5 to 1"),
        (Cluster(checkpoint_minutes=0.0), [], "checkpoint_minutes: must be > 0 or none"),
        (Cluster(restart_minutes=-1.0), [], "restart_minutes: must be >= 0, got -1"),
        (Cluster(cards=80), [Job(11)], "a job of 11 modules on a cluster of 10; give more cards"),
    ],
)
def test_clusters_that_cannot_be_are_refused(c, jobs, line):
    with pytest.raises(ValueError, match=line):
        simulate(c, jobs)

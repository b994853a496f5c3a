"""Hand-worked cases of every term of the PDM score, on a straight road."""

from dataclasses import replace

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from straight_road import START, moving, plan, road, scene

from drivefoundry.judge.scores.pdm import epdms, pdm_scores, pdms, prepare, score, simulate
from drivefoundry.types import AGENT_PEDESTRIAN, SIGNAL_RED, Scene


def scores(one: Scene, *plans: np.ndarray, reference=None, previous=None) -> dict[str, np.ndarray]:
    """Scores (N,) of plans in one scene."""
    ref = None if reference is None else np.array([reference])
    out = pdm_scores([one], np.array([START]), np.stack(plans)[None], ref, None if previous is None else previous[None])
    return {k: v[0] for k, v in out.items()}


def test_free_road_is_perfect():
    s = scores(scene(moving(0, 0, 8)), plan(8))
    assert s["progress"][0] == pytest.approx(32, abs=0.2)
    assert all(s[k][0] == 1.0 for k in s if k != "progress")


def test_driving_into_a_standing_car_is_at_fault():
    s = scores(scene(moving(0, 0, 8), moving(25, 0, 0)), plan(8))
    assert (s["NC"][0], s["TTC"][0], s["PDMS"][0]) == (0, 0, 0)


def test_driving_into_a_slower_car_is_at_fault():
    assert scores(scene(moving(0, 0, 10), moving(20, 0, 5)), plan(10))["NC"][0] == 0
    assert scores(scene(moving(0, 0, 10), moving(30, 0, 5)), plan(10))["NC"][0] == 1


def test_being_hit_from_behind_is_not():
    s = scores(scene(moving(0, 0, 2), moving(-20, 0, 10)), plan(2))
    assert (s["NC"][0], s["TTC"][0]) == (1, 1)


def test_standing_and_being_hit_is_not():
    assert scores(scene(moving(0, 0, 0), moving(20, 0, 8, np.pi)), plan(0))["NC"][0] == 1


def test_a_pedestrian_counts_like_a_car_and_a_thing_half():
    walker = scene(moving(0, 0, 8), moving(25, 0, 0), kinds=(AGENT_PEDESTRIAN,))
    cone = scene(moving(0, 0, 8), moving(25, 0, 0), kinds=(9,))
    assert scores(walker, plan(8))["NC"][0] == 0
    assert scores(cone, plan(8))["NC"][0] == 0.5


def test_a_hit_from_the_side_is_at_fault_only_between_lanes():
    # A car beside the ego, a metre behind, drifts to the right into its side.
    in_lane = scene(moving(0, 0, 8), moving(-1, 3.2, 8, drift=-0.5))
    between = scene(moving(0, 1.0, 8), moving(-1, 4.2, 8, drift=-0.5))
    assert scores(in_lane, plan(8))["NC"][0] == 1
    assert scores(between, plan(8))["NC"][0] == 0


def test_what_overlaps_at_the_start_is_ignored():
    s = scores(scene(moving(0, 0, 8), moving(3, 0, 8)), plan(8))
    assert (s["NC"][0], s["TTC"][0]) == (1, 1)


def test_agents_continue_beyond_the_end_of_their_log():
    late = scene(moving(0, 0, 8), moving(60, 0, 8, np.pi))
    short = replace(
        late, tracks=late.tracks[:, : START + 3], valid=late.valid[:, : START + 3], signals=late.signals[:, : START + 3]
    )
    assert scores(short, plan(8))["NC"][0] == scores(late, plan(8))["NC"][0] == 0


def test_an_agent_that_has_left_is_gone():
    one = scene(moving(0, 0, 8), moving(25, 0, 0))
    one.valid[1, START + 5 :] = False
    assert scores(one, plan(8))["NC"][0] == 1


def test_drivable_area_takes_all_four_corners():
    # The edge is at -1.6, half a car is 0.95 and a texel of 0.2 m is granted: the centre may go down to -0.85.
    s = scores(scene(moving(0, 0, 8)), plan(8, -0.7), plan(8, -1.05))
    assert s["DAC"].tolist() == [1, 0]
    assert s["PDMS"][1] == 0


@pytest.mark.parametrize(("speed", "grade"), [(1.5, 1.0), (4.0, 0.5), (8.0, 0.0)])
def test_metres_in_oncoming_traffic_within_a_second(speed, grade):
    # In the window of NAVSIM, 11 steps of 0.1 s, that is 1.65, 4.4 and 8.8 m: fine below 2, bad from 6.
    s = scores(scene(moving(0, 6.4, speed)), plan(speed))
    assert s["DDC"][0] == grade
    assert (
        scores(scene(moving(0, 3.2, speed)), plan(speed))["DDC"][0] == 1
    )  # a lane beside the route is no oncoming one


def test_red_light_counts_when_the_front_crosses_the_line():
    fast, slow = plan(16), plan(10)  # the front is at 66 m and at 42 m after 4 s, the line is at 60 m
    assert scores(scene(moving(0, 0, 16), red=True), fast)["TLC"][0] == 0
    assert scores(scene(moving(0, 0, 10), red=True), slow)["TLC"][0] == 1
    assert scores(scene(moving(0, 0, 16)), fast)["TLC"][0] == 1
    beyond = scene(moving(60, 0, 8), red=True)  # the front is past the line already
    assert scores(beyond, plan(8))["TLC"][0] == 1


def test_light_of_the_moment_of_crossing_decides():
    one = scene(moving(0, 0, 16))
    crossing = START + 36  # 57.7 m at 16 m/s
    one.signals[0, crossing + 3 :] = SIGNAL_RED
    assert scores(one, plan(16))["TLC"][0] == 1
    one.signals[0, crossing - 3 :] = SIGNAL_RED
    assert scores(one, plan(16))["TLC"][0] == 0


def test_time_to_collision_looks_a_second_ahead():
    # 10 m/s for 2 s, then braking at 5 m/s^2: 30 m. At 1 m behind a standing car that is too close for comfort.
    stop = plan(10, brake=5.0, brake_from=2.0)
    close = scores(scene(moving(0, 0, 10), moving(30 + 4.6 + 1.2, 0, 0)), stop)
    wide = scores(scene(moving(0, 0, 10), moving(30 + 4.6 + 6.0, 0, 0)), stop)
    assert (close["NC"][0], close["TTC"][0]) == (1, 0)
    assert (wide["NC"][0], wide["TTC"][0]) == (1, 1)


def test_time_to_collision_to_the_step():
    # Behind a car as fast as oneself there is no collision ahead; 2 m/s faster, the gap g closes in g / 2 s. The ego is
    # moved on by up to 0.9 s from any of the first 3.2 s: 10 * (3.1 + 0.9) = 40 m against g + 4.6 + 8 * 4.0 m.
    def ttc(gap):
        return scores(scene(moving(0, 0, 10), moving(4.6 + gap, 0, 8)), plan(10))["TTC"][0]

    assert (ttc(7.8), ttc(8.3)) == (0, 1)


def test_traffic_from_the_side_counts_in_a_junction_only():
    # At 2 m/s a car comes from the right and touches the ego's side (y = -0.95 - 2.3) after 2 s, abeam of its middle,
    # 56 degrees or more off the nose: not ahead. In its lane that is the other's doing, in a junction it counts.
    crossing = moving(2.0, -7.25, 2.0, np.pi / 2)
    in_lane = scores(scene(moving(0, 0, 1), crossing), plan(1))
    in_junction = scores(scene(moving(0, 0, 1), crossing, map=road((True, True, True))), plan(1))
    assert (in_lane["NC"][0], in_lane["TTC"][0]) == (1, 1)
    assert (in_junction["NC"][0], in_junction["TTC"][0]) == (1, 0)


def test_the_worse_of_two_faults_counts():
    # A thing is grazed at 10 m and a car hit at 25 m: 1/2 and 0.
    both = scene(moving(0, 0, 8), moving(12, 1.8, 0), moving(28, 0, 0), kinds=(9, 0))
    assert scores(both, plan(8))["NC"][0] == 0
    only = scene(moving(0, 0, 8), moving(12, 1.8, 0), kinds=(9,))
    assert scores(only, plan(8))["NC"][0] == 0.5


def test_driving_direction_is_not_judged_in_a_junction():
    assert scores(scene(moving(0, 6.4, 8), map=road((True, True, True))), plan(8))["DDC"][0] == 1


def test_progress_in_shares_of_the_best():
    s = scores(scene(moving(0, 0, 6)), plan(8), plan(4))
    assert s["EP"][0] == 1
    assert s["EP"][1] == pytest.approx(s["progress"][1] / s["progress"][0])
    half = scores(scene(moving(0, 0, 6)), plan(8), plan(4), reference=64.0)
    assert half["EP"] == pytest.approx(half["progress"] / 64)


def test_progress_of_plans_that_break_rules_sets_no_standard():
    one = scene(moving(0, 0, 8), moving(40, 0, 0))
    s = scores(one, plan(16), plan(5))
    assert s["NC"].tolist() == [0, 1]
    assert s["EP"].tolist() == [1, 1]


def test_progress_is_not_judged_if_no_plan_gets_far():
    assert scores(scene(moving(0, 0, 0)), plan(0), plan(1))["EP"].tolist() == [1, 1]


def test_comfort_bounds_braking():
    hard = scores(scene(moving(0, 0, 14)), plan(14, brake=7.0))
    soft = scores(scene(moving(0, 0, 14)), plan(14, brake=1.5))
    assert (hard["C"][0], hard["HC"][0]) == (0, 0)
    assert soft["C"][0] == 1


def test_history_comfort_looks_back():
    rough = moving(0, 0, 8)
    rough[: START - 4, 3] += np.linspace(16, 0, START - 4)  # braking at 10 m/s^2 until 0.5 s ago
    s = scores(scene(rough), plan(8))
    assert (s["C"][0], s["HC"][0]) == (1, 0)


def test_lane_keeping_allows_half_a_metre_and_anything_in_a_junction():
    def at(y, **more):
        return scores(scene(moving(0, y, 8), **more), plan(8))["LK"][0]

    assert (at(0.4), at(0.7)) == (1, 0)
    assert at(0.7, map=road((True, True, True))) == 1


def test_extended_comfort_punishes_changing_ones_mind():
    one = scene(moving(0, 0, 8))
    same = scores(one, plan(8), previous=plan(8))
    other = scores(one, plan(8), previous=plan(8, brake=4.0))
    assert (same["EC"][0], other["EC"][0]) == (1, 0)
    assert same["EPDMS"][0] == 1
    assert other["EPDMS"][0] == pytest.approx(14 / 16)


def test_what_the_logged_driver_broke_is_not_held_against_a_plan():
    one = scene(moving(0, 0, 16), red=True)
    s = scores(one, plan(16))
    assert (s["TLC"][0], s["EPDMS"][0]) == (0, 1)
    short = replace(
        one, tracks=one.tracks[:, : START + 9], valid=one.valid[:, : START + 9], signals=one.signals[:, : START + 9]
    )
    assert scores(short, plan(16))["EPDMS"][0] == 0  # nobody knows what the driver did
    ours = replace(one, meta={"release": "r1"})
    assert scores(ours, plan(16))["EPDMS"][0] == 0  # a model drove: it is no excuse for itself


def test_a_driver_who_stood_excuses_no_lack_of_progress():
    # Judged alone, as NAVSIM does it, the standing driver's progress is no less than anybody's.
    s = scores(scene(moving(0, 0, 0)), plan(8), plan(2))
    assert s["EP"][1] == pytest.approx(s["progress"][1] / s["progress"][0])
    assert s["EPDMS"][1] == pytest.approx((5 + 5 * s["EP"][1] + 2 + 2 * s["HC"][1]) / 14)


def test_a_driver_who_changed_plans_excuses_that():
    # From 0.5 s ago until now the driver went 8 m/s straight on, and then stood still: no car could follow that.
    stopped = moving(0, 0, 8)
    stopped[START + 1 :, 0] = stopped[START, 0]
    s = scores(scene(stopped), plan(8, brake=4.0), previous=plan(8))
    assert s["EC"][0] == 0
    kept = scores(scene(moving(0, 0, 8)), plan(8, brake=4.0), previous=plan(8))
    assert kept["EC"][0] == 0
    assert kept["EPDMS"][0] == pytest.approx((5 + 5 + 2 + 2 * kept["HC"][0]) / 16)


def test_formulas():
    terms = {"NC": 0.5, "DAC": 1.0, "DDC": 0.5, "TLC": 1.0, "TTC": 1.0, "EP": 0.4, "C": 0.0, "LK": 1.0, "HC": 0.0}
    arrays = {k: np.array([v]) for k, v in terms.items()}
    assert pdms(arrays)[0] == pytest.approx(0.5 * (5 + 2) / 12)
    assert epdms(arrays)[0] == pytest.approx(0.25 * (5 + 2 + 2) / 14)
    assert epdms({**arrays, "EC": np.array([1.0])})[0] == pytest.approx(0.25 * (5 + 2 + 2 + 2) / 16)


def batch(seed: int, n: int = 6) -> tuple[list[Scene], np.ndarray]:
    rng = np.random.default_rng(seed)
    scenes = []
    for i in range(n):
        others = [
            moving(rng.uniform(-30, 60), rng.choice([0, 3.2, 6.4]), rng.uniform(0, 12))
            for _ in range(rng.integers(0, 6))
        ]
        scenes.append(scene(moving(0, 0, rng.uniform(0, 15)), *others, red=bool(rng.integers(2)), id=f"s{i}"))
    plans = np.stack([[plan(rng.uniform(0, 16), rng.normal(0, 1.5)) for _ in range(3)] for _ in range(n)])
    return scenes, plans + rng.normal(0, 0.1, plans.shape)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_scores_lie_between_zero_and_one(seed):
    scenes, plans = batch(seed, 3)
    for name, values in pdm_scores(scenes, np.full(3, START), plans).items():
        assert np.isfinite(values).all()
        assert (values >= 0).all()
        if name != "progress":
            assert (values <= 1).all()


def test_scores_are_the_same_in_any_batch_and_on_any_number_of_threads():
    scenes, plans = batch(7)
    at = np.full(6, START)
    together = pdm_scores(scenes, at, plans)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    alone = [pdm_scores([s], at[:1], p[None]) for s, p in zip(scenes, plans, strict=True)]
    numba.set_num_threads(threads)
    for name, values in together.items():
        assert np.array_equal(values, np.concatenate([a[name] for a in alone])), name


# What the plain form of these kernels, every agent tested at every step, gave for batch(7) with previous plans.
FROZEN = {
    "PDMS": [
        [0.5833333333, 0, 0], [0, 0.728975887, 0.714818637], [0, 0, 0], [0.8333333333, 0, 0.5849627719],
        [0.8333333333, 0, 0], [0, 0.5340901265, 1],
    ],
    "EPDMS": [
        [0.75, 0, 0], [0, 0.7967319152, 0.5361139777], [0, 0, 0], [0.75, 0, 0.5637220789], [0.75, 0, 0],
        [0, 0.5255675948, 0.875],
    ],
    "progress": [
        [24.2717477254, 37.6110441191, 40.5233400373], [9.6404619735, 14.9908425739, 6.3112945744],
        [13.8167263725, 19.1339480369, 42.1470624489], [22.4615747492, 22.4357443215, 9.0724693134],
        [27.7249862977, 11.5062665301, 27.6453119781], [24.201406111, 15.745200409, 55.8704383463],
    ],
}  # fmt: skip


def test_scores_are_those_of_the_plain_kernels():
    scenes, plans = batch(7)
    previous = np.random.default_rng(7).normal(0, 0.3, (6, 8, 3)) + plans[:, 0]
    s = pdm_scores(scenes, np.full(6, START), plans, np.full(6, 20.0), previous)
    for name, values in FROZEN.items():
        assert s[name] == pytest.approx(np.array(values), abs=1e-9), name


def test_prepared_situations_score_the_same():
    scenes, plans = batch(3)
    at = np.full(6, START)
    situations = prepare(scenes, at)
    for name, values in pdm_scores(scenes, at, plans).items():
        assert np.array_equal(values, score(situations, plans)[name]), name


def test_simulation_starts_at_the_logged_state():
    situations = prepare([scene(moving(3, 0.5, 8))], np.array([START]))
    assert situations.start[0] == pytest.approx([3, 0.5, 0, 8, 0, 0], abs=1e-5)
    assert simulate(situations.start, plan(8)[None, None])[0, 0, -1, 0] == pytest.approx(35, abs=0.2)


def test_bad_input_is_refused_by_name():
    one = scene(moving(0, 0, 8))
    with pytest.raises(ValueError, match="at: the ego of scene s has no state at step 500"):
        pdm_scores([one], np.array([500]), plan(8)[None, None])
    with pytest.raises(ValueError, match=r"plans: must have shape \(1, N, 8, 3\)"):
        pdm_scores([one], np.array([START]), plan(8)[None])
    with pytest.raises(ValueError, match="plans: NaN"):
        pdm_scores([one], np.array([START]), np.full((1, 1, 8, 3), np.nan))

"""Hand-worked whole drives: what ends them, what counts, and the exact driving scores."""

from dataclasses import replace

import numpy as np
import pytest
from straight_road import START, cruise, moving, road, rollout, scene

from drivefoundry.judge.scores.closed_loop import (
    driving_score_20,
    driving_score_21,
    measure,
    route_progress,
    score_rollout,
)
from drivefoundry.ragged import Ragged
from drivefoundry.types import AGENT_PEDESTRIAN, SIGNAL_RED


def one(s, ego, reference=80.0):
    """Scores of ego states (T, 6) in a scene, as floats."""
    out = score_rollout(rollout([s], ego[None]), [s], np.array([reference]))
    return {k: float(v[0]) for k, v in out.items()}


def test_a_clean_drive():
    s = one(scene(moving(0, 0, 8)), cruise(8), reference=8 * 7.9)
    assert {k: s[k] for k in ("collision", "at_fault_collision", "off_road", "red_light", "stalled")} == dict.fromkeys(
        ("collision", "at_fault_collision", "off_road", "red_light", "stalled"), 0.0
    )
    assert {k: s[k] for k in ("ttc_ok", "comfort")} == {"ttc_ok": 1, "comfort": 1}
    for name in ("progress", "pdms", "driving_score_20", "driving_score_21"):
        assert s[name] == pytest.approx(1.0), name
    assert s["progress_m"] == pytest.approx(63.2)
    assert s["first_infraction"] == np.inf


def test_the_drive_ends_at_a_collision_at_fault():
    # Fronts meet when the ego has gone 40 - 4.6 = 35.4 m: in step 45 (36.0 m), 4.5 s.
    s = one(scene(moving(0, 0, 8), moving(40, 0, 0)), cruise(8))
    assert (s["collision"], s["at_fault_collision"], s["pdms"]) == (1, 1, 0)
    assert s["first_infraction"] == pytest.approx(4.5)
    assert s["progress_m"] == pytest.approx(36.0)
    assert s["progress"] == pytest.approx(36.0 / 80)
    assert s["driving_score_20"] == pytest.approx(36 / 80 * 0.6)
    assert s["driving_score_21"] == pytest.approx(36 / 80 / 1.7)


def test_nothing_after_the_end_counts():
    # The wreck would run the light at 60 m and hit a second car.
    s = one(scene(moving(0, 0, 8), moving(40, 0, 0), moving(50, 0, 0), red=True), cruise(8, 80))
    assert s["red_light"] == 0
    assert s["driving_score_20"] == pytest.approx(36 / 80 * 0.6)


def test_a_pedestrian_costs_more():
    s = one(scene(moving(0, 0, 8), moving(40, 0, 0), kinds=(AGENT_PEDESTRIAN,)), cruise(8))
    assert s["driving_score_20"] == pytest.approx(36 / 80 * 0.5)
    assert s["driving_score_21"] == pytest.approx(36 / 80 / 2.0)


def test_being_hit_from_behind_is_reported_but_costs_nothing():
    s = one(scene(moving(0, 0, 2), moving(-20, 0, 10)), cruise(2), reference=15.8)
    assert (s["collision"], s["at_fault_collision"]) == (1, 0)
    assert s["driving_score_21"] == pytest.approx(1.0)
    assert s["first_infraction"] == np.inf


def test_a_collision_counts_once_per_agent():
    # Hit in the side while keeping its lane: not at fault, the drive goes on, both boxes overlap for many steps.
    s = one(scene(moving(0, 0, 8), moving(-1, 3.2, 8, drift=-0.5)), cruise(8), reference=63.2)
    assert (s["collision"], s["at_fault_collision"]) == (1, 0)
    assert s["driving_score_20"] == pytest.approx(0.6)


def test_red_light():
    s = one(scene(moving(0, 0, 8), red=True), cruise(8), reference=63.2)  # front at 60 m after 57.7 / 8 = 7.2 s
    assert s["red_light"] == 1
    assert s["first_infraction"] == pytest.approx(7.3)
    assert s["driving_score_20"] == pytest.approx(0.7)
    assert s["driving_score_21"] == pytest.approx(1 / 1.4)


def test_the_light_is_read_at_the_step_of_the_drive():
    s = scene(moving(0, 0, 8))
    s.signals[0, START + 74 :] = SIGNAL_RED
    assert one(s, cruise(8))["red_light"] == 0
    s.signals[0, START + 72 :] = SIGNAL_RED
    assert one(s, cruise(8))["red_light"] == 1


def test_off_road_by_distance():
    ego = cruise(8, 81)
    ego[41:, 1] = -1.1  # a corner beyond the edge for the second half of the way
    s = one(scene(moving(0, 0, 8)), ego, reference=64.0)
    way = 40 * 0.8 + np.hypot(0.8, 1.1) + 39 * 0.8
    share = (np.hypot(0.8, 1.1) + 39 * 0.8) / way
    assert (s["off_road"], s["pdms"]) == (1, 0)
    assert s["off_road_share"] == pytest.approx(share)
    assert s["off_road_at"] == s["first_infraction"] == pytest.approx(4.1)
    assert s["driving_score_21"] == pytest.approx(1 - share)
    assert s["driving_score_20"] == pytest.approx(1.0)  # leaderboard 2.0 as it is stated has no term for it


def yard():
    """The straight road, whose map ends at y = -1.6 and knows an edge there from x = -60 to 20 only."""
    edge = np.array([[-60.0, -1.6], [20.0, -1.6]])
    return replace(road(), id="yard", road_edges=Ragged.of([edge], 2))


def test_ground_that_the_map_does_not_know_is_neither_on_the_road_nor_off_it():
    ego = cruise(8, 81)
    ego[41:, 1] = -6.0  # from x = 32.8 on, past the end of the edge
    s = one(scene(moving(0, 0, 8), map=yard()), ego, reference=64.0)
    assert (s["off_road"], s["off_road_share"]) == (0, 0)
    assert s["off_road_at"] == np.inf
    way = np.hypot(0.8, 6.0) + 39 * 0.8
    assert s["unmapped_share"] == pytest.approx(way / (40 * 0.8 + way))
    assert one(scene(moving(0, 0, 8)), ego, reference=64.0)["unmapped_share"] == 0.0


def test_after_crossing_an_edge_an_ego_is_off_the_road_until_back_on_one():
    ego = cruise(8, 81)
    ego[10:15, 1], ego[15:40, 1] = -3.0, -20.0  # over the edge, then far beyond what is known to be no road
    s = one(scene(moving(0, 0, 8), map=yard()), ego, reference=64.0)
    assert s["off_road"] == 1
    assert s["off_road_at"] == pytest.approx(1.0)
    assert s["unmapped_share"] == 0.0
    step = np.hypot(*np.diff(ego[:, :2], axis=0).T)
    assert s["off_road_share"] == pytest.approx(step[9:39].sum() / step.sum())
    ego[60:, 1] = -6.0  # a second time out, where no edge is: that is not held against it
    after = one(scene(moving(0, 0, 8), map=yard()), ego, reference=64.0)
    assert after["off_road_share"] < s["off_road_share"]
    assert after["unmapped_share"] > 0.2


def test_the_driving_direction_is_not_judged_where_the_map_knows_no_lane():
    ego = cruise(8, 81)
    ego[41:, 1] = -6.0
    open_, closed = (measure(rollout([s], ego[None]), [s])["DDC"][0] for s in (
        scene(moving(0, 0, 8), map=yard()), scene(moving(0, 0, 8))))  # fmt: skip
    assert (open_, closed) == (1.0, 0.0)


def test_the_time_of_every_event():
    # Red at 60 m: the front is there after 57.7 / 8 = 7.2 s; the standing car at 70 m after 65.4 / 8 = 8.2 s.
    s = one(scene(moving(0, 0, 8), moving(70, 0, 0), red=True), cruise(8, 90))
    assert (s["red_light_at"], s["at_fault_at"], s["collision_at"]) == pytest.approx((7.3, 8.2, 8.2))
    assert (s["off_road_at"], s["first_infraction"]) == pytest.approx((np.inf, 7.3))
    assert s["driving_score_20"] == pytest.approx(65.6 / 80 * 0.7 * 0.6)
    assert s["driving_score_21"] == pytest.approx(65.6 / 80 / (1 + 0.4 + 0.7))


def test_a_crossing_car_hit_in_its_flank_is_ours():
    # It crosses from the right at 4 m/s and is across the lane's middle (y = 0) at 3 s, when the ego's front
    # (24 + 2.3 m) is at its flank (27.3 - 0.95 m): the front bumper touches it.
    other = moving(27.3, -12.0, 4.0, np.pi / 2)
    s = one(scene(moving(0, 0, 8), other), cruise(8))
    assert (s["at_fault_collision"], s["progress_m"]) == (1, pytest.approx(24.8))


def test_oncoming_traffic_hit_while_standing_is_not_ours():
    s = one(scene(moving(0, 0, 0), moving(30, 0, 8, np.pi)), cruise(0))
    assert (s["collision"], s["at_fault_collision"], s["pdms"]) == (1, 0, pytest.approx(7 / 12))


def test_standing_makes_no_progress():
    s = one(scene(moving(0, 0, 0)), cruise(0))
    assert (s["progress"], s["stalled"], s["distance"]) == (0, 1, 0)
    assert one(scene(moving(0, 0, 0)), cruise(0), reference=3.0)["progress"] == 1  # nor does the expert


def test_comfort_is_the_share_of_windows():
    # Windows of 4 s start at 0, 1, 2, 3 s (8 s of drive); hard braking from 5.4 s on lies in the last two.
    ego = cruise(8, 80)
    ego[54:70, 4] = -8.0
    s = one(scene(moving(0, 0, 8)), ego)
    assert s["comfort"] == pytest.approx(2 / 4)


def test_route_progress_is_what_the_expert_sets():
    s = scene(moving(0, 0, 8), moving(40, 0, 0))
    assert route_progress(rollout([s], cruise(8)[None]), [s])[0] == pytest.approx(36.0)


def test_driving_scores_exactly():
    counts = {"hit_pedestrians": 1, "hit_vehicles": 2, "hit_static": 1, "red_lights": 1}
    arrays = {k: np.array([float(v)]) for k, v in counts.items()}
    done, off = np.array([0.8]), np.array([0.25])
    assert driving_score_20(done, arrays)[0] == pytest.approx(0.8 * 0.5 * 0.6**2 * 0.65 * 0.7)
    assert driving_score_21(done, arrays, off)[0] == pytest.approx(0.8 * 0.75 / (1 + 1.0 + 2 * 0.7 + 0.6 + 0.4))


def test_scenes_are_scored_alike_alone_and_together():
    scenes = [scene(moving(0, 0, 8), moving(40 + 10 * i, 0, 0), id=f"s{i}") for i in range(3)]
    ego = np.stack([cruise(8)] * 3)
    together = score_rollout(rollout(scenes, ego), scenes, np.full(3, 80.0))
    for i, s in enumerate(scenes):
        assert one(s, cruise(8)) == {k: float(v[i]) for k, v in together.items()}


def test_other_scenes_than_were_driven_are_refused():
    s = scene(moving(0, 0, 8))
    with pytest.raises(ValueError, match="not the rollout's scenes"):
        score_rollout(rollout([s], cruise(8)[None]), [scene(moving(0, 0, 8), id="other")], np.array([80.0]))
    with pytest.raises(ValueError, match="reference_progress"):
        score_rollout(rollout([s], cruise(8)[None]), [s], np.array([80.0, 1.0]))


def test_in_a_drive_that_continues_every_contact_and_every_red_light_counts():
    # Hit from behind while it drives 2 m/s; then, at 8 m/s, into a car that stands.
    slow = scene(moving(0, 0, 2), moving(-20, 0, 10))
    fast = scene(moving(0, 0, 8), moving(40, 0, 0), id="t")
    m = measure(rollout([slow, fast], np.stack([cruise(2), cruise(8)])), [slow, fast], stop=False)
    assert m["contacts"].tolist() == [1, 1]
    assert m["at_fault_contacts"].tolist() == [0, 1]
    again = cruise(16)
    again[40:] = again[:40]  # back at the start, round the line, and over it once more
    again[40, :2] = 0.0, 100.0
    red = scene(moving(0, 0, 16), red=True)
    assert measure(rollout([red], again[None]), [red], stop=False)["red_lights"].tolist() == [2]

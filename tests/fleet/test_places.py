"""The cities as road maps: connected, with lights, and houses clear of the road."""

from __future__ import annotations

import numpy as np
import pytest

from drivefoundry.fleet.nets.build import RECIPES, build
from drivefoundry.fleet.places import HELD_OUT_PLACES, LONG_DRIVES, PLACES, TRAINING_PLACES, place_map, place_net
from drivefoundry.roadmap import arc_length, load_map, resample, save_map


@pytest.mark.parametrize("place", PLACES)
def test_every_lane_leads_on_and_meets_its_successor(place):
    road = place_map(place)
    for lane in range(len(road.lanes)):
        after = road.lane_next[lane].astype(int).ravel()
        assert len(after) > 0, "a car could never leave this lane"
        for other in after:
            assert np.hypot(*(road.lanes[other][0] - road.lanes[lane][-1])) < 0.5


@pytest.mark.parametrize("place", PLACES)
def test_neighbours_lie_beside_each_other_in_the_same_direction(place):
    road = place_map(place)
    assert (road.lane_left >= 0).any()
    for lane in np.flatnonzero(road.lane_left >= 0):
        left = int(road.lane_left[lane])
        assert road.lane_right[left] == lane
        own, beside = (resample(road.lanes[i], 1.0) for i in (int(lane), left))
        middle = own[len(own) // 2]
        foot = beside[np.argmin(np.hypot(*(beside - middle).T))]
        along = own[len(own) // 2 + 1] - middle
        assert along[0] * (foot - middle)[1] - along[1] * (foot - middle)[0] > 0
        if not road.lane_junction[lane]:  # within junctions the outer of two turning lanes is far longer
            assert arc_length(own)[-1] == pytest.approx(arc_length(beside)[-1], rel=0.25)


@pytest.mark.parametrize("place", PLACES)
def test_stop_lines_cross_the_lane_end_and_lamps_face_it(place):
    road = place_map(place)
    lit = np.flatnonzero(road.lane_signal >= 0)
    assert sorted(road.lane_signal[lit].tolist()) == list(range(len(road.signal_heads)))
    for lane in lit:
        signal = road.lane_signal[lane]
        end, before = road.lanes[int(lane)][-1], road.lanes[int(lane)][-2]
        along = (end - before) / np.hypot(*(end - before))
        stop, head = road.stop_lines[signal].reshape(2, 2), road.signal_heads[signal]
        assert np.hypot(*(stop.mean(0) - end)) < 1.0
        assert abs((stop[1] - stop[0]) @ along) < 0.05
        assert 12 < (head[:2] - end) @ along < 32
        assert np.cos(head[3]) * along[0] + np.sin(head[3]) * along[1] < -0.99


@pytest.mark.parametrize("place", TRAINING_PLACES + HELD_OUT_PLACES)
def test_most_junctions_have_lights_and_limits_are_a_citys(place):
    road = place_map(place)
    ends = ~road.lane_junction
    assert (road.lane_signal[ends] >= 0).mean() > 0.5
    assert road.lane_speed[ends].min() >= 8.0
    assert road.lane_speed.max() <= 14.0


def test_the_place_for_long_drives_has_roundabouts_merging_lanes_and_lights():
    net = place_net(LONG_DRIVES)
    road = net.map
    around = {}
    for lane, edge in enumerate(net.edge):
        if edge.startswith("o") and not road.lane_junction[lane]:
            around.setdefault(edge.split("r")[0], []).append(road.lanes[lane])
    assert len(around) >= 5
    for lanes in around.values():
        points = np.concatenate(lanes)
        radius = np.hypot(*(points - points.mean(0)).T)
        assert radius.min() > 10
        assert radius.max() < 25
        for line in lanes:  # to the right of the island: counter-clockwise
            arm = line - points.mean(0)
            assert (arm[:-1, 0] * arm[1:, 1] - arm[:-1, 1] * arm[1:, 0] > 0).all()
    follow = np.concatenate([road.lane_next[i].ravel() for i in range(len(road.lanes))]).astype(int)
    into = np.bincount(follow, minlength=len(road.lanes))
    assert (into[~road.lane_junction] > 1).any()
    assert (road.lane_signal >= 0).sum() > 50


@pytest.mark.parametrize("place", PLACES)
def test_houses_stand_clear_of_roads(place):
    road = place_map(place)
    assert len(road.buildings) > 100
    points = np.concatenate([road.lanes.points, road.sidewalks.points])
    for x, y, yaw, length, width, height in road.buildings:
        c, s = np.cos(yaw), np.sin(yaw)
        dx, dy = (points - (x, y)).T
        out = np.stack([np.abs(c * dx + s * dy) - length / 2, np.abs(c * dy - s * dx) - width / 2])
        assert np.hypot(*np.maximum(out, 0)).min() > 1.0
        assert 6 <= height <= 25


def test_a_place_has_one_id_and_survives_storage():
    road = place_map("place_a")
    place_net.cache_clear()
    assert place_map("place_a").id == road.id
    assert load_map(save_map(road)).id == road.id
    assert len({place_map(place).id for place in PLACES}) == len(PLACES)


def test_training_and_held_out_places_differ():
    assert not set(TRAINING_PLACES) & set(HELD_OUT_PLACES)


def test_an_unknown_place_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"place_q.*place_a"):
        place_net("place_q")


def test_the_networks_are_what_their_script_makes(tmp_path):
    pytest.importorskip("sumo", reason="netgenerate comes with the extra drivefoundry[sumo]")
    from drivefoundry.fleet.places import net_bytes

    made = build(tmp_path)
    assert [path.name.split(".")[0] for path in made] == list(RECIPES)
    if _version() == "1.28.0":  # another SUMO draws another city
        assert all(path.read_bytes() == net_bytes(path.name.split(".")[0]) for path in made)


def _version() -> str:
    from importlib.metadata import version

    return version("eclipse-sumo")

import gzip
import json

import numpy as np
import pytest

from drivefoundry.clips.importers import scenes_in
from drivefoundry.clips.importers.traffic import womd
from drivefoundry.clips.importers.traffic.recording import left_of, not_read, scenes_of
from drivefoundry.edges import MAPPED_ROAD, NO_ROAD, UNMAPPED, ground_at, stack_roads
from drivefoundry.judge.scores.closed_loop import score_rollout
from drivefoundry.judge.scores.surroundings import surroundings
from drivefoundry.raster import drivable_at
from drivefoundry.sim.drive import drive
from drivefoundry.sim.policies import LogReplay
from drivefoundry.sim.world import with_traffic
from drivefoundry.types import LINE_EDGE, LINE_WHITE_DASHED, SIGNAL_GREEN, SIGNAL_RED
from handmade import ORIGIN, STEPS, changed, write
from handmade import womd as scenario


def test_scenario_becomes_a_map_with_widths_and_neighbours(tmp_path):
    r = womd.read(write(tmp_path / "a.json", scenario()))
    m = r.map
    assert len(m.lanes) == 3  # the lane of one point leads nowhere
    np.testing.assert_allclose(m.lane_width[:2], [2.5 + 1.75, 1.75 + 2.5], atol=0.01)
    assert m.lane_left.tolist()[:2] == [1, -1]
    assert m.lane_right.tolist()[:2] == [-1, 0]
    assert m.lane_next[0].ravel().tolist() == [2]
    assert not m.lane_junction.any()
    assert sorted(m.line_kind.tolist()) == [LINE_WHITE_DASHED, LINE_EDGE, LINE_EDGE]
    assert len(m.crosswalks) == 1
    assert np.abs(m.lanes.points).max() < 200  # near the origin, whatever the source's frame
    moved = np.array(r.notes["origin"].split()[:2], float)
    np.testing.assert_allclose(r.tracks[0, 0, :2] + moved, ORIGIN + np.array([5, 0]))


@pytest.mark.parametrize("wide", [2.5, 6.0])
def test_the_road_reaches_to_its_edges_and_no_further(tmp_path, wide):
    scene = scenes_of(womd.read(write(tmp_path / "a.json", scenario(wide=wide))))[0]
    where = surroundings([scene])
    x, y = (float(v) for v in scene.tracks[0, 10, :2])

    def on(offset):
        return drivable_at(where.roads.classes, where.roads.frames, int(where.place[0]), x, y + offset)

    assert on(-wide + 0.3)
    assert not on(-wide - 0.3)
    assert on(3.5 + wide - 0.3)
    assert not on(3.5 + wide + 0.3)


def test_a_car_park_without_lanes_is_not_off_the_road_and_the_verge_behind_an_edge_is(tmp_path):
    whole = scenario()
    edge = whole["roads"][4]["geometry"]
    whole["roads"][4]["geometry"] = [p for p in edge if p["x"] <= ORIGIN[0] + 100]  # open to the right from there on
    far = [{"x": ORIGIN[0] + x, "y": ORIGIN[1] - 40.0} for x in (100, 200)]
    whole["roads"].append({"type": "road_edge", "id": 77, "map_element_id": 15, "geometry": far})
    parked = whole["objects"][1]
    turn = np.linspace(0, 12, STEPS)  # the second car leaves lane 3 for the car park
    parked["position"] = [
        {**p, "x": p["x"] + 65.0, "y": p["y"] - float(d)} if p["y"] > -9000 else p
        for p, d in zip(parked["position"], turn, strict=True)
    ]
    r = womd.read(write(tmp_path / "a.json", whole))
    scene = next(s for s in scenes_of(r) if s.id.endswith(":101"))
    rollout = drive(LogReplay(), [scene], simulator=with_traffic("replay"))
    score = score_rollout(rollout, [scene], np.ones(1))
    assert score["off_road"][0] == 0.0
    assert score["unmapped_share"][0] > 0.2
    m = scene.map
    x, y = (float(v) for v in r.tracks[0, 0, :2])
    stack = stack_roads([m])
    kinds = [int(ground_at(stack.classes, stack.frames, 0, x + dx, y + dy))
             for dx, dy in ((20, 0), (20, -3.5), (120, -20), (120, -38), (120, -42))]  # fmt: skip
    assert kinds == [MAPPED_ROAD, NO_ROAD, UNMAPPED, UNMAPPED, NO_ROAD]


def test_road_edges_have_the_road_on_their_left_in_any_notation(tmp_path):
    whole = scenario()
    for r in whole["roads"][4:6]:
        r["geometry"] = r["geometry"][::-1]
    turned, plain = (womd.read(write(tmp_path / f"{n}.json", w)).map for n, w in enumerate((whole, scenario())))
    for m in (turned, plain):
        right, left = m.road_edges
        assert right[0, 0] < right[-1, 0]
        assert left[0, 0] > left[-1, 0]


def test_scenes_have_their_own_egos_and_start_at_the_present(tmp_path):
    recording = womd.read(write(tmp_path / "a.json.gz", scenario()))
    first, second = scenes_of(recording)
    assert [first.id, second.id] == ["womd-abc:100", "womd-abc:101"]
    assert first.start == 10
    assert first.valid.shape == (4, STEPS)
    assert second.valid.shape == (4, STEPS - 20)
    assert first.place == second.place == "womd-abc"
    np.testing.assert_allclose(first.tracks[0, :, 3], 10.0)
    assert (first.tracks[~first.valid] == 0).all()
    assert first.route[-1, 0] > first.tracks[0, -1, 0] + 50  # on along the lane
    assert len(first.signals) == 0
    assert first.meta["signals"] == "absent in the source"
    assert len(scenes_of(recording, egos=1)) == 1


def test_the_named_car_comes_first_even_if_it_stands(tmp_path):
    scenes = scenes_of(womd.read(write(tmp_path / "a.json", scenario(named=True))))
    assert [s.id.split(":")[1] for s in scenes] == ["102", "100", "101"]


def test_degrees_are_distinguished_from_radians(tmp_path):
    turned = scenario(degrees=True)
    for o in turned["objects"][:2]:  # north instead of east
        o["position"] = [{"x": p["y"] + 8000, "y": p["x"] - 8000} if p["x"] > 0 else p for p in o["position"]]
        o["heading"] = [90.0] * STEPS
    turned["roads"] += [{"type": "lane", "geometry": [{"x": 5000.0, "y": y} for y in (-3000.0, -2800.0)]}]
    r = womd.read(write(tmp_path / "a.json", turned))
    np.testing.assert_allclose(r.tracks[0, :, 2], np.pi / 2)
    wrong = scenario()
    for o in wrong["objects"]:
        o["heading"] = [60.0] * STEPS
    with pytest.raises(ValueError, match=r"objects\[\].heading: fits the motion neither"):
        womd.read(write(tmp_path / "b.json", wrong))


def test_lights_stand_at_the_end_of_the_lane_before(tmp_path):
    r = womd.read(write(tmp_path / "a.json", scenario(lights=True)))
    assert r.map.lane_signal.tolist() == [0, -1, -1]
    (scene, _) = scenes_of(r)
    assert scene.signals[0, [0, 49, 50, 90]].tolist() == [SIGNAL_RED, SIGNAL_RED, SIGNAL_GREEN, SIGNAL_GREEN]
    x0, y0, x1, y1 = r.map.stop_lines[0]
    assert x0 == pytest.approx(x1)
    assert y0 > y1  # left of it first: it stops those who go east
    assert abs(np.cos(r.map.signal_heads[0, 3]) + 1) < 1e-6


def test_a_trailer_is_no_other_vehicle(tmp_path):
    whole = scenario()
    whole["objects"].append({**whole["objects"][0], "id": 999, "length": 8.0})
    scene = scenes_of(womd.read(write(tmp_path / "a.json", whole)))[0]
    assert len(scene.kind) == 4
    assert scene.meta["left_out"].endswith(": 999")


def test_what_holds_nothing_is_left_out_and_counted(tmp_path):
    plain = womd.read(write(tmp_path / "plain.json", scenario(lights=True)))
    whole = scenario(lights=True)
    ghost = {**whole["objects"][1], "id": 900, "valid": [False] * STEPS, "length": 0, "width": 0, "height": 0}
    nowhere = {**ghost, "id": 901, "position": [], "velocity": [], "heading": [], "valid": []}
    whole["objects"] = [nowhere, *whole["objects"], ghost, {**ghost, "type": "unset"}, {**ghost, "type": None}]
    whole["roads"] += [
        {"type": "road_line", "id": 90, "map_element_id": 7, "geometry": []},
        {"type": "road_edge", "id": 91, "map_element_id": 15, "geometry": whole["roads"][4]["geometry"][:1]},
        {"type": "lane", "id": 92, "map_element_id": 2, "geometry": []},
        {"type": "tram_rail", "id": 93, "geometry": []},
    ]
    empty = {"state": [], "x": [], "y": [], "time_index": []}
    whole["tl_states"] |= {"1": empty, "77": whole["tl_states"]["3"]}
    r = womd.read(write(tmp_path / "a.json", whole))
    assert r.map.id == plain.map.id
    assert r.ids == plain.ids
    np.testing.assert_array_equal(r.tracks, plain.tracks)
    assert r.left == {
        "objects that are never seen": 2,
        "objects of type unset": 1,
        "objects of type None": 1,
        "lanes without a length": 2,
        "map features of type road_line with too few points": 1,
        "map features of type road_edge with too few points": 1,
        "map features of type tram_rail": 1,
        "map features of type stop_sign": 1,
        "lights that are never seen": 1,
        "lights of lanes that are not in the map": 1,
    }
    scene = scenes_of(r)[0]
    assert "2 objects that are never seen" in scene.meta["not_read"]
    assert scene.signals.any()


def test_unknown_words_of_a_light_are_named_and_it_is_not_taken_for_off(tmp_path):
    whole = scenario(lights=True)
    whole["tl_states"]["3"]["state"][5:7] = ["go slow; stop", "blue"]
    r = womd.read(write(tmp_path / "a.json", whole))
    assert len(r.map.stop_lines) == 0
    assert r.notes["signals"].endswith("unknown words: blue 1 times, go slow stop 1 times")
    assert r.left["lights that show unknown words"] == 1
    assert r.left["states of lights in an unknown word, blue"] == 1


@pytest.mark.parametrize("height", [0, None, -1.0, "tall"])
def test_a_height_that_cannot_be_is_taken_by_kind(tmp_path, height):
    r = womd.read(write(tmp_path / "a.json", changed(scenario(), ("objects", 3, "height"), height)))
    assert r.size[3, 2] == 1.75
    assert r.notes["height"] == "of 1 objects whose height is no metres above 0: by kind"


def test_a_recording_car_that_is_never_seen_names_nobody(tmp_path):
    whole = scenario(named=True)
    whole["objects"][2]["valid"] = [False] * STEPS
    r = womd.read(write(tmp_path / "a.json", whole))
    assert r.ego == -1
    assert r.left["recording cars that are no road user or never seen"] == 1


def test_a_report_counts_what_was_left_out_once_a_recording(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.json", changed(scenario(), ("scenario_id",), name))
    scenes, _ = scenes_in(tmp_path)
    assert len(scenes) == 4
    assert "Not read: 2 lanes without a length (in 2 recordings)." in not_read(map(left_of, scenes))


def test_a_file_is_recognised_in_any_key_order_and_encoding(tmp_path):
    plain = womd.read(write(tmp_path / "plain.json", scenario()))
    text = json.dumps(scenario())
    late = json.dumps({"description": "x" * 9000, **scenario()})
    for name, data in (
        ("late.json", late.encode()),
        ("blank.json", b" " * 9000 + text.encode()),
        ("wide.json", text.encode("utf-16")),
        ("UPPER.JSON", text.encode()),
        ("Packed.Json.GZ", gzip.compress(text.encode())),
    ):
        (tmp_path / name).write_bytes(data)
        assert womd.fits(tmp_path / name), name
        assert womd.read(tmp_path / name).map.id == plain.map.id
    (tmp_path / "labels.json").write_text(json.dumps({"about": "x" * 9000, "objects": []}))
    assert not womd.fits(tmp_path / "labels.json")


def test_bad_files_do_not_stop_the_others(tmp_path):
    write(tmp_path / "good.json", scenario())
    write(tmp_path / "cut.json", b'{"objects": [')
    write(tmp_path / "half.json.gz", write(tmp_path / "whole.json.gz", scenario()).read_bytes()[:-100])
    (tmp_path / "whole.json.gz").unlink()
    (tmp_path / "settings.json").write_text('{"colour": 1}')
    scenes, refused = scenes_in(tmp_path)
    assert len(scenes) == 2
    assert sorted(refused) == ["cut.json", "half.json.gz", "settings.json"]
    assert refused["settings.json"].startswith("not a CommonRoad, WOMD, ScenarioNet file")
    assert refused["cut.json"].startswith("incomplete JSON")
    assert "get the file again" in refused["half.json.gz"]


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("objects",), [], "objects: must be a list"),
        (("roads",), [], "roads: must be a list"),
        (("metadata",), {"sdc_track_index": 77}, "metadata.sdc_track_index: 77 is not among 4 objects"),
        (("metadata",), {"sdc_track_index": 3}, None),
    ],
)
def test_damage_is_named(tmp_path, keys, value, says):
    path = write(tmp_path / "a.json", changed(scenario(), keys, value))
    if says is None:  # a pedestrian as the recording car: nobody drives it
        assert all(s.id != "womd-abc:103" for s in scenes_of(womd.read(path)))
        return
    with pytest.raises(ValueError, match=rf"a\.json: .*{says}"):
        womd.read(path)


NAN = float("nan")


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("valid",), [True], r"objects\[0\].valid: 1 steps where most objects have 91"),
        (("velocity",), [], r"objects\[0\].velocity: must be a list"),
        (("heading", 5), "east", r"objects\[0\].heading: must be numbers"),
        (("heading",), [None] * STEPS, r"objects\[0\].position, heading, velocity: not a number at any step"),
    ],
)
def test_only_the_damaged_object_is_left_out(tmp_path, keys, value, says):
    whole = changed(scenario(), ("objects", 0, *keys), value)
    r = womd.read(write(tmp_path / "a.json", whole))
    assert r.ids == ["101", "102", "103"]
    assert r.left["objects that are damaged"] == 1
    with pytest.raises(ValueError, match=rf"b\.json: {says}"):
        womd.read(write(tmp_path / "b.json", {**whole, "objects": whole["objects"][:1]}))


@pytest.mark.parametrize("point", [None, {"x": NAN, "y": 0}, [1, 2]])
def test_an_object_is_not_seen_where_it_has_no_number(tmp_path, point):
    r = womd.read(write(tmp_path / "a.json", changed(scenario(), ("objects", 0, "position", 5), point)))
    assert np.flatnonzero(~r.valid[0]).tolist() == [5]
    assert np.isfinite(r.tracks).all()
    assert r.left["states of objects that are no numbers"] == 1


@pytest.mark.parametrize("width", [0, None, "2", -1.0, NAN])
def test_a_size_that_cannot_be_is_taken_by_kind(tmp_path, width):
    r = womd.read(write(tmp_path / "a.json", changed(scenario(), ("objects", 0, "width"), width)))
    assert r.size[0, 1] == 1.9
    assert r.size[0, 0] == scenario()["objects"][0]["length"]
    assert r.notes["size"] == "of 1 objects whose length or width is no metres above 0: by kind"


def test_other_spellings_read_as_the_usual_ones(tmp_path):
    plain, other = scenario(named=True), scenario(named=True)
    words = {"vehicle": "TYPE_VEHICLE", "pedestrian": "Pedestrian", "cyclist": " CYCLIST"}
    for o in other["objects"]:
        o["type"] = words[o["type"]]
        o["valid"] = [float(v) for v in o["valid"]]
    other["objects"][1]["valid"][0] = NAN
    plain["objects"][1]["valid"][0] = False
    other["metadata"]["sdc_track_index"] = float(other["metadata"]["sdc_track_index"])
    a, b = (womd.read(write(tmp_path / f"{n}.json", w)) for n, w in (("a", plain), ("b", other)))
    assert (a.ids, a.ego, a.kind.tolist()) == (b.ids, b.ego, b.kind.tolist())
    np.testing.assert_array_equal(a.tracks, b.tracks)
    np.testing.assert_array_equal(a.valid, b.valid)


def test_only_the_map_feature_without_a_line_is_left_out(tmp_path):
    plain, whole = scenario(), scenario()
    whole["roads"] += [None, {"type": "stop_sign"}, {"type": "lane", "id": 80, "geometry": None}]
    whole["roads"].append({"type": "stop_sign", "geometry": {"x": 1.0, "y": 2.0}})
    whole["roads"][0]["geometry"].insert(1, {"x": NAN, "y": 0.0})
    whole["roads"][0]["geometry"].insert(1, {"x": "here", "y": 0.0})
    a, b = (womd.read(write(tmp_path / f"{n}.json", w)) for n, w in (("a", plain), ("b", whole)))
    assert a.map.id == b.map.id
    assert b.left["points of map features that are no numbers"] == 2
    assert b.left["map features of type stop_sign"] == a.left["map features of type stop_sign"] + 2
    assert b.left["lanes without a length"] == a.left["lanes without a length"] + 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": [1e4] * STEPS}, "lights that are damaged"),
        ({"time_index": None}, "lights that are damaged"),
        ({"time_index": [300 + t for t in range(STEPS)]}, "lights that are damaged"),
        ({"state": []}, "lights that are never seen"),
    ],
)
def test_only_the_damaged_light_is_left_out(tmp_path, change, says):
    whole = scenario(lights=True)
    whole["tl_states"]["3"] |= change
    r = womd.read(write(tmp_path / "a.json", whole))
    assert len(r.map.stop_lines) == 0
    assert r.left[says] == 1


def test_a_light_is_read_up_to_the_damage(tmp_path):
    plain = scenario(lights=True)
    light = plain["tl_states"]["3"]
    a = womd.read(write(tmp_path / "plain.json", plain))
    one = {"x": light["x"][:1], "y": light["y"][0], "time_index": [float(t) for t in light["time_index"]]}
    late = {"time_index": [*light["time_index"], STEPS], "state": [*light["state"], "go"]}
    gaps = {"x": [None, *light["x"][1:]], "y": [NAN, *light["y"][1:]]}
    for change in (one, late, gaps, {"x": [], "y": None}):
        b = womd.read(write(tmp_path / "b.json", {**plain, "tl_states": {"3": light | change}}))
        assert a.lights is not None
        assert b.lights is not None
        np.testing.assert_array_equal(a.lights.states, b.lights.states)
        np.testing.assert_allclose(a.map.stop_lines, b.map.stop_lines)

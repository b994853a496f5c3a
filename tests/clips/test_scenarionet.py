import os
import pickle

import numpy as np
import pytest

from drivefoundry.clips.importers import scenes_in
from drivefoundry.clips.importers.traffic import scenarionet
from drivefoundry.clips.importers.traffic.recording import scenes_of
from drivefoundry.clips.importers.traffic.roads import rings_with_holes
from drivefoundry.judge.scores.surroundings import surroundings
from drivefoundry.raster import drivable_at
from drivefoundry.types import AGENT_CAR, AGENT_CYCLIST, AGENT_TRUCK, LINE_YELLOW, SIGNAL_GREEN, SIGNAL_RED
from handmade import changed, write
from handmade import scenarionet as scenario


def test_waymo_scenario(tmp_path):
    r = scenarionet.read(write(tmp_path / "sd_a.pkl", scenario()))
    m = r.map
    assert m.lane_next[0].ravel().tolist() == [2]
    assert m.lane_speed[0] == pytest.approx(50 / 3.6)
    assert m.lane_speed[1] == pytest.approx(10.0)  # absent: from the traffic
    assert LINE_YELLOW in m.line_kind
    assert r.ids == ["ego", "a", "p"]
    assert "1 cones, barriers" in r.notes["others"]
    assert r.place == "womd-s1"
    ego, other = scenes_of(r)
    assert [ego.id, other.id] == ["waymo-s1:ego", "waymo-s1:a"]
    assert ego.start == 10
    np.testing.assert_allclose(ego.size[0], [4.0, 1.8, 1.5])  # the recording car had them the wrong way
    assert ego.signals[0, [0, -1]].tolist() == [SIGNAL_RED, SIGNAL_GREEN]


def test_nuscenes_scenario_has_an_outline_and_a_rear_axle(tmp_path):
    r = scenarionet.read(write(tmp_path / "sd_a.pkl", scenario(nuscenes=True)))
    plain = scenarionet.read(write(tmp_path / "sd_b.pkl", scenario()))
    assert r.place == "nuscenes-town"
    gap = r.tracks[1, 0, 0] - r.tracks[0, 0, 0]
    assert gap == pytest.approx(plain.tracks[1, 0, 0] - plain.tracks[0, 0, 0] - scenarionet.NUSCENES_AXLE)
    assert (r.map.lane_speed == r.map.lane_speed[0]).all()  # the converter's limit is no limit
    where = surroundings([scenes_of(r)[0]])
    y, m = float(r.tracks[0, 0, 1]), int(where.place[0])
    assert drivable_at(where.roads.classes, where.roads.frames, m, 0.0, y + 6.3)
    assert not drivable_at(where.roads.classes, where.roads.frames, m, 0.0, y + 6.8)


@pytest.mark.parametrize("hz", [2.0, 5.0, 20.0, 12.0])
def test_any_clock_becomes_ten_hertz(tmp_path, hz):
    r = scenarionet.read(write(tmp_path / "sd_a.pkl", scenario(hz)))
    assert r.tracks.shape[1] == 91
    assert r.valid.all()
    np.testing.assert_allclose(np.diff(r.tracks[0, :, 0]), 1.0, atol=0.021)
    np.testing.assert_allclose(r.tracks[0, :, 3], 10.0)


def test_gaps_stay_gaps(tmp_path):
    whole = scenario(5.0)
    whole["tracks"]["a"]["state"]["valid"][20:30] = 0
    r = scenarionet.read(write(tmp_path / "sd_a.pkl", whole))
    assert r.valid[1, :39].all()
    assert not r.valid[1, 39:60].any()
    assert r.valid[1, 60:].all()


@pytest.mark.parametrize(
    ("stop", "go"),
    [
        ("TRAFFIC_LIGHT_RED", "TRAFFIC_LIGHT_GREEN"),
        ("LANE_STATE_ARROW_STOP", "LANE_STATE_ARROW_GO"),
        ("red", "Green"),
        (b"LANE_STATE_STOP", b"LANE_STATE_GO"),
    ],
)
def test_every_sets_words_for_a_light(tmp_path, stop, go):
    whole = scenario()
    shown = whole["dynamic_map_states"]["3"]["state"]
    shown["object_state"] = [stop if "STOP" in word else go for word in shown["object_state"]]
    r = scenarionet.read(write(tmp_path / "sd_a.pkl", whole))
    assert scenes_of(r)[0].signals[0, [0, -1]].tolist() == [SIGNAL_RED, SIGNAL_GREEN]
    shown["object_state"] = np.array(shown["object_state"])
    again = scenarionet.read(write(tmp_path / "sd_a.pkl", whole))
    np.testing.assert_array_equal(scenes_of(again)[0].signals, scenes_of(r)[0].signals)


def test_unknown_words_are_named_with_their_number(tmp_path):
    whole = scenario()
    words = whole["dynamic_map_states"]["3"]["state"]["object_state"]
    words[:3] = ["LANE_STATE_BLINKING_GREEN"] * 3
    words[4] = None  # a step at which nobody saw it
    whole["tracks"]["t"] = {**whole["tracks"]["a"], "type": "TRAM"}
    whole["tracks"]["o"] = {**whole["tracks"]["a"], "type": "OTHER"}
    whole["map_features"]["99"] = {"type": "TRAM_RAIL", "polyline": [[0.0, 0.0], [1.0, 1.0]]}
    r = scenarionet.read(write(tmp_path / "sd_a.pkl", whole))
    assert len(r.map.stop_lines) == 0
    assert r.notes["signals"].endswith("unknown words: LANE_STATE_BLINKING_GREEN 3 times")
    assert r.left["states of lights in an unknown word, LANE_STATE_BLINKING_GREEN"] == 3
    assert r.left["tracks of type TRAM"] == r.left["tracks of type OTHER"] == 1
    assert r.left["map features of type TRAM_RAIL"] == 1
    said = scenes_of(r)[0].meta["not_read"].split("; ")
    assert "3 states of lights in an unknown word, LANE_STATE_BLINKING_GREEN" in said
    assert "1 tracks of type TRAM" in said


@pytest.mark.parametrize(("unit", "a_second"), scenarionet.UNITS.items())
def test_a_clock_in_another_unit_is_read_and_named(tmp_path, unit, a_second):
    whole = scenario(5.0)
    whole["metadata"]["ts"] = (whole["metadata"]["ts"] * a_second).astype(np.int64) + 1_600_000_000 * int(a_second)
    r = scenarionet.read(write(tmp_path / "sd_a.pkl", whole))
    assert r.tracks.shape[1] == 91
    np.testing.assert_allclose(np.diff(r.tracks[0, :, 0]), 1.0, atol=0.021)
    assert unit in r.notes["clock"]


def test_limits_in_metres_a_second_and_the_nuplan_stop_point(tmp_path):
    whole = scenario()
    whole["metadata"]["dataset"] = "nuplan"
    for lane in ("1", "2", "3"):
        whole["map_features"][lane].pop("speed_limit_kmh", None)
    whole["map_features"]["1"]["speed_limit_mps"] = 11.5
    whole["map_features"]["2"]["speed_limit_mps"] = None
    light = whole["dynamic_map_states"]["3"]
    light["stop_point"] = np.add(light["stop_point"][:2], [8.0, 0.0])
    r = scenarionet.read(write(tmp_path / "sd_a.pkl", whole))
    assert r.map.lane_speed[0] == pytest.approx(11.5)
    begin = r.map.lanes[2][0]
    assert r.map.stop_lines[0, 0] == pytest.approx(begin[0], abs=0.01)


def test_argoverse_outlines_are_joined_and_its_constants_are_no_limits(tmp_path):
    whole = scenario(nuscenes=True)
    ring = whole["map_features"].pop("boundary_0")["polyline"]
    for i in range(0, len(ring), 20):
        piece = {"type": "ROAD_LINE_SOLID_SINGLE_WHITE", "polyline": ring[i : i + 20]}
        whole["map_features"][f"boundary_0{i}"] = piece
    whole["metadata"] |= {"dataset": "av2", "sdc_id": "ego"}
    whole["map_features"]["1"]["speed_limit_kmh"] = 136.8
    r = scenarionet.read(write(tmp_path / "sd_a.pkl", whole))
    assert (r.map.lane_speed < 20).all()
    assert "constants of the converter" in r.notes["size"]
    where = surroundings([scenes_of(r)[0]])
    y, m = float(r.tracks[0, 0, 1]), int(where.place[0])
    assert drivable_at(where.roads.classes, where.roads.frames, m, 0.0, y + 6.3)
    assert not drivable_at(where.roads.classes, where.roads.frames, m, 0.0, y + 6.8)


def test_velocities_and_headings_that_are_absent_come_from_the_positions(tmp_path):
    whole = scenario()
    for name in ("velocity", "heading"):
        del whole["tracks"]["a"]["state"][name]
    whole["tracks"]["a"]["state"]["valid"][30:40] = 0
    r = scenarionet.read(write(tmp_path / "sd_a.pkl", whole))
    seen = r.valid[1]
    np.testing.assert_allclose(r.tracks[1, seen, 3], 10.0)
    np.testing.assert_allclose(r.tracks[1, seen, 2], 0.0)
    assert r.notes["velocities"] == "absent for 1 tracks: from the positions"


def test_names_of_a_file_cannot_break_its_line(tmp_path):
    whole = changed(scenario(), ("tracks", "a", "state", "heading"), np.zeros(7))
    whole["tracks"]["a\nb" * 1000] = whole["tracks"].pop("a")
    with pytest.raises(ValueError, match="for 91 times") as error:
        scenarionet.read(write(tmp_path / "sd_a.pkl", whole))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


class Bomb:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_runs_nothing(tmp_path, protocol):
    path = tmp_path / "sd_a.pkl"
    path.write_bytes(pickle.dumps({**scenario(), "x": Bomb()}, protocol))
    with pytest.raises(ValueError, match=r"sd_a\.pkl: holds the class (posix|os)\.system"):
        scenarionet.read(path)


@pytest.mark.parametrize("what", ["eval", "exec", "getattr", "__import__", "open", "type", "bytearray", "range"])
def test_builtins_that_are_no_data_are_refused(tmp_path, what):
    path = tmp_path / "sd_a.pkl"
    path.write_bytes(f"cbuiltins\n{what}\n.".encode())
    with pytest.raises(ValueError, match=rf"holds the class builtins\.{what}"):
        scenarionet.read(path)


def test_an_array_cannot_claim_memory(tmp_path):
    path = tmp_path / "sd_a.pkl"
    path.write_bytes(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I999999999999\ntS'd'\ntR.")
    with pytest.raises(ValueError, match="not a complete pickle"):
        scenarionet.read(path)
    path.write_bytes(b"cnumpy\nndarray\n((I999999999999\nttR.")
    with pytest.raises(ValueError, match="not a complete pickle"):
        scenarionet.read(path)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_load(tmp_path, protocol):
    path = tmp_path / "sd_a.pkl"
    whole = scenario()
    whole["metadata"] |= {"words": {"a", "b"}, "scalar": np.float32(3.0), "flags": np.array(["x", "y"], object)}
    path.write_bytes(pickle.dumps(whole if protocol > 2 else scenario(), protocol))
    assert len(scenarionet.read(path).ids) == 3


def test_one_recording_in_two_files_is_one_place(tmp_path):
    write(tmp_path / "sd_a.pkl", changed(scenario(), ("metadata", "scenario_id"), "s2"))
    write(tmp_path / "sd_b.pkl", scenario())
    (tmp_path / "dataset_summary.pkl").write_bytes(b"what we do not read")
    scenes, refused = scenes_in(tmp_path)
    assert not refused
    assert {s.id.split(":")[0] for s in scenes} == {"waymo-s1", "waymo-s2"}
    assert len({s.place for s in scenes}) == 1


def test_rings_and_their_holes():
    def square(x, y, half):
        return np.array([[x - half, y - half], [x + half, y - half], [x + half, y + half], [x - half, y + half]], float)

    polygons = rings_with_holes([square(0, 0, 10), square(5, 5, 2), square(5, 5, 1), square(40, 0, 3)])
    assert len(polygons) == 3

    def inside(x, y):
        return any(_even_odd(p, x, y) for p in polygons)

    assert inside(0, 0)
    assert not inside(5, 6.5)
    assert inside(5.1, 5.2)
    assert inside(40, 0)


def _even_odd(polygon, x, y):
    a, b = polygon, np.roll(polygon, -1, axis=0)
    spans = (a[:, 1] > y) != (b[:, 1] > y)
    return (
        spans & (x < a[:, 0] + (y - a[:, 1]) * (b[:, 0] - a[:, 0]) / np.where(spans, b[:, 1] - a[:, 1], 1))
    ).sum() % 2


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("metadata", "ts"), np.array([0.0, 0.1, 0.05]), "metadata.ts: times must increase"),
        (("metadata", "ts"), np.array([0.0, np.nan]), "metadata.ts: needs at least two times"),
        (("metadata", "ts"), np.array([0.0, 1e9]), "metadata.ts: .* no scenario is so long"),
        (("metadata", "sdc_id"), "nobody", "metadata.sdc_id: 'nobody' is not a visible road user"),
        (
            ("tracks", "ego", "state", "valid"),
            np.zeros(91),
            "metadata.sdc_id: 'ego' is not a visible road user",
        ),
        (("tracks", "a", "state", "heading"), np.zeros(7), r"tracks\[a\].state.heading: shape \(7,\) for 91 times"),
        (("tracks",), None, "tracks: must be a dict"),
        (("map_features",), {}, "map_features: no lane in it"),
        (("map_features", "1", "polyline"), [[0, np.inf], [1, 2]], r"map_features\[1\].polyline: must be .*numbers"),
        (("dynamic_map_states", "3", "state", "object_state"), ["GO"], "object_state: 91 states expected"),
    ],
)
def test_damage_is_named(tmp_path, keys, value, says):
    path = write(tmp_path / "sd_a.pkl", changed(scenario(), keys, value))
    with pytest.raises(ValueError, match=rf"sd_a\.pkl: .*{says}"):
        scenarionet.read(path)


def of_a(name, value):
    return changed(scenario(), ("tracks", "a", "state", name), value)


def test_a_step_without_a_number_is_not_seen(tmp_path):
    state = scenario()["tracks"]["a"]["state"]
    hole = np.array(state["position"], float)
    hole[5] = np.nan
    seen = np.array(state["valid"], float)
    seen[5] = np.nan
    plain = scenarionet.read(write(tmp_path / "sd_p.pkl", scenario()))
    for name, value in (("position", hole), ("valid", seen)):
        r = scenarionet.read(write(tmp_path / "sd_a.pkl", of_a(name, value)))
        assert np.flatnonzero(r.valid[1] != plain.valid[1]).tolist() == [5]
        assert np.isfinite(r.tracks).all()
        assert r.left.get("states of tracks that are no numbers", 0) == (name == "position")


@pytest.mark.parametrize(("name", "columns", "what"), [("heading", (), "headings"), ("velocity", (2,), "velocities")])
def test_a_column_without_any_number_is_derived_as_an_absent_one(tmp_path, name, columns, what):
    a, b = (
        scenarionet.read(write(tmp_path / f"sd_{n}.pkl", of_a(name, v)))
        for n, v in (("a", None), ("b", np.full((91, *columns), np.nan)))
    )
    np.testing.assert_array_equal(a.tracks, b.tracks)
    assert b.notes[what] == "absent for 1 tracks: from the positions"


@pytest.mark.parametrize("length", [5.5, np.float32(5.5), np.array([5.5]), [5.5]])
def test_a_size_may_be_one_number(tmp_path, length):
    r = scenarionet.read(write(tmp_path / "sd_a.pkl", of_a("length", length)))
    assert r.size[1, 0] == 5.5
    assert "size" not in r.notes


@pytest.mark.parametrize("length", [None, np.zeros(91), np.full(91, np.nan), -1.0])
def test_a_size_that_cannot_be_is_taken_by_kind(tmp_path, length):
    r = scenarionet.read(write(tmp_path / "sd_a.pkl", of_a("length", length)))
    assert r.size[1, 0] == 4.6
    assert r.notes["size"] == "of 1 tracks whose length or width is no metres above 0: by kind"


@pytest.mark.parametrize(
    ("word", "kind"),
    [("EGO_VEHICLE", AGENT_CAR), ("VEHICLE_TRUCK", AGENT_TRUCK), ("MOTOR_CYCLIST", AGENT_CYCLIST),
     ("vehicle", AGENT_CAR), ("TYPE_VEHICLE", AGENT_CAR), ("Vehicle_Bus", AGENT_TRUCK)],
)  # fmt: skip
def test_words_for_kinds_of_other_spelling(tmp_path, word, kind):
    r = scenarionet.read(write(tmp_path / "sd_a.pkl", changed(scenario(), ("tracks", "a", "type"), word)))
    assert r.kind[1] == kind

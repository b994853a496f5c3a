"""Importers on hand-made folders."""

import csv
import gzip
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from drivefoundry.clips.importers import clips_in, kind_of, maps_in, scenes_in
from drivefoundry.clips.importers.drives import udacity
from drivefoundry.clips.importers.drives.pieces import pieces
from drivefoundry.clips.importers.traffic import commonroad
from drivefoundry.clips.importers.traffic.recording import is_short
from drivefoundry.clips.importers.traffic.roads import crossing
from drivefoundry.roadmap import make_map, save_map
from drivefoundry.types import LINE_EDGE, LINE_WHITE_DASHED
from drivefoundry_car.log import read_drive, write_drive


def road_camera(folder, seconds=32.0, gap=None, drop=(), text=None):
    """A folder in the shape of the Udacity set: 20 Hz, 14 m/s, a steady left bend of 0.1 rad/s."""
    frames = folder / "center_64x48"
    frames.mkdir(parents=True)
    rows = []
    for i in range(int(seconds * 20)):
        t = i * 0.05 + (1.0 if gap is not None and i * 0.05 >= gap else 0.0)
        name = f"center_64x48/{1000 + i}.jpg"
        if i not in drop:
            Image.fromarray(np.full((48, 64, 3), i % 200 + 20, np.uint8)).save(folder / name)
        rows.append([1000 + i, name, f"{t:.6f}", "0.4", 1, "0.1", "14.0", 1])
    if text:
        rows[3][3] = text
    with (folder / "labels.csv").open("w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["frame_id", "file", "t_s", "steering_wheel_angle_rad", "public", *udacity.COLUMNS[3:]])
        out.writerows(rows)
    return folder


def test_road_camera_drive_is_dead_reckoned_and_marked_so(tmp_path):
    run = udacity.runs_of(road_camera(tmp_path / "cam", 12.0))[0]
    drive = udacity.drive_of(run)
    assert np.allclose(np.diff(drive.t), 0.1)
    # A circle of radius 140 m.
    angle = 0.1 * drive.t
    np.testing.assert_allclose(drive.ego[:, 0], 140 * np.sin(angle), atol=0.01)
    np.testing.assert_allclose(drive.ego[:, 1], 140 * (1 - np.cos(angle)), atol=0.01)
    np.testing.assert_allclose(drive.ego[:, 2], angle, atol=1e-9)
    assert (drive.ego[:, 6] == 0.4).all()
    assert drive.route is None
    assert drive.objects is None
    for field in ("ego.speed", "ego.pose", "route", "objects"):
        assert field in drive.notes
    assert drive.video is not None
    assert len(drive.video.t) == 240


def test_clips_cover_the_drive_without_overlap(tmp_path):
    seen = []
    paths = clips_in(road_camera(tmp_path / "cam", 32.0), tmp_path / "out", seconds=10.0, on_clip=seen.append)
    assert seen == paths
    clips = [read_drive(p) for p in paths]
    np.testing.assert_allclose(np.concatenate([c.t for c in clips]), np.arange(320) * 0.1)
    assert [len(c.video.t) for c in clips if c.video] == [200, 200, 240]
    assert clips[1].ego[0, 0] == pytest.approx(140 * np.sin(1.0), abs=0.02)  # the pose goes on from clip to clip
    assert len({c.meta["drive"] for c in clips}) == 1


def test_gaps_end_a_drive(tmp_path):
    runs = udacity.runs_of(road_camera(tmp_path / "a", 20.0, gap=8.0))
    assert [round(float(r.t[-1] - r.t[0])) for r in runs] == [8, 12]
    assert [r.name for r in runs] == ["a-0", "a-1"]
    # Missing pictures are a gap as well; a run that is too short goes.
    runs = udacity.runs_of(road_camera(tmp_path / "b", 20.0, drop=range(60, 80)))
    assert [round(float(r.t[0])) for r in runs] == [4]


def test_bad_labels_name_line_and_column(tmp_path):
    with pytest.raises(ValueError, match=r"labels.csv: line 5, steering_wheel_angle_rad: 'left' is not a number"):
        udacity.runs_of(road_camera(tmp_path / "a", 6.0, text="left"))
    folder = road_camera(tmp_path / "b", 6.0)
    labels = folder / "labels.csv"
    labels.write_text(labels.read_text().replace("est_speed_mps", "speed"))
    with pytest.raises(ValueError, match="column est_speed_mps is missing"):
        udacity.runs_of(folder)
    folder = road_camera(tmp_path / "c", 6.0)
    (folder / "center_64x48" / "1002.jpg").write_bytes(b"half a pictu")
    with Image.open(folder / "center_64x48" / "1010.jpg") as picture:
        picture.resize((32, 24)).save(folder / "center_64x48" / "1010.jpg")
    (clip,) = [read_drive(p) for p in clips_in(folder, tmp_path / "out")]
    assert clip.video is not None
    np.testing.assert_allclose(clip.video.t, np.delete(np.arange(120) * 0.05, [2, 10]), atol=1e-9)
    said = "2 of 120 pictures are damaged or of another size and left out: 1002.jpg, 1010.jpg"
    assert clip.notes["video of c-0 from 0 s"] == said
    with pytest.raises(ValueError, match="none of its 120 frames is in the folder"):
        udacity.runs_of(road_camera(tmp_path / "d", 6.0, drop=range(120)))


@given(st.floats(0, 100), st.floats(1, 300), st.floats(5, 30))
def test_pieces_join_and_are_neither_slivers_nor_giants(start, length, seconds):
    parts = pieces(start, start + length, seconds)
    assert parts[0][0] == start
    assert parts[-1][1] > start + length
    for (_, a), (b, _) in pairwise(parts):
        assert a == b
    if length > seconds:
        assert all(0.49 * seconds < b - a < 1.51 * seconds for a, b in parts)


def test_own_drives_are_cut_and_their_maps_found(tmp_path, make_drive):
    folder = tmp_path / "fleet"
    (folder / "drives").mkdir(parents=True)
    (folder / "maps").mkdir()
    write_drive(folder / "drives" / "a.mcap", make_drive(steps=450, frames=True))
    road = make_map(lanes=[np.array([[0.0, 0], [100, 0]])])
    (folder / "maps" / f"{road.id}.safetensors").write_bytes(save_map(road))
    assert kind_of(folder) == "mcap"
    paths = clips_in(folder, tmp_path / "out")
    assert [len(read_drive(p).t) for p in paths] == [200, 250]
    assert list(maps_in(folder)) == [road.id]
    (folder / "maps" / "bad.safetensors").write_bytes(b"PK")
    told = []
    assert list(maps_in(folder, told.append)) == [road.id]
    assert len(told) == 1
    assert f"{folder / 'maps' / 'bad.safetensors'}: road map" in told[0]
    (folder / "maps" / f"{road.id}.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"none of its 1 recordings can be read; the first: .*bad.safetensors: road map"
    ):
        maps_in(folder)


def lanelet(name, x0, x1, y, extra="", limit="<speedLimit>13.9</speedLimit>"):
    def bound(side, y):
        points = "".join(f"<point><x>{x}</x><y>{y}</y></point>" for x in (x0, (x0 + x1) / 2, x1))
        return f"<{side}>{points}</{side}>"

    return f'<lanelet id="{name}">{bound("leftBound", y + 1.75)}{bound("rightBound", y - 1.75)}{extra}{limit}</lanelet>'


def vehicle(name, x, y, speed, steps, first=0, kind="car", role="dynamic"):
    def state(tag, i):
        at = x + speed * 0.1 * (i - first)
        where = f"<position><point><x>{at}</x><y>{y}</y></point></position><orientation><exact>0</exact></orientation>"
        return f"<{tag}>{where}<time><exact>{i}</exact></time><velocity><exact>{speed}</exact></velocity></{tag}>"

    box = "<shape><rectangle><length>4.5</length><width>1.8</width></rectangle></shape>"
    way = "".join(state("state", i) for i in range(first + 1, first + steps))
    return (
        f'<obstacle id="{name}"><role>{role}</role><type>{kind}</type>{box}{state("initialState", first)}'
        + (f"<trajectory>{way}</trajectory>" if way else "")
        + "</obstacle>"
    )


LANES = [
    lanelet("1", 0, 100, 0, '<successor ref="3"/><adjacentLeft ref="2" drivingDir="same"/>'),
    lanelet("2", 0, 100, 3.5, '<adjacentRight ref="1" drivingDir="same"/>', limit=""),
    lanelet("3", 100, 250, 0, '<predecessor ref="1"/>'),
]


def scenario(vehicles, lanes=LANES, version="2018b", step="0.1", head=""):
    return (
        f'<?xml version="1.0"?>{head}<commonRoad benchmarkID="DEU_Town-1_2_T-1" commonRoadVersion="{version}" '
        f'timeStepSize="{step}">{"".join(lanes)}{"".join(vehicles)}</commonRoad>'
    )


@pytest.fixture
def traffic():
    return [
        vehicle("10", 5, 0.3, 10.0, 80),
        vehicle("11", 30, 3.4, 8.0, 60, first=20),
        vehicle("12", 60, 0, 0.0, 1, kind="truck", role="static"),
        vehicle("13", 0, 0, 1.0, 80, kind="pedestrian"),
    ]


def test_scenario_becomes_map_and_scenes(tmp_path, traffic):
    path = tmp_path / "a.xml.gz"
    path.write_bytes(gzip.compress(scenario(traffic).encode()))
    assert kind_of(tmp_path) == "scenes"
    recording = commonroad.read(path)
    m = recording.map
    assert len(m.lanes) == 3
    np.testing.assert_allclose(m.lanes[0], [[0, 0], [50, 0], [100, 0]])
    np.testing.assert_allclose(m.lane_width, 3.5)
    assert m.lane_left.tolist() == [1, -1, -1]
    assert m.lane_right.tolist() == [-1, 0, -1]
    assert m.lane_next[0].ravel().tolist() == [2]
    assert m.lane_speed[1] == pytest.approx(10.0)  # absent: from the traffic
    assert "1 of 3 lanelets" in recording.notes["speed_limit"]
    assert sorted(m.line_kind.tolist()) == sorted([LINE_EDGE] * 4 + [LINE_WHITE_DASHED])
    assert len(m.signal_heads) == 0

    scenes, without = scenes_in(tmp_path)
    assert without == {}
    assert [s.id for s in scenes] == ["DEU_Town-1_2_T-1:10", "DEU_Town-1_2_T-1:11"]
    first, second = scenes
    assert first.place == "DEU_Town"
    assert first.meta["ego"] == "recorded vehicle 10"
    assert first.start == 15
    assert first.kind.tolist() == [0, 0, 1, 2]
    assert first.valid[2].all()  # parked: seen all along
    assert first.valid[1].tolist() == [False] * 20 + [True] * 60
    assert second.valid.shape == (4, 60)
    assert second.tracks[0, 0, 0] == pytest.approx(30.0)
    assert second.tracks[1, 0, 0] == pytest.approx(25.0)
    # The route goes on along the next lanelet.
    assert first.route[-1, 0] > 140
    assert abs(first.route[-1, 1]) < 0.1


def test_short_recordings_give_a_short_scene_or_say_why_not(tmp_path):
    (tmp_path / "short.xml").write_text(scenario([vehicle("1", 0, 0, 14.0, 30)]))
    (tmp_path / "shorter.xml").write_text(scenario([vehicle("1", 0, 0, 14.0, 8)]))
    (scene,), without = scenes_in(tmp_path)
    assert is_short(scene)
    assert scene.start == 5
    assert without == {"shorter.xml": "0.8 s long: no vehicle is seen for 1.1 s without a break"}


def test_the_road_continues_where_the_map_is_cut(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(scenario([vehicle("1", 0, 0, 14.0, 60)]))
    x = commonroad.read(path).map.drivable.points[:, 0]
    assert x.min() == -commonroad.BEYOND
    assert x.max() == 250 + commonroad.BEYOND


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<commonRoad", "incomplete XML"),
        (scenario([], version="2017a"), "version 2017a; only 2018b and 2020a can be read"),
        (scenario([], step="40"), r"timeStepSize '40': must be 0.005 .. 1.0 s"),
        (scenario([], step="a tenth"), r"timeStepSize 'a tenth': must be 0.005 .. 1.0 s"),
        (scenario([], lanes=[]), "no <lanelet> in it"),
        (scenario([], head='<!DOCTYPE a [<!ENTITY b "c">]>'), "has a DOCTYPE"),
        (scenario([], lanes=['<lanelet id="7"/>']), "lanelet 7: leftBound has 0 points"),
        (
            scenario([vehicle("1", 0, 0, 1.0, 3)]).replace("<length>4.5</length>", ""),
            "obstacle 1: <length> is '', must be a number",
        ),
        ("<other/>", "root element is <other>"),
    ],
)
def test_bad_scenarios_are_refused_with_the_files_name(tmp_path, text, says):
    path = tmp_path / "bad.xml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.xml: .*{says}"):
        commonroad.read(path)


def test_damaged_gzip_is_refused(tmp_path):
    path = tmp_path / "a.xml.gz"
    path.write_bytes(gzip.compress(scenario([]).encode())[:-20])
    with pytest.raises(ValueError, match=r"a\.xml\.gz: cannot be read"):
        commonroad.read(path)
    scenes, refused = scenes_in(tmp_path)
    assert not scenes
    assert refused["a.xml.gz"].startswith("cannot be read")


def test_lanes_that_cross_are_junctions_and_those_that_merge_are_not():
    through, across = np.array([[0.0, 0], [40, 0]]), np.array([[20.0, -20], [20, 20]])
    merging = np.array([[0.0, 5], [40, 0]])
    assert crossing([through, across, merging]).tolist() == [True, True, True]
    assert crossing([through, merging]).tolist() == [False, False]


def test_folders_of_the_wrong_kind_are_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        kind_of(tmp_path / "none")
    with pytest.raises(ValueError, match="it is empty"):
        kind_of(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "page.xml").write_text("<html/>")
    with pytest.raises(ValueError, match=r"it holds notes.txt, page.xml\); expected"):
        kind_of(tmp_path)
    with pytest.raises(ValueError, match="a file; give the folder"):
        kind_of(tmp_path / "notes.txt")
    road_camera(tmp_path / "cam", 6.0)
    with pytest.raises(ValueError, match="a folder of udacity drives"):
        scenes_in(tmp_path / "cam")
    (tmp_path / "cr").mkdir()
    (tmp_path / "cr" / "a.xml").write_text(scenario([]))
    with pytest.raises(ValueError, match="no camera drives"):
        clips_in(tmp_path / "cr", tmp_path / "out")
    assert not (tmp_path / "out").exists()

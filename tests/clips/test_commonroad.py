"""CommonRoad files of both versions, and the optional parts of their states."""

import gzip

import numpy as np
import pytest

from drivefoundry.clips.importers import scenes_in
from drivefoundry.clips.importers.traffic import commonroad
from drivefoundry.clips.importers.traffic.recording import scenes_of
from drivefoundry.types import AGENT_TRUCK, LINE_WHITE, SIGNAL_GREEN, SIGNAL_RED, SIGNAL_YELLOW

BOX = "<rectangle><length>4.5</length><width>1.8</width></rectangle>"


def points(xs, y):
    return "".join(f"<point><x>{x}</x><y>{y}</y></point>" for x in xs)


def lanelet(name, x0=0.0, x1=200.0, y=0.0, more="", left=21, right=21, mark=""):
    a = f"<leftBound>{points(np.linspace(x0, x1, left), y + 1.75)}{mark}</leftBound>"
    b = f"<rightBound>{points(np.linspace(x0, x1, right), y - 1.75)}</rightBound>"
    return f'<lanelet id="{name}">{a}{b}{more}</lanelet>'


def exact(tag, value):
    return f"<{tag}><exact>{value}</exact></{tag}>"


def interval(tag, a, b):
    return f"<{tag}><intervalStart>{a}</intervalStart><intervalEnd>{b}</intervalEnd></{tag}>"


def place(x, y):
    return f"<position><point><x>{x}</x><y>{y}</y></point></position>"


def obstacle(name, states, tag="obstacle", role="<role>dynamic</role>", kind="car", shape=BOX, way="trajectory"):
    first, *others = states
    inner = "".join(f"<state>{s}</state>" for s in others)
    start = f"<initialState>{first}</initialState>" + (f"<{way}>{inner}</{way}>" if others else "")
    return f'<{tag} id="{name}">{role}<type>{kind}</type><shape>{shape}</shape>{start}</{tag}>'


def moving(x=5.0, y=0.0, v=10.0, steps=60, dt=0.1, yaw=True, speed=True, first=0):
    return [
        place(x + v * dt * t, y) + (exact("orientation", 0) if yaw else "") + exact("time", first + t)
        + (exact("velocity", v) if speed else "")
        for t in range(steps)
    ]  # fmt: skip


def write(path, *parts, version="2018b", step=0.1, name="DEU_Town-1_1_T-1"):
    head = f'<commonRoad commonRoadVersion="{version}" benchmarkID="{name}" timeStepSize="{step}">'
    path.write_text(head + "".join(parts) + "</commonRoad>")
    return path


@pytest.mark.parametrize("dt", [0.1, 0.04, 0.2])
def test_speeds_and_headings_that_are_absent_come_from_the_positions(tmp_path, dt):
    steps = round(6.0 / dt)
    r = commonroad.read(
        write(
            tmp_path / "a.xml",
            lanelet("1"),
            obstacle("7", moving(dt=dt, steps=steps, yaw=False, speed=False)),
            obstacle("8", moving(x=190.0, v=-8.0, dt=dt, steps=steps, yaw=False, speed=False)),
            step=dt,
        )
    )
    seen = r.valid[0]
    assert seen.sum() >= 58
    np.testing.assert_allclose(r.tracks[0, seen, 3], 10.0)
    np.testing.assert_allclose(r.tracks[0, seen, 2], 0.0)
    np.testing.assert_allclose(np.abs(r.tracks[1, seen, 2]), np.pi)
    np.testing.assert_allclose(np.diff(r.tracks[0, seen, 0]), 1.0)
    assert r.map.lane_speed[0] == pytest.approx(10.0)
    assert "2 road users without a velocity: from their positions" in r.notes["states"]
    assert ("clock" in r.notes) == (dt != 0.1)
    scene = scenes_of(r)[0]
    assert scene.tracks[0, scene.start, 3] == pytest.approx(10.0)


def test_intervals_and_regions_are_taken_by_their_middle_and_counted(tmp_path):
    states = moving()
    states[10] = place(15.0, 0.0) + interval("orientation", -0.2, 0.4) + exact("time", 10) + interval("velocity", 8, 14)
    region = "<position><rectangle><length>2</length><width>1</width><center><x>16</x><y>0.5</y></center></rectangle>"
    states[11] = f"{region}</position>{exact('orientation', 0)}{interval('time', 11, 12)}{exact('velocity', 10)}"
    del states[12]
    states[20] = '<position><lanelet ref="1"/></position>' + exact("orientation", 0) + exact("time", 21)
    r = commonroad.read(write(tmp_path / "a.xml", lanelet("1"), obstacle("7", states)))
    np.testing.assert_allclose(r.tracks[0, 10], [15.0, 0.0, 0.1, 11.0], atol=1e-9)
    np.testing.assert_allclose(r.tracks[0, 11, :2], [16.0, 0.5])
    assert r.valid[0].all()  # the two steps without a state of their own lie between others
    np.testing.assert_allclose(r.tracks[0, 21, :2], [26.0, 0.0])
    for what in ("velocity is an interval", "orientation is an interval", "place is a region", "without a place"):
        assert f"1 states whose {what}" in r.notes["states"] or f"1 states {what}" in r.notes["states"]


def test_shapes_of_every_kind_become_boxes_where_they_are(tmp_path):
    turned = "<orientation>1.5707963</orientation><center><x>1</x><y>0.5</y></center>"
    still = exact("orientation", 1.5707963) + exact("time", 0)
    parked = {"tag": "staticObstacle", "role": ""}
    parts = [
        obstacle("1", moving()),
        obstacle("2", [place(50, 4) + still], shape="<circle><radius>0.4</radius></circle>", **parked),
        obstacle("3", [place(60, 4) + still], kind="truck", **parked,
                 shape=f"<polygon>{points((-4, 4), -1)}{points((4, -4), 1)}</polygon>"),
        obstacle("4", [place(70, 4) + still], **parked,
                 shape=f"<rectangle><length>4</length><width>2</width>{turned}</rectangle>"),
        obstacle("5", [place(80, 4) + still], **parked,
                 shape="<circle><radius>1</radius></circle><circle><radius>1</radius><center><x>4</x><y>0</y></center>"
                 "</circle>"),
        obstacle("6", [place(90, 4) + still], shape="", **parked),
        obstacle("9", [place(95, 9) + still], kind="roadBoundary", **parked),
        obstacle("10", [place(99, 4) + still], kind="constructionZone", **parked),
    ]  # fmt: skip
    r = commonroad.read(write(tmp_path / "a.xml", lanelet("1"), *parts, version="2020a"))
    assert r.ids == ["1", "2", "3", "4", "5", "10"]
    size = dict(zip(r.ids, r.size[:, :2].tolist(), strict=True))
    assert size["2"] == pytest.approx([0.8, 0.8])
    assert size["3"] == pytest.approx([8.0, 2.0])
    assert size["5"] == pytest.approx([6.0, 2.0])
    assert r.kind[2] == AGENT_TRUCK
    np.testing.assert_allclose(r.tracks[3, 0, :3], [69.5, 5.0, np.pi], atol=1e-6)
    np.testing.assert_allclose(r.tracks[4, 0, :2], [80.0, 6.0], atol=1e-6)
    assert r.valid.all()
    assert r.left == {"obstacles without a shape": 1, "obstacles of type roadBoundary": 1}
    assert "1 obstacles of type constructionZone, taken for cars" in r.notes["states"]


def sets(name, t0, t1):
    shape = f"<shape><rectangle><length>6</length><width>2</width><center><x>{5 + t0}</x><y>0</y></center></rectangle>"
    return f"<occupancy>{shape}</shape>{exact('time', t0) if t0 == t1 else interval('time', t0, t1)}</occupancy>"


def test_version_2020a(tmp_path):
    cycle = "".join(
        f"<cycleElement><duration>{n}</duration><color>{c}</color></cycleElement>"
        for n, c in ((20, "red"), (5, "redYellow"), (15, "green"), (10, "yellow"))
    )
    light = '<trafficLight id="{}"><cycle>{}<timeOffset>10</timeOffset></cycle>{}</trafficLight>'
    sign = "<trafficSignElement><trafficSignID>{}</trafficSignID>{}</trafficSignElement>"
    crossing = "<laneletType>crosswalk</laneletType>"
    parts = [
        "<location><geoNameId>1</geoNameId><gpsLatitude>48</gpsLatitude><gpsLongitude>11</gpsLongitude></location>",
        "<scenarioTags><urban/></scenarioTags>",
        lanelet("1", 0, 100, more='<successor ref="2"/><adjacentLeft ref="3" drivingDir="same"/>'
                '<trafficSignRef ref="50"/><trafficLightRef ref="60"/>',
                mark="<lineMarking>solid</lineMarking>"),
        lanelet("2", 100, 200, more='<predecessor ref="1"/>'),
        lanelet("3", 0, 100, 3.5, '<adjacentRight ref="1" drivingDir="same"/><laneletType>urban</laneletType>'),
        lanelet("4", 95, 99, 8.0, crossing),
        f'<trafficSign id="50">{sign.format(274, "<additionalValue>12.5</additionalValue>")}</trafficSign>',
        f'<trafficSign id="51">{sign.format(206, "")}</trafficSign>',
        light.format(60, cycle, ""),
        light.format(61, cycle.replace("green", "mauve"), ""),
        '<intersection id="70"><incoming id="71"><incomingLanelet ref="1"/><successorsStraight ref="2"/></incoming>'
        "</intersection>",
        obstacle("10", moving(), tag="dynamicObstacle", role=""),
        obstacle("11", [place(60, 3.5) + exact("orientation", 0) + exact("time", 0)], tag="staticObstacle", role="",
                 kind="parkedVehicle"),
        '<environmentObstacle id="12"><type>building</type></environmentObstacle>',
        '<phantomObstacle id="13"><occupancySet/></phantomObstacle>',
        '<planningProblem id="14"><goalState><time><intervalStart>1</intervalStart><intervalEnd>9</intervalEnd></time>'
        "</goalState></planningProblem>",
    ]  # fmt: skip
    write(tmp_path / "a.xml", *parts, version="2020a", name="C-DEU_Town-1_1_T-1")
    r = commonroad.read(tmp_path / "a.xml")
    assert r.place == "DEU_Town"
    assert len(r.map.lanes) == 3
    assert len(r.map.crosswalks) == 1
    assert r.map.lane_speed[0] == 12.5
    assert r.map.lane_junction.tolist() == [False, True, False]
    assert LINE_WHITE in r.map.line_kind
    assert r.map.lane_signal.tolist() == [0, -1, -1]
    np.testing.assert_allclose(r.map.stop_lines[0], [100, 1.75, 100, -1.75])
    assert r.ids == ["11", "10"]
    assert r.left == {
        "<environmentObstacle>": 1, "<phantomObstacle>": 1, "traffic signs 206": 1, "lights that show unknown words": 1,
        "states of lights in an unknown word, mauve": 1,
    }  # fmt: skip
    assert "mauve" in r.notes["signals"]
    scenes, refused = scenes_in(tmp_path)
    assert not refused
    shown = scenes[0].signals[0]
    assert shown[[0, 9, 10, 34, 35, 49, 50, 59]].tolist() == [
        SIGNAL_YELLOW, SIGNAL_YELLOW, SIGNAL_RED, SIGNAL_RED, SIGNAL_GREEN, SIGNAL_GREEN, SIGNAL_YELLOW, SIGNAL_YELLOW
    ]  # fmt: skip


def test_road_users_given_as_sets_of_places(tmp_path):
    states = "".join(sets("10", t, t) for t in range(1, 60))
    start = f"<initialState>{place(5, 0)}{exact('orientation', 0)}{exact('time', 0)}</initialState>"
    user = (
        f'<dynamicObstacle id="10"><type>car</type><shape>{BOX}</shape>{start}<occupancySet>{states}</occupancySet>'
        "</dynamicObstacle>"
    )
    r = commonroad.read(write(tmp_path / "a.xml", lanelet("1"), user, version="2020a"))
    np.testing.assert_allclose(r.tracks[0, :, 0], 5.0 + np.arange(60))
    np.testing.assert_allclose(r.tracks[0, :, 3], 10.0)
    assert "59 states whose place is a region" in r.notes["states"]


def test_bounds_with_different_numbers_of_points_are_read_by_their_lengths(tmp_path):
    even = commonroad.read(write(tmp_path / "a.xml", lanelet("1"), obstacle("7", moving())))
    odd = commonroad.read(write(tmp_path / "b.xml", lanelet("1", left=21, right=14), obstacle("7", moving())))
    np.testing.assert_allclose(odd.map.lane_width, even.map.lane_width)
    assert np.abs(odd.map.lanes[0][:, 1]).max() < 1e-6
    assert odd.map.lanes[0][-1].tolist() == [200.0, 0.0]
    assert (np.diff(odd.map.lanes[0][:, 0]) > 0).all()
    assert len(odd.map.lanes[0]) > 21  # the corners of both
    assert odd.notes["states"] == "1 lanelets whose bounds have different numbers of points, read by their lengths"
    assert "states" not in even.notes


def test_a_light_holds_for_the_ways_that_it_is_for(tmp_path):
    right = np.stack([100 + 20 * np.sin(np.linspace(0, 1.5, 8)), -20 + 20 * np.cos(np.linspace(0, 1.5, 8))], 1)
    a, b = ("".join(f"<point><x>{x}</x><y>{y + w}</y></point>" for x, y in right.tolist()) for w in (1.75, -1.75))
    bend = f'<lanelet id="3"><leftBound>{a}</leftBound><rightBound>{b}</rightBound></lanelet>'
    refs = '<successor ref="2"/><successor ref="3"/><trafficLightRef ref="60"/><trafficLightRef ref="61"/>'
    light = (
        '<trafficLight id="{}"><cycle><cycleElement><duration>9</duration><color>{}</color></cycleElement></cycle>'
        "<direction>{}</direction></trafficLight>"
    )
    parts = [
        lanelet("1", 0, 100, more=refs), lanelet("2", 100, 200), bend, light.format(60, "green", "straight"),
        light.format(61, "red", "right"), obstacle("7", moving(x=50.0, v=12.0, steps=60)),
    ]  # fmt: skip
    r = commonroad.read(write(tmp_path / "a.xml", *parts, version="2020a"))
    assert r.lights is not None
    ahead = np.stack([np.linspace(40, 160, 61), np.zeros(61)], 1)
    assert r.lights.along(ahead)[0, 0] == SIGNAL_GREEN
    assert r.lights.along(np.concatenate([ahead[:31], right]))[0, 0] == SIGNAL_RED


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("<radius>0.4</radius>", "<radius>nan</radius>", "obstacle 2: <radius> is nan"),
        ("<x>1</x><y>0</y></center>", "<x>inf</x><y>0</y></center>", "obstacle 2: <x> is inf"),
        ("<duration>5</duration>", "<duration>0</duration>", "trafficLight 60: needs a cycle with durations > 0"),
        ("<duration>5</duration>", "<duration/>", "trafficLight 60: <duration> is ''"),
        ("<timeOffset>3", "<timeOffset>1e9", "trafficLight 60: timeOffset"),
    ],
)
def test_damage_is_named(tmp_path, old, new, says):
    light = (
        "<cycle><cycleElement><duration>5</duration><color>red</color></cycleElement><timeOffset>3</timeOffset></cycle>"
    )
    shape = "<circle><radius>0.4</radius><center><x>1</x><y>0</y></center></circle>"
    parts = [lanelet("1"), f'<trafficLight id="60">{light}</trafficLight>', obstacle("2", moving(), shape=shape)]
    path = write(tmp_path / "a.xml", *parts, version="2020a")
    assert commonroad.read(path).ids == ["2"]
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=rf"a\.xml: {says}"):
        commonroad.read(path)


def test_many_road_users_at_a_late_step_cannot_claim_memory(tmp_path):
    late = place(5, 0) + exact("orientation", 0) + exact("time", 9999)
    users = [obstacle(str(n), [late]) for n in range(1001)]
    path = write(tmp_path / "a.xml", lanelet("1"), *users)
    with pytest.raises(ValueError, match="1001 road users over 10000 steps: not a scenario"):
        commonroad.read(path)


@pytest.mark.parametrize("every", [2, 3, 10])
@pytest.mark.parametrize("speed", [True, False])
def test_states_at_some_steps_only_are_closed_up_to_a_second(tmp_path, every, speed):
    states = moving(steps=61, speed=speed, yaw=speed)[::every]
    r = commonroad.read(write(tmp_path / "a.xml", lanelet("1"), obstacle("7", states), obstacle("8", moving(y=1.0))))
    last = 60 // every * every + 1
    assert r.valid[0, :last].all()
    np.testing.assert_allclose(r.tracks[0, :last, 0] - r.tracks[0, 0, 0], np.arange(last), atol=1e-9)
    np.testing.assert_allclose(r.tracks[0, :last, 2], 0.0, atol=1e-9)
    np.testing.assert_allclose(r.tracks[0, :last, 3], 10.0)
    assert "1 road users with states at some steps only" in r.notes["states"]


def test_a_longer_gap_and_a_jump_stay_gaps(tmp_path):
    states = moving(steps=60)
    far = place(900.0, 0.0) + exact("orientation", 0) + exact("time", 45) + exact("velocity", 10)
    r = commonroad.read(write(tmp_path / "a.xml", lanelet("1"), obstacle("7", [*states[:20], *states[31:41], far])))
    assert np.flatnonzero(~r.valid[0]).tolist() == [*range(20, 31), 41, 42, 43, 44]


@pytest.mark.parametrize(
    "bad",
    [
        obstacle("9", moving(), shape="<rectangle><length>0</length><width>1.8</width></rectangle>"),
        obstacle("9", [*moving()[:5], *moving()[4:]]),
        obstacle("9", [*moving()[:5], place("NaN", 0) + exact("time", 5)]),
        obstacle("9", moving(), shape="<circle><radius>nan</radius></circle>"),
    ],
)
def test_only_the_damaged_obstacle_is_left_out(tmp_path, bad):
    plain = commonroad.read(write(tmp_path / "a.xml", lanelet("1"), obstacle("7", moving())))
    r = commonroad.read(write(tmp_path / "b.xml", lanelet("1"), bad, obstacle("7", moving())))
    assert r.ids == plain.ids == ["7"]
    np.testing.assert_array_equal(r.tracks, plain.tracks)
    assert r.left == {"obstacles that are damaged": 1}
    with pytest.raises(ValueError, match=r"c\.xml: obstacle 9: "):
        commonroad.read(write(tmp_path / "c.xml", lanelet("1"), bad))


def test_a_namespace_changes_nothing(tmp_path):
    path = write(tmp_path / "a.xml", lanelet("1"), obstacle("7", moving()))
    plain = commonroad.read(path)
    path.write_text(path.read_text().replace("<commonRoad ", '<commonRoad xmlns="urn:some-schema" '))
    r = commonroad.read(path)
    assert (r.ids, r.map.id) == (plain.ids, plain.map.id)
    np.testing.assert_array_equal(r.tracks, plain.tracks)


def test_a_file_is_recognised_with_any_root_and_encoding(tmp_path):
    path = write(tmp_path / "a.xml", lanelet("1"), obstacle("7", moving()))
    text, plain = path.read_text(), commonroad.read(path)
    wide = '<?xml version="1.0" encoding="UTF-16"?>'
    for name, data in (
        ("licence.xml", f"<!-- {'free to use ' * 1000} -->{text}".encode()),
        ("wide.xml", (wide + text).encode("utf-16")),
        ("UPPER.XML", text.encode()),
        ("Packed.Xml.GZ", gzip.compress(text.encode())),
    ):
        (tmp_path / name).write_bytes(data)
        assert commonroad.fits(tmp_path / name), name
        assert commonroad.read(tmp_path / name).map.id == plain.map.id
    (tmp_path / "page.XML").write_text("<html/>")
    (tmp_path / "sd.PKL.gz").write_bytes(b"")
    (tmp_path / "dataset_summary.pkl").write_bytes(b"")
    _, refused = scenes_in(tmp_path)
    assert sorted(refused) == ["page.XML", "sd.PKL.gz"]
    (tmp_path / "wide.xml").write_bytes((wide + "<!DOCTYPE commonRoad>" + text).encode("utf-16"))
    with pytest.raises(ValueError, match="has a DOCTYPE"):
        commonroad.read(tmp_path / "wide.xml")

"""Damaged scenes, in files of every format and in memory: refused with ValueError, or simulated without error."""

import dataclasses
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drivefoundry.clips.importers import scenes_in
from drivefoundry.clips.importers.folder import READERS, format_of
from drivefoundry.clips.importers.traffic.recording import scenes_of
from drivefoundry.ragged import Ragged
from drivefoundry.roadmap import make_map
from drivefoundry.sim.expert import expert_plan
from drivefoundry.sim.pack import pack
from drivefoundry.sim.world import World
from drivefoundry.types import MAX_ABS_POSITION_M, Scene
from handmade import scenarionet, womd, write

NUMBERS = st.one_of(st.floats(), st.sampled_from([0.0, -1.0, 1e9, 1e308, math.nan, math.inf, -math.inf]), st.integers())
VALUES = st.one_of(
    NUMBERS, st.none(), st.text(max_size=3), st.booleans(), st.lists(NUMBERS, max_size=3),
    st.sampled_from([{}, [[]], [{}], 10**400]),
)  # fmt: skip
MOST = 2
"""Scenes of one file that are driven."""


def drive_on(scenes: list[Scene], steps: int = 8) -> None:
    """Step the world, its ego driven by the expert; no value may become NaN."""
    for scene in scenes[:MOST]:
        world = World(pack([scene.validate()]))
        for k in range(steps):
            if k % 5 == 0:
                points = expert_plan(world)
                assert np.isfinite(points).all()
                world.follow(points)
            world.advance()
        assert np.isfinite(world.ego).all()
        assert np.isfinite(world.agents).all()


def check_file(name: str, content: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / name, content)
        try:
            name = format_of(path)
            scenes = [] if name is None else scenes_of(READERS[name].read(path), egos=MOST)
        except ValueError as error:
            refusal = str(error)
        else:
            refusal = ""
            drive_on(scenes)
    assert "\n" not in refusal


def check_scene(scene: Scene) -> None:
    refusal = "Scene."
    try:
        scene.validate()
    except ValueError as error:
        refusal = str(error)
    else:
        drive_on([scene])
    assert refusal.startswith(("Scene.", "RoadMap."))


@st.composite
def damage(draw, content):
    """Path to some entry of the content, for `replaced`."""
    keys, inner = [], content
    for _ in range(draw(st.integers(1, 7))):
        if isinstance(inner, np.ndarray) and inner.ndim:
            inner = inner.tolist()
        if not isinstance(inner, (dict, list)) or not inner:
            break
        keys.append(draw(st.sampled_from(list(inner) if isinstance(inner, dict) else range(min(len(inner), 30)))))
        inner = inner[keys[-1]]
    return keys


def replaced(content, keys, value):
    """`changed`, through arrays as well, which become lists."""
    if not keys:
        return value
    inner = content.tolist() if isinstance(content, np.ndarray) else content
    copy = dict(inner) if isinstance(inner, dict) else list(inner)
    copy[keys[0]] = replaced(copy[keys[0]], keys[1:], value)
    return copy


@settings(max_examples=50)
@given(damage(womd(lights=True, named=True)), VALUES)
@example(["objects", 0, "valid"], [True] * 91)
def test_waymo_files(keys, value):
    check_file("a.json", replaced(womd(lights=True, named=True), keys, value))


@settings(max_examples=50)
@given(damage(scenarionet()), VALUES)
def test_scenarionet_files(keys, value):
    check_file("sd_a.pkl", replaced(scenarionet(), keys, value))


@settings(max_examples=50)
@given(st.sampled_from(["sd_a.pkl", "a.json", "a.json.gz"]), st.data())
def test_files_with_other_bytes(name, data):
    with tempfile.TemporaryDirectory() as folder:
        source = scenarionet() if name.endswith("pkl") else womd()
        whole = bytearray(write(Path(folder) / name, source).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    check_file(name, bytes(whole[: data.draw(st.integers(len(whole) // 2, len(whole)))]))


LANE = (
    '<lanelet id="1"><leftBound><point><x>0</x><y>1.75</y></point><point><x>200</x><y>1.75</y></point></leftBound>'
    "<rightBound><point><x>0</x><y>-1.75</y></point><point><x>200</x><y>-1.75</y></point></rightBound></lanelet>"
)


def commonroad() -> str:
    def state(tag, i):
        where = f"<position><point><x>{5 + i}</x><y>0</y></point></position><orientation><exact>0</exact></orientation>"
        return f"<{tag}>{where}<time><exact>{i}</exact></time><velocity><exact>10</exact></velocity></{tag}>"

    box = "<shape><rectangle><length>4.5</length><width>1.8</width></rectangle></shape>"
    way = "".join(state("state", i) for i in range(1, 60))
    obstacle = f'<obstacle id="7"><role>dynamic</role><type>car</type>{box}{state("initialState", 0)}'
    head = '<commonRoad benchmarkID="DEU_Town-1_2_T-1" commonRoadVersion="2018b" timeStepSize="0.1">'
    return f"{head}{LANE}{obstacle}<trajectory>{way}</trajectory></obstacle></commonRoad>"


@settings(max_examples=50)
@given(st.data(), st.sampled_from(["nan", "inf", "1e9", "-1", "", "x", "1e308", "0"]))
def test_commonroad_files(data, value):
    parts = commonroad().split(">")
    numbers = [i for i, part in enumerate(parts) if part.partition("<")[0].strip()]
    i = data.draw(st.sampled_from(numbers))
    parts[i] = value + "<" + parts[i].partition("<")[2]
    check_file("a.xml", ">".join(parts).encode())


def test_commonroad_steps_that_go_back_are_refused(tmp_path):
    write(tmp_path / "a.xml", commonroad().replace("<exact>30</exact></time>", "<exact>-3</exact></time>").encode())
    scenes, refused = scenes_in(tmp_path)
    assert not scenes
    assert refused["a.xml"] == "obstacle 7: time steps must be integers, increasing, from 0; sort its states"


def whole() -> Scene:
    with tempfile.TemporaryDirectory() as folder:
        return scenes_of(READERS["WOMD"].read(write(Path(folder) / "a.json", womd(lights=True))))[0]


WHOLE = whole()
FIELDS = ("tracks", "valid", "size", "kind", "route", "route_speed", "signals", "ego", "start", "id")


@settings(max_examples=50)
@given(st.sampled_from(FIELDS), NUMBERS, st.data())
def test_a_scene_in_memory(field, value, data):
    old = getattr(WHOLE, field)
    how = data.draw(st.sampled_from(["entry", "shape", "empty"]))
    if not isinstance(old, np.ndarray):
        new = data.draw(st.integers(-5, 200)) if isinstance(old, int) else ""
    elif how == "entry":
        new = old.astype(np.float64) if old.dtype.kind == "f" else old.copy()
        value = value if old.dtype.kind == "f" else data.draw(st.integers(0, 255)) % (2 if old.dtype == bool else 128)
        with np.errstate(over="ignore"):
            new.reshape(-1)[data.draw(st.integers(0, old.size - 1))] = float(value) if abs(value) < 1e300 else np.inf
            new = new.astype(old.dtype)
    else:
        new = old[:0] if how == "empty" else old[..., : data.draw(st.integers(0, old.shape[-1]))]
    damaged = dataclasses.replace(WHOLE, **{field: new})
    check_scene(damaged)


@settings(max_examples=50)
@given(st.sampled_from([f.name for f in dataclasses.fields(WHOLE.map) if f.name != "id"]), NUMBERS, st.data())
def test_a_map_in_memory(field, value, data):
    old = getattr(WHOLE.map, field)
    array = old.points if isinstance(old, Ragged) else old
    new = array.astype(np.float64)
    if new.size:
        at = data.draw(st.integers(0, new.size - 1))
        new.reshape(-1)[at] = float(value) if abs(value) < 1e300 else np.inf
    if data.draw(st.booleans()):
        new = new[:-1]
    fresh = dataclasses.replace(WHOLE.map, **{field: Ragged(new, old.offsets) if isinstance(old, Ragged) else new})
    damaged = dataclasses.replace(WHOLE, map=fresh)
    check_scene(damaged)


@pytest.mark.parametrize(
    ("field", "new", "says"),
    [
        ("tracks", np.full_like(WHOLE.tracks, np.nan), "Scene.tracks: NaN"),
        ("tracks", np.full_like(WHOLE.tracks, 2 * MAX_ABS_POSITION_M), "move the origin"),
        ("valid", np.zeros_like(WHOLE.valid), "Scene.ego: the ego has no state"),
        ("valid", WHOLE.valid[0], r"Scene.valid: \(A, T\) must be bool"),
        ("size", WHOLE.size * 0, "Scene.size"),
        ("route", WHOLE.route[:1].repeat(5, 0), "Scene.route: length must be > 0, got 0 m"),
        ("route_speed", WHOLE.route_speed * 0, "Scene.route_speed"),
        ("signals", np.zeros((3, WHOLE.valid.shape[1]), np.uint8), "Scene.signals: 3 where the map has 1"),
        ("signals", WHOLE.signals + 9, "SIGNAL"),
    ],
)
def test_errors_are_named(field, new, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(WHOLE, **{field: new}).validate()


def test_a_lane_without_length_is_refused():
    lanes = [np.array([[0.0, 0], [9, 0]]), np.array([[5.0, 5], [5, 5], [5, 5]])]
    with pytest.raises(ValueError, match=r"RoadMap.lanes: lane 1 has no length; remove it"):
        make_map(lanes=lanes)
    with pytest.raises(ValueError, match=r"RoadMap.lane_left: an index past the 1 lanes"):
        make_map(lanes=lanes[:1], lane_left=[1])
    with pytest.raises(ValueError, match=r"RoadMap.lanes: .*move the origin"):
        make_map(lanes=[lanes[0] + 5e6])


def test_json_that_is_deep_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.json: incomplete JSON"):
        READERS["WOMD"].read(write(tmp_path / "a.json", b'{"objects": ' + b"[" * 100_000))

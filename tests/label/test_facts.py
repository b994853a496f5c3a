from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from street import drive, standing, street

from drivefoundry.label.facts import FieldOfView, facts_at, project, stop_lines_along, visible
from drivefoundry.label.scene import scene_from_clip
from drivefoundry.roadmap import arc_length
from drivefoundry.types import COMMAND_LEFT, COMMAND_STRAIGHT, SIGNAL_GREEN, SIGNAL_OFF, SIGNAL_RED


def scene_of(**options):
    return scene_from_clip(drive(**options), street(), "c")


def test_lead_is_the_nearest_vehicle_on_the_route():
    scene = scene_of(others=[standing(50, 0, speed=4.0), standing(30, 0), standing(20, 3.5)], kinds=[0, 0, 0])
    f = facts_at(scene, np.array([0]))
    assert f.lead_gap[0] == pytest.approx(30 - 4.6, abs=0.05)
    assert f.lead_closing[0] == pytest.approx(10.0, abs=0.05)


def test_what_drives_beside_or_behind_is_no_lead():
    scene = scene_of(others=[standing(20, 3.5), standing(-10, 0), standing(100, 0)])
    assert np.isinf(facts_at(scene, np.array([0])).lead_gap[0])


def test_person_on_and_near_the_path():
    on = facts_at(scene_of(others=[standing(20, 0.5)], kinds=[2]), np.array([0]))
    assert on.person_gap[0] == pytest.approx(20 - 2.6, abs=0.1)
    assert on.person_on[0]
    comes = facts_at(scene_of(others=[standing(20, 4.0, -np.pi / 2, speed=1.2)], kinds=[2]), np.array([0]))
    assert np.isfinite(comes.person_gap[0])
    assert not comes.person_on[0]
    goes = facts_at(scene_of(others=[standing(20, 4.0, np.pi / 2, speed=1.2)], kinds=[2]), np.array([0]))
    assert np.isinf(goes.person_gap[0])


def test_light_counts_while_its_lamp_is_in_the_picture():
    scene = scene_of(light=SIGNAL_RED)
    f = facts_at(scene, np.array([0, 20, 50, 70]))
    assert f.light.tolist() == [SIGNAL_RED, SIGNAL_RED, SIGNAL_RED, SIGNAL_OFF]  # passed at 70
    assert f.light_gap[1] == pytest.approx(40 - 2.3, abs=0.1)
    assert facts_at(scene_of(light=SIGNAL_GREEN), np.array([20])).light[0] == SIGNAL_GREEN
    # With the upper edge of the picture at the horizon the lamp is never seen.
    low = FieldOfView(upper=0.0)
    assert facts_at(scene, np.array([20]), low).light[0] == SIGNAL_OFF


def test_turn_ahead_and_its_distance():
    f = facts_at(scene_of(), np.array([0, 70]))
    assert f.turn.tolist() == [COMMAND_STRAIGHT, COMMAND_LEFT]
    assert f.turn_gap[1] == pytest.approx(30.0, abs=6.0)
    assert f.curve[1] > 0.2


def test_crossing_vehicle():
    scene = scene_of(others=[standing(30, -8, np.pi / 2, speed=6.0)])
    assert facts_at(scene, np.array([0])).crossing_gap[0] < 30
    away = scene_of(others=[standing(30, -8, -np.pi / 2, speed=6.0)])
    assert np.isinf(facts_at(away, np.array([0])).crossing_gap[0])


def test_only_what_is_in_view_is_seen():
    scene = scene_of(others=[standing(30, 0), standing(5, 30), standing(-20, 0), standing(75, 0)])
    assert visible(scene, np.array([0]))[0].tolist() == [False, True, False, False, False]


def test_a_person_behind_a_truck_is_hidden_and_a_truck_behind_a_car_is_not():
    d = drive(others=[standing(20, 0), standing(30, 0.0)], kinds=[0, 2])
    assert d.objects is not None
    scene = scene_from_clip(d, street(), "c")
    size = np.array([[8.0, 2.5, 3.4], [0.6, 0.6, 1.8]], np.float32)
    hidden = scene_from_clip(replace(d, objects=replace(d.objects, size=size)), street(), "c")
    assert visible(hidden, np.array([0]))[0].tolist() == [False, True, False]
    assert np.isinf(facts_at(hidden, np.array([0])).person_gap[0])
    behind = replace(scene, size=np.array([[4.6, 1.9, 1.6], [4.6, 1.9, 1.6], [8.0, 2.5, 3.4]], np.float32))
    assert visible(behind, np.array([0]))[0].tolist() == [False, True, True]


def test_a_building_hides():
    scene = scene_of(others=[standing(54, -20.4)])
    assert visible(scene, np.array([0]))[0, 1]
    behind = replace(scene, map=replace(scene.map, buildings=np.array([[40.0, -15.0, 0.0, 8.0, 8.0, 9.0]])))
    assert not visible(behind, np.array([0]))[0, 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 150), st.integers(0, 2**31))
def test_facts_never_look_ahead(step, seed):
    scene = scene_of(others=[standing(50, 0, speed=4.0), standing(40, 3.0, -np.pi / 2, speed=0.5)], kinds=[0, 2])
    rng = np.random.default_rng(seed)
    tracks, valid, signals = scene.tracks.copy(), scene.valid.copy(), scene.signals.copy()
    tracks[:, step + 1 :] = rng.normal(0, 50, tracks[:, step + 1 :].shape)
    valid[:, step + 1 :] = rng.random(valid[:, step + 1 :].shape) < 0.5
    signals[:, step + 1 :] = rng.integers(0, 4, signals[:, step + 1 :].shape)
    other = replace(scene, tracks=tracks, valid=valid, signals=signals)
    a, b = facts_at(scene, np.array([step])), facts_at(other, np.array([step]))
    for name in a.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@settings(max_examples=50, deadline=None)
@given(st.floats(1.0, 95.0), st.floats(-3.0, 3.0))
def test_projection_inverts_arc_length_and_offset(s, off):
    route = np.stack([np.linspace(0, 100, 51), np.zeros(51)], 1)
    at, side, tangent = project(route, arc_length(route), np.array([[s, off]]))
    assert at[0] == pytest.approx(s, abs=1e-9)
    assert side[0] == pytest.approx(off, abs=1e-9)
    assert tangent[0] == 0.0


def test_stop_lines_are_found_where_the_route_crosses_them():
    route = np.stack([np.linspace(0, 100, 51), np.zeros(51)], 1)
    lines = np.array([[60.0, -2, 60.0, 2], [30.0, 1, 30.0, 5], [10.0, 0, 20.0, 0]])
    np.testing.assert_allclose(stop_lines_along(lines, route, arc_length(route)), [60.0, np.inf, np.inf])
    assert stop_lines_along(np.zeros((0, 4)), route, arc_length(route)).shape == (0,)

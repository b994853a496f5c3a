"""The running city: physical tracks, obeyed lights, the same log from the same seed, and a separate process."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from citylog import contents, figures
from drivefoundry.fleet.places import place_map
from drivefoundry.fleet.sumo import city, traffic
from drivefoundry.fleet.sumo.city import CityLog, run_city
from drivefoundry.types import AGENT_PEDESTRIAN, SIGNAL_GREEN, SIGNAL_RED, SIGNAL_YELLOW


@pytest.fixture(scope="module")
def log() -> CityLog:
    return run_city("place_a", 5, 60, n_cars=12, n_traffic=40, n_pedestrians=30)


def crossings(log: CityLog, shift: int = 0) -> list[int]:
    """Signal states at the moments at which a recording car's front passes a stop line."""
    road = place_map(log.place)
    seen = []
    for lanes in log.lane:
        for t in np.flatnonzero(np.diff(lanes)):
            before, after = lanes[t], lanes[t + 1]
            if road.lane_signal[before] >= 0 and road.lane_junction[after]:
                signal = (road.lane_signal[before] + shift) % len(log.signals)
                seen.append(int(log.signals[signal, t]))
    return seen


def test_the_same_seed_gives_the_same_city_and_another_seed_another():
    args = ("place_b", 3, 5.0)
    first, again = (run_city(*args, n_cars=4, n_traffic=6, n_pedestrians=5) for _ in range(2))
    assert contents(first) == contents(again)
    other = run_city("place_b", 4, 5.0, n_cars=4, n_traffic=6, n_pedestrians=5)
    assert not np.array_equal(first.tracks[:4], other.tracks[:4])


def test_speed_and_yaw_are_those_of_the_motion(log):
    vehicles = log.tracks[log.kind != AGENT_PEDESTRIAN].astype(float)
    step = vehicles[:, 2:, :2] - vehicles[:, :-2, :2]
    speed = vehicles[:, 1:-1, 3]
    assert np.abs(np.hypot(step[..., 0], step[..., 1]) / 0.2 - speed).max() < 0.1
    moving = speed > 2.0
    off = np.arctan2(step[..., 1], step[..., 0]) - vehicles[:, 1:-1, 2]
    assert np.percentile(np.abs(np.arctan2(np.sin(off), np.cos(off)))[moving], 99.5) < 0.2
    assert np.abs(np.gradient(speed, 0.1, axis=1)).max() < 10.0, "no vehicle jumps"


def test_box_centres_lie_half_a_length_behind_the_lane_position(log):
    """On a straight stretch the front bumper is on the lane's centre line and so is the centre."""
    road = place_map(log.place)
    off = []
    for row, lanes in zip(log.fleet, log.lane, strict=True):
        for t in range(0, log.steps, 25):
            if road.lane_junction[lanes[t]] or log.tracks[row, t, 3] < 3.0:
                continue
            x, y, yaw, _ = log.tracks[row, t].astype(float)
            d = road.lanes[lanes[t]] - (x + 2.3 * np.cos(yaw), y + 2.3 * np.sin(yaw))
            seg = np.diff(road.lanes[lanes[t]], axis=0)
            u = np.clip(-(d[:-1] * seg).sum(1) / (seg**2).sum(1), 0, 1)
            off.append(np.hypot(*(d[:-1] + u[:, None] * seg).T).min())
    assert len(off) > 50
    assert np.percentile(off, 80) < 0.1  # the others change lanes


def test_cars_obey_the_lights_that_the_map_ties_to_their_lanes(log):
    seen = crossings(log)
    assert len(seen) >= 15
    assert seen.count(SIGNAL_RED) == 0
    assert SIGNAL_GREEN in seen
    wrong = crossings(log, shift=3)  # the same count for a map whose lights are mixed up
    assert wrong.count(SIGNAL_RED) > 0.4 * len(wrong)


def test_lights_go_green_yellow_red_and_every_signal_changes(log):
    for states in log.signals:
        order = states[np.concatenate([[True], np.diff(states.astype(int)) != 0])].tolist()
        assert set(order) == {SIGNAL_GREEN, SIGNAL_YELLOW, SIGNAL_RED}
        after = {SIGNAL_GREEN: SIGNAL_YELLOW, SIGNAL_YELLOW: SIGNAL_RED, SIGNAL_RED: SIGNAL_GREEN}
        assert all(after[a] == b for a, b in pairwise(order))


def test_the_city_moves_and_holds_what_a_driver_must_learn(log):
    told = figures(log)
    assert told["vehicles"] >= 50
    assert 25 <= told["people"] <= 35
    assert told["mean_speed"] > 2.5
    assert 0.1 < told["standing"] < 0.6
    assert told["hard_brakes_per_hour"] > 3
    assert log.brake.any()
    assert {1, 2} <= set(np.unique(log.indicator).tolist())


def test_braking_and_standing_cars_show_their_lamps(log):
    row = log.tracks[log.fleet]
    standing = row[..., 3] == 0
    assert log.brake[log.fleet][standing].all()
    speeding_up = np.gradient(row[..., 3], 0.1, axis=1) > 0.5
    assert not log.brake[log.fleet][speeding_up & (row[..., 3] > 1.0)].any()


def test_recording_cars_are_there_all_the_time(log):
    assert len(log.fleet) == 12
    assert log.valid[log.fleet].all()
    assert (log.lane >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("place_x", 1, 10), "place_x"), (("place_a", 1, 0), "at least 1 s"), (("place_a", 1, 10, 0), "one car")],
)
def test_nonsense_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        run_city(*arguments)


def test_sumos_process_imports_no_arrow():
    code = (
        "import sys; from drivefoundry.fleet.sumo import traffic; traffic.load_sumo();"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('pyarrow', 'lance', 'torch')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"  # and no warning about it


def test_a_missing_system_library_is_named_with_its_package(tmp_path, monkeypatch):
    """A libsumo that cannot find its library, ahead of the real one on the path of SUMO's process."""
    broken = tmp_path / "libsumo.py"
    broken.write_text("raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"system library libGL.so.1.*apt install libgl1") as caught:
        run_city("place_a", 1, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shown", "links", "state"), [("rGgr", [1, 2], 1), ("rGgr", [0, 3], 3), ("ryyG", [0, 1], 2), ("oO", [0, 1], 0)]
)
def test_a_lane_shows_its_most_permissive_link(shown, links, state):
    assert traffic.lamp(shown, links) == state


def test_smoothing_keeps_straight_motion_exactly():
    t = np.arange(50) * 0.1
    track = city._smooth_track(np.stack([3 + 5 * t, 1 - 2 * t], 1), np.full(50, 0.3), walks=False)
    assert np.allclose(track[:, 0], 3 + 5 * t)
    assert np.allclose(track[:, 3], np.hypot(5, 2))

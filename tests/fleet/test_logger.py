"""Drives and situations cut from a city log agree with the city."""

from __future__ import annotations

import numpy as np
import pytest

from drivefoundry.fleet.paths import car_route
from drivefoundry.fleet.places import place_map, place_net
from drivefoundry.fleet.record import START, ego_states, record_drives, situations
from drivefoundry.fleet.sumo.city import CityLog, run_city
from drivefoundry.render.rig import Rig
from drivefoundry.roadmap import arc_length
from drivefoundry_car.log import decode_video, read_drive


@pytest.fixture(scope="module")
def log() -> CityLog:
    return run_city("place_c", 7, 45, n_cars=8, n_traffic=40, n_pedestrians=40)


@pytest.fixture(scope="module")
def drives(log, tmp_path_factory):
    out = tmp_path_factory.mktemp("drives")
    paths = record_drives(log, place_map("place_c"), out, cars=[0, 3], workers=1)
    return [read_drive(path) for path in paths]


def off_route(points: np.ndarray, route: np.ndarray) -> np.ndarray:
    seg = np.diff(route[:, :2], axis=0)
    rel = points[:, None] - route[None, :-1, :2]
    u = np.clip((rel * seg).sum(-1) / np.maximum((seg**2).sum(-1), 1e-9), 0, 1)
    return np.hypot(*(rel - u[..., None] * seg).transpose(2, 0, 1)).min(1)


def inside(points: np.ndarray, polygons) -> np.ndarray:
    out = np.zeros(len(points), bool)
    for i in range(len(polygons)):
        a = polygons[i]
        b = np.roll(a, -1, axis=0)
        spans = (a[:, None, 1] > points[:, 1]) != (b[:, None, 1] > points[:, 1])
        rise = np.where(b[:, 1] == a[:, 1], 1.0, b[:, 1] - a[:, 1])[:, None]
        at = a[:, None, 0] + (points[:, 1] - a[:, None, 1]) / rise * (b[:, 0] - a[:, 0])[:, None]
        out |= ((spans & (points[:, 0] < at)).sum(0) % 2).astype(bool)
    return out


def test_every_route_passes_through_its_own_track_and_runs_on(log):
    net = place_net(log.place)
    off = []
    for car in range(len(log.fleet)):
        route, on = car_route(log, net, car)
        off.append(off_route(log.tracks[log.fleet[car], ::4, :2].astype(float), route))
        assert (np.diff(on) >= 0).all()
        assert arc_length(route)[-1] - on[-1] >= 60.0
        assert np.diff(arc_length(route)).max() < 1.6
        heading = np.unwrap(np.arctan2(*np.diff(route[:, :2], axis=0).T[::-1]))
        assert np.abs(np.diff(heading)).max() < 0.8, "the route has a kink"
        assert (route[:, 2] >= 3.0).all()
        assert (route[:, 2] <= 14.0).all()
    assert (np.concatenate(off) < 0.7).mean() > 0.99
    assert np.median(np.concatenate(off)) < 0.2


def test_the_planned_way_follows_lanes(log):
    net = place_net(log.place)
    for car in range(len(log.fleet)):
        route, on = car_route(log, net, car)
        planned = route[arc_length(route) > on[-1] + 30.0, :2]
        lanes = net.map.lanes.points
        d = np.hypot(*(planned[:, None] - lanes[None]).transpose(2, 0, 1)).min(1)
        assert np.percentile(d, 75) < 3.3  # lane points are up to 6 m apart
        assert inside(planned, net.map.drivable).all()


def test_recording_cars_stay_on_the_drivable_area(log):
    box = np.array([[2.3, 0.95], [2.3, -0.95], [-2.3, -0.95], [-2.3, 0.95]])
    pose = log.tracks[log.fleet][:, ::10].reshape(-1, 4).astype(float)
    c, s = np.cos(pose[:, 2, None]), np.sin(pose[:, 2, None])
    x = pose[:, 0, None] + c * box[:, 0] - s * box[:, 1]
    y = pose[:, 1, None] + s * box[:, 0] + c * box[:, 1]
    on = inside(np.stack([x, y], -1).reshape(-1, 2), place_map(log.place).drivable)
    assert on.mean() > 0.998


def test_a_drive_agrees_with_the_city(log, drives):
    for drive, car in zip(drives, (0, 3), strict=True):
        track = log.tracks[log.fleet[car]]
        assert np.allclose(drive.ego[:, :4], track, atol=1e-3)
        assert drive.meta["map"] == place_map(log.place).id
        assert (drive.meta["source"], drive.meta["place"], drive.meta["seed"]) == ("sumo", "place_c", "7")
        assert len(drive.meta["route_id"]) == 16
        assert drive.meta["purpose"] == "fleet"
        assert drive.objects is not None
        assert log.fleet[car] not in drive.objects.track
        near = drive.objects.valid
        d = np.hypot(*(drive.objects.states[..., :2] - drive.ego[None, :, :2]).transpose(2, 0, 1))
        assert d[near].max() <= 80.1
        assert near.any(1).all()
        assert drive.signal_id is not None
        assert drive.signal_state is not None
        assert np.array_equal(drive.signal_state, log.signals[drive.signal_id])


def test_the_video_has_a_frame_a_step_and_shows_a_changing_street(log, drives):
    rig = Rig()
    for drive in drives:
        assert drive.video is not None
        frames = decode_video(drive.video)
        assert frames.shape == (log.steps, rig.height, rig.width, 3)
        assert frames.std() > 20
    standing = drives[0].ego[:, 3] == 0
    change = np.abs(np.diff(decode_video(drives[0].video).astype(int), axis=0)).mean((1, 2, 3))
    if standing.any() and not standing.all():
        assert change[~standing[1:]].mean() > change[standing[1:]].mean()


def test_acceleration_yaw_rate_and_wheel_follow_from_the_track():
    t = np.arange(100) * 0.1
    radius, speed = 20.0, 6.0
    turn = speed / radius * t
    track = np.stack([radius * np.sin(turn), radius * (1 - np.cos(turn)), turn, np.full(100, speed)], 1)
    ego = ego_states(track)
    assert np.allclose(ego[:, 4], 0.0)
    assert np.allclose(ego[:, 5], speed / radius)
    assert np.allclose(ego[:, 6], np.arctan(2.85 / radius) * 14.8)  # positive: to the left


def test_situations_are_valid_windows_of_the_log(log):
    scenes = situations(log, place_map(log.place), every=10.0)
    assert len(scenes) == 3 * len(log.fleet)
    assert len({scene.id for scene in scenes}) == len(scenes)
    for scene in scenes:
        assert scene.valid.shape[1] == 200
        assert scene.start == START
        assert scene.place == "place_c/7"
        assert scene.valid[scene.ego].all()
        ego = scene.tracks[scene.ego, :, :2].astype(float)
        assert (off_route(ego, np.asarray(scene.route)) < 0.7).mean() > 0.9
        ends = [np.hypot(*(scene.route - ego[k]).T) for k in (0, -1)]
        ahead = arc_length(scene.route)[-1] - arc_length(scene.route)[int(np.argmin(ends[1]))]
        assert ahead >= 100.0
        assert int(np.argmin(ends[0])) >= 2, "the route begins behind the car"
        d = np.hypot(*(scene.tracks[..., :2] - scene.tracks[scene.ego, :, :2]).transpose(2, 0, 1))
        assert (np.where(scene.valid, d, np.inf).min(1) < 80.0).all()


def test_a_foreign_map_is_refused(log, tmp_path):
    with pytest.raises(ValueError, match="place_c"):
        record_drives(log, place_map("place_a"), tmp_path)
    with pytest.raises(ValueError, match="place_c"):
        situations(log, place_map("place_a"))

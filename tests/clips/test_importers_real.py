"""Importers on the public data sets; skipped if they are absent (DRIVEFOUNDRY_DATA names their folder)."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from drivefoundry.clips.importers import kind_of, scenes_in
from drivefoundry.clips.importers.drives import udacity
from drivefoundry.clips.importers.folder import scene_files
from drivefoundry.clips.importers.traffic.recording import is_short
from drivefoundry.judge.scores.closed_loop import score_rollout
from drivefoundry.label.episodes import episodes_of
from drivefoundry.label.reason import plan_speeds
from drivefoundry.sim.drive import drive
from drivefoundry.sim.policies import LogReplay
from drivefoundry.sim.world import with_traffic

DATA = Path(os.environ.get("DRIVEFOUNDRY_DATA", Path(__file__).parents[3] / "shared" / "data"))
CAMERA, SCENARIOS = DATA / "udacity_ch2_001", DATA / "commonroad_ngsim"
OTHERS = (DATA / "womd_gpudrive", DATA / "scenarionet_nuscenes_mini")


@pytest.mark.skipif(not SCENARIOS.is_dir(), reason="recorded scenarios are not at hand")
def test_every_recorded_scenario_loads_and_people_drive_on_the_road():
    assert kind_of(SCENARIOS) == "scenes"
    files = scene_files(SCENARIOS)
    seen = []
    scenes, without = scenes_in(SCENARIOS, egos=2, on_file=seen.append)
    assert sorted(seen) == files
    assert not without
    assert len({s.meta["recording"] for s in scenes}) == len(files)
    scenes = [s for s in scenes if not is_short(s)]
    assert len({s.meta["recording"] for s in scenes}) > 0.7 * len(files)
    assert len(Counter(s.place for s in scenes)) > 1
    on_road = []
    for scene in scenes[::5]:
        path = scene.tracks[0, scene.start :, :2].astype(float)
        on = np.zeros(len(path), bool)
        for k in range(len(scene.map.drivable)):
            on |= inside(scene.map.drivable[k], path)
        on_road.append(on.mean())
        off = np.hypot(*(path[:, None] - scene.route[None]).transpose(2, 0, 1)).min(1)
        assert off.max() < 1.5
    assert np.mean(on_road) > 0.98


def inside(polygon, points):
    """(N,) bool: which points (N, 2) are inside, by the even-odd rule."""
    a, b = polygon, np.roll(polygon, -1, axis=0)
    x, y = points[:, :1], points[:, 1:]
    spans = (a[:, 1] > y) != (b[:, 1] > y)
    rise = np.where(b[:, 1] == a[:, 1], 1.0, b[:, 1] - a[:, 1])
    return (spans & (x < a[:, 0] + (y - a[:, 1]) * (b[:, 0] - a[:, 0]) / rise)).sum(1) % 2 == 1


@pytest.mark.skipif(not CAMERA.is_dir(), reason="the road-camera drive is not at hand")
def test_the_road_camera_drive_gives_labelled_decisions(tmp_path):
    assert kind_of(CAMERA) == "udacity"
    run = udacity.runs_of(CAMERA)[0]
    part = slice(0, 400)  # 20 s
    columns = (run.t, run.steering, run.yaw_rate, run.speed, run.supported)
    drive = udacity.drive_of(udacity.Run(run.name, run.files[part], *(c[part] for c in columns)))
    episodes = episodes_of(drive, None, "c", phases=5)
    assert len(episodes) > 140
    assert episodes.frames["front"].shape[1:] == (64, 160, 3)
    v = plan_speeds(episodes.future.astype(float))
    assert 5 < v.min() < v.max() < 25
    assert not any("car" in text or "light" in text or "person" in text for text in episodes.text)
    # The wheel turns left where the path bends left: steering is true, the path derived.
    assert np.corrcoef(drive.ego[:, 6], drive.ego[:, 5])[0, 1] > 0.8


@pytest.mark.parametrize("folder", OTHERS, ids=lambda p: p.name)
def test_other_recorded_traffic_loads_and_log_replay_stays_on_the_road(folder):
    if not folder.is_dir():
        pytest.skip("recorded scenarios are not at hand")
    files = scene_files(folder)
    scenes = [s for file in files[:: len(files) // 3] for s in scenes_in(file, egos=2)[0]]
    assert len({s.meta["recording"] for s in scenes}) >= 3
    clean = 0
    for scene in scenes:
        rollout = drive(LogReplay(), [scene], simulator=with_traffic("replay"))
        clean += score_rollout(rollout, [scene], np.ones(1))["off_road"][0] == 0.0
        steps = rollout.ego.shape[1]
        log = scene.tracks[scene.ego, scene.start : scene.start + steps, :2]
        assert np.array_equal(rollout.ego[0, :, :2].astype(np.float32), log)
    assert clean >= len(scenes) - 1

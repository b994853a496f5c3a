"""The PDM-Closed style planner: its proposals, and how it drives."""

import numpy as np
import pytest
from straight_road import moving, scene

from drivefoundry.judge.scores.closed_loop import score_rollout
from drivefoundry.judge.scores.pdm_closed import OFFSETS, SPEEDS, PdmClosed, proposals
from drivefoundry.sim.drive import drive
from drivefoundry.sim.pack import pack
from drivefoundry.sim.world import World
from drivefoundry.types import AGENT_PEDESTRIAN, Scene


def proposed(one: Scene) -> np.ndarray:
    return proposals(World(pack([one])))[0]


def test_proposals_are_offsets_times_speeds_and_a_full_stop():
    p = proposed(scene(moving(0, 0, 8)))
    assert p.shape == (len(OFFSETS) * len(SPEEDS) + 1, 8, 3)
    ends = p[:-1, -1, 1].reshape(len(OFFSETS), len(SPEEDS))
    assert ends == pytest.approx(np.repeat(OFFSETS[:, None], len(SPEEDS), 1), abs=1e-6)
    gone = p[:-1, -1, 0].reshape(len(OFFSETS), len(SPEEDS))
    assert (np.diff(gone) < 0).all(), "slower targets get less far"
    # 8 m/s, full braking at 8 m/s^2: at rest after 1 s and 4 m.
    assert p[-1, -1, 0] == pytest.approx(4.0, abs=0.05)


def test_proposals_stay_behind_vehicles_in_their_way():
    p = proposed(scene(moving(0, 0, 8), moving(20, 0, 0)))
    middle = p[0]
    assert middle[-1, 0] < 20 - 4.6
    aside = proposed(scene(moving(0, 0, 8), moving(20, 3.2, 0)))[0]
    assert aside[-1, 0] > 30


def test_proposals_stop_at_a_red_light():
    assert proposed(scene(moving(30, 0, 8), red=True))[0, -1, 0] + 30 + 2.3 < 60
    assert proposed(scene(moving(30, 0, 8)))[0, -1, 0] + 30 + 2.3 > 60


def driven(*scenes: Scene) -> dict[str, np.ndarray]:
    rollout = drive(PdmClosed(), list(scenes), 8.0)
    return score_rollout(rollout, list(scenes), np.full(len(scenes), 30.0))


def test_it_drives_without_harm():
    s = driven(
        scene(moving(0, 0, 8), id="free"),
        scene(moving(0, 0, 8), moving(45, 0, 0), id="blocked"),
        scene(moving(0, 0, 8), moving(25, 0, 4), id="slow lead"),
        scene(moving(20, 0, 8), red=True, id="red"),
        scene(moving(0, 0, 8), moving(35, -6, 1.5, np.pi / 2), kinds=(AGENT_PEDESTRIAN,), id="walker"),
    )
    for name in ("at_fault_collision", "off_road", "red_light"):
        assert s[name].tolist() == [0.0] * 5, name
    assert s["progress"][0] == 1
    assert (s["comfort"] > 0.5).all()


def test_where_every_proposal_breaks_a_rule_it_brakes():
    # A car stands 3 m before the bumper: nothing can be done but brake.
    s = scene(moving(0, 0, 10), moving(4.6 + 3.0, 0, 0))
    ego = drive(PdmClosed(), [s], 1.0).ego[0]
    assert ego[:, 4].min() < -6.0


def test_plans_hang_on_their_own_scene():
    scenes = [scene(moving(0, 0, 8), moving(20.0 + 5 * i, 0, 3), id=f"s{i}") for i in range(3)]
    together = drive(PdmClosed(), scenes, 2.0).ego
    for i, one in enumerate(scenes):
        assert np.array_equal(drive(PdmClosed(), [one], 2.0).ego[0], together[i])

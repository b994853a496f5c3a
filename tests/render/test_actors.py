import numpy as np

from drivefoundry.render.kernels.actors import brake_lamps, indicators
from drivefoundry.types import AGENT_CAR, AGENT_PEDESTRIAN
from shots import scene


def test_brake_lamps_follow_deceleration():
    lamps = brake_lamps(scene().tracks)
    assert not lamps[1, 10:70].any()
    assert lamps[1, 85:105].all()
    assert lamps[1, 140:].all(), "standing"
    assert not lamps[3].any()


def turning(angle, steps=150, at=80, over=20):
    """A track that turns by `angle` rad during `over` steps from step `at`."""
    yaw = angle * np.clip((np.arange(steps) - at) / over, 0, 1)
    track = np.zeros((1, steps, 4))
    track[0, :, 2], track[0, :, 3] = np.arctan2(np.sin(yaw), np.cos(yaw)), 6.0
    return track


def test_indicators_tell_the_side_of_a_turn_before_it_and_rest_after_it():
    valid, kind = np.ones((1, 150), bool), np.array([AGENT_CAR])
    for angle, side in ((1.5, 1), (-1.5, -1), (3.0, 1)):
        said = indicators(turning(angle), valid, kind)[0]
        assert (said[60:90] == side).all()
        assert not said[:30].any()
        assert not said[120:].any()
    assert not indicators(turning(0.2), valid, kind).any(), "a bend is no turn"
    assert not indicators(turning(1.5), valid, np.array([AGENT_PEDESTRIAN])).any()


def test_indicators_do_not_read_what_a_track_holds_where_it_is_invalid():
    track, valid = turning(1.5), np.ones((1, 150), bool)
    valid[:, 70:] = False
    track[:, 70:] = 0.0
    assert not indicators(track, valid, np.array([AGENT_CAR])).any(), "its turn was never seen"
    track[:, 70:, 2] = 2.0
    assert not indicators(track, valid, np.array([AGENT_CAR])).any()
    assert not indicators(track, np.zeros((1, 150), bool), np.array([AGENT_CAR])).any()

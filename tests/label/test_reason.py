from dataclasses import replace

import numpy as np
from street import drive, standing, street

from drivefoundry.label.episodes import episodes_of, track_ahead
from drivefoundry.label.reason import MANOEUVRES, manoeuvres, plan_speeds, reasons
from drivefoundry.label.scene import scene_from_clip


def straight(speeds):
    """Plan (1, 8, 3) that covers each half second at the given speed."""
    out = np.zeros((1, 8, 3))
    out[0, :, 0] = np.cumsum(np.asarray(speeds, float)) * 0.5
    return out


def named(speeds, now):
    return MANOEUVRES[manoeuvres(straight(speeds), np.array([now]))[0]]


def test_manoeuvres():
    assert named([0] * 8, 0.0) == "stand"
    assert named(np.arange(8), 0.0) == "start"
    assert named([8, 6, 4, 2, 1, 0, 0, 0], 10.0) == "stop"
    assert named([10, 9, 8, 7, 6, 6, 6, 6], 10.5) == "brake"
    assert named([10, 10, 9.5, 9, 8.5, 8, 8, 8], 10.0) == "slow"
    assert named([10] * 8, 10.0) == "keep"
    assert named([10, 10.5, 11, 12, 12, 13, 13, 13], 10.0) == "accelerate"


def test_plan_speeds_are_signed():
    np.testing.assert_allclose(plan_speeds(straight([3] * 8)), 3.0)
    np.testing.assert_allclose(plan_speeds(-straight([3] * 8)), -3.0)


def text_at(step, **options):
    d = drive(**options)
    scene = scene_from_clip(d, street(), "c")
    steps = np.array([step])
    return reasons(d, scene, steps, np.stack([track_ahead(d, step)]))[0]


def test_lines_name_object_rule_and_decision():
    braking = np.concatenate([np.full(20, 10.0), np.linspace(10, 0, 35), np.zeros(145)])
    assert text_at(20, speed=braking, others=[standing(45, 0)]) == "lead car 20 m closing 8 | keep gap | stop"
    assert text_at(20, speed=braking, light=3) == "red light 40 m | stop at line | stop"
    assert text_at(20, speed=braking, others=[standing(44, 0.3)], kinds=[2]) == "person 20 m on path | give way | stop"
    assert text_at(10, light=0) == "free road | follow road | keep"
    assert text_at(90, light=0) == "left turn 10 m | follow route | keep turn left"


def test_a_label_does_not_invent_a_reason():
    braking = np.concatenate([np.full(20, 10.0), np.linspace(10, 0, 35), np.zeros(145)])
    assert text_at(20, speed=braking, light=0) == "free road | follow road | stop"


def test_without_truth_the_line_is_about_the_cars_own_motion():
    d = replace(drive(), objects=None)
    steps = np.array([20, 120])
    lines = reasons(d, None, steps, np.stack([track_ahead(d, i) for i in steps]))
    assert lines[0] == "straight, steady speed | follow road | keep"
    assert lines[1].startswith("curve left, steady speed | follow road | keep turn left")


def test_few_words_make_all_lines():
    rng = np.random.default_rng(0)
    words, lines = set(), []
    for seed in range(6):
        v = np.clip(np.cumsum(rng.normal(0, 0.3, 200)) + 6, 0, 14)
        others = [standing(x, y, a, speed=s) for x, y, a, s in rng.uniform([10, -4, -3, 0], [150, 4, 3, 8], (6, 4))]
        d = drive(v, others=others, kinds=[0, 2, 0, 1, 3, 2], light=rng.integers(0, 4, 200), size=(64, 160))
        e = episodes_of(d, scene_from_clip(d, street(), "c"), str(seed))
        lines += e.text
    for line in lines:
        assert line.count(" | ") == 2
        assert len(line.split()) <= 13
        words |= set(line.split())
    assert len(words) < 70

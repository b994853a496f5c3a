from dataclasses import replace

import numpy as np

from drivefoundry.curate.mine import class_of, histogram, priority, weights_of


def moving(drive, speed=None, yaw=None):
    ego = drive.ego.copy()
    if speed is not None:
        ego[:, 3] = speed
    if yaw is not None:
        ego[:, 2] = yaw
    return replace(drive, ego=ego)


def test_classes(make_drive):
    d = make_drive(steps=200)
    x = np.linspace(0, 1, 200)
    assert class_of(d) == "cruise"
    assert class_of(moving(d, 0.0)) == "stand"
    assert class_of(moving(d, 8 * (1 - x))) == "stop"
    assert class_of(moving(d, 8 * x)) == "start"
    assert class_of(moving(d, 12 - 6 * x)) == "slow"
    assert class_of(moving(d, np.interp(x, [0, 0.5, 0.6, 1], [12, 12, 2, 2]))) == "brake"
    assert class_of(moving(d, yaw=np.interp(x, [0, 0.5, 0.7, 1], [3.0, 3.0, 3.0 + 1.57, 3.0 + 1.57]))) == "turn left"
    assert class_of(moving(d, yaw=np.interp(x, [0, 0.5, 0.7, 1], [0, 0, -1.57, -1.57]))) == "turn right"
    assert class_of(moving(d, yaw=1.5 * x)) == "cruise"  # a long bend
    assert class_of(replace(d, takeover=np.arange(200) > 150)) == "takeover"


def test_a_takeover_is_worth_more_than_cruising(make_drive):
    d = make_drive(steps=200)
    plain = replace(d, correction=None)
    assert priority(replace(d, takeover=np.arange(200) > 150)) > priority(d) > priority(plain)
    assert priority(moving(plain, np.linspace(15, 0, 200))) > priority(plain)


def test_weights_lift_the_rare_within_bounds():
    classes = ["cruise"] * 90 + ["turn left"] * 9 + ["brake"] + ["stand"]
    w = dict(zip(classes, weights_of(classes), strict=True))
    assert w["brake"] > w["turn left"] > w["cruise"]
    assert w["stand"] <= w["turn left"]
    assert max(w.values()) <= 4.0
    assert min(w.values()) >= 0.5
    assert weights_of(["cruise"] * 5).tolist() == [1.0] * 5
    assert len(weights_of([])) == 0


def test_histogram_in_order():
    assert list(histogram(["cruise", "brake", "cruise"]).items()) == [("brake", 1), ("cruise", 2)]

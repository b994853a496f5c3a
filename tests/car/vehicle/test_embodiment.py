"""Embodiments: what is refused, and a round trip through JSON."""

import json
import math
from dataclasses import replace

import pytest

from drivefoundry_car.vehicle.embodiment import CAR, CameraSpec, Embodiment, Feature, from_json

LEFT = CameraSpec(96, 64, 60.0, 60.0, 40.0, 28.0, x=0.8, y=0.4, yaw=1.0, name="left")
RIGHT = replace(LEFT, name="right", y=-0.4, yaw=-1.0, cx=56.0)


def test_json_keeps_every_field():
    van = replace(CAR, name="van", length=5.9, rear_axle=1.8, decision_dt=0.2, cameras=(CameraSpec(), LEFT, RIGHT))
    back = from_json(json.dumps(van.to_dict()), "van.json")
    assert back == van
    assert back.differs(CAR) == "name is van, not car"
    assert replace(van, name="car", decision_dt=0.5).differs(CAR) == "cameras is 3 of them, not 1 of them"
    assert (van.decision_steps, CAR.decision_steps) == (2, 5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"decision_dt": 0.25}, "decision_dt must be a multiple of 0.1 s, > 0, got 0.25"),
        ({"decision_dt": 1.0}, "decision_dt must be at most 0.5 s"),
        ({"cameras": (replace(CameraSpec(), name="left"),)}, r"cameras\[0\].name must be front"),
        ({"cameras": (CameraSpec(), CameraSpec())}, "cameras must be unique"),
        ({"cameras": (CameraSpec(fx=0.0),)}, "cameras.front.fx must be > 0, got 0.0"),
        ({"length": math.nan}, "length must be > 0"),
        ({"rear_axle": 4.7}, "rear_axle must be within the vehicle"),
        ({"plan_points": 10}, "plan_points, plan_dt must be 8, 0.5"),
        ({"state": (Feature("speed", "km/h"),)}, "state must be speed, yaw_rate, valid"),
        ({"limits": replace(CAR.limits, accel_min=3.0)}, "limits.accel_min must be < 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change, said):
    with pytest.raises(ValueError, match=said):
        replace(CAR, **change).validate()


def test_damaged_json_names_file_and_field():
    raw = CAR.to_dict()
    for change, said in (
        ({"length": "long"}, "x.json: embodiment.length must be a number, got 'long'"),
        ({"colour": "red"}, "x.json: embodiment.colour: unknown"),
        ({"cameras": {}}, "x.json: embodiment.cameras must be a list"),
        ({"length": -1.0}, "x.json: embodiment.length must be > 0"),
    ):
        with pytest.raises(ValueError, match=said):
            Embodiment.of({**raw, **change}, "x.json")
    del raw["width"]
    with pytest.raises(ValueError, match=r"x.json: embodiment.width is missing"):
        Embodiment.of(raw, "x.json")


def test_cameras_have_partners_in_a_mirrored_world():
    both = replace(CAR, cameras=(CameraSpec(), LEFT, RIGHT))
    assert both.mirrored == {"front": "front", "left": "right", "right": "left"}
    assert replace(CAR, cameras=(CameraSpec(), LEFT)).mirrored is None
    assert replace(CAR, cameras=(CameraSpec(cx=70.0),)).mirrored is None

"""The examples of docs/simulator.md run unchanged."""

import re
from pathlib import Path

import numpy as np
import pytest

from drivefoundry.types import Plan

DOC = Path(__file__).parents[1] / "docs" / "simulator.md"


class StraightOn:
    def reset(self, scenes):
        self.asked = 0

    def act(self, observation, /):
        self.asked += 1
        points = np.zeros((len(observation.ego), 8, 3))
        points[..., 0] = observation.ego[:, -1, :1] * 0.5 * np.arange(1, 9)
        return Plan(points)


def test_the_examples_run(capsys):
    text = DOC.read_text()
    known: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text[: text.index("## AlpaSim")], re.S):
        exec(compile(block, str(DOC), "exec"), known)
    driver = StraightOn()
    known["drive"](driver, known["scenes"], 3)
    assert driver.asked == 3
    assert f"({len(known['scenes'])}, 16, 6)" in capsys.readouterr().out
    assert known["picture"].shape == (400, 400, 3)
    assert known["env"].spec.id == "drivefoundry/City-v0"
    envs = known["envs"]
    assert envs.num_envs == len(known["scenes"])
    assert envs.reset()[0] in envs.observation_space


def test_alpasims_example_runs():
    pytest.importorskip("carla_driver_interface", reason="drivefoundry[alpasim] is not installed")
    from carla_driver_interface.policies import ConstantSpeedPolicy
    from carla_driver_interface.server import serving

    from situation import EAST, situation, straight

    text = DOC.read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text[text.index("## AlpaSim") :], re.S)
    known: dict = {"scenes": [situation(straight(-60.0, EAST, 0.0, 5.0, 60))]}
    with serving(ConstantSpeedPolicy(), port=0, host="127.0.0.1") as port:
        exec(block.replace("localhost:50051", f"127.0.0.1:{port}").replace("18.0", "2.0"), known)
    assert known["rollout"].ego[0, -1, 0] == pytest.approx(-50.0, abs=0.5)

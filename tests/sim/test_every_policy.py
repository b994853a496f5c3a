"""One loop drives every kind of policy, and one function scores them."""

import numpy as np
import pytest

from drivefoundry.judge.evaluate import evaluate
from drivefoundry.judge.scores.pdm_closed import PdmClosed
from drivefoundry.judge.worst import SCORE
from drivefoundry.model.policy import TorchPolicy
from drivefoundry.quantize.export import export_engine
from drivefoundry.sim.drive import drive
from drivefoundry.sim.policies import CarPolicy, ConstantVelocity, LogReplay, RouteFollower
from drivefoundry.stages.score import score
from drivefoundry.types import AGENT_CAR, Plan
from drivefoundry_car.driving.guard import Guard, Unguarded
from drivefoundry_car.driving.runtime import Runtime
from drivefoundry_car.engine import Engine
from situation import EAST, situation, straight
from student import BODY, TINY, make_student, samples


def scenes():
    others = [(AGENT_CAR, straight(-20.0, EAST, 0.0, 2.0))]
    return [
        situation(straight(-60.0, EAST, 0.0, 8.0), others, name="slow car ahead"),
        situation(straight(-60.0, EAST, 0.0, 8.0), name="free road"),
    ]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("student"), steps=30)


@pytest.fixture(scope="module")
def engine(student, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    export_engine(student, folder, *samples(64, seed=3)[:3], self_test=4)
    return folder


def remote(engine):
    """The engine behind AlpaSim's contract, within this process."""
    pytest.importorskip("carla_driver_interface", reason="drivefoundry[alpasim] is not installed")
    from carla_driver_interface.server import serving

    from drivefoundry.sim.adapters.alpasim import Egodriver
    from drivefoundry_car.driving.alpasim_server import EngineDriver

    with serving(EngineDriver(Engine(engine), TINY.image), port=0, host="127.0.0.1") as port:
        driver = Egodriver(f"127.0.0.1:{port}", BODY)
        yield driver
        driver.close()


def local(policy):
    yield policy


POLICIES = {
    "constant": lambda student, engine: local(ConstantVelocity()),
    "rules": lambda student, engine: local(RouteFollower()),
    "exact log": lambda student, engine: local(LogReplay()),
    "tracked log": lambda student, engine: local(LogReplay(exact=False)),
    "proposals": lambda student, engine: local(PdmClosed()),
    "torch model": lambda student, engine: local(TorchPolicy(student, "model")),
    "engine": lambda student, engine: local(
        CarPolicy(Runtime.load(engine, Unguarded(), reason_every=0, patient=True), "engine")
    ),
    "car": lambda student, engine: local(CarPolicy(Runtime.load(engine, reason_every=2, patient=True), "car")),
    "remote": lambda student, engine: remote(engine),
}


@pytest.mark.parametrize("kind", POLICIES)
def test_the_same_loop_drives_every_policy(kind, student, engine):
    for policy in POLICIES[kind](student, engine):
        rollout = drive(policy, scenes(), 3.0, body=BODY)
        again = drive(policy, scenes(), 3.0, body=BODY)
    assert rollout.plans.shape == (2, 6, 8, 3)
    assert np.isfinite(rollout.plans).all()
    assert rollout.plans.any(), "it has planned to move"
    np.testing.assert_array_equal(rollout.ego, again.ego)  # reset forgets the first drive
    assert (rollout.tokens is not None) == (kind in {"torch model", "engine", "car"})
    assert (rollout.text is not None) == (kind == "car")


def test_without_its_guard_the_car_drives_what_its_engine_plans(engine):
    class Kept(Engine):
        def plan(self, frames, ego, route):
            planned = super().plan(frames, ego, route)
            said.append(planned[0].copy())
            return planned

    plans = {}
    for guard in (Unguarded(), Guard(brakes=(8.0,), max_accel=0.1)):
        said: list[np.ndarray] = []
        rollout = drive(CarPolicy(Runtime(Kept(engine), guard, patient=True), "engine"), scenes(), 4.0, body=BODY)
        plans[type(guard)] = np.stack(said, 1), rollout
    planned, rollout = plans[Unguarded]
    np.testing.assert_array_equal(rollout.plans, planned)
    assert not rollout.guarded.any()
    planned, rollout = plans[Guard]
    assert rollout.guarded.any()
    assert not np.array_equal(rollout.plans, planned)


class Halver:
    """A new policy: it halves the speed with each point of its plan."""

    name = "halver"

    def reset(self, scenes):
        self.cars = len(scenes)

    def act(self, observation, /):
        assert len(observation.ego) == self.cars
        points = np.zeros((self.cars, 8, 3))
        points[..., 0] = np.cumsum(observation.ego[:, -1, :1] * 0.5 ** np.arange(1, 9), 1) * 0.5
        return Plan(points)


def test_a_policy_that_is_new_is_driven_judged_and_scored_by_the_stage(tmp_path):
    from drivefoundry.judge.config import JudgeConfig

    judged = evaluate(Halver(), scenes(), 6.0, body=BODY, two_stages=False)
    assert judged.scores["collision"].tolist() == [0.0, 0.0]
    assert evaluate(ConstantVelocity(), scenes(), 6.0, two_stages=False).scores["collision"].tolist() == [1.0, 0.0]
    assert max(r.ego[0, -1, 3] for r in judged.rollouts) < 0.2, "it has come to a stop"
    for name in ("rules", "halver"):
        (tmp_path / name).mkdir()
    score(RouteFollower(), scenes(), JudgeConfig(seconds=6.0), None, tmp_path / "rules")
    said = score(Halver(), scenes(), JudgeConfig(seconds=6.0), tmp_path / "rules", tmp_path / "halver")
    assert said["policy"] == "halver"
    assert 0.0 <= said[SCORE] < 1.0

"""The open cloud model factory for driving: from vehicle logs to a signed model in the car, and back.

The names in `__all__` are the public API for scripts and notebooks; each is imported on first use. Everything else is
internal and may change. With Gymnasium installed, importing this package registers `drivefoundry/City-v0`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivefoundry.clips.importers.folder import drives_in, load_scenes
    from drivefoundry.judge.evaluate import Evaluation, evaluate
    from drivefoundry.judge.gate import Gate, Verdict
    from drivefoundry.judge.gate import judge as verdict
    from drivefoundry.line import run
    from drivefoundry.recipes import named as recipe
    from drivefoundry.sim.drive import drive
    from drivefoundry.sim.policies import load_engine
    from drivefoundry.sim.sensors.config import Perception
    from drivefoundry.sim.simulator import Sensor, Simulator
    from drivefoundry.trials.live_city import driver as load_policy
    from drivefoundry.types import Observation, Plan, Policy, RoadMap, Rollout, Scene
    from drivefoundry_car.log import Drive, read_drive, write_drive
    from drivefoundry_car.vehicle.embodiment import Embodiment

    __version__: str

_HOME = {
    "Drive": "drivefoundry_car.log:Drive",
    "Embodiment": "drivefoundry_car.vehicle.embodiment:Embodiment",
    "Evaluation": "drivefoundry.judge.evaluate:Evaluation",
    "Gate": "drivefoundry.judge.gate:Gate",
    "Observation": "drivefoundry.types:Observation",
    "Perception": "drivefoundry.sim.sensors.config:Perception",
    "Plan": "drivefoundry.types:Plan",
    "Policy": "drivefoundry.types:Policy",
    "RoadMap": "drivefoundry.types:RoadMap",
    "Rollout": "drivefoundry.types:Rollout",
    "Scene": "drivefoundry.types:Scene",
    "Sensor": "drivefoundry.sim.simulator:Sensor",
    "Simulator": "drivefoundry.sim.simulator:Simulator",
    "Verdict": "drivefoundry.judge.gate:Verdict",
    "drive": "drivefoundry.sim.drive:drive",
    "drives_in": "drivefoundry.clips.importers.folder:drives_in",
    "evaluate": "drivefoundry.judge.evaluate:evaluate",
    "load_engine": "drivefoundry.sim.policies:load_engine",
    "load_policy": "drivefoundry.trials.live_city:driver",
    "load_scenes": "drivefoundry.clips.importers.folder:load_scenes",
    "read_drive": "drivefoundry_car.log:read_drive",
    "recipe": "drivefoundry.recipes:named",
    "run": "drivefoundry.line:run",
    "verdict": "drivefoundry.judge.gate:judge",
    "write_drive": "drivefoundry_car.log:write_drive",
}
"""Public name -> the module that defines it."""

__all__ = [
    "Drive",
    "Embodiment",
    "Evaluation",
    "Gate",
    "Observation",
    "Perception",
    "Plan",
    "Policy",
    "RoadMap",
    "Rollout",
    "Scene",
    "Sensor",
    "Simulator",
    "Verdict",
    "__version__",
    "drive",
    "drives_in",
    "evaluate",
    "load_engine",
    "load_policy",
    "load_scenes",
    "read_drive",
    "recipe",
    "run",
    "verdict",
    "write_drive",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("drivefoundry")
    elif name in _HOME:
        module, _, attribute = _HOME[name].partition(":")
        value = getattr(import_module(module), attribute)
    else:
        raise AttributeError(f"module 'drivefoundry' has no attribute {name!r}; its names: {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register() -> None:
    from gymnasium import register

    register(
        "drivefoundry/City-v0",
        entry_point="drivefoundry.fleet.environments:City",
        vector_entry_point="drivefoundry.fleet.environments:cities",
    )


class _WhenGymnasiumComes(MetaPathFinder):
    """Registers the environments after Gymnasium has been imported, because importing it here would take too long.

    Gymnasium has no entry points: a package that registers environments must be imported, in whatever order.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != "gymnasium":
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def executed(module: Any) -> None:
                execute(module)
                _register()

            spec.loader.exec_module = executed
        return spec


if sys.modules.get("gymnasium"):
    _register()
else:
    sys.meta_path.insert(0, _WhenGymnasiumComes())

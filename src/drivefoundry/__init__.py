"""The open cloud model factory for driving: from vehicle logs to a signed model in the car, and back.

The names in `__all__` are the public API for scripts and notebooks; each is imported when it is first used. Everything
else is internal and may change. With Gymnasium installed, importing this package registers `drivefoundry/City-v0`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivefoundry.clips.importers.folder import drives_in, scenes_in
    from drivefoundry.judge.evaluate import Evaluation, evaluate
    from drivefoundry.line import run
    from drivefoundry.recipes import named as recipe
    from drivefoundry.sim.drive import drive
    from drivefoundry.trials.live_city import driver as load_policy
    from drivefoundry.types import Observation, Plan, Policy, RoadMap, Rollout, Scene
    from drivefoundry_car.log import Drive, read_drive, write_drive

    __version__: str

_HOME = {
    "Drive": "drivefoundry_car.log:Drive",
    "Evaluation": "drivefoundry.judge.evaluate:Evaluation",
    "Observation": "drivefoundry.types:Observation",
    "Plan": "drivefoundry.types:Plan",
    "Policy": "drivefoundry.types:Policy",
    "RoadMap": "drivefoundry.types:RoadMap",
    "Rollout": "drivefoundry.types:Rollout",
    "Scene": "drivefoundry.types:Scene",
    "drive": "drivefoundry.sim.drive:drive",
    "drives_in": "drivefoundry.clips.importers.folder:drives_in",
    "evaluate": "drivefoundry.judge.evaluate:evaluate",
    "load_policy": "drivefoundry.trials.live_city:driver",
    "read_drive": "drivefoundry_car.log:read_drive",
    "recipe": "drivefoundry.recipes:named",
    "run": "drivefoundry.line:run",
    "scenes_in": "drivefoundry.clips.importers.folder:scenes_in",
    "write_drive": "drivefoundry_car.log:write_drive",
}
"""Public name -> where it lives."""

__all__ = [
    "Drive",
    "Evaluation",
    "Observation",
    "Plan",
    "Policy",
    "RoadMap",
    "Rollout",
    "Scene",
    "__version__",
    "drive",
    "drives_in",
    "evaluate",
    "load_policy",
    "read_drive",
    "recipe",
    "run",
    "scenes_in",
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
    """Registers the environments after Gymnasium has been imported, which takes too long to do here for everybody.

    Gymnasium knows no entry points: who registers has to be imported, in whatever order.
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

"""Import paths of earlier versions: `drivefoundry_car.slots` is now `drivefoundry_car.update.slots`.

The old name gives the same module, with a DeprecationWarning; it will be removed in the next minor version.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

_PACKAGES = {
    "vehicle": "codec inputs",
    "log": "channels chunks clock live topics video",
    "triggers": "novelty rules signals trigger",
    "recording": "recent recorder ring stream",
    "upload": "collector endpoint enrol link outbox",
    "driving": "guard runtime sanity stopping watchdog worker",
    "update": "fetch proof records selftest slotfiles slots",
}
MOVED = {name: f"{package}.{name}" for package, names in _PACKAGES.items() for name in names.split()}
MOVED |= {
    "record": "recording.cutter",
    "egodriver": "driving.alpasim_server",
    "driving.egodriver": "driving.alpasim_server",
}
"""Old name -> new name, both without the package's."""


class Finder(importlib.abc.MetaPathFinder):
    """Finds old names, after all other finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != __package__ or name not in MOVED:
            return None
        new = f"{package}.{MOVED[name]}"
        warnings.warn(f"{fullname} is now {new}", DeprecationWarning, stacklevel=2)
        return importlib.util.spec_from_loader(fullname, _Loader(new))


class _Loader(importlib.abc.InspectLoader):
    """Loads a module under another name, without executing it twice."""

    def __init__(self, new: str) -> None:
        self.new, self.spec = new, None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.new)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has just replaced it

    def get_code(self, fullname: str) -> CodeType | None:
        """For `python -m` with an old name."""
        spec = importlib.util.find_spec(self.new)
        assert spec is not None
        assert isinstance(spec.loader, importlib.abc.InspectLoader)
        return spec.loader.get_code(self.new)

    def get_source(self, fullname: str) -> str | None:
        return None

    def is_package(self, fullname: str) -> bool:
        return False


def install() -> None:
    """Register the finder, once."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())

"""Releases in the car: fetched, verified, self-tested and booted, and rolled back when one fails."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivefoundry_car.update.client import EVERYONE, Updater
    from drivefoundry_car.update.slots import Slots

__all__ = ["EVERYONE", "Slots", "Updater"]


def __getattr__(
    name: str,
) -> Any:
    # Not on import: `python -m drivefoundry_car.update.selftest` would load itself twice.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from drivefoundry_car.update import client, slots

    return getattr(slots if name == "Slots" else client, name)

"""Module names of earlier versions still work."""

import importlib
import subprocess
import sys

import pytest

import drivefoundry_car
from drivefoundry_car.moved import MOVED, Finder, install


@pytest.mark.parametrize("old", [name for name in MOVED if "egodriver" not in name])  # which needs an extra
def test_an_old_name_is_the_same_module(old):
    new = importlib.import_module(f"drivefoundry_car.{MOVED[old]}")
    spec, name = new.__spec__, new.__name__
    sys.modules.pop(f"drivefoundry_car.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"is now drivefoundry_car.{MOVED[old]}"):
        assert importlib.import_module(f"drivefoundry_car.{old}") is new
    assert (new.__spec__, new.__name__) == (spec, name)
    sys.modules.pop(f"drivefoundry_car.{old}")
    vars(drivefoundry_car).pop(old, None)


def test_an_old_name_can_be_run():
    command = [sys.executable, "-m", "drivefoundry_car.outbox", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "restore" in done.stdout


def test_what_users_import_from_packages():
    from drivefoundry_car.update import EVERYONE, Slots, Updater, client, slots
    from drivefoundry_car.upload import Note, Receipt, Uploader, uploader

    assert (Uploader, Receipt, Note) == (uploader.Uploader, uploader.Receipt, uploader.Note)
    assert (EVERYONE, Updater, Slots) == (client.EVERYONE, client.Updater, slots.Slots)
    with pytest.raises(ImportError):
        from drivefoundry_car.upload import nothing  # noqa: F401  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("drivefoundry_car.nothing")


def test_old_names_are_found_by_one_finder():
    install()
    assert sum(isinstance(finder, Finder) for finder in sys.meta_path) == 1

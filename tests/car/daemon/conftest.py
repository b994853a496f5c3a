"""Works shared by the daemon's tests, and a car for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from station import Station, make_works


@pytest.fixture(scope="session")
def works(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the release 'turn-1'."""
    made = make_works(tmp_path_factory.mktemp("works"), student)
    Station(made, made).publish("turn-1")
    return made


@pytest.fixture
def station(works: Path, tmp_path: Path) -> Station:
    """A car without a release."""
    return Station(tmp_path, works)

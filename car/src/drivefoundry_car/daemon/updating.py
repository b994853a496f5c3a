"""The updater's process: fetches, verifies and installs what the repository offers this car, until the daemon ends.

`python -m drivefoundry_car.daemon.updating CONFIG.toml`. An installed release drives from the next boot on.
"""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

from drivefoundry_car.daemon.config import Config, load
from drivefoundry_car.daemon.supervisor import until_parent_ends
from drivefoundry_car.update.client import Updater


def updater_of(config: Config) -> Updater:
    """The updater for a configuration with [update]."""
    c = config.update
    assert c is not None, "the daemon starts no updater without [update]"
    return Updater(
        c.metadata, config.driving.slots, c.source, config.driving.root.read_bytes(), vehicle=config.vehicle,
        cohort=c.cohort, insecure_http=c.insecure_http,
    )  # fmt: skip


def main(path: str) -> int:
    """Check for updates until the parent ends; each distinct outcome is logged once."""
    config = load(Path(path))
    assert config.update is not None
    updater = updater_of(config)

    def attempt(_: threading.Event) -> str:
        try:
            now = updater.update()
        except ValueError as error:
            return str(error)
        return f"release {now.release} is installed" if now is not None else "no release for this car"

    until_parent_ends(attempt, config.update.every_s)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="updater: %(message)s")
    sys.exit(main(sys.argv[1]))

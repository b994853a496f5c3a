"""The updater's process: fetches, verifies and installs what the repository offers this car, until the daemon ends.

`python -m drivefoundry_car.daemon.updating CONFIG.toml`. What it installs is driven from the next boot on.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from drivefoundry_car.daemon.config import Config, load
from drivefoundry_car.daemon.supervisor import parent_gone
from drivefoundry_car.update.client import Updater

log = logging.getLogger(__name__)


def updater_of(config: Config) -> Updater:
    """The updater of a configuration that has one."""
    c = config.update
    assert c is not None, "the daemon starts no updater without [update]"
    return Updater(
        c.metadata, config.driving.slots, c.source, config.driving.root.read_bytes(), vehicle=config.vehicle,
        cohort=c.cohort, insecure_http=c.insecure_http,
    )  # fmt: skip


def main(path: str) -> int:
    """Check for updates periodically until the parent exits; each distinct failure is logged once and retried."""
    config = load(Path(path))
    assert config.update is not None
    updater, gone, reported = updater_of(config), parent_gone(), ""
    while not gone.is_set():
        try:
            now = updater.update()
            said = f"release {now.release} is installed" if now is not None else "no release for this car"
        except ValueError as error:
            said = str(error)
        if said != reported:
            log.info("%s", said)
        reported = said
        gone.wait(config.update.every_s)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="updater: %(message)s")
    sys.exit(main(sys.argv[1]))

"""The car's daemon: `python -m drivefoundry_car CONFIG.toml`."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path

from drivefoundry_car.daemon.config import load
from drivefoundry_car.daemon.loop import Daemon


def main() -> int:
    """Run until SIGTERM or SIGINT. Exit status 2 for an invalid configuration, with one line that says why."""
    parser = argparse.ArgumentParser(prog="python -m drivefoundry_car", description="The car's daemon.")
    parser.add_argument("config", type=Path, help="TOML file, see docs/car.md")
    parser.add_argument("--once", action="store_true", help="end after the first drive")
    parser.add_argument("--check", action="store_true", help="check the configuration and end")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        daemon = Daemon(load(args.config), args.config)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if not args.check:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda *_: daemon.end())
        daemon.run(args.once)
    return 0


if __name__ == "__main__":
    sys.exit(main())

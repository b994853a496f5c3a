"""`serve`: an engine behind AlpaSim's contract, until the process is stopped."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from drivefoundry.cli.options import Common, announce


@dataclass(frozen=True)
class ServeOptions(Common):
    """What `serve` takes."""

    engine: Annotated[Path | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """A run (its newest engine), RUN:quantize:TURN, a release (RUN/releases/2), or an engine directory."""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """Where to listen; 0.0.0.0 for other machines, unix:///PATH for a socket."""
    port: Annotated[int, arg(metavar="N")] = 50051
    """Port to listen on."""
    mode: Literal["alpasim", "carla"] = "alpasim"
    """The client: AlpaSim's runtime, or a CARLA one with the same contract."""
    camera: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """The simulator's name of the front camera, if there are several."""
    speed_limit: Annotated[float, arg(metavar="M/S")] = 13.9
    """Speed limit if the simulator gives none."""
    rear_axle: Annotated[float, arg(metavar="M")] = 1.3
    """Distance from the centre of the car's box back to its rear axle, the simulator's origin."""


def run(options: ServeOptions) -> None:
    """`serve`: an engine behind AlpaSim's contract, until the process is stopped."""
    if options.engine is None:
        raise ValueError("serve: give --engine NAME")
    try:
        from drivefoundry_car.driving.alpasim_server import load, serving
    except ImportError as error:
        raise ValueError(f"serve: {error}") from None

    from drivefoundry.runs import named

    driver = load(
        named.engine(options.engine), camera=options.camera, speed_limit=options.speed_limit, axle=options.rear_axle
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with serving(driver, options.host, options.port, options.mode):
        text = f"{options.engine} answers at {options.host}, port {options.port}, until it is stopped"
        announce(options, text, {"engine": options.engine, "host": options.host, "port": options.port})
        stop.wait()

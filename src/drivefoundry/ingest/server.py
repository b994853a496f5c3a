"""The ingest service in a thread of this process: clips over HTTP in, ClipStore rows out."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from drivefoundry.clips.checking import Checkers
from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest.accounts import Accounts
from drivefoundry.ingest.app import make_app
from drivefoundry.ingest.landing import Landing
from drivefoundry.ingest.limits import Limits
from drivefoundry.ingest.uploads import Uploads
from drivefoundry.ingest.vehicles import Vehicles

START_S = 10.0
STOP_S = 10
"""Requests under way when the service is to stop get so long to end; what has come of them is kept."""


@dataclass(frozen=True)
class Running:
    """A service that listens at url."""

    url: str
    landing: Landing

    def flush(self) -> list[str]:
        """Land everything that was acknowledged; returns these clips' ids, also of those that the store had already."""
        return self.landing.flush()


@contextmanager
def running(
    store: ClipStore,
    secret: str | None = None,
    port: int = 0,
    host: str = "127.0.0.1",
    folder: Path | str | None = None,
    *,
    limits: Limits | None = None,
    apart: bool = False,
) -> Iterator[Running]:
    """Serve uploads into store until the block ends, and land what was acknowledged; port 0 takes a free one.

    secret: signs the tokens; by default one that is kept with the vehicles. folder: where uploads and vehicles are
    kept, on a local disk; by default beside a store that is a local directory. apart: check what comes in processes of
    bounded memory and time (`checking`), as a service of cars that are not one's own must. The block may end while
    requests are under way: those are finished, for up to STOP_S. ValueError when the port is taken or the store is
    remote and no folder is given.
    """
    folder = default_folder(store.url) if folder is None else Path(folder)
    with ExitStack() as stack:
        listener = stack.enter_context(closing(_listen(host, port)))
        vehicles = stack.enter_context(closing(Vehicles(folder / "vehicles.db")))
        check = make = None
        if apart:
            checkers = stack.enter_context(closing(Checkers(store.objects.url)))
            check, make = checkers.check, checkers.prepare
        landing = stack.enter_context(closing(Landing(store, folder / "landing", check, make)))
        accounts = Accounts(vehicles, vehicles.secret() if secret is None else secret, limits or Limits())
        app = make_app(landing, accounts, Uploads(folder / "uploads"))
        config = uvicorn.Config(app, log_level="error", access_log=False, ws="none", lifespan="off")
        config.timeout_keep_alive = 60  # a car pauses between clips; a new connection costs more than an idle one
        config.timeout_graceful_shutdown = STOP_S
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="ingest", daemon=True)
        thread.start()
        try:
            _wait_for(server, thread)
            yield Running(f"http://{host}:{listener.getsockname()[1]}", landing)
        finally:
            server.should_exit = True
            thread.join()


def default_folder(store: str) -> Path:
    """Where the service of a local store keeps its own things. ValueError if the store is remote."""
    if "://" in store.removeprefix("file://"):
        raise ValueError(f"ingest: {store} is remote; name a local folder in which uploads wait")
    return Path(store.removeprefix("file://")) / "incoming"


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ValueError(f"ingest: cannot listen on {host}:{port} ({error.strerror}); choose another port") from error
    return listener


def _wait_for(server: uvicorn.Server, thread: threading.Thread) -> None:
    end = time.monotonic() + START_S
    while not server.started:
        assert thread.is_alive(), "the ingest service stopped while starting"
        assert time.monotonic() < end, "the ingest service did not start"
        time.sleep(0.005)

"""The ingest service in a thread of this process: clips over HTTP in, ClipStore rows out."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest.app import make_app
from drivefoundry.ingest.landing import Landing

START_S = 10.0


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
    store: ClipStore, secret: str, port: int = 0, host: str = "127.0.0.1", folder: Path | str | None = None
) -> Iterator[Running]:
    """Serve uploads into store until the block ends, and land what was acknowledged; port 0 takes a free one.

    folder: where uploads wait, on a local disk; by default beside a store that is a local directory. ValueError when
    the port is taken or the store is remote and no folder is given.
    """
    if folder is None:
        if "://" in store.url.removeprefix("file://"):
            raise ValueError(f"ingest: {store.url} is remote; name a local folder in which uploads wait")
        folder = Path(store.url.removeprefix("file://")) / "incoming"
    folder = Path(folder)
    with closing(_listen(host, port)) as listener, closing(Landing(store, folder / "landing")) as landing:
        app = make_app(landing, secret, folder / "uploads")
        config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none", lifespan="off")
        config.timeout_keep_alive = 60  # a car pauses between clips; a new connection costs more than an idle one
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="ingest", daemon=True)
        thread.start()
        try:
            _wait_for(server, thread)
            yield Running(f"http://{host}:{listener.getsockname()[1]}", landing)
        finally:
            server.should_exit = True
            thread.join()


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(256)
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

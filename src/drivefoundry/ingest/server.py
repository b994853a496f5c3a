"""Run the ingest service in a thread of this process, from HTTP uploads to ClipStore rows."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from drivefoundry.clips.checking import Checkers
from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest.access.accounts import Accounts
from drivefoundry.ingest.access.backup import restore
from drivefoundry.ingest.access.door import Door
from drivefoundry.ingest.access.limits import Limits
from drivefoundry.ingest.access.network import Access, Proxies
from drivefoundry.ingest.access.vehicles import Vehicles
from drivefoundry.ingest.app import COUNTERS, make_app
from drivefoundry.ingest.landing import Landing
from drivefoundry.ingest.metrics import Metrics
from drivefoundry.ingest.uploads import Uploads
from drivefoundry.ingest.wire import Wire

START_S = 10.0
STOP_S = 10
"""Time that open requests get to finish when the service stops, s; received bytes are kept."""
KEEP_ALIVE_S = 60
"""Keep-alive, s. Cars pause between clips, and a new connection costs more than an idle one."""


@dataclass(frozen=True)
class Running:
    """A running service, listening at url."""

    url: str
    landing: Landing

    def flush(self) -> list[str]:
        """Land everything that was acknowledged; return the clips' ids, including those that the store already had."""
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
    access: Access | None = None,
    apart: bool = False,
) -> Iterator[Running]:
    """Serve uploads into store until the block ends, then land what was acknowledged. port 0 picks a free one.

    secret: signs the tokens; by default one that is stored with the vehicles. folder: where uploads and vehicles are
    stored, on a local disk; by default beside a local store. access: TLS, proxies, connections. apart: check uploads in
    processes with bounded memory and time (`checking`), necessary if the cars are not trusted. The block may end while
    requests are open: they get up to STOP_S to finish. ValueError if the port is taken, another service uses the
    folder, or the store is remote and no folder is given.
    """
    folder = default_folder(store.url) if folder is None else Path(folder)
    access, limits = (access or Access()).validate(), (limits or Limits()).validate()
    tls = access.context()
    with ExitStack() as stack:
        listener = stack.enter_context(closing(_listen(host, port)))
        stack.enter_context(sole(folder))
        restore(folder / "vehicles.db")
        vehicles = stack.enter_context(closing(Vehicles(folder / "vehicles.db")))
        vehicles.backup.now()
        check = make = None
        if apart:
            checkers = stack.enter_context(closing(Checkers(store.objects.url)))
            check, make = checkers.check, checkers.prepare
        landing = stack.enter_context(closing(Landing(store, folder / "landing", check, make)))
        uploads = Uploads(folder / "uploads", limits.unfinished)
        vehicles.settle_all(uploads.size)
        proxies, metrics = Proxies(access.proxies), Metrics(COUNTERS)
        accounts = Accounts(vehicles, vehicles.secret() if secret is None else secret, limits, proxies)
        config = uvicorn.Config(
            make_app(landing, accounts, uploads, metrics, access.silence_s),
            log_level="error", access_log=False, ws="none", lifespan="off", http=Wire, proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=STOP_S,
        )  # fmt: skip
        most, header_s = access.most(len(os.listdir("/dev/fd"))), access.header_s

        def door(listener: socket.socket, **of_server: Any) -> Door:
            return Door(listener, lambda guest: Wire(guest, header_s, **of_server), most, proxies, metrics, tls)

        server = _Server(config, door)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="ingest", daemon=True)
        thread.start()
        try:
            _wait_for(server, thread)
            at = f"[{host}]" if ":" in host else host
            yield Running(f"http{'' if tls is None else 's'}://{at}:{listener.getsockname()[1]}", landing)
        finally:
            server.should_exit = True
            thread.join()


class _Server(uvicorn.Server):
    """uvicorn's server, with connections admitted by a Door."""

    def __init__(self, config: uvicorn.Config, door: Callable[..., Door]) -> None:
        super().__init__(config)
        self._door = door

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets is not None
        of_server = {"config": self.config, "server_state": self.server_state, "app_state": {}}
        loop = asyncio.get_running_loop()
        self.servers: list[Any] = [self._door(sock, _loop=loop, **of_server) for sock in sockets]
        self.started = True


@contextmanager
def sole(folder: Path) -> Iterator[None]:
    """Lock a service's folder. ValueError names the process that already holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(folder / "service.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = lock.read(20).strip() or "unknown"
            raise ValueError(
                f"{folder}: another ingest service (process {who}) works here; stop it or name another --folder"
            ) from error
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def default_folder(store: str) -> Path:
    """Default service folder of a local store. ValueError if the store is remote."""
    if "://" in store.removeprefix("file://"):
        raise ValueError(f"ingest: {store} is remote; name a local --folder for waiting uploads")
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

"""Download files of a release repository, from http(s):// or file://, at no less than a minimum rate.

A server, or anyone on the network path, that sends just enough to keep a download alive would prevent a car from
updating (TUF's slow retrieval attack). So everything but the name lookup is monitored: connecting, TLS, headers, body.
"""

from __future__ import annotations

import socket
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlparse

from tuf.api import exceptions
from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NewConnectionError

MIN_RATE = 2_000
"""Least average rate of a download after GRACE_S, bytes per second."""
GRACE_S = 15.0
"""Extra time per file, s, for connecting and for gaps in reception."""
PIECE = 1 << 14
"""Bytes per read: they arrive within GRACE_S at MIN_RATE, so that a slow server does not seem silent."""


class Fetcher(Urllib3Fetcher):
    """Also reads file://, stores downloads on the disk of `aside`, and aborts slow ones.

    One download at a time.
    """

    def __init__(self, aside: Path):
        super().__init__(chunk_size=PIECE)
        self._aside = aside
        self._received, self._given_up = 0, False
        self._connections: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._pools = _pools(self)

    def _fetch(self, url: str) -> Iterator[bytes]:
        address = urlparse(url)
        if address.scheme != "file":
            self._proxy_env.get_pool_manager(address.scheme, address.hostname).pool_classes_by_scheme = self._pools
            return super()._fetch(url)
        path = Path(unquote(address.path))
        if not path.is_file():
            raise exceptions.DownloadHTTPError(f"{path} is not there", 404)
        return _pieces(path)

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO]:
        """Download url into a temporary file. DownloadError: over max_length, too slow, or interrupted."""
        with tempfile.TemporaryFile(dir=self._aside) as file:
            with self._watched(url):
                for piece in self.fetch(url):
                    self._received += len(piece)
                    if self._received > max_length:
                        raise exceptions.DownloadLengthMismatchError(
                            f"{url} is longer than the {max_length} bytes allowed"
                        )
                    file.write(piece)
            file.seek(0)
            yield file

    def admit(self, connection: HTTPConnection) -> None:
        """Monitor a new connection. NewConnectionError if the download has been aborted."""
        if self._given_up:
            raise NewConnectionError(connection, "the download was too slow")
        self._connections.add(connection)

    @contextmanager
    def _watched(self, url: str) -> Iterator[None]:
        self._received, self._given_up = 0, False
        start, ended = time.monotonic(), threading.Event()

        def watch() -> None:
            while not ended.wait(GRACE_S / 30):
                if time.monotonic() - start > GRACE_S + self._received / MIN_RATE:
                    self._given_up = True
                    for connection in list(self._connections):
                        _cut(connection)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        except (exceptions.DownloadError, HTTPError, OSError):
            if not self._given_up:
                raise
        finally:
            ended.set()
            thread.join()
        if self._given_up:  # truncated headers look like a complete response without a body
            raise exceptions.SlowRetrievalError(f"{url} came at less than {MIN_RATE:,} bytes/s")


def _pools(fetcher: Fetcher) -> dict[str, Any]:
    """urllib3 pools whose connections a fetcher monitors."""

    class Watched(HTTPConnection):
        handshake: socket.socket | None = None
        """Duplicate of the socket until the TLS handshake is done; the connection has no other reference to it."""

        def _new_conn(self) -> socket.socket:
            fetcher.admit(self)
            made = super()._new_conn()
            self.handshake = made.dup()
            return made

        def connect(self) -> None:
            try:
                super().connect()
            finally:
                if self.handshake is not None:
                    self.handshake.close()
                    self.handshake = None

    class WatchedTls(Watched, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Watched  # pyright: ignore[reportAssignmentType]  # as urllib3 does itself

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = WatchedTls  # pyright: ignore[reportAssignmentType]

    return {"http": Pool, "https": TlsPool}


def _cut(connection: HTTPConnection) -> None:
    for each in (getattr(connection, "handshake", None), connection.sock):
        if each is not None:
            with suppress(OSError):  # already closed
                socket.socket.shutdown(each, socket.SHUT_RDWR)  # an SSLSocket's own would drop its state under a reader


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                yield piece
    except OSError as e:
        raise exceptions.DownloadError(f"{path}: {e.strerror}") from e

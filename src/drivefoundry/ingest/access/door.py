"""Connection admission: bounds in total and per address, with priority for active connections.

A connection is active from the last byte of a request's headers to the last byte of its response. At the bound, the
connection that has been idle longest is closed to make room; if all are active, the new one is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from drivefoundry.ingest.access.network import Proxies
from drivefoundry.ingest.metrics import Metrics
from drivefoundry.ingest.wire import Wire

AT_ONCE = 64
"""Connections accepted before the event loop does other work."""
SWEEP_S = 0.5
HANDSHAKE_S, GOODBYE_S = 10.0, 2.0
"""Time limits of the TLS handshake and shutdown, s."""
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
Make = Callable[["Guest"], Wire]


class Guest:
    """One connection: its address ('' for a trusted proxy), and its protocol."""

    def __init__(self, door: Door, sock: socket.socket, address: str) -> None:
        self.door, self.sock, self.address = door, sock, address
        self.wire: Wire | None = None
        self.joined = False

    def works(self, now: bool) -> None:
        """Mark the connection active (a request has begun) or idle."""
        self.door._moved(self, now)

    def dropped(self, reason: str) -> None:
        """Count a connection that was closed, by reason."""
        self.door.drop(reason)

    def left(self) -> None:
        """Forget the connection: it is closed."""
        self.door._forget(self)


class Door:
    """The listening socket, for the running event loop. most: connections at once. One address may hold three quarters
    of them, except trusted proxies, which carry many vehicles."""

    def __init__(
        self,
        listener: socket.socket,
        make: Make,
        most: int,
        proxies: Proxies,
        metrics: Metrics,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.most, self.most_of_one, self._metrics = most, max(1, most * 3 // 4), metrics
        # New connections must not evict accepted ones before the loop has read what those sent.
        self._at_once = max(1, min(AT_ONCE, self.most_of_one // 8))
        self._loop = asyncio.get_running_loop()
        self._listener, self._make, self._proxies, self._tls = listener, make, proxies, tls
        self._guests: dict[Guest, None] = {}
        self._of: Counter[str] = Counter()
        self._waiting: dict[str, OrderedDict[Guest, None]] = {}  # idle connections by address, longest idle first
        self._joining: set[asyncio.Task[None]] = set()
        self._open = False
        listener.setblocking(False)
        self._listen(True)
        self._sweeping = self._loop.call_later(SWEEP_S, self._sweep)

    def drop(self, reason: str) -> None:
        """Count a connection that was closed, by reason."""
        self._metrics.add("dropped_total", reason=reason)

    def close(self) -> None:
        """Stop accepting; open connections continue."""
        self._listen(False)

    async def wait_closed(self) -> None:
        """Wait until all connections are done."""
        self._sweeping.cancel()
        for task in self._joining:
            task.cancel()
        for guest in list(self._guests):
            if not guest.joined:
                with contextlib.suppress(OSError):
                    guest.sock.shutdown(socket.SHUT_RDWR)
        await asyncio.gather(*self._joining, return_exceptions=True)

    def _listen(self, on: bool) -> None:
        if on and not self._open:
            self._loop.add_reader(self._listener.fileno(), self._accept)
        elif self._open and not on:
            self._loop.remove_reader(self._listener.fileno())
        self._open = on

    def _accept(self) -> None:
        for _ in range(self._at_once):
            try:
                sock, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._make_room(list(self._waiting))
                self._listen(False)  # descriptors are freed in the next iterations of the loop
                self._loop.call_later(0.1, self._listen_again)
                return
            self._admit(sock, str(peer[0]))

    def _listen_again(self) -> None:
        if self._listener.fileno() >= 0 and not self._sweeping.cancelled():
            self._listen(True)

    def _admit(self, sock: socket.socket, host: str) -> None:
        sock.setblocking(False)
        address = "" if self._proxies.trusts(host) else self._proxies.client(host, (), ())
        if (len(self._guests) >= self.most and not self._make_room(list(self._waiting))) or (
            address and self._of[address] >= self.most_of_one and not self._make_room([address], 1)
        ):
            self.drop("crowded")
            sock.close()
            return
        guest = Guest(self, sock, address)
        self._guests[guest] = None
        self._of[address] += 1
        self._waiting.setdefault(address, OrderedDict())[guest] = None
        task = self._loop.create_task(self._join(guest))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join(self, guest: Guest) -> None:
        guest.wire = self._make(guest)
        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {"ssl": self._tls, "ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": GOODBYE_S}
        wire = guest.wire
        try:
            await self._loop.connect_accepted_socket(lambda: wire, guest.sock, **tls)
            guest.joined = True
        except (OSError, asyncio.CancelledError):  # handshake failed, or the peer has gone
            self.drop("handshake" if self._tls is not None else "gone")
            self._forget(guest)

    def _make_room(self, addresses: list[str], count: int = 0) -> bool:
        """Close idle connections, oldest first, of the addresses that hold the most; return whether there was one.

        Closes a share of all at a time, because finding them takes a while.
        """
        left = many = count or max(1, self.most // 20)
        for address in sorted(addresses, key=lambda a: -self._of[a]):
            while left and (line := self._waiting.get(address)):
                guest = next(iter(line))
                self._forget(guest)
                self.drop("crowded")
                left -= 1
                if guest.wire is not None and guest.wire.transport is not None:
                    guest.wire.crowded()
                else:
                    with contextlib.suppress(OSError):
                        guest.sock.shutdown(socket.SHUT_RDWR)
        return left < many

    def _moved(self, guest: Guest, works: bool) -> None:
        if guest not in self._guests:
            return
        line = self._waiting.setdefault(guest.address, OrderedDict())
        line.pop(guest, None)
        if not works:
            line[guest] = None
        elif not line:
            del self._waiting[guest.address]

    def _forget(self, guest: Guest) -> None:
        if guest not in self._guests:
            return
        self._moved(guest, True)
        del self._guests[guest]
        self._of[guest.address] -= 1
        if not self._of[guest.address]:
            del self._of[guest.address]

    def _sweep(self) -> None:
        now = self._loop.time()
        for guest in list(self._guests):
            wire = guest.wire
            if wire is None or wire.transport is None:
                continue
            if wire.stuck < now or (wire.deadline < now and not wire.at_work()):
                reason = wire.expire()
                if reason:
                    self.drop(reason)
        self._sweeping = self._loop.call_later(SWEEP_S, self._sweep)

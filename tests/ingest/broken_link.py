"""A TCP link between a car and a service that can be cut, slowed down and corrupted."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Link:
    """Forwards connections to one port. cuts: bytes after which each next upstream connection is reset (None: never);
    rate: bytes per second upstream; flip: the byte, counted over all connections, that arrives with a bit changed."""

    def __init__(self, port: int, cuts: list[int | None], rate: float | None, flip: int | None) -> None:
        self.port, self.cuts, self.rate, self.flip = port, cuts, rate, flip
        self.carried = self.made = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                car = self._listener.accept()[0]
                service = socket.create_connection(("127.0.0.1", self.port))
                left = self.cuts[self.made] if self.made < len(self.cuts) else None
                self.made += 1
                self._ends += [car, service]
                threading.Thread(target=self._up, args=(car, service, left), daemon=True).start()
                threading.Thread(target=self._down, args=(car, service), daemon=True).start()

    def _up(self, car: socket.socket, service: socket.socket, left: int | None) -> None:
        size = 65536 if self.rate is None else max(256, int(self.rate / 50))
        with contextlib.suppress(OSError):
            while data := car.recv(size if left is None else min(size, left)):
                if self.flip is not None and self.carried <= self.flip < self.carried + len(data):
                    at = self.flip - self.carried
                    data = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
                service.sendall(data)
                self.carried += len(data)
                if self.rate is not None:
                    time.sleep(len(data) / self.rate)
                if left is not None:
                    left -= len(data)
                    if not left:
                        break
        _reset(car, service)

    def _down(self, car: socket.socket, service: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := service.recv(65536):
                car.sendall(data)
        _reset(car, service)

    def close(self) -> None:
        self._listener.close()
        _reset(*self._ends)


def _reset(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RDWR)
        end.close()  # also one whose peer has gone already


@contextmanager
def broken_link(
    port: int | None, *, cuts: list[int | None] | None = None, rate: float | None = None, flip: int | None = None
) -> Iterator[Link]:
    """A link to a port of this machine, until the block ends."""
    assert port is not None
    link = Link(port, cuts or [], rate, flip)
    try:
        yield link
    finally:
        link.close()

"""Bounded HTTP/1.1 parsing: limits on the size and pace of what uvicorn's parser accepts."""

from __future__ import annotations

import contextlib
from math import inf
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

if TYPE_CHECKING:
    from drivefoundry.ingest.access.door import Guest

HEAD = 64 << 10
"""Most bytes of a request's line and headers, and of chunk framing between two pieces of content."""
LINES = 256
"""Most headers per request."""
PIPELINED = 16
"""Most pipelined requests waiting on a connection."""
DRAIN_S = 30.0
"""Time limit for draining the rest of a body after its response, and for the peer to read a response, s."""
LINGER_S, LINGER_BYTES = 2.0, 16 << 20
"""A refused sender is read for this long and this many bytes, so that it sees the response before the reset."""


class Refusal(Exception):
    """The parser stopped: status, message, and the name under which it is counted."""

    def __init__(self, status: int, line: str, counted: str) -> None:
        super().__init__(line)
        self.status, self.line, self.counted = status, line, counted


_LARGE = (431, f"the request's headers are more than {HEAD} bytes or {LINES} lines", "headers")
_LONG = (414, f"the request's line is more than {HEAD} bytes", "headers")
_FRAMING = (400, f"more than {HEAD} bytes of chunk extensions or trailers in a row", "headers")
_PIPELINED = (400, f"more than {PIPELINED} requests wait on one connection", "headers")
_MALFORMED = (400, "not HTTP/1.1", "malformed")
_SLOW = (408, "the request's headers took too long", "slow")


class Wire(HttpToolsProtocol):
    """uvicorn's protocol with limits on headers, framing and time. The door checks `deadline` twice a second.

    A body of known length, nearly all of the traffic, passes straight to the parser.
    """

    def __init__(self, guest: Guest, header_s: float, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.guest, self.header_s = guest, header_s
        self.deadline = self.stuck = inf
        """When to close this connection, and when to close it unless its peer reads; event-loop times."""
        self._in_head, self._begun, self._complete, self._gone = True, False, True, False
        self._chunked = self._content = False
        self._heads = self._head = self._size = self._lines = self._beside = self._thrown = 0
        self._why: Refusal | None = None

    # Callbacks of the transport

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.deadline = self.loop.time() + self.header_s

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self.guest.left()

    def data_received(self, data: bytes) -> None:
        if self._gone:
            self._thrown += len(data)
            if self._thrown > LINGER_BYTES:
                self.transport.abort()
        elif self._in_head or self._chunked:
            self._bounded(memoryview(data))
        else:
            self._feed(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.stuck = self.loop.time() + DRAIN_S

    def resume_writing(self) -> None:
        super().resume_writing()
        self.stuck = inf

    # Queries of the door

    def at_work(self) -> bool:
        """Whether a request is in progress."""
        return not self._gone and self.cycle is not None and not self.cycle.response_complete

    def expire(self) -> str:
        """Close the timed-out connection; return the reason under which it is counted."""
        if self._gone or self.stuck < inf or not self._in_head:
            self.transport.abort()
            return "" if self._gone else "stalled"
        if self._begun or self._head:
            self._refuse(Refusal(*_SLOW))
            return ""
        self.transport.close()
        return "idle"

    def crowded(self) -> None:
        """Close the connection to make room for another."""
        if self._in_head and self._begun and not self._gone:
            self._write(503, "too many connections; try again later", b"retry-after: 1\r\n")
        self._gone = True
        self.transport.abort() if self.scheme == "https" else self.transport.close()

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._begun = True, True
        self._size = self._lines = 0
        self.deadline = min(self.deadline, self.loop.time() + self.header_s)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer, which the service ignores
            return
        self._lines += 1
        self._size += len(name) + len(value) + 4
        if self._lines > LINES:
            raise self._stop(_LARGE)
        if len(name) == 17 and name.lower() == b"transfer-encoding":
            self._chunked = True
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._size > HEAD:
            raise self._stop(_LONG if len(self.url) > HEAD // 2 else _LARGE)
        if len(self.pipeline) >= PIPELINED:
            raise self._stop(_PIPELINED)
        self._in_head = self._begun = self._complete = False
        self._heads += 1
        self._head = self._beside = 0
        self.deadline = inf
        super().on_headers_complete()
        self.guest.works(True)

    def on_body(self, body: bytes) -> None:
        self._content = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = self._complete = True
        self._chunked, self._head, self.deadline = False, 0, inf
        super().on_message_complete()
        if self.cycle.response_complete:  # an unread body has been drained
            self._arm()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.at_work():
            self.guest.works(False)
            if not self._complete:
                self.deadline = self.loop.time() + DRAIN_S

    def _bounded(self, data: memoryview) -> None:
        """Feed the parser at most the bytes allowed within headers or chunk framing."""
        while data and not self._gone and not self.transport.is_closing():
            head, heads = self._in_head, self._heads
            room = HEAD - self._head if head else HEAD
            piece, data = data[:room], data[room:]
            self._content = False
            if head and self.deadline == inf:
                self.deadline = self.loop.time() + self.header_s
            self._feed(piece)
            if head and heads == self._heads:
                self._head += len(piece)
                if self._head >= HEAD and not self._gone:
                    self._refuse(Refusal(*(_LARGE if self.headers or not self._begun else _LONG)))
            elif self._chunked and not self._in_head:
                self._beside = 0 if self._content else self._beside + len(piece)
                if self._beside > HEAD:
                    self._refuse(Refusal(*_FRAMING))

    def _feed(self, piece: bytes | memoryview) -> None:
        self._unset_keepalive_if_required()
        # Ignore requests to upgrade to another protocol.
        with contextlib.suppress(httptools.HttpParserUpgrade):
            try:
                self.parser.feed_data(piece)  # pyright: ignore[reportOptionalMemberAccess]
            except httptools.HttpParserError:
                self._refuse(self._why or Refusal(*_MALFORMED))

    def _stop(self, why: tuple[int, str, str]) -> Refusal:
        self._why = Refusal(*why)
        return self._why

    def _refuse(self, why: Refusal) -> None:
        """Respond and drain the sender; a request already being answered loses its connection."""
        if self._gone or self.transport.is_closing():
            return
        begun = bool(self.pipeline) or (self.at_work() and self.cycle.response_started)
        self._gone = True
        self.pipeline.clear()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.guest.works(False)
        self.guest.dropped(why.counted)
        if begun:  # a response has already begun
            self.transport.abort()
            return
        self._write(why.status, why.line)
        self.deadline, self.stuck = self.loop.time() + LINGER_S, inf
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _write(self, status: int, line: str, more: bytes = b"") -> None:
        text = line.encode()
        about = f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(text)}\r\nconnection: close\r\n"
        self.transport.write(STATUS_LINE[status] + more + b"tus-resumable: 1.0.0\r\n" + about.encode() + b"\r\n" + text)

    def _arm(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

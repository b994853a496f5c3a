"""The local interface between the daemon and its vehicle: framed messages over a Unix domain stream socket.

The vehicle listens, the daemon connects. A message is a header of 14 bytes, little-endian: length of the data (u32),
length of the topic (u16), time in ns (i64); then the topic (UTF-8) and the data. Topics and data are those of the
log (`log.channels`), so a recording can be sent unchanged:

    vehicle -> daemon   /vehicle         JSON {"drive": name, "meta": {text: text}}: first, once per connection
                        /camera/NAME     CompressedVideo or CompressedImage as in the log, or RawImage 'rgb8'
                        /ego/state       JSON as in the log, 10 Hz or more; the daemon answers each with /controls
                        /route           JSON as in the log, when it changes
                        /objects         SceneUpdate as in the log, perception's tracks, map frame
                        /signals         JSON as in the log, when they change
                        /driver          JSON {"engaged", "takeover"}, when they change
                        /end             empty: end of the drive
    daemon -> vehicle   /controls        JSON {"t", "acceleration" m/s^2, "curvature" 1/m, "stopped"}
                        /plan            JSON as in the log, at each decision

All topics share one clock, increasing per topic: CLOCK_MONOTONIC of this machine or, in lockstep, the vehicle's own.
"""

from __future__ import annotations

import json
import select
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivefoundry_car.log.channels import NS, to_ns

VEHICLE, CONTROLS, END = "/vehicle", "/controls", "/end"
HEADER = struct.Struct("<IHq")
MOST_BYTES, MOST_TOPIC = 64 << 20, 200
SEND_S = 0.5
"""A vehicle that does not read for this long is considered gone, s."""
PIECE = 1 << 20


@dataclass(frozen=True)
class Message:
    """One message of a topic; ns: time, ns."""

    topic: str
    ns: int
    data: bytes = b""

    @property
    def t(self) -> float:
        """Time, s."""
        return self.ns / NS


class Closed(OSError):
    """The other end is gone, or does not speak this protocol."""


class Bus:
    """One end of a connection. One thread receives; any thread may send, one at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(SEND_S)
        self._buffer = bytearray()

    def send(self, message: Message) -> None:
        """Send a message. Raises Closed if the other end is gone or does not read."""
        topic = message.topic.encode()
        try:
            self._socket.sendall(HEADER.pack(len(message.data), len(topic), message.ns) + topic + message.data)
        except OSError as error:
            raise Closed(f"not sent: {error}") from error

    def receive(self, seconds: float) -> Message | None:
        """The next message; None if none is complete within `seconds`. Raises Closed at the end."""
        while (message := self._complete()) is None:
            try:
                ready, _, _ = select.select([self._socket], [], [], seconds)
                if not ready:
                    return None
                piece = self._socket.recv(PIECE)
            except (OSError, ValueError) as error:
                raise Closed(f"not received: {error}") from error
            if not piece:
                raise Closed("the connection was closed")
            self._buffer += piece
        return message

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _complete(self) -> Message | None:
        """Take a complete message from the buffer."""
        if len(self._buffer) < HEADER.size:
            return None
        count, topic, ns = HEADER.unpack_from(self._buffer)
        if count > MOST_BYTES or topic > MOST_TOPIC:
            raise Closed(f"a message of {count} bytes, topic of {topic}: at most {MOST_BYTES} and {MOST_TOPIC}")
        begin, end = HEADER.size + topic, HEADER.size + topic + count
        if len(self._buffer) < end:
            return None
        try:
            name = self._buffer[HEADER.size : begin].decode()
        except UnicodeDecodeError:
            raise Closed("a topic that is not UTF-8") from None
        data = bytes(self._buffer[begin:end])
        del self._buffer[:end]
        return Message(name, ns, data)


def connect(path: Path) -> Bus:
    """Connect to a vehicle. OSError if none listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(SEND_S)
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return Bus(connection)


class Vehicle:
    """The vehicle's end: listens at `path`, and holds one connection at a time. Close it, or use it in a `with`
    statement."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen(1)
        self.bus: Bus | None = None

    def accept(self, seconds: float) -> bool:
        """Wait for a daemon; returns whether one connected."""
        self._listening.settimeout(max(seconds, 1e-3))
        try:
            connection, _ = self._listening.accept()
        except TimeoutError:
            return False
        self.hang_up()
        self.bus = Bus(connection)
        return True

    def tell(self, *messages: Message) -> bool:
        """Send to the daemon; returns False if none is connected any more."""
        try:
            for message in messages:
                if self.bus is None:
                    return False
                self.bus.send(message)
        except Closed:
            self.hang_up()
            return False
        return True

    def controls(self, ns: int, seconds: float) -> dict[str, Any] | None:
        """The daemon's answer to the state of time ns; None after `seconds` of silence."""
        try:
            while self.bus is not None and (message := self.bus.receive(seconds)) is not None:
                if message.topic == CONTROLS and message.ns == ns:
                    return json.loads(message.data)
        except Closed:
            self.hang_up()
        return None

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        if self.bus is not None:
            self.bus.close()
        self.bus = None

    def close(self) -> None:
        """Close everything."""
        self.hang_up()
        self._listening.close()
        with suppress(FileNotFoundError):
            self.path.unlink()

    def __enter__(self) -> Vehicle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def controls(t: float, acceleration: float, curvature: float, stopped: bool) -> Message:
    """A message with the commands for the vehicle; stopped: along a stop rather than a fresh plan."""
    fields = {"t": t, "acceleration": acceleration, "curvature": curvature, "stopped": stopped}
    return Message(CONTROLS, to_ns(t), json.dumps(fields).encode())

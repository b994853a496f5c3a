"""The bus between daemon and vehicle: fragmented messages, invalid ones, and a peer that disconnects."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefoundry_car.daemon.bus import HEADER, MOST_BYTES, Bus, Closed, Message, Vehicle, connect

MESSAGES = st.lists(st.builds(Message, st.text(max_size=20), st.integers(0, 1 << 60), st.binary(max_size=3000)))


@given(MESSAGES, st.integers(1, 700))
def test_messages_arrive_unchanged_in_any_fragments(messages, piece):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        received = Bus(theirs)
        data = b"".join(HEADER.pack(len(m.data), len(m.topic.encode()), m.ns) + m.topic.encode() + m.data
                        for m in messages)  # fmt: skip
        got = []
        for begin in range(0, len(data), piece):
            ours.sendall(data[begin : begin + piece])
            while (message := received.receive(0.0)) is not None:
                got.append(message)
    assert got == messages


def test_an_invalid_message_and_the_end_close_the_connection():
    for data in (HEADER.pack(MOST_BYTES + 1, 1, 0), HEADER.pack(1, 1, 0) + b"\xff\xff", b""):
        ours, theirs = socket.socketpair()
        with theirs:
            ours.sendall(data)
            ours.close()
            with pytest.raises(Closed):
                Bus(theirs).receive(1.0)


def test_a_vehicle_that_does_not_read_does_not_block_others():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bus = Bus(ours)
        with pytest.raises(Closed, match="not sent"):
            bus.send(Message("/controls", 0, bytes(MOST_BYTES)))


def test_controls_are_those_of_the_state_that_was_asked_for(tmp_path):
    with Vehicle(tmp_path / "bus") as vehicle:
        daemon = connect(tmp_path / "bus")
        assert vehicle.accept(1.0)
        for ns, said in ((1, b'{"acceleration": 1}'), (2, b'{"acceleration": 2}')):
            daemon.send(Message("/controls", ns, said))
        assert vehicle.controls(2, 1.0) == {"acceleration": 2}
        assert vehicle.controls(3, 0.0) is None
        daemon.close()
        assert vehicle.controls(3, 1.0) is None
        assert vehicle.bus is None
        assert not vehicle.tell(Message("/end", 4))
    with pytest.raises(OSError, match="No such file"):
        connect(tmp_path / "bus")

"""Hostile and damaged clip files: accepted or refused in one line, in bounded memory and time."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
import struct
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import Writer

from conftest import straight_drive
from drivefoundry.clips import checking
from drivefoundry.clips.checking import Checkers
from drivefoundry.clips.prepared import WrongHash, WrongVehicle, check
from drivefoundry_car.log import write_drive

CHUNK, CHUNK_INDEX, FOOTER = 6, 8, 2
"""Opcodes of MCAP records."""
MAGIC = b"\x89MCAP0\r\n"


def whole(seed: int) -> bytes:
    """A small valid clip with video."""
    drive = straight_drive(steps=12, seed=seed, frames=True)
    with tempfile.TemporaryDirectory() as folder:
        write_drive(Path(folder) / "a.mcap", drive)
        return (Path(folder) / "a.mcap").read_bytes()


def rewritten(change: Callable[[list[list[Any]], dict[str, dict[str, str]]], object]) -> bytes:
    """The clip rewritten, with correct checksums, after a change to its messages ([topic, ns, bytes]) and its metadata
    (by name; channels' own metadata by topic)."""
    reader = make_reader(io.BytesIO(WHOLE))
    summary = reader.get_summary()
    assert summary is not None
    messages = [[channel.topic, m.log_time, m.data] for _, channel, m in reader.iter_messages()]
    about = {m.name: dict(m.metadata) for m in reader.iter_metadata()}
    about |= {c.topic: dict(c.metadata) for c in summary.channels.values()}
    change(messages, about)
    out = io.BytesIO()
    writer = Writer(out)
    writer.start()
    ids = {}
    for channel in summary.channels.values():
        schema = summary.schemas[channel.schema_id]
        schema_id = writer.register_schema(schema.name, schema.encoding, schema.data)
        own = about.pop(channel.topic)
        ids[channel.topic] = writer.register_channel(channel.topic, channel.message_encoding, schema_id, own)
    for topic, at, data in messages:
        writer.add_message(ids[topic], at, data, at)
    for name, metadata in about.items():
        writer.add_metadata(name, metadata)
    writer.finish()
    return out.getvalue()


WHOLE = whole(0)


def told(data: bytes) -> str:
    """Error message of the check for these bytes; '' if they are accepted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mcap"
        path.write_bytes(data)
        try:
            check(path, hashlib.sha256(data).hexdigest(), "car-1")
        except ValueError as error:
            line = str(error)
            assert line
            assert "\n" not in line
            return line
    return ""


def test_a_whole_clip_is_taken():
    assert told(WHOLE) == ""


@settings(max_examples=300)
@given(st.data())
def test_damaged_files(data):
    """Bytes changed, cut out, doubled or cut off anywhere."""
    file = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 5))):
        if not file:
            break
        at = data.draw(st.integers(0, len(file) - 1))
        how = data.draw(st.sampled_from(["change", "cut", "double", "end", "length"]))
        some = data.draw(st.integers(1, 40))
        if how == "change":
            file[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del file[at : at + some]
        elif how == "double":
            file[at:at] = file[at : at + some]
        elif how == "end":
            file = file[: at + 1] + MAGIC
        else:
            file[at : at + 8] = struct.pack("<Q", data.draw(st.sampled_from([0, 1, 2**31, 2**63, 2**64 - 1])))
    told(bytes(file))


JUNK = st.one_of(
    st.binary(max_size=40), st.sampled_from([b"{}", b"[]", b"null", b"1e999", b'{"points": []}', b"[" * 5000])
)
TEXTS = st.one_of(
    st.text(max_size=5), st.sampled_from(["", "[]", "{}", "nan", "1e999", "[1]", "-1", "[[]]", "[" * 5000])
)


@settings(max_examples=300)
@given(st.data())
def test_files_that_are_whole_and_say_nonsense(data):
    """Messages changed, swapped, omitted or at other times; metadata changed or omitted."""

    def change(messages, about):
        for _ in range(data.draw(st.integers(1, 3))):
            i = data.draw(st.integers(0, len(messages) - 1))
            how = data.draw(st.sampled_from(["byte", "junk", "topic", "time", "drop", "all", "about", "forget"]))
            topic, at, message = messages[i]
            if how == "byte" and message:
                k = data.draw(st.integers(0, len(message) - 1))
                messages[i][2] = message[:k] + bytes([data.draw(st.integers(0, 255))]) + message[k + 1 :]
            elif how == "junk":
                messages[i][2] = data.draw(JUNK)
            elif how == "topic":
                messages[i][0] = data.draw(st.sampled_from(sorted({m[0] for m in messages})))
            elif how == "time":
                messages[i][1] = data.draw(st.sampled_from([0, 1, min(at + 1, 2**64 - 1), 2**63, 2**64 - 1]))
            elif how == "drop" and len(messages) > 1:
                del messages[i]
            elif how == "all":
                messages[:] = [m for m in messages if m[0] != topic] or messages
            elif how in ("about", "forget"):
                name = data.draw(st.sampled_from(sorted(about)))
                keys = sorted(about[name])
                if how == "about" and keys:
                    about[name][data.draw(st.sampled_from(keys))] = data.draw(TEXTS)
                elif how == "forget" and not name.startswith("/"):
                    about[name] = {}

    told(rewritten(change))


def place(data: bytes, opcode: int) -> tuple[int, int]:
    """Where the first record of a kind begins, and where it ends."""
    at = len(MAGIC)
    while True:
        end = at + 9 + struct.unpack_from("<Q", data, at + 1)[0]
        if data[at] == opcode:
            return at, end
        at = end


def bomb(size: int, what: bytes = bytes(1 << 20)) -> bytes:
    """A small file whose chunk unpacks to `size` zeros, or to something else over and over."""
    count = size // len(what)
    size = count * len(what)
    packer = zstandard.ZstdCompressor(level=1).compressobj(size=size)
    packed = b"".join(packer.compress(what) for _ in range(count)) + packer.flush()
    record = struct.pack("<QQQII", 0, 1, size, 0, 4) + b"zstd" + struct.pack("<Q", len(packed)) + packed
    begin, end = place(WHOLE, CHUNK)
    data = bytearray(WHOLE[:begin] + struct.pack("<BQ", CHUNK, len(record)) + record + WHOLE[end:])
    struct.pack_into("<QQQQ", data, place(data, CHUNK_INDEX)[0] + 9, 0, 1, begin, len(record) + 9)
    footer = place(data, FOOTER)[0] + 9
    summary = struct.unpack_from("<Q", data, footer)[0] + len(data) - len(WHOLE)
    struct.pack_into("<QQI", data, footer, summary, 0, 0)
    return bytes(data)


def flood(size: int) -> bytes:
    """A small file with as many empty messages as fit into `size` bytes, on an unknown channel."""
    topic = b"/other"
    channel = struct.pack("<HHI", 60_000, 0, len(topic)) + topic + struct.pack("<II", 0, 0)
    message = struct.pack("<BQHIQQ", 5, 22, 60_000, 0, 0, 0)
    return bomb(size, struct.pack("<BQ", 4, len(channel)) + channel + message * 10_000)


@pytest.fixture(scope="module")
def checkers(tmp_path_factory):
    """One process limited to 200 MB and one second."""
    some = Checkers(str(tmp_path_factory.mktemp("objects")), 1, memory=200 << 20, seconds=1.0)
    yield some
    some.close()


def refused(checkers: Checkers, path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        checkers.check(path, hashlib.sha256(data).hexdigest(), "car-1")
    return str(error.value)


def test_a_bomb_is_refused_in_bounded_memory_and_time_and_the_next_clip_is_taken(checkers, tmp_path, monkeypatch):
    large, wide = bomb(1 << 30), bomb(60 << 20)
    assert len(large) < 1 << 18
    assert "unpacks to more than" in refused(checkers, tmp_path / "large.mcap", large)
    with closing(Checkers(str(tmp_path / "objects"), 1, memory=50 << 20)) as narrow:
        assert "MemoryError" in refused(narrow, tmp_path / "wide.mcap", wide)
    monkeypatch.setattr(checking, "PATIENCE", 1e4)  # processor time is what counts, however busy the machine is
    with closing(Checkers(str(tmp_path / "objects"), 1, seconds=0.02)) as hasty:
        assert "takes more than 0.02 s" in refused(hasty, tmp_path / "wide.mcap", flood(60 << 20))
    path = tmp_path / "whole.mcap"
    path.write_bytes(WHOLE)
    checkers.check(path, hashlib.sha256(WHOLE).hexdigest(), "car-1")
    assert checkers.prepare(path, hashlib.sha256(WHOLE).hexdigest()).row["vehicle"] == "car-1"


def test_the_bounded_check_agrees_with_the_check(checkers, tmp_path):
    path, sha = tmp_path / "a.mcap", hashlib.sha256(WHOLE).hexdigest()
    path.write_bytes(WHOLE)
    with pytest.raises(WrongHash, match="send the file again"):
        checkers.check(path, "0" * 64, "car-1")
    with pytest.raises(WrongVehicle, match="from vehicle 'car-1', the token from 'car-2'"):
        checkers.check(path, sha, "car-2")
    assert "truncated MCAP" in refused(checkers, path, WHOLE[:-20])


def test_a_checker_that_others_kill_is_no_fault_of_the_clip(checkers, tmp_path):
    path = tmp_path / "a.mcap"
    path.write_bytes(WHOLE)
    sha = hashlib.sha256(WHOLE).hexdigest()
    checkers.check(path, sha, "car-1")
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)
    with pytest.raises(OSError, match="the checker was killed"):
        checkers.check(path, sha, "car-1")
    checkers.check(path, sha, "car-1")


def test_an_unread_chunk_is_skipped():
    """Unpacking the damaged chunk would reveal the damage."""
    reader, out = make_reader(io.BytesIO(WHOLE)), io.BytesIO()
    summary = reader.get_summary()
    assert summary is not None
    writer = Writer(out, chunk_size=1)  # a chunk a message
    writer.start()
    ids = {}
    for c in summary.channels.values():
        schema = summary.schemas[c.schema_id]
        kind = writer.register_schema(schema.name, schema.encoding, schema.data)
        ids[c.id] = writer.register_channel(c.topic, c.message_encoding, kind, dict(c.metadata))
    for _, channel, message in reader.iter_messages():
        writer.add_message(ids[channel.id], message.log_time, message.data, message.log_time)
    for record in reader.iter_metadata():
        writer.add_metadata(record.name, dict(record.metadata))
    writer.finish()
    made = make_reader(io.BytesIO(out.getvalue())).get_summary()
    assert made is not None
    assert told(out.getvalue()) == ""
    of = {made.channels[next(iter(c.message_index_offsets))].topic: c for c in made.chunk_indexes[1:]}
    unread, read = of["/ego/pose"], of["/ego/state"]
    for chunk, says in ((unread, ""), (read, "damaged MCAP")):
        data = bytearray(out.getvalue())
        data[chunk.chunk_start_offset + chunk.chunk_length - 9] ^= 255
        assert says in told(bytes(data))
        assert bool(says) == bool(told(bytes(data)))

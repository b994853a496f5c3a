"""Write an MCAP file that is readable up to its last complete chunk at any moment.

Layout according to https://mcap.dev/spec: a header and metadata, then chunks (zstd, CRC-32) with their message indexes,
and a summary at the end. Each chunk reaches the disk before the next begins. `McapStream.reopen` finds the complete
chunks of a truncated file, and `finish` adds the missing summary.
"""

from __future__ import annotations

import fcntl
import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard
from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)

from drivefoundry_car.durable import NO_ROOM, sync

MAGIC = b"\x89MCAP0\r\n"
CHUNK_BYTES = 1 << 20
"""A chunk is closed at this size, bytes ..."""
CHUNK_S = 1.0
"""... or at this age, s, which bounds what a kill loses."""
_RECORD, _MESSAGE = struct.Struct("<BQ"), struct.Struct("<BQHIQQ")
_MESSAGE_HEAD = _MESSAGE.size - _RECORD.size
Index = dict[int, list[tuple[int, int]]]
"""Channel id -> (log time ns, offset within the chunk) of its messages."""


class McapStream:
    """One MCAP file being written, locked with flock. OSError if the disk is full or gone.

    make_room: called with the number of bytes needed when the disk is full; returns whether to try again.
    """

    def __init__(self, path: Path, make_room: Callable[[int], bool] = lambda _: False) -> None:
        self._open(path, "x+b")
        self._make_room = make_room
        try:
            self._write(MAGIC + _bytes_of(Header("", "drivefoundry")))
            sync(path.parent)
        except OSError:
            self._file.close()
            path.unlink()
            raise

    def _open(self, path: Path, mode: str) -> None:
        self.path = path
        self._file = path.open(mode, buffering=0)
        self._make_room: Callable[[int], bool] = lambda _: False
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._counts: dict[int, int] = {}
        self._chunks: list[ChunkIndex] = []
        self._metadata: list[MetadataIndex] = []
        self._chunk, self._index, self._begun = bytearray(), Index(), time.monotonic()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise BlockingIOError(f"{path}: still being written") from None

    def register_schema(self, name: str, encoding: str, data: bytes) -> int:
        """Id of a schema; registering the same name again returns the same id."""
        for schema in self._schemas.values():
            if schema.name == name:
                return schema.id
        schema = Schema(id=len(self._schemas) + 1, name=name, encoding=encoding, data=data)
        self._schemas[schema.id] = schema
        self._chunk += _bytes_of(schema)
        return schema.id

    def register_channel(
        self, topic: str, message_encoding: str, schema_id: int, metadata: dict[str, str] | None = None
    ) -> int:
        """Register a channel and return its id."""
        channel = Channel(len(self._channels) + 1, topic, message_encoding, metadata or {}, schema_id)
        self._channels[channel.id] = channel
        self._chunk += _bytes_of(channel)
        return channel.id

    def add(self, channel: int, ns: int, data: bytes) -> None:
        """Add a message; a chunk that is full or due goes to disk."""
        self._index.setdefault(channel, []).append((ns, len(self._chunk)))
        self._counts[channel] = self._counts.get(channel, 0) + 1
        size = _MESSAGE_HEAD + len(data)
        self._chunk += _MESSAGE.pack(Opcode.MESSAGE, size, channel, 0, ns, ns)
        self._chunk += data
        if len(self._chunk) >= CHUNK_BYTES:
            self.flush()

    def add_metadata(self, name: str, data: dict[str, str]) -> None:
        """Add a metadata record; the last record of a name is the valid one."""
        record = _bytes_of(Metadata(name, data))
        self._metadata.append(MetadataIndex(self._file.tell(), len(record), name))
        self._write(record)

    def due(self) -> bool:
        """Whether the open chunk contains anything older than CHUNK_S."""
        return bool(self._index) and time.monotonic() - self._begun >= CHUNK_S

    def flush(self) -> None:
        """Write the open chunk to disk."""
        if self._index:
            raw = bytes(self._chunk)
            packed = zstandard.ZstdCompressor(level=1).compress(raw)
            times = [ns for entries in self._index.values() for ns, _ in entries]
            chunk = Chunk("zstd", packed, max(times), min(times), zlib.crc32(raw), len(raw))
            at, record = self._file.tell(), _bytes_of(chunk)
            where, indexes = _indexed(at, len(record), chunk, self._index)
            self._write(record + indexes)
            self._chunks.append(where)
            os.fsync(self._file.fileno())
        self._chunk, self._index, self._begun = bytearray(), Index(), time.monotonic()

    def _write(self, data: bytes) -> None:
        """Write all of data, or restore the file and raise OSError."""
        at, left = self._file.tell(), memoryview(data)
        while left:
            try:
                left = left[self._file.write(left) :]
            except OSError as error:
                if error.errno in NO_ROOM and self._make_room(len(left)):
                    continue
                self._file.seek(at)
                self._file.truncate()
                raise

    def finish(self) -> None:
        """Write the open chunk and the summary to disk, and close the file."""
        self.flush()
        start = self._file.tell() + len(end := _bytes_of(DataEnd(0)))
        summary, offsets = bytearray(), bytearray()
        for code, group in (
            (Opcode.SCHEMA, [*self._schemas.values()]), (Opcode.CHANNEL, [*self._channels.values()]),
            (Opcode.STATISTICS, [self._statistics()]), (Opcode.CHUNK_INDEX, self._chunks),
            (Opcode.METADATA_INDEX, self._metadata),
        ):  # fmt: skip
            records = b"".join(map(_bytes_of, group))
            offsets += _bytes_of(SummaryOffset(code, start + len(summary), len(records))) if records else b""
            summary += records
        where = (start, start + len(summary))
        head = struct.pack("<BQQQ", Opcode.FOOTER, 20, *where)
        footer = Footer(*where, zlib.crc32(head, zlib.crc32(offsets, zlib.crc32(summary))))
        self._write(end + summary + offsets + _bytes_of(footer) + MAGIC)
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> int:
        """Close the file as it is; returns its number of complete chunks."""
        self._file.close()
        return len(self._chunks)

    def _statistics(self) -> Statistics:
        return Statistics(
            attachment_count=0, channel_count=len(self._channels), channel_message_counts=self._counts,
            chunk_count=len(self._chunks), message_count=sum(self._counts.values()), metadata_count=len(self._metadata),
            message_start_time=min((c.message_start_time for c in self._chunks), default=0),
            message_end_time=max((c.message_end_time for c in self._chunks), default=0),
            schema_count=len(self._schemas),
        )  # fmt: skip

    @staticmethod
    def reopen(path: Path) -> McapStream:
        """Reopen an incomplete file, truncated to its last complete chunk or metadata; anything after that is lost.

        ValueError if it is not MCAP or has no complete chunk, BlockingIOError if it is still being written.
        """
        stream = McapStream.__new__(McapStream)
        stream._open(path, "r+b")
        try:
            stream._scan()
        except ValueError as error:
            stream._file.close()
            raise ValueError(f"{path}: {error}") from None
        return stream

    def _scan(self) -> None:
        if self._file.read(len(MAGIC)) != MAGIC:
            raise ValueError("not an MCAP file")
        whole, indexes = len(MAGIC), b""
        while True:
            at, head = self._file.tell(), self._file.read(_RECORD.size)
            code, size = _RECORD.unpack(head) if len(head) == _RECORD.size else (Opcode.DATA_END, 0)
            if code not in (Opcode.HEADER, Opcode.METADATA, Opcode.CHUNK, Opcode.MESSAGE_INDEX):
                break
            end = at + len(head) + size
            body = self._file.read(size) if end <= os.fstat(self._file.fileno()).st_size else None
            if body is None:
                break
            try:
                if code == Opcode.CHUNK:
                    chunk, index = self._read_chunk(body)
                    found, indexes = _indexed(at, len(head) + size, chunk, index)
                    self._chunks.append(found)
                elif code == Opcode.METADATA:
                    self._metadata.append(MetadataIndex(at, len(head) + size, Metadata.read(_stream(body)).name))
            except (zstandard.ZstdError, McapError, ValueError, struct.error):
                break
            whole = whole if code == Opcode.MESSAGE_INDEX else end
        if not self._chunks:
            raise ValueError("no complete chunk in it")
        self._file.seek(whole)
        self._file.truncate()
        last = self._chunks[-1]
        if whole == last.chunk_start_offset + last.chunk_length:  # its indexes may be truncated
            self._write(indexes)

    def _read_chunk(self, body: bytes) -> tuple[Chunk, Index]:
        """Check a chunk; returns it with the offsets of its messages and registers its schemas and channels."""
        chunk = Chunk.read(_stream(body))
        if chunk.uncompressed_size > 64 * CHUNK_BYTES:
            raise ValueError("a chunk larger than any that is written")
        raw = zstandard.ZstdDecompressor().decompress(chunk.data, max_output_size=chunk.uncompressed_size)
        if len(raw) != chunk.uncompressed_size or zlib.crc32(raw) != chunk.uncompressed_crc:
            raise ValueError("a damaged chunk")
        index, at = Index(), 0
        while at < len(raw):
            code, size = _RECORD.unpack_from(raw, at)
            inner = at + _RECORD.size
            if code == Opcode.MESSAGE:
                _, _, channel, _, ns, _ = _MESSAGE.unpack_from(raw, at)
                index.setdefault(channel, []).append((ns, at))
                self._counts[channel] = self._counts.get(channel, 0) + 1
            elif code == Opcode.SCHEMA:
                schema = Schema.read(_stream(raw[inner : inner + size]))
                self._schemas[schema.id] = schema
            elif code == Opcode.CHANNEL:
                channel = Channel.read(_stream(raw[inner : inner + size]))
                self._channels[channel.id] = channel
            at = inner + size
        return chunk, index


def _indexed(at: int, length: int, chunk: Chunk, index: Index) -> tuple[ChunkIndex, bytes]:
    """Chunk index of a chunk with a given length and offset, and the message index records that follow the chunk."""
    records, offsets = bytearray(), dict[int, int]()
    for channel, entries in index.items():
        offsets[channel] = at + length + len(records)
        flat = [number for entry in entries for number in entry]
        records += _RECORD.pack(Opcode.MESSAGE_INDEX, 6 + 8 * len(flat))
        records += struct.pack(f"<HI{len(flat)}Q", channel, 8 * len(flat), *flat)
    where = ChunkIndex(
        chunk_length=length, chunk_start_offset=at, compression=chunk.compression, compressed_size=len(chunk.data),
        message_end_time=chunk.message_end_time, message_index_length=len(records), message_index_offsets=offsets,
        message_start_time=chunk.message_start_time, uncompressed_size=chunk.uncompressed_size,
    )  # fmt: skip
    return where, bytes(records)


def _bytes_of(record: McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return builder.end()


def _stream(data: bytes) -> Any:
    return ReadDataStream(io.BytesIO(data))

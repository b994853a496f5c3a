"""Records of any writer's MCAP file: the inner loop of reading, ten times faster than with objects per record.

Reads front to back, so it needs neither a summary nor an index, which https://mcap.dev/spec leaves optional, like
chunks, compression, checksums, statistics and time order of messages.
"""

from __future__ import annotations

import io
import mmap
import struct
import zlib
from collections.abc import Callable, Iterator

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import EndOfFile
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Footer, Metadata, Schema
from mcap.stream_reader import CRCValidationError

MAX_BYTES = 1 << 31
"""Largest unpacked size of a file, bytes; an hour of one camera and its signals is a tenth of it."""
FREE_BYTES, RATIO = 64 << 20, 200
"""A file must not unpack to more than this plus RATIO times its own size; identical scenes of a parked car reach a
ratio of fifty."""
MCAP_MAGIC = b"\x89MCAP0\r\n"
_RECORD, _MESSAGE = struct.Struct("<BQ"), struct.Struct("<HIQQ")
_HEAD, _ID = struct.Struct("<BQHIQ"), struct.Struct("<H")
"""Layout of a message record up to its log time; layout of the id that starts a schema or channel."""
_IS_MESSAGE = int(Opcode.MESSAGE)
"""A plain number, because comparing with an enum member is slow."""


class Records:
    """One MCAP file's bytes: iterate `messages`; `schemas`, `channels` and `metadata` are complete once it ends.

    data: the entire file, possibly mapped. selected: selects the channels whose messages are yielded (default: all); a
    chunk whose message indexes name none of them is not unpacked. limited: hold the unpacked size to MAX_BYTES, and to
    RATIO times the file's size beyond FREE_BYTES.
    """

    def __init__(
        self,
        data: bytes | mmap.mmap,
        selected: Callable[[Channel], bool] = lambda _: True,
        limited: bool = True,
    ) -> None:
        self.schemas: dict[int, Schema] = {}
        self.channels: dict[int, Channel] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        """Metadata records by name; the last one wins."""
        self._data, self._wanted, self._limited = data, selected, limited
        self._most = self._left = min(MAX_BYTES, FREE_BYTES + RATIO * len(data))
        self._kept: dict[int, bool] = {}

    def messages(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield (channel id, log time ns, message), in file order; see `blocks`."""
        for block in self.blocks():
            yield from block

    def blocks(self) -> Iterator[list[tuple[int, int, bytes]]]:
        """Yield the messages of each chunk, and each message outside chunks, in file order.

        A message is (channel id, log time ns, bytes). Chunk and summary checksums are verified. ValueError or McapError
        if a record does not fit, a chunk is larger than declared, or their total exceeds the limit.
        """
        data, at, summary = self._data, len(MCAP_MAGIC), False
        while True:
            opcode, size = _RECORD.unpack_from(data, at)
            body, end = at + _RECORD.size, at + _RECORD.size + size
            if end > len(data):
                raise EndOfFile
            if opcode == Opcode.FOOTER:
                self._check_summary(at, data[body:end])
                return
            if opcode == Opcode.DATA_END:
                summary = True
            elif opcode == Opcode.CHUNK and not summary and not self._unselected(end):
                yield self._inside(self._unpacked(Chunk.read(_stream(data[body:end]))))
            elif opcode == Opcode.MESSAGE and not summary:
                channel, _, log_time, _ = _MESSAGE.unpack_from(data, body)
                if self._keeps(channel):
                    yield [(channel, log_time, data[body + _MESSAGE.size : end])]
            elif opcode == Opcode.METADATA:
                record = Metadata.read(_stream(data[body:end]))
                self.metadata[record.name] = dict(record.metadata)
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._describe(opcode, data[body:end])
            at = end

    def _unselected(self, at: int) -> bool:
        """Whether the message indexes after a chunk, which ends here, name only known channels that are not
        selected."""
        channels: list[int] = []
        while at + _RECORD.size + _ID.size <= len(self._data):
            opcode, size = _RECORD.unpack_from(self._data, at)
            if opcode != Opcode.MESSAGE_INDEX:
                break
            channels += _ID.unpack_from(self._data, at + _RECORD.size)
            at += _RECORD.size + size
        return bool(channels) and not any(self._kept.get(channel, True) for channel in channels)

    def _inside(self, raw: bytes) -> list[tuple[int, int, bytes]]:
        """Messages of one unpacked chunk."""
        found = []
        at, end, kept, head = 0, len(raw), self._kept, _HEAD.unpack_from
        record, most, skip = _RECORD.size, len(raw) - _HEAD.size, _RECORD.size + _MESSAGE.size
        while at < end:
            if at <= most:
                opcode, size, channel, _, log_time = head(raw, at)
            else:  # another kind of record, too short for a message
                opcode, size = _RECORD.unpack_from(raw, at)
                channel = log_time = 0
            begin, at = at, at + record + size
            if at > end:
                raise EndOfFile
            if opcode == _IS_MESSAGE:
                if size < _MESSAGE.size:
                    raise EndOfFile
                if kept[channel] if channel in kept else self._keeps(channel):
                    found.append((channel, log_time, raw[begin + skip : at]))
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._describe(opcode, raw[begin + record : at])
        return found

    def _keeps(self, channel: int) -> bool:
        if channel not in self._kept:
            raise ValueError(f"a message on channel {channel}, which is never described; repair it with `mcap recover`")
        return self._kept[channel]

    def _describe(self, opcode: int, body: bytes) -> None:
        """Register a schema or channel; it may be repeated in every chunk and in the summary."""
        (id,) = _ID.unpack_from(body)
        if opcode == Opcode.SCHEMA:
            if id not in self.schemas:
                self.schemas[id] = Schema.read(_stream(body))
        elif id not in self.channels:
            self.channels[id] = channel = Channel.read(_stream(body))
            self._kept[id] = self._wanted(channel)

    def _unpacked(self, chunk: Chunk) -> bytes:
        """Unpack a chunk; zstd and LZ4 allocate what their headers declare, so these are checked first."""
        size, packed = chunk.uncompressed_size, chunk.data
        self._left -= size
        claimed = zstandard.frame_content_size(packed) if chunk.compression == "zstd" else size
        if (self._limited and self._left < 0) or claimed not in (-1, size):
            raise ValueError(
                f"unpacks to more than {self._most >> 20} MiB or than declared; cut it into shorter drives"
            )
        if chunk.compression == "zstd":
            raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=size) if size else b""
        elif chunk.compression == "lz4":
            try:
                raw = lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=size)
            except RuntimeError as error:  # the only class that lz4 raises on damaged bytes
                raise ValueError(f"an LZ4 chunk does not unpack ({error}); copy or record it again") from None
        elif not chunk.compression:
            raw = packed
        else:
            raise ValueError(f"chunks are compressed with '{chunk.compression}'; zstd, lz4 or none can be read")
        if len(raw) != size:
            raise ValueError(f"a chunk unpacks to {len(raw)} bytes, not to {size} as it says; copy or record it again")
        if chunk.uncompressed_crc and zlib.crc32(raw) != chunk.uncompressed_crc:
            raise CRCValidationError(expected=chunk.uncompressed_crc, actual=zlib.crc32(raw), record=chunk)
        return raw

    def _check_summary(self, at: int, body: bytes) -> None:
        """Verify the summary's checksum, if any, which covers the footer up to itself."""
        footer = Footer.read(_stream(body))
        if footer.summary_crc and footer.summary_start:
            found = zlib.crc32(self._data[footer.summary_start : at + _RECORD.size + 16])
            if found != footer.summary_crc:
                raise CRCValidationError(expected=footer.summary_crc, actual=found, record=footer)


def _stream(data: bytes) -> ReadDataStream:
    return ReadDataStream(io.BytesIO(data))

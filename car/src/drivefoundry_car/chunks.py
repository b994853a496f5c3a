"""An MCAP file's bytes in, its messages out: the inner loop of reading, ten times quicker than record objects."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Set

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Chunk
from mcap.stream_reader import get_chunk_data_stream
from mcap.summary import Summary

MAX_BYTES = 1 << 31
"""A file may unpack to no more: an hour of one camera and its signals is a tenth of it."""
FREE_BYTES, RATIO = 64 << 20, 200
"""Nor to more than this, and so many times its own size: a parked car's scenes, all alike, come to fifty times."""
_RECORD, _MESSAGE = struct.Struct("<BQ"), struct.Struct("<HIQQ")


def messages(data: bytes, summary: Summary, wanted: Set[int] | None = None) -> Iterator[tuple[int, int, bytes]]:
    """(channel id, log time ns, message) of every message in the file's chunks, in file order; checksums are verified.

    wanted: channels that are read; a chunk whose index names none of them is passed over as it is.
    ValueError if the chunks say or turn out to unpack to more than MAX_BYTES, or too many times the file's size.
    """
    most = left = min(MAX_BYTES, FREE_BYTES + RATIO * len(data))
    for index in summary.chunk_indexes:
        if wanted is not None and index.message_index_offsets and wanted.isdisjoint(index.message_index_offsets):
            continue
        begin = index.chunk_start_offset + _RECORD.size
        chunk = Chunk.read(ReadDataStream(io.BytesIO(data[begin : index.chunk_start_offset + index.chunk_length])))
        left -= chunk.uncompressed_size
        # zstd allocates what its own header says: a small file must not claim the memory of a large one.
        claimed = zstandard.frame_content_size(chunk.data) if chunk.compression == "zstd" else chunk.uncompressed_size
        if left < 0 or claimed not in (-1, chunk.uncompressed_size):
            raise ValueError(f"unpacks to more than {most >> 20} MiB or than it says; cut it into shorter drives")
        stream, length = get_chunk_data_stream(chunk, validate_crc=True)
        raw, at = stream.read(length), 0
        while at < length:
            opcode, size = _RECORD.unpack_from(raw, at)
            at += _RECORD.size
            if opcode == Opcode.MESSAGE:
                channel, _, log_time, _ = _MESSAGE.unpack_from(raw, at)
                yield channel, log_time, raw[at + _MESSAGE.size : at + size]
            at += size

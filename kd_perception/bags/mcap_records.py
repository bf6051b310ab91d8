"""
Records of an MCAP file, parsed with bounds: no length in a file makes us allocate what it says.

https://mcap.dev/spec describes the format. Functions take bytes that were read already, and raise
``ValueError`` or ``struct.error`` for what does not fit into them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import struct

import numpy as np

MAGIC = b'\x89MCAP0\r\n'
RECORD = struct.Struct('<BQ')
MESSAGE = struct.Struct('<HIQQ')
SCHEMA_OP, CHANNEL_OP, MESSAGE_OP, CHUNK_OP, INDEX_OP = 0x03, 0x04, 0x05, 0x06, 0x07
CHUNK_INDEX_OP, STATISTICS_OP, DATA_END_OP, FOOTER_OP = 0x08, 0x0B, 0x0F, 0x02
FOOTER_BYTES = RECORD.size + 20 + len(MAGIC)

_CHUNK = struct.Struct('<QQQI')
_CHUNK_INDEX = struct.Struct('<QQQQI')
_INDEX_HEAD = struct.Struct('<HI')
# Times from 2262 on do not fit into 64 signed bits; nobody records there.
_LAST_TIME = 1 << 63


@dataclass(frozen=True)
class Schema:
    """A message definition."""

    id: int
    name: str
    encoding: str
    text: str


@dataclass(frozen=True)
class ChannelRecord:
    """A stream of messages."""

    id: int
    schema: int
    topic: str
    encoding: str
    metadata: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Chunk:
    """
    Where a chunk's records lie in the file, and how to unpack them.

    :param start: byte of its records, packed as they are.
    :param size: bytes there.
    :param unpacked: bytes that they unpack to.
    :param crc: of what is unpacked; 0: none.
    """

    start: int
    size: int
    unpacked: int
    crc: int
    compression: str


@dataclass(frozen=True)
class ChunkIndex:
    """What the summary says of a chunk: its place, and that of its message indexes behind it."""

    base: int
    length: int
    index_length: int
    channels: int
    chunk: Chunk


def records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (kind, start, end) of the content of each whole record."""
    place = 0
    while place + RECORD.size <= len(data):
        kind, size = RECORD.unpack_from(data, place)
        start = place + RECORD.size
        if start + size > len(data):
            raise ValueError(f'a record claims {size} bytes')
        yield kind, start, start + size
        place = start + size


def parse_schema(data: bytes) -> Schema:
    """Return a schema record."""
    (number,) = struct.unpack_from('<H', data, 0)
    name, at = _string(data, 2)
    encoding, at = _string(data, at)
    text, _ = _bytes(data, at)
    return Schema(number, name, encoding, text.decode(errors='replace'))


def parse_channel(data: bytes) -> ChannelRecord:
    """Return a channel record."""
    number, schema = struct.unpack_from('<HH', data, 0)
    topic, at = _string(data, 4)
    encoding, at = _string(data, at)
    pairs, _ = _bytes(data, at)
    metadata, at = [], 0
    while at < len(pairs):
        key, at = _string(pairs, at)
        value, at = _string(pairs, at)
        metadata.append((key, value))
    return ChannelRecord(number, schema, topic, encoding, tuple(metadata))


def parse_chunk_index(data: bytes) -> ChunkIndex:
    """Return a chunk index record."""
    _, _, base, length, places = _CHUNK_INDEX.unpack_from(data, 0)
    at = _CHUNK_INDEX.size + places
    (index_length,) = struct.unpack_from('<Q', data, at)
    compression, at = _string(data, at + 8)
    packed, unpacked = struct.unpack_from('<QQ', data, at)
    start = base + length - packed
    return ChunkIndex(base, length, index_length, places // 10,
                      Chunk(start, packed, unpacked, -1, compression))


def parse_chunk(head: bytes, base: int) -> Chunk:
    """Return the chunk record at byte ``base``, of which ``head`` are the first bytes."""
    kind, size = RECORD.unpack_from(head, 0)
    at = RECORD.size
    _, _, unpacked, crc = _CHUNK.unpack_from(head, at)
    compression, at = _string(head, at + _CHUNK.size)
    (packed,) = struct.unpack_from('<Q', head, at)
    if kind != CHUNK_OP or at + 8 + packed > RECORD.size + size:
        raise ValueError(f'no chunk at byte {base}')
    return Chunk(base + at + 8, packed, unpacked, crc, compression)


def parse_message_index(data: bytes) -> tuple[int, np.ndarray]:
    """Return (channel id, uint64 ``[n, 2]`` of log time and offset in the chunk)."""
    channel, size = _INDEX_HEAD.unpack_from(data, 0)
    if _INDEX_HEAD.size + size > len(data) or size % 16:
        raise ValueError('a message index is cut off')
    table = np.frombuffer(data, '<u8', size // 8, _INDEX_HEAD.size).reshape(-1, 2)
    if len(table) and table.max() >= _LAST_TIME:
        raise ValueError('a message index holds impossible times or places')
    return channel, table


def message_head(head: bytes) -> tuple[int, int]:
    """Return (channel id, log time) of a message record."""
    channel, _, log_ns, _ = MESSAGE.unpack_from(head, 0)
    if log_ns >= _LAST_TIME:
        raise ValueError(f'a message claims to be of {log_ns} ns')
    return channel, log_ns


def _string(data: bytes, at: int) -> tuple[str, int]:
    content, end = _bytes(data, at)
    return content.decode(), end


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from('<I', data, at)
    end = at + 4 + length
    if end > len(data):
        raise ValueError(f'a field claims {length} bytes')
    return bytes(data[at + 4:end]), end

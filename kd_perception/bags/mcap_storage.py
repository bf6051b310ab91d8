"""
MCAP files, of any profile, with or without a summary, whole or cut off.

The ``mcap`` library parses the records; the way to a message is our own: the index records give
each message's place, and one in an uncompressed chunk is read straight from the file.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
import io
import os
from pathlib import Path
import struct
from typing import Any
import zlib

import lz4.frame
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import Channel as ChannelRecord
from mcap.records import Schema
import numpy as np
import zstandard

from kd_perception.bags.storage import (
    Channel,
    ENTRY,
    full_type,
    plain_body,
    reason,
    sorted_entries,
)
from kd_perception.errors import BagError

MAGIC = b'\x89MCAP0\r\n'
_RECORD = struct.Struct('<BQ')
_MESSAGE = struct.Struct('<HIQQ')
_CHUNK_HEAD = struct.Struct('<QQQI')
_SCHEMA, _CHANNEL, _MESSAGE_OP, _CHUNK, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0F
_MAX_CHUNK = 4 << 30
_NO_CHUNK = -1


@dataclass(frozen=True)
class _Chunk:
    """Where a chunk's records lie in the file, and how to unpack them."""

    start: int
    size: int
    unpacked: int
    crc: int
    compression: str


class McapStorage:
    """One MCAP file; see ``Storage``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._fd).st_size
        self._schemas: dict[int, Schema] = {}
        self._channel_records: dict[int, ChannelRecord] = {}
        self._chunks: dict[int, _Chunk] = {}
        self._entries: dict[int, list[np.ndarray]] = defaultdict(list)
        self._cache: tuple[int, bytes] = (_NO_CHUNK, b'')
        self.warnings: tuple[str, ...] = ()
        try:
            if self._size == 0:
                raise BagError(f'{path}: is empty (0 bytes)')
            if os.pread(self._fd, len(MAGIC), 0) != MAGIC:
                raise BagError(f'{path}: is no MCAP file (its first bytes are wrong)')
            if not self._load_summary():
                self._scan()
        except BaseException:
            self.close()
            raise
        self.channels = tuple(self._channel(c) for c in self._channel_records.values())

    def index(self, channel: Channel) -> np.ndarray:
        """Return the entries of a channel in order of log time."""
        parts = self._entries.get(channel.id)
        return sorted_entries(np.concatenate(parts)) if parts else np.zeros(0, ENTRY)

    def read(self, entry: np.void, limit: int = 0) -> bytes:
        """Return the serialised message at an index entry."""
        base, offset = int(entry['base']), int(entry['offset'])
        try:
            return plain_body(self._body(base, offset, limit), limit)
        except (zstandard.ZstdError, struct.error, OSError) as error:
            raise BagError(f'{self.path}: message at {base}+{offset} is damaged: '
                           f'{reason(error)}') from None

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _body(self, base: int, offset: int, limit: int) -> bytes:
        chunk = self._chunks.get(base)
        if chunk is not None and chunk.compression:
            records = self._unpack(base, chunk)
            op, size = _RECORD.unpack_from(records, offset)
            start = offset + _RECORD.size
            if op != _MESSAGE_OP or start + size > len(records):
                raise BagError(f'{self.path}: the index points at no message')
            return records[start + _MESSAGE.size:start + size]
        place = offset + (chunk.start if chunk else 0)
        op, size = _RECORD.unpack(os.pread(self._fd, _RECORD.size, place))
        if op != _MESSAGE_OP or place + _RECORD.size + size > self._size:
            raise BagError(f'{self.path}: the index points at no message (byte {place})')
        place += _RECORD.size + _MESSAGE.size
        wanted = size - _MESSAGE.size
        head = os.pread(self._fd, min(wanted, limit) if limit else wanted, place)
        if limit and head[:1] == b'\x28':  # a compressed body is of use as a whole only
            return os.pread(self._fd, wanted, place)
        return head

    def _unpack(self, base: int, chunk: _Chunk) -> bytes:
        """Return a chunk's records; the last one is kept, for messages are read in order."""
        cached, records = self._cache
        if cached == base:
            return records
        packed = os.pread(self._fd, chunk.size, chunk.start)
        try:
            if chunk.unpacked > _MAX_CHUNK:
                raise ValueError(f'claims {chunk.unpacked} bytes')
            if chunk.compression == 'zstd':
                records = zstandard.ZstdDecompressor().decompress(packed, chunk.unpacked)
            elif chunk.compression == 'lz4':
                records = lz4.frame.decompress(packed)
            elif not chunk.compression:
                records = packed
            else:
                raise ValueError(f'unknown compression {chunk.compression!r}')
        except (zstandard.ZstdError, RuntimeError, ValueError) as error:
            raise BagError(f'{self.path}: chunk at byte {base} is damaged: '
                           f'{reason(error)}') from None
        if chunk.crc and zlib.crc32(records) != chunk.crc:
            raise BagError(f'{self.path}: chunk at byte {base} is damaged: wrong checksum')
        self._cache = (base, records)
        return records

    def _load_summary(self) -> bool:
        """Read the index at the end of the file; return False where there is none to rely on."""
        try:
            with open(self.path, 'rb') as stream:
                summary = SeekingReader(stream).get_summary()
        except (McapError, struct.error, OSError, ValueError, UnicodeDecodeError, EOFError):
            return False
        if summary is None or not summary.channels:
            return False
        counted = summary.statistics.message_count if summary.statistics else None
        if counted != 0 and not summary.chunk_indexes:
            return False
        if any(not c.message_index_offsets for c in summary.chunk_indexes):
            return False
        self._schemas = dict(summary.schemas)
        self._channel_records = dict(summary.channels)
        try:
            for chunk in summary.chunk_indexes:
                base = chunk.chunk_start_offset
                self._chunks[base] = self._chunk_at(base)
                for channel_id, place in chunk.message_index_offsets.items():
                    self._read_message_index(base, channel_id, place)
        except (struct.error, ValueError, OverflowError, OSError, BagError):
            self._chunks.clear()
            self._entries.clear()
            return False
        return True

    def _read_message_index(self, base: int, channel_id: int, place: int) -> None:
        head = os.pread(self._fd, 15, place)
        op, _, found, size = struct.unpack('<BQHI', head)
        if op != 0x07 or found != channel_id:
            raise ValueError('the summary points at no message index')
        table = np.frombuffer(os.pread(self._fd, size, place + 15), '<u8').reshape(-1, 2)
        entries = np.empty(len(table), ENTRY)
        entries['log_ns'] = table[:, 0]
        entries['base'] = base
        entries['offset'] = table[:, 1]
        self._entries[channel_id].append(entries)

    def _chunk_at(self, base: int) -> _Chunk:
        """Parse the head of the chunk record at byte ``base``."""
        head = os.pread(self._fd, 256, base)
        op, size = _RECORD.unpack_from(head, 0)
        at = _RECORD.size
        _, _, unpacked, crc = _CHUNK_HEAD.unpack_from(head, at)
        at += _CHUNK_HEAD.size
        (length,) = struct.unpack_from('<I', head, at)
        compression = head[at + 4:at + 4 + length].decode()
        at += 4 + length
        (packed,) = struct.unpack_from('<Q', head, at)
        if op != _CHUNK or at + 8 + packed > _RECORD.size + size:
            raise BagError(f'{self.path}: no chunk at byte {base}')
        if base + at + 8 + packed > self._size:
            raise BagError(f'{self.path}: chunk at byte {base} is cut off')
        return _Chunk(base + at + 8, packed, unpacked, crc, compression)

    def _scan(self) -> None:
        """Walk all records from the start: for files without an index, or cut off."""
        rows: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        place, problem = len(MAGIC), 'the end is missing'
        while place + _RECORD.size <= self._size:
            op, size = _RECORD.unpack(os.pread(self._fd, _RECORD.size, place))
            start = place + _RECORD.size
            if op == _DATA_END:
                problem = ''
                break
            if op == 0 or start + size > self._size:
                problem = f'it is cut off or damaged at byte {place}'
                break
            try:
                if op == _CHUNK:
                    self._scan_chunk(place, rows)
                elif op == _MESSAGE_OP:
                    head = os.pread(self._fd, _MESSAGE.size, start)
                    channel_id, log_ns = _message_head(head)
                    rows[channel_id].append((log_ns, _NO_CHUNK, place))
                elif op in (_SCHEMA, _CHANNEL):
                    self._definition(op, os.pread(self._fd, size, start))
            except (BagError, McapError, struct.error, ValueError) as error:
                problem = (str(error).removeprefix(f'{self.path}: ')
                           or f'it is damaged at byte {place}')
                break
            place = start + size
        found = sum(len(r) for r in rows.values())
        if problem and not found:
            raise BagError(f'{self.path}: holds no readable message: {problem}; '
                           'copy or record it again')
        if problem:
            self.warnings = (f'{self.path}: {problem}; {found} messages before it are used',)
        self._entries = defaultdict(list, {
            c: [np.array(r, ENTRY)] for c, r in rows.items() if c in self._channel_records})

    def _scan_chunk(self, base: int, rows: dict[int, list[tuple[int, int, int]]]) -> None:
        chunk = self._chunk_at(base)
        records = self._unpack(base, chunk)
        self._chunks[base] = chunk
        place = 0
        while place + _RECORD.size <= len(records):
            op, size = _RECORD.unpack_from(records, place)
            start = place + _RECORD.size
            if op == _MESSAGE_OP:
                channel_id, log_ns = _message_head(records[start:start + _MESSAGE.size])
                rows[channel_id].append((log_ns, base, place))
            elif op in (_SCHEMA, _CHANNEL):
                self._definition(op, records[start:start + size])
            place = start + size

    def _definition(self, op: int, content: bytes) -> None:
        stream = ReadDataStream(io.BytesIO(content))
        if op == _SCHEMA:
            schema = Schema.read(stream)
            self._schemas[schema.id] = schema
        else:
            channel = ChannelRecord.read(stream)
            self._channel_records[channel.id] = channel

    def _channel(self, record: Any) -> Channel:
        schema = self._schemas.get(record.schema_id)
        return Channel(
            id=record.id, topic=record.topic, type=full_type(schema.name) if schema else '',
            definition=schema.data.decode(errors='replace') if schema else '',
            definition_format='idl' if schema and 'idl' in schema.encoding else 'msg',
            serialization=record.message_encoding)


def _message_head(head: bytes) -> tuple[int, int]:
    """Return (channel id, log time) of a message record."""
    channel_id, _, log_ns, _ = _MESSAGE.unpack(head)
    if log_ns >= 1 << 63:
        raise ValueError(f'a message claims to be of {log_ns} ns')
    return channel_id, log_ns

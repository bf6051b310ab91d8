"""
MCAP files, of any profile, with or without a summary, whole or cut off.

The index records give each message's place, and one in an uncompressed chunk is read straight from
the file.
"""

from __future__ import annotations

from collections import defaultdict
import os
from pathlib import Path
import struct
import zlib

import lz4.frame
import numpy as np
import zstandard

from kd_perception.bags import mcap_records as rec
from kd_perception.bags.storage import (
    Channel,
    ENTRY,
    full_type,
    MAX_UNPACKED,
    plain_body,
    reason,
    sorted_entries,
    unpack_zstd,
)
from kd_perception.errors import BagError

_NO_CHUNK = -1
_CHUNK_HEAD_BYTES = 256
_CRC_AT = rec.RECORD.size + 24
_MAX_SUMMARY = 1 << 30
_PROBLEMS = (struct.error, ValueError, OverflowError, OSError, UnicodeDecodeError, MemoryError)


class McapStorage:
    """
    One MCAP file; see ``Storage``.

    :param name: what messages call the file, where ``path`` is an unpacked copy of it.
    """

    kind = 'mcap'

    def __init__(self, path: Path, name: Path | None = None) -> None:
        self.path = name or path
        self._fd = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._fd).st_size
        self._schemas: dict[int, rec.Schema] = {}
        self._channel_records: dict[int, rec.ChannelRecord] = {}
        self._chunks: dict[int, rec.Chunk] = {}
        self._entries: dict[int, list[np.ndarray]] = defaultdict(list)
        self._cache: tuple[int, bytes] = (_NO_CHUNK, b'')
        self.warnings: tuple[str, ...] = ()
        try:
            if self._size == 0:
                raise BagError(f'{self.path}: is empty (0 bytes)')
            if os.pread(self._fd, len(rec.MAGIC), 0) != rec.MAGIC:
                raise BagError(f'{self.path}: is no MCAP file (its first bytes are wrong)')
            if not self._load_summary():
                self._scan()
        except BaseException:
            self.close()
            raise
        self.compression = next((c.compression for c in self._chunks.values() if c.compression),
                                '')
        self.channels = tuple(self._channel(c) for c in self._channel_records.values())

    def index(self, channel: Channel) -> np.ndarray:
        """Return the entries of a channel in order of log time."""
        parts = self._entries.get(channel.id)
        return sorted_entries(np.concatenate(parts)) if parts else np.zeros(0, ENTRY)

    def read(self, entry: np.void, limit: int = 0) -> bytes:
        """Return the serialised message at an index entry."""
        base, offset = int(entry['base']), int(entry['offset'])
        try:
            return plain_body(self._record(base, offset, limit)[rec.MESSAGE.size:], limit)
        except (zstandard.ZstdError, *_PROBLEMS) as error:
            raise self._damaged(base, offset, error) from None

    def envelope(self, entry: np.void) -> tuple[int, int]:
        """Return (publish time in ns, sequence number) of a message."""
        base, offset = int(entry['base']), int(entry['offset'])
        try:
            head = self._record(base, offset, rec.MESSAGE.size)
            _, sequence, _, publish_ns = rec.MESSAGE.unpack_from(head, 0)
        except _PROBLEMS as error:
            raise self._damaged(base, offset, error) from None
        return publish_ns, sequence

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _damaged(self, base: int, offset: int, error: Exception) -> BagError:
        return BagError(f'{self.path}: message at {base}+{offset} is damaged: {reason(error)}')

    def _record(self, base: int, offset: int, limit: int) -> bytes:
        """
        Return the content of a message record: its head, then the message.

        :param limit: when above zero, at least so many bytes of the message suffice.
        """
        chunk = self._chunks.get(base)
        if chunk is not None and chunk.compression:
            content = self._unpack(base, chunk)
            kind, size = rec.RECORD.unpack_from(content, offset)
            start = offset + rec.RECORD.size
            if kind != rec.MESSAGE_OP or start + size > len(content):
                raise ValueError('the index points at no message')
            return content[start:start + size]
        place = offset + (chunk.start if chunk else 0)
        kind, size = rec.RECORD.unpack(os.pread(self._fd, rec.RECORD.size, place))
        place += rec.RECORD.size
        if kind != rec.MESSAGE_OP or place + size > self._size:
            raise ValueError('the index points at no message')
        wanted = rec.MESSAGE.size + limit
        head = os.pread(self._fd, min(size, wanted) if limit else size, place)
        if limit and head[rec.MESSAGE.size:rec.MESSAGE.size + 1] == b'\x28':
            return os.pread(self._fd, size, place)  # a compressed body is of use as a whole only
        return head

    def _unpack(self, base: int, chunk: rec.Chunk) -> bytes:
        """Return a chunk's records; the last one is kept, for messages are read in order."""
        cached, content = self._cache
        if cached == base:
            return content
        packed = os.pread(self._fd, chunk.size, chunk.start)
        try:
            if chunk.unpacked > MAX_UNPACKED:
                raise ValueError(f'claims {chunk.unpacked} bytes')
            if chunk.compression == 'zstd':
                content = unpack_zstd(packed, chunk.unpacked)
            elif chunk.compression == 'lz4':
                content = lz4.frame.LZ4FrameDecompressor().decompress(packed, chunk.unpacked)
            elif not chunk.compression:
                content = packed
            else:
                raise ValueError(f'unknown compression {chunk.compression!r}')
            crc = chunk.crc
            if crc < 0:
                (crc,) = struct.unpack('<I', os.pread(self._fd, 4, base + _CRC_AT))
        except (zstandard.ZstdError, RuntimeError, *_PROBLEMS) as error:
            raise BagError(f'{self.path}: chunk at byte {base} is damaged: '
                           f'{reason(error)}') from None
        if crc and zlib.crc32(content) != crc:
            raise BagError(f'{self.path}: chunk at byte {base} is damaged: wrong checksum')
        self._cache = (base, content)
        return content

    def _load_summary(self) -> bool:
        """Read the index at the end of the file; return False where there is none to rely on."""
        try:
            return self._read_summary()
        except _PROBLEMS:
            self._chunks.clear()
            self._entries.clear()
            self._schemas.clear()
            self._channel_records.clear()
            return False

    def _read_summary(self) -> bool:
        foot_at = self._size - rec.FOOTER_BYTES
        foot = os.pread(self._fd, rec.FOOTER_BYTES, max(0, foot_at))
        kind, size, start = struct.unpack_from('<BQQ', foot, 0)
        if (foot[-len(rec.MAGIC):] != rec.MAGIC or kind != rec.FOOTER_OP or size != 20
                or not 0 < start <= foot_at or foot_at - start > _MAX_SUMMARY):
            return False
        summary = os.pread(self._fd, foot_at - start, start)
        chunks: list[rec.ChunkIndex] = []
        counted = None
        for kind, at, end in rec.records(summary):
            if kind == rec.CHUNK_INDEX_OP:
                chunks.append(rec.parse_chunk_index(summary[at:end]))
            elif kind in (rec.SCHEMA_OP, rec.CHANNEL_OP):
                self._definition(kind, summary[at:end])
            elif kind == rec.STATISTICS_OP:
                (counted,) = struct.unpack_from('<Q', summary, at)
        used = {c.schema for c in self._channel_records.values()} - {0}
        if not self._channel_records or not used <= self._schemas.keys():
            return False
        if counted != 0 and not chunks:
            return False
        for index in chunks:
            self._read_message_indexes(index)
        return True

    def _read_message_indexes(self, index: rec.ChunkIndex) -> None:
        """Take over the places of a chunk's messages, which lie behind it in one piece."""
        behind = index.base + index.length
        if not index.channels or behind + index.index_length > self._size \
                or index.chunk.start < index.base:
            raise ValueError(f'the summary has no index of the chunk at byte {index.base}')
        self._chunks[index.base] = index.chunk
        data = os.pread(self._fd, index.index_length, behind)
        seen = 0
        for kind, at, end in rec.records(data):
            if kind != rec.INDEX_OP:
                raise ValueError('the summary points at no message index')
            channel, table = rec.parse_message_index(data[at:end])
            entries = np.empty(len(table), ENTRY)
            entries['log_ns'] = table[:, 0]
            entries['base'] = index.base
            entries['offset'] = table[:, 1]
            self._entries[channel].append(entries)
            seen += 1
        if seen < index.channels:
            raise ValueError(f'the chunk at byte {index.base} lacks message indexes')

    def _scan(self) -> None:
        """Walk all records from the start: for files without an index, or cut off."""
        rows: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        place, problem = len(rec.MAGIC), 'the end is missing'
        while place + rec.RECORD.size <= self._size:
            kind, size = rec.RECORD.unpack(os.pread(self._fd, rec.RECORD.size, place))
            start = place + rec.RECORD.size
            if kind == rec.DATA_END_OP:
                problem = ''
                break
            if kind == 0 or start + size > self._size:
                problem = f'it is cut off or damaged at byte {place}'
                break
            try:
                if kind == rec.CHUNK_OP:
                    self._scan_chunk(place, rows)
                elif kind == rec.MESSAGE_OP:
                    channel, log_ns = rec.message_head(os.pread(self._fd, rec.MESSAGE.size, start))
                    rows[channel].append((log_ns, _NO_CHUNK, place))
                elif kind in (rec.SCHEMA_OP, rec.CHANNEL_OP):
                    self._definition(kind, os.pread(self._fd, size, start))
            except (BagError, *_PROBLEMS) as error:
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
        chunk = rec.parse_chunk(os.pread(self._fd, _CHUNK_HEAD_BYTES, base), base)
        content = self._unpack(base, chunk)
        self._chunks[base] = chunk
        for kind, start, end in rec.records(content):
            if kind == rec.MESSAGE_OP:
                channel, log_ns = rec.message_head(content[start:start + rec.MESSAGE.size])
                rows[channel].append((log_ns, base, start - rec.RECORD.size))
            elif kind in (rec.SCHEMA_OP, rec.CHANNEL_OP):
                self._definition(kind, content[start:end])

    def _definition(self, kind: int, content: bytes) -> None:
        if kind == rec.SCHEMA_OP:
            schema = rec.parse_schema(content)
            self._schemas[schema.id] = schema
        else:
            channel = rec.parse_channel(content)
            self._channel_records[channel.id] = channel

    def _channel(self, record: rec.ChannelRecord) -> Channel:
        schema = self._schemas.get(record.schema)
        return Channel(
            id=record.id, topic=record.topic, type=full_type(schema.name) if schema else '',
            definition=schema.text if schema else '',
            definition_format='idl' if schema and 'idl' in schema.encoding else 'msg',
            serialization=record.encoding, metadata=record.metadata)

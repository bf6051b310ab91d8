"""
ROS 1 bags (format 2.0), indexed or not, whole or cut off.

http://wiki.ros.org/Bags/Format/2.0 describes the format. A recorder that was killed leaves a bag
without an index (``.bag.active``); its chunks are walked instead, with a warning.
"""

from __future__ import annotations

import bz2
from collections import defaultdict
from collections.abc import Iterator
import os
from pathlib import Path
import struct
import threading

import lz4.frame
import numpy as np

from kd_perception.bags.storage import (
    Channel,
    ENTRY,
    full_type,
    MAX_UNPACKED,
    reason,
    sorted_entries,
)
from kd_perception.errors import BagError

_MAGIC = b'#ROSBAG V2.0\n'
_LENGTH = struct.Struct('<I')
_MESSAGE_OP, _BAG_OP, _INDEX_OP, _CHUNK_OP, _CHUNK_INFO_OP, _CONNECTION_OP = 2, 3, 4, 5, 6, 7
_MAX_HEADER = 1 << 20
_INDEX_ROW = np.dtype([('sec', '<u4'), ('nsec', '<u4'), ('offset', '<u4')])
_PROBLEMS = (struct.error, KeyError, ValueError, OSError, EOFError, RuntimeError, MemoryError,
             OverflowError)

Fields = dict[bytes, bytes]


class Ros1Storage:
    """
    One ``.bag`` file; see ``Storage``.

    :param name: what messages call the file, where ``path`` is an unpacked copy of it.
    """

    kind = 'ros1'

    def __init__(self, path: Path, name: Path | None = None) -> None:
        self.path = name or path
        self.warnings: tuple[str, ...] = ()
        self.compression = ''
        self._lock = threading.Lock()
        self._cache: tuple[int, bytes] = (-1, b'')
        self._connections: dict[int, tuple[Fields, Fields]] = {}
        self._chunks: dict[int, tuple[int, int, int, str]] = {}
        self._entries: dict[int, list[np.ndarray]] = defaultdict(list)
        self._fd = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._fd).st_size
        try:
            if self._size == 0:
                raise BagError(f'{self.path}: is empty (0 bytes)')
            magic = os.pread(self._fd, len(_MAGIC), 0)
            if magic != _MAGIC:
                raise BagError(f'{self.path}: is no ROS 1 bag of format 2.0 (it begins with '
                               f'{magic!r})')
            if not self._load_index():
                self._scan()
            self.channels = tuple(self._channel(*item) for item in self._connections.items())
        except _PROBLEMS as error:
            self.close()
            raise BagError(f'{self.path}: is damaged: {reason(error)}') from None
        except BaseException:
            self.close()
            raise

    def index(self, channel: Channel) -> np.ndarray:
        """Return the entries of a channel in order of log time."""
        parts = self._entries.get(channel.id)
        return sorted_entries(np.concatenate(parts)) if parts else np.zeros(0, ENTRY)

    def read(self, entry: np.void, limit: int = 0) -> bytes:
        """Return the serialised message at an index entry."""
        base, offset = int(entry['base']), int(entry['offset'])
        try:
            content = self._chunk(base)
            for fields, start, end in _records(content, offset):
                # A connection record may stand before its first message.
                if _op(fields) == _MESSAGE_OP:
                    return content[start:end]
            raise ValueError('the index points at no message')
        except _PROBLEMS as error:
            raise BagError(f'{self.path}: is damaged at byte {base}: {reason(error)}') from None

    def envelope(self, entry: np.void) -> tuple[int, int]:
        """Return the log time, for ROS 1 keeps no other, and no sequence number."""
        return int(entry['log_ns']), 0

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _load_index(self) -> bool:
        """Read the index at the end of the file; return False where there is none to rely on."""
        try:
            fields, _, start, size = self._record(len(_MAGIC))
            (place,) = struct.unpack('<Q', fields[b'index_pos'])
            if _op(fields) != _BAG_OP or not start + size <= place < self._size:
                return False
            infos = []
            while place < self._size:
                fields, place, start, size = self._record(place)
                if _op(fields) == _CONNECTION_OP:
                    self._connection(fields, os.pread(self._fd, size, start))
                elif _op(fields) == _CHUNK_INFO_OP:
                    infos.append((*struct.unpack('<Q', fields[b'chunk_pos']), size // 8))
            for place, count in infos:
                self._load_chunk(place, count)
            return bool(self._connections) or not infos
        except _PROBLEMS:
            self._connections.clear()
            self._chunks.clear()
            self._entries.clear()
            return False

    def _load_chunk(self, base: int, indexes: int) -> None:
        """Take over a chunk and the index records behind it."""
        fields, place, start, size = self._record(base)
        self._add_chunk(base, fields, start, size)
        for _ in range(indexes):
            fields, place, start, size = self._record(place)
            if _op(fields) != _INDEX_OP:
                raise ValueError(f'no index behind the chunk at byte {base}')
            (number,) = _LENGTH.unpack(fields[b'conn'])
            table = np.frombuffer(os.pread(self._fd, size, start), _INDEX_ROW)
            entries = np.empty(len(table), ENTRY)
            entries['log_ns'] = table['sec'].astype(np.int64) * 1_000_000_000 + table['nsec']
            entries['base'] = base
            entries['offset'] = table['offset']
            self._entries[number].append(entries)

    def _scan(self) -> None:
        """Walk all records from the start: for bags without an index, or cut off."""
        rows: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        place, problem = len(_MAGIC), 'it has no index'
        while place < self._size:
            try:
                fields, following, start, size = self._record(place)
                if _op(fields) == _CHUNK_OP:
                    self._add_chunk(place, fields, start, size)
                    self._scan_chunk(place, rows)
                elif _op(fields) == _CONNECTION_OP:
                    self._connection(fields, os.pread(self._fd, size, start))
            except _PROBLEMS:
                problem = f'it is cut off or damaged at byte {place}'
                break
            place = following
        found = sum(len(r) for r in rows.values())
        if not found:
            raise BagError(f'{self.path}: holds no readable message: {problem}; copy or record it '
                           'again')
        self.warnings = (f'{self.path}: {problem}; {found} messages found in it are used',)
        self._entries = defaultdict(list, {
            c: [np.array(r, ENTRY)] for c, r in rows.items() if c in self._connections})

    def _scan_chunk(self, base: int, rows: dict[int, list[tuple[int, int, int]]]) -> None:
        content, at = self._chunk(base), 0
        for fields, start, end in _records(content, 0):
            if _op(fields) == _CONNECTION_OP:
                self._connection(fields, content[start:end])
            elif _op(fields) == _MESSAGE_OP:
                (number,) = _LENGTH.unpack(fields[b'conn'])
                seconds, nanoseconds = struct.unpack('<II', fields[b'time'])
                rows[number].append((seconds * 1_000_000_000 + nanoseconds, base, at))
            at = end

    def _record(self, place: int) -> tuple[Fields, int, int, int]:
        """Return (header, place of the next record, start and size of the data)."""
        (length,) = _LENGTH.unpack(os.pread(self._fd, 4, place))
        if length > min(_MAX_HEADER, self._size - place):
            raise ValueError(f'a header claims {length} bytes')
        head = os.pread(self._fd, length + 4, place + 4)
        (size,) = _LENGTH.unpack_from(head, length)
        start = place + 8 + length
        if start + size > self._size:
            raise ValueError(f'a record claims {size} bytes')
        return _fields(head[:length]), start + size, start, size

    def _add_chunk(self, base: int, fields: Fields, start: int, size: int) -> None:
        if _op(fields) != _CHUNK_OP:
            raise ValueError(f'no chunk at byte {base}')
        compression = fields[b'compression'].decode()
        (unpacked,) = _LENGTH.unpack(fields[b'size'])
        self._chunks[base] = (start, size, unpacked, compression)
        self.compression = '' if compression == 'none' else compression

    def _chunk(self, base: int) -> bytes:
        """Return a chunk's records; the last one is kept, for messages are read in order."""
        with self._lock:
            if self._cache[0] != base:
                start, size, unpacked, compression = self._chunks[base]
                packed = os.pread(self._fd, size, start)
                if unpacked > MAX_UNPACKED:
                    raise ValueError(f'a chunk claims {unpacked} bytes')
                if compression == 'none':
                    content = packed
                elif compression == 'bz2':
                    content = bz2.BZ2Decompressor().decompress(packed, unpacked)
                elif compression == 'lz4':
                    content = lz4.frame.LZ4FrameDecompressor().decompress(packed, unpacked)
                else:
                    raise ValueError(f'unknown compression {compression!r}')
                self._cache = (base, content)
            return self._cache[1]

    def _connection(self, fields: Fields, data: bytes) -> None:
        (number,) = _LENGTH.unpack(fields[b'conn'])
        about = _fields(data)
        if b'type' not in about:
            raise ValueError(f'connection {number} has no type')
        self._connections.setdefault(number, (fields, about))

    def _channel(self, number: int, fields: tuple[Fields, Fields]) -> Channel:
        record, about = fields
        text = {k.decode(errors='replace'): v.decode(errors='replace') for k, v in about.items()}
        return Channel(
            id=number, topic=record.get(b'topic', b'').decode(errors='replace'),
            type=full_type(text.pop('type')), definition=text.pop('message_definition', ''),
            definition_format='msg', serialization='ros1', metadata=tuple(text.items()))


def _records(data: bytes, at: int) -> Iterator[tuple[Fields, int, int]]:
    """Yield (header, start, end of the data) of the records of a chunk."""
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        fields = _fields(data[at + 4:at + 4 + length])
        (size,) = _LENGTH.unpack_from(data, at + 4 + length)
        start = at + 8 + length
        if start + size > len(data):
            raise ValueError(f'a record claims {size} bytes')
        yield fields, start, start + size
        at = start + size


def _fields(data: bytes) -> Fields:
    """Return the fields of a header."""
    out, at = {}, 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        name, equals, value = data[at + 4:at + 4 + length].partition(b'=')
        if not equals or at + 4 + length > len(data):
            raise ValueError('a header is damaged')
        out[name] = value
        at += 4 + length
    return out


def _op(fields: Fields) -> int:
    return fields[b'op'][0] if fields.get(b'op') else -1

"""ROS 1 bags, opened by ``rosbags``; messages are then read by its index, one at a time."""

from __future__ import annotations

from pathlib import Path
import struct
import threading

import numpy as np
from rosbags.rosbag1 import Reader, ReaderError

from kd_perception.bags.storage import Channel, full_type, reason, sorted_entries
from kd_perception.errors import BagError

_LENGTH = struct.Struct('<I')
_CONNECTION_OP = 7


class Ros1Storage:
    """One ``.bag`` file; see ``Storage``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._cache: tuple[int, bytes] = (-1, b'')
        if path.stat().st_size == 0:
            raise BagError(f'{path}: is empty (0 bytes)')
        self._reader = Reader(path)
        try:
            self._reader.open()
        except ReaderError as error:
            raise BagError(f'{path}: {reason(error)}') from None
        except (AssertionError, struct.error, UnicodeDecodeError, ValueError,
                KeyError, IndexError) as error:
            raise BagError(f'{path}: is damaged: {reason(error)}') from None
        self.channels = tuple(
            Channel(id=c.id, topic=c.topic, type=full_type(c.msgtype), definition=c.msgdef.data,
                    definition_format='msg', serialization='ros1')
            for c in self._reader.connections)

    def index(self, channel: Channel) -> np.ndarray:
        """Return the entries of a channel in order of log time."""
        return sorted_entries([(e.time, e.chunk_pos, e.offset)
                               for e in self._reader.indexes.get(channel.id, ())])

    def read(self, entry: np.void, limit: int = 0) -> bytes:
        """Return the serialised message at an index entry."""
        try:
            chunk = self._chunk(int(entry['base']))
            at = int(entry['offset'])
            while True:
                (size,) = _LENGTH.unpack_from(chunk, at)
                header = chunk[at + 4:at + 4 + size]
                at += 4 + size
                (length,) = _LENGTH.unpack_from(chunk, at)
                # A connection record may stand before its first message.
                if b'op=' + bytes([_CONNECTION_OP]) not in header:
                    break
                at += 4 + length
        except (struct.error, KeyError, OSError, EOFError, RuntimeError, ValueError) as error:
            raise BagError(f'{self.path}: is damaged at byte {int(entry["base"])}: '
                           f'{reason(error)}') from None
        return chunk[at + 4:at + 4 + length]

    def close(self) -> None:
        """Release the file."""
        if self._reader.bio is not None:
            self._reader.close()

    def _chunk(self, place: int) -> bytes:
        with self._lock:
            if self._cache[0] != place:
                chunk = self._reader.chunks[place]
                with self.path.open('rb') as stream:
                    stream.seek(chunk.datapos)
                    packed = stream.read(chunk.datasize)
                self._cache = (place, chunk.decompressor(packed))
            return self._cache[1]

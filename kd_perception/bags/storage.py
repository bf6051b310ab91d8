"""
What the files of a recording have in common: channels, an index of every message, random reads.

A storage knows where each message lies without holding any of them, so that a recording of any
length opens fast and a single frame costs a single read. Layers above see times and positions
only; whether the file is an MCAP, a SQLite database or a ROS 1 bag ends here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np
import zstandard

# One row per message: log time, and two numbers that only the storage understands.
ENTRY = np.dtype([('log_ns', np.int64), ('base', np.int64), ('offset', np.int64)])

# Names of a channel's metadata, as rosbag2 writes them.
QOS = 'offered_qos_profiles'
TYPE_HASH = 'topic_type_hash'

# What one chunk or message may unpack to. More is a damaged length, or made to fill the memory.
MAX_UNPACKED = 1 << 30

_ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
_STEP = 1 << 12
_SAMPLES = 16
_SAMPLE_BYTES = 1 << 16


@dataclass(frozen=True)
class Channel:
    """
    One stream of messages of one type in one file.

    :param id: number by which the storage knows it.
    :param topic: topic name.
    :param type: message type with ``/msg/``.
    :param definition: text of the message definition; empty where the file has none.
    :param definition_format: ``msg`` or ``idl``.
    :param serialization: ``cdr`` or ``ros1``; anything else cannot be read.
    :param metadata: what else the file says of it, name by name: in ROS 2 ``QOS`` and
        ``TYPE_HASH``, in ROS 1 the fields of the connection.
    """

    id: int
    topic: str
    type: str
    definition: str
    definition_format: str
    serialization: str
    metadata: tuple[tuple[str, str], ...] = ()


class Storage(Protocol):
    """
    One file of a recording. Reads are safe from several threads and after a fork.

    ``kind`` is ``mcap``, ``sqlite3`` or ``ros1``; ``compression`` names that of its chunks:
    ``zstd``, ``lz4``, ``bz2`` or nothing.
    """

    kind: str
    path: Path
    channels: tuple[Channel, ...]
    warnings: tuple[str, ...]
    compression: str

    def index(self, channel: Channel) -> np.ndarray:
        """Return ``ENTRY[n]``, in order of log time, for the messages of a channel."""
        ...

    def read(self, entry: np.void, limit: int = 0) -> bytes:
        """
        Return the serialised message at an index entry.

        :param limit: when above zero, at least so many leading bytes suffice.
        :raises BagError: when the file is damaged there.
        """
        ...

    def envelope(self, entry: np.void) -> tuple[int, int]:
        """Return (publish time in ns, sequence number) of a message; 0 where not recorded."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


def reason(error: Exception) -> str:
    """Return what a library says of a problem, in a few words: some quote the whole input."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]


def full_type(name: str) -> str:
    """Return a message type with the ``/msg/`` that ROS 1 and some writers leave out."""
    package, _, rest = name.partition('/')
    return f'{package}/msg/{rest}' if rest and '/' not in rest else name


def plain_body(data: bytes, limit: int = 0) -> bytes:
    """
    Undo rosbag2's per-message compression where a message has it.

    It is seen by the message itself: a serialised message begins with a zero byte, a Zstandard
    frame does not. So a split that lost its metadata file reads as well.

    :raises zstandard.ZstdError: when the frame is damaged.
    """
    if data[:4] != _ZSTD_MAGIC:
        return data
    if limit:
        with zstandard.ZstdDecompressor().stream_reader(data) as stream:
            return stream.read(limit)
    return unpack_zstd(data)


def unpack_zstd(data: bytes, most: int = MAX_UNPACKED) -> bytes:
    """
    Return what a Zstandard frame holds.

    :param most: bytes that it may unpack to.
    :raises zstandard.ZstdError: when the frame is damaged, cut off or too large.
    """
    size = zstandard.frame_content_size(data)
    if size > most:
        raise zstandard.ZstdError(f'claims to unpack to {size} bytes')
    if size >= 0:
        return zstandard.ZstdDecompressor().decompress(data)
    # The size is not given: in small steps, for one kilobyte may unpack to twenty megabytes.
    frame, parts, unpacked = zstandard.ZstdDecompressor().decompressobj(), [], 0
    for start in range(0, len(data), _STEP):
        parts.append(frame.decompress(data[start:start + _STEP]))
        unpacked += len(parts[-1])
        if unpacked > most:
            raise zstandard.ZstdError(f'unpacks to more than {most} bytes')
        if frame.eof:
            return b''.join(parts)
    raise zstandard.ZstdError('compressed data are cut off')


def sorted_entries(rows: Sequence[tuple[int, int, int]] | np.ndarray) -> np.ndarray:
    """Return ``ENTRY[n]`` in order of log time, equal times in the order given."""
    entries = np.array(rows, ENTRY)
    return entries[np.argsort(entries['log_ns'], kind='stable')]


def content_fingerprint(paths: Sequence[Path]) -> str:
    """
    Return a hash of what the files hold, cheap for any length: sizes and sixteen samples of each.

    Names and dates do not count, so that a copied or renamed recording keeps its fingerprint.
    """
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, 'little'))
        with path.open('rb') as stream:
            if size <= _SAMPLES * _SAMPLE_BYTES:
                digest.update(stream.read())
                continue
            for start in np.linspace(0, size - _SAMPLE_BYTES, _SAMPLES).astype(np.int64):
                stream.seek(int(start))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]

"""
Reader of rosbags: rosbag2 (SQLite, MCAP) folders and single files, and ROS 1 bags.

Opening reads indexes only. Messages come in log order or one by one at random, and nothing is
held in memory but the index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
import logging
from pathlib import Path
import tempfile
from types import TracebackType
from typing import Any

import numpy as np
import yaml
import zstandard

from kd_perception.bags import messages as msgs
from kd_perception.bags.mcap_storage import McapStorage
from kd_perception.bags.ros1_storage import Ros1Storage
from kd_perception.bags.sqlite_storage import SqliteStorage
from kd_perception.bags.storage import Channel, content_fingerprint, ENTRY, Storage
from kd_perception.errors import BagError, ImageError
from kd_perception.imaging import decode_compressed

_log = logging.getLogger(__name__)

METADATA = 'metadata.yaml'
_OPENERS: dict[str, Callable[[Path], Storage]] = {
    '.mcap': McapStorage, '.db3': SqliteStorage, '.bag': Ros1Storage}
_COMPRESSED_SUFFIXES = ('.zstd', '.zst')
_HEADER_BYTES = 512

# Single-channel pictures with these words in their last name hold ids or scores, no picture.
_NO_PICTURE_WORDS = ('label', 'mask', 'confidence', 'instance', 'semantic', 'depth')
_SINGLE_CHANNEL = ('mono8', '8UC1')
_NO_PICTURE_ENCODINGS = ('mono16', '16UC1', '16SC1', '32FC1', '32SC1', '64FC1')


@dataclass(frozen=True)
class TopicInfo:
    """
    What a recording holds on one topic.

    :param name: topic name as recorded.
    :param type: message type with ``/msg/``.
    :param count: messages.
    :param rate_hz: messages per second between the first and the last, None below two.
    :param encoding: of images, from the first message; empty otherwise.
    :param width: of images, in pixels; 0 where not an image or not readable.
    :param height: like ``width``.
    """

    name: str
    type: str
    count: int
    rate_hz: float | None
    encoding: str
    width: int
    height: int


class TopicIndex:
    """
    All messages of one topic in log order.

    :param entries: ``ENTRY[n]``.
    :param owner: int ``[n]``, which of ``channels`` a message belongs to.
    :param channels: the (storage, channel) pairs that carry the topic.
    """

    def __init__(self, channels: Sequence[tuple[Storage, Channel]]) -> None:
        parts = [storage.index(channel) for storage, channel in channels]
        entries = np.concatenate(parts) if parts else np.zeros(0, ENTRY)
        owner = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
        order = np.argsort(entries['log_ns'], kind='stable')
        self.entries, self.owner = entries[order], owner[order]
        self.channels = tuple(channels)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def log_ns(self) -> np.ndarray:
        """Return int64 ``[n]``, ascending."""
        return self.entries['log_ns']

    def channel(self, position: int) -> Channel:
        """Return the channel of a message."""
        return self.channels[self.owner[position]][1]

    def read(self, position: int, limit: int = 0) -> bytes:
        """Return a serialised message; with ``limit``, at least so many of its first bytes."""
        return self.channels[self.owner[position]][0].read(self.entries[position], limit)

    def header(self, position: int) -> tuple[int, str]:
        """Return (stamp in ns, frame id) of a message that begins with a header."""
        data = self.read(position, _HEADER_BYTES)
        return msgs.header_of(data, self.channel(position).serialization)

    def message(self, position: int) -> Any:
        """
        Return a deserialised message.

        :raises BagError: when it is damaged or its type is unknown.
        """
        return msgs.deserializer(self.channel(position))(self.read(position))


class BagReader:
    """
    A recording; a context manager.

    :param path: a rosbag2 folder, an ``.mcap``, ``.db3`` or ROS 1 ``.bag`` file.
    :raises BagError: in one line, when it cannot be read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser()
        self._temporary: tempfile.TemporaryDirectory | None = None
        self._storages: list[Storage] = []
        self._indexes: dict[str, TopicIndex] = {}
        warnings: list[str] = []
        try:
            self._files = _files_of(self.path, warnings)
            for file in self._files:
                self._storages.append(self._open(file))
                warnings += self._storages[-1].warnings
            self._channels = self._collect(warnings)
        except FileNotFoundError as error:
            self.close()
            raise BagError(f'{error.filename}: no such file or folder') from None
        except BaseException:
            self.close()
            raise
        self.warnings: tuple[str, ...] = tuple(warnings)
        for line in warnings:
            _log.warning('%s', line)

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the files."""
        for storage in self._storages:
            storage.close()
        self._storages = []
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of the content; cheap, and the same for a renamed copy."""
        return content_fingerprint(self._files)

    @cached_property
    def topics(self) -> tuple[TopicInfo, ...]:
        """Return what is on each topic, by name."""
        return tuple(self._info(name) for name in sorted(self._channels))

    @property
    def image_topics(self) -> tuple[TopicInfo, ...]:
        """Return the topics of image messages that hold at least one."""
        return tuple(t for t in self.topics if t.type in msgs.IMAGE_TYPES and t.count)

    @property
    def camera_topics(self) -> tuple[TopicInfo, ...]:
        """Return the image topics that hold pictures: not labels, masks, depth."""
        return tuple(t for t in self.image_topics if not _no_picture(t))

    @property
    def label_topics(self) -> tuple[TopicInfo, ...]:
        """Return the topics that may hold label images: 8-bit ids (or PNG), by their names."""
        return tuple(t for t in self.image_topics
                     if (t.encoding in _SINGLE_CHANNEL or t.encoding == 'png')
                     and any(w in _last_name(t) for w in ('label', 'mask', 'semantic')))

    @property
    def start_ns(self) -> int:
        """Return the first log time in nanoseconds; 0 without messages."""
        return min((int(i.log_ns[0]) for i in self._all() if len(i)), default=0)

    @property
    def end_ns(self) -> int:
        """Return the last log time in nanoseconds; 0 without messages."""
        return max((int(i.log_ns[-1]) for i in self._all() if len(i)), default=0)

    @property
    def duration_s(self) -> float:
        """Return the seconds between the first message and the last."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all files."""
        return sum(f.stat().st_size for f in self._files)

    def index(self, topic: str) -> TopicIndex:
        """
        Return the index of a topic, through which single messages are read.

        :raises BagError: when there is no such topic.
        """
        name = self.resolve(topic)
        if name not in self._indexes:
            self._indexes[name] = TopicIndex(self._channels[name])
        return self._indexes[name]

    def resolve(self, topic: str) -> str:
        """
        Return the recorded name of a topic given with or without its leading slash.

        :raises BagError: when there is no such topic; the message lists those there are.
        """
        bare = topic.strip('/')
        for name in (topic, f'/{bare}', bare, f'/{bare}/compressed', f'{bare}/compressed'):
            if name in self._channels:
                return name
        known = ', '.join(sorted(self._channels)) or 'none'
        raise BagError(f'{self.path}: has no topic {topic!r}; it has: {known}')

    def messages(self, topics: Sequence[str] = ()) -> Iterator[tuple[str, int, Any]]:
        """Yield (topic, log time in ns, message) of the topics, or all, in log order."""
        for name, position in self._ordered(topics):
            index = self._indexes[name]
            yield name, int(index.log_ns[position]), index.message(position)

    def raw_messages(self, topics: Sequence[str] = ()) -> Iterator[tuple[str, int, bytes, str]]:
        """Yield (topic, log time in ns, CDR bytes, type) of the topics, or all, in log order."""
        for name, position in self._ordered(topics):
            index = self._indexes[name]
            channel = index.channel(position)
            data = index.read(position)
            if channel.serialization == 'ros1':
                data = msgs.ros1_to_cdr(index.message(position), channel.type)
            yield name, int(index.log_ns[position]), data, channel.type

    def _ordered(self, topics: Sequence[str]) -> Iterator[tuple[str, int]]:
        names = list(dict.fromkeys(self.resolve(t) for t in topics)) or sorted(self._channels)
        stamps = [self.index(n).log_ns for n in names]
        if not stamps:
            return
        which = np.repeat(np.arange(len(names)), [len(s) for s in stamps])
        position = np.concatenate([np.arange(len(s)) for s in stamps])
        for row in np.argsort(np.concatenate(stamps), kind='stable'):
            yield names[which[row]], int(position[row])

    def _all(self) -> list[TopicIndex]:
        return [self.index(name) for name in self._channels]

    def _open(self, file: Path) -> Storage:
        path = file
        if file.suffix in _COMPRESSED_SUFFIXES:
            if self._temporary is None:
                self._temporary = tempfile.TemporaryDirectory(prefix='kd_perception_bag_')
            path = Path(self._temporary.name) / file.stem
            _decompress(file, path)
        opener = _OPENERS.get(path.suffix)
        if opener is None:
            raise BagError(f'{file}: is no rosbag (known: a rosbag2 folder, '
                           f'{", ".join(_OPENERS)})')
        return opener(path)

    def _collect(self, warnings: list[str]) -> dict[str, list[tuple[Storage, Channel]]]:
        """Return the readable channels by topic; name what is left out."""
        channels: dict[str, list[tuple[Storage, Channel]]] = {}
        foreign = set()
        for storage in self._storages:
            for channel in storage.channels:
                if channel.serialization in ('cdr', 'ros1'):
                    channels.setdefault(channel.topic, []).append((storage, channel))
                else:
                    foreign.add(channel.serialization)
        if foreign and not channels:
            raise BagError(f'{self.path}: its messages are serialised as '
                           f'{", ".join(sorted(map(repr, foreign)))}; only cdr can be read')
        if foreign:
            warnings.append(f'{self.path}: topics serialised as {sorted(foreign)} are left out')
        return channels

    def _info(self, name: str) -> TopicInfo:
        index = self.index(name)
        kind, count = self._channels[name][0][1].type, len(index)
        span = int(index.log_ns[-1] - index.log_ns[0]) if count > 1 else 0
        encoding, width, height = '', 0, 0
        if count and kind in msgs.IMAGE_TYPES:
            encoding, width, height = _describe(index, kind)
        return TopicInfo(name, kind, count, (count - 1) * 1e9 / span if span > 0 else None,
                         encoding, width, height)


def _describe(index: TopicIndex, kind: str) -> tuple[str, int, int]:
    """Return (encoding, width, height) of the first image that can be read."""
    try:
        message = index.message(0)
    except BagError:
        return 'damaged', 0, 0
    if kind == msgs.IMAGE:
        return message.encoding, int(message.width), int(message.height)
    named = message.format.lower()
    encoding = next((k for k in ('depth', 'png', 'jpeg', 'jpg') if k in named), message.format)
    encoding = {'jpg': 'jpeg', 'depth': message.format}.get(encoding, encoding)
    try:
        height, width = decode_compressed(message.data).shape[:2]
    except ImageError:
        return encoding or 'damaged', 0, 0
    return encoding, width, height


def _last_name(topic: TopicInfo) -> str:
    parts = [p for p in topic.name.lower().split('/') if p and p != 'compressed']
    return parts[-1] if parts else ''


def _no_picture(topic: TopicInfo) -> bool:
    if topic.encoding in _NO_PICTURE_ENCODINGS or 'depth' in topic.encoding.lower():
        return True
    return ((topic.encoding in _SINGLE_CHANNEL or topic.encoding == 'png')
            and any(word in _last_name(topic) for word in _NO_PICTURE_WORDS))


def _files_of(path: Path, warnings: list[str]) -> list[Path]:
    """Return the storage files of a recording, in order."""
    if not path.exists():
        raise BagError(f'{path}: no such file or folder')
    if not path.is_dir():
        return [path]
    metadata = path / METADATA
    if not metadata.is_file():
        files = sorted(f for s in _OPENERS for e in ('', *_COMPRESSED_SUFFIXES)
                       for f in path.glob(f'*{s}{e}') if s != '.bag')
        if not files:
            raise BagError(f'{path}: is no rosbag2 folder: it has no {METADATA} and no '
                           '.mcap or .db3 file')
        warnings.append(f'{path}: has no {METADATA}; {len(files)} files found are used')
        return files
    try:
        information = yaml.safe_load(metadata.read_text())['rosbag2_bagfile_information']
        names = [Path(str(n)).name for n in information['relative_file_paths']]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        line = (str(error).splitlines() or [''])[0]
        raise BagError(f'{metadata}: is no rosbag2 metadata: {line}') from None
    present = [n for n in names if (path / n).is_file()]
    missing = [n for n in names if n not in present]
    if not present:
        raise BagError(f'{path}: all files that {METADATA} names are missing: '
                       f'{", ".join(missing) or "it names none"}')
    if missing:
        warnings.append(f'{path}: {len(missing)} of {len(names)} files are missing and left out: '
                        f'{", ".join(missing)}')
    return [path / n for n in present]


def _decompress(source: Path, target: Path) -> None:
    try:
        with source.open('rb') as packed, target.open('wb') as plain:
            zstandard.ZstdDecompressor().copy_stream(packed, plain)
    except zstandard.ZstdError as error:
        raise BagError(f'{source}: is damaged: {error}') from None

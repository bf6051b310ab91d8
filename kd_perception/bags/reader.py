"""
Reader of rosbags: rosbag2 (SQLite, MCAP) folders and single files, and ROS 1 bags.

Opening reads indexes only. Messages come in log order or one by one at random, and nothing is
held in memory but the index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
import logging
from pathlib import Path
import tempfile
from types import TracebackType
from typing import Any

import numpy as np

from kd_perception.bags.layout import bag_files, COMPRESSED_SUFFIXES, decompress, open_storage
from kd_perception.bags.metadata import METADATA, Metadata, read_metadata
from kd_perception.bags.storage import Channel, content_fingerprint, Storage
from kd_perception.bags.topics import describe, is_camera, is_label, TopicIndex, TopicInfo
from kd_perception.bags.unfinished import is_unfinished
from kd_perception.errors import BagError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timeline:
    """
    Messages of several topics in log order.

    :param names: of the topics.
    :param which: int ``[n]``, the topic of each message, as a place in ``names``.
    :param position: int ``[n]``, its position on the topic.
    :param log_ns: int64 ``[n]``, ascending.
    """

    names: tuple[str, ...]
    which: np.ndarray
    position: np.ndarray
    log_ns: np.ndarray


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
            self._files = bag_files(self.path, warnings)
            self._open_all(warnings)
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

    @property
    def storage(self) -> str:
        """Return what its files are: ``mcap``, ``sqlite3`` or ``ros1``."""
        return self._storages[0].kind

    @property
    def compression(self) -> str:
        """Return the compression of its chunks; empty for none."""
        return next((s.compression for s in self._storages if s.compression), '')

    @cached_property
    def metadata(self) -> Metadata:
        """Return what its ``metadata.yaml`` says; nothing where it has none."""
        return read_metadata(self.path) if (self.path / METADATA).is_file() else Metadata()

    @property
    def files(self) -> tuple[Path, ...]:
        """Return its storage files in order."""
        return tuple(self._files)

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of the content; cheap, and the same for a renamed copy."""
        return content_fingerprint(self._files)

    @cached_property
    def topics(self) -> tuple[TopicInfo, ...]:
        """Return what is on each topic, by name."""
        return tuple(describe(name, self.index(name)) for name in sorted(self._channels))

    @property
    def camera_topics(self) -> tuple[TopicInfo, ...]:
        """Return the image topics that hold pictures: not labels, masks, depth."""
        return tuple(t for t in self.topics if is_camera(t))

    @property
    def label_topics(self) -> tuple[TopicInfo, ...]:
        """Return the topics that may hold label images: 8-bit ids, by encoding and name."""
        return tuple(t for t in self.topics if is_label(t))

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

    def timeline(self, topics: Sequence[str] = ()) -> Timeline:
        """Return where the messages of the topics, or of all, lie, in log order."""
        names = list(dict.fromkeys(self.resolve(t) for t in topics)) or sorted(self._channels)
        stamps = [self.index(n).log_ns for n in names]
        nothing = [np.zeros(0, np.int64)]
        times = np.concatenate(stamps or nothing)
        which = np.repeat(np.arange(len(names)), [len(s) for s in stamps])
        position = np.concatenate([np.arange(len(s)) for s in stamps] or nothing)
        order = np.argsort(times, kind='stable')
        return Timeline(tuple(names), which[order], position[order], times[order])

    def _ordered(self, topics: Sequence[str]) -> Iterator[tuple[str, int]]:
        line = self.timeline(topics)
        for which, position in zip(line.which, line.position):
            yield line.names[which], int(position)

    def _all(self) -> list[TopicIndex]:
        return [self.index(name) for name in self._channels]

    def _open_all(self, warnings: list[str]) -> None:
        for file in self._files:
            try:
                self._storages.append(self._open(file))
            except BagError as error:
                # Of the last of several files a killed writer may have let go of nothing.
                last = self._storages and file == self._files[-1] and is_unfinished(self.path)
                if not last:
                    raise
                warnings.append(str(error))
                self._files = self._files[:-1]
                return
            warnings += self._storages[-1].warnings

    def _open(self, file: Path) -> Storage:
        path = file
        if file.suffix in COMPRESSED_SUFFIXES:
            if self._temporary is None:
                self._temporary = tempfile.TemporaryDirectory(prefix='kd_perception_bag_')
            path = Path(self._temporary.name) / file.stem
            decompress(file, path)
        return open_storage(path, file)

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

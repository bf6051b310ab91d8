"""One topic of a recording: what is on it, and where each of its messages lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
from dataclasses import dataclass
import logging
from typing import Any

import numpy as np

from kd_perception.bags import messages as msgs
from kd_perception.bags.pictures import describe_video
from kd_perception.bags.storage import Channel, ENTRY, Storage
from kd_perception.errors import BagError, ImageError
from kd_perception.imaging import compressed_size, parse_format, picture_header
from kd_perception.imaging.encodings import is_depth

_log = logging.getLogger(__name__)

_HEADER_BYTES = 512

# Single-channel pictures with these words in their last name hold ids or scores, no picture.
_NO_PICTURE_WORDS = ('label', 'mask', 'confidence', 'instance', 'semantic', 'depth')
_LABEL_WORDS = ('label', 'mask', 'semantic')
# What perception nodes answer: a model must not be taken for its own ground truth unasked.
_ANSWER = 'segmentation/mask'
# As the CARLA ROS bridge calls its label camera; both of CARLA's interfaces publish colours.
_CARLA_LABELS = 'semantic_segmentation'
_SINGLE_CHANNEL = ('mono8', '8UC1', 'png')
_NO_PICTURE_ENCODINGS = ('16UC1', '16SC1', '32FC1', '32SC1', '64FC1')


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
        self._decoders: dict[int, Callable[[bytes], Any]] = {}

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

    def raw(self, position: int) -> tuple[bytes, int, int]:
        """Return (serialised message, publish time in ns, sequence number)."""
        storage = self.channels[self.owner[position]][0]
        publish_ns, sequence = storage.envelope(self.entries[position])
        return self.read(position), publish_ns, sequence

    def header(self, position: int) -> tuple[int, str]:
        """Return (stamp in ns, frame id) of a message that begins with a header."""
        data = self.read(position, _HEADER_BYTES)
        return msgs.header_of(data, self.channel(position).serialization)

    def header_stamps(self, positions: np.ndarray) -> np.ndarray:
        """Return int64 ``[n]``: stamps of messages with a header; -1 for damaged ones."""
        stamps = np.full(len(positions), -1, np.int64)
        for at, position in enumerate(positions):
            # A damaged message is met again, and counted, when it is read as a whole.
            with contextlib.suppress(BagError):
                stamps[at] = self.header(int(position))[0]
        return stamps

    def message(self, position: int) -> Any:
        """
        Return a deserialised message.

        :raises BagError: when it is damaged or its type is unknown.
        """
        owner = int(self.owner[position])
        if owner not in self._decoders:
            self._decoders[owner] = msgs.deserializer(self.channels[owner][1])
        return self._decoders[owner](self.read(position))


def describe(name: str, index: TopicIndex) -> TopicInfo:
    """Return what is on a topic; of images, the first is looked at."""
    kind, count = index.channels[0][1].type, len(index)
    span = int(index.log_ns[-1] - index.log_ns[0]) if count > 1 else 0
    encoding, width, height = '', 0, 0
    if count and kind in msgs.CAMERA_TYPES:
        encoding, width, height = _describe_image(index, kind)
    return TopicInfo(name, kind, count, (count - 1) * 1e9 / span if span > 0 else None,
                     encoding, width, height)


def header_times(index: TopicIndex, where: str) -> np.ndarray:
    """
    Return int64 ``[n]``: the header stamp of each message; the log time where it is zero.

    Drivers without a clock leave stamps at zero, or repeat them; both are told.

    :param where: recording and topic, for what is told.
    """
    times = index.log_ns.copy()
    stamps = index.header_stamps(np.arange(len(index)))
    known = stamps > 0
    times[known] = stamps[known]
    if not known.all():
        _log.warning('%s: %d of %d header stamps are zero or damaged; these frames are ordered by '
                     'log time', where, int((~known).sum()), len(index))
    repeated = int(known.sum()) - len(np.unique(stamps[known]))
    if repeated:
        _log.warning('%s: %d header stamps repeat; these frames keep their order by log time',
                     where, repeated)
    return times


def is_camera(topic: TopicInfo) -> bool:
    """Return whether a topic holds pictures: not labels, masks, scores or depth."""
    if topic.type not in msgs.CAMERA_TYPES or not topic.count:
        return False
    if topic.encoding.partition(';')[0] in _NO_PICTURE_ENCODINGS:
        return False
    # Depth and instance ids come as mono16 too, in topics like depth/image_raw.
    if topic.encoding == 'mono16' and any(w in topic.name.lower() for w in _NO_PICTURE_WORDS):
        return False
    if is_carla_label(topic):
        return False
    return topic.encoding not in _SINGLE_CHANNEL or not _named(topic, _NO_PICTURE_WORDS)


def is_label(topic: TopicInfo) -> bool:
    """Return whether a topic may hold label images: 8-bit ids by encoding and name, or CARLA's."""
    if topic.name.removesuffix('/compressed').endswith(_ANSWER):
        return False
    if topic.type not in msgs.IMAGE_TYPES or not topic.count:
        return False
    return is_carla_label(topic) or (topic.encoding in _SINGLE_CHANNEL
                                     and _named(topic, _LABEL_WORDS))


def is_carla_label(topic: TopicInfo) -> bool:
    """Return whether a topic holds CARLA's labels as colours, by encoding and name."""
    return topic.encoding == 'bgra8' and _CARLA_LABELS in topic.name.lower()


def _describe_image(index: TopicIndex, kind: str) -> tuple[str, int, int]:
    """Return (encoding, width, height) of the first image that can be read."""
    try:
        if kind in msgs.VIDEO_TYPES:
            return describe_video(index)
        message = index.message(0)
    except BagError:
        return 'damaged', 0, 0
    if kind == msgs.IMAGE:
        return message.encoding, int(message.width), int(message.height)
    said = parse_format(message.format)
    depth = said.depth or is_depth(said.original)
    encoding = message.format if depth else said.codec or message.format
    try:
        height, width = compressed_size(message)
    except ImageError:
        return encoding or 'damaged', 0, 0
    return encoding or picture_header(message.data).kind, width, height


def _named(topic: TopicInfo, words: Sequence[str]) -> bool:
    parts = [p for p in topic.name.lower().split('/') if p and p != 'compressed']
    return bool(parts) and any(word in parts[-1] for word in words)

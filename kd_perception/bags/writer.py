"""
Writer of rosbag2 recordings (MCAP) that ROS 2 tools play.

A recording appears under its name when it is complete, or not at all.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
import re
from types import TracebackType
from typing import Any, Literal

import numpy as np

from kd_perception.bags import messages as msgs
from kd_perception.bags.metadata import qos_text
from kd_perception.bags.output import RawBagWriter
from kd_perception.bags.storage import Channel, QOS, TYPE_HASH
from kd_perception.classes import ClassSet
from kd_perception.errors import BagError
from kd_perception.imaging import encode_jpeg, encode_png

Encoding = Literal['rgb8', 'bgr8', 'mono8', 'mono16', 'jpeg', 'png']

_TOPIC = re.compile(r'(/[A-Za-z_][A-Za-z0-9_]*)+')


class BagWriter:
    """
    A new recording; a context manager, complete when the block ends without an error.

    :param path: the folder to make.
    :param overwrite: replace the recording that is there, when the new one is complete.
    :raises BagError: when ``path`` exists and ``overwrite`` is false, or is no recording.
    """

    def __init__(self, path: Path | str, *, overwrite: bool = False) -> None:
        self.path = Path(path).expanduser()
        self._writer = RawBagWriter(self.path, overwrite=overwrite)
        self._channels: dict[str, tuple[int, str]] = {}
        self._last_log_ns = 0

    def __enter__(self) -> BagWriter:
        self._writer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, trace)

    def write_image(self, topic: str, image_rgb: np.ndarray, stamp_ns: int,
                    frame_id: str = 'camera', encoding: Encoding = 'rgb8',
                    log_ns: int | None = None) -> None:
        """
        Write a picture.

        :param image_rgb: uint8 ``[H, W, 3]`` RGB, or uint8/uint16 ``[H, W]`` for mono8, mono16
            and png.
        :param encoding: raw encodings become ``Image``, jpeg and png ``CompressedImage``.
        :param log_ns: time of recording; the stamp by default.
        """
        if encoding in ('jpeg', 'png'):
            data = encode_jpeg(image_rgb) if encoding == 'jpeg' else encode_png(image_rgb)
            self.write_compressed(topic, data, encoding, stamp_ns, frame_id, log_ns)
            return
        channels = 2 if encoding.startswith('mono') else 3
        if image_rgb.ndim != channels or encoding not in ('rgb8', 'bgr8', 'mono8', 'mono16'):
            raise BagError(f'cannot write an image of shape {image_rgb.shape} as {encoding!r}')
        pixels = image_rgb[:, :, ::-1] if encoding == 'bgr8' else image_rgb
        self.write_message(topic, msgs.IMAGE,
                           msgs.make_image(pixels, encoding, stamp_ns, frame_id),
                           stamp_ns if log_ns is None else log_ns)

    def write_compressed(self, topic: str, data: bytes, kind: str, stamp_ns: int,
                         frame_id: str = 'camera', log_ns: int | None = None) -> None:
        """Write a picture that is compressed already; ``kind`` is ``jpeg`` or ``png``."""
        self.write_message(topic, msgs.COMPRESSED_IMAGE,
                           msgs.make_compressed(data, kind, stamp_ns, frame_id),
                           stamp_ns if log_ns is None else log_ns)

    def write_labels(self, topic: str, labels: np.ndarray, stamp_ns: int,
                     frame_id: str = 'camera', log_ns: int | None = None) -> None:
        """Write ids, uint8 ``[H, W]``, with the stamp of the picture they belong to."""
        self.write_image(topic, labels, stamp_ns, frame_id, 'mono8', log_ns)

    def write_camera_info(self, topic: str, width: int, height: int, fx: float, fy: float,
                          cx: float, cy: float, stamp_ns: int, frame_id: str = 'camera') -> None:
        """Write the intrinsics of a camera without distortion, in pixels."""
        message = msgs.make_camera_info(width, height, fx, fy, cx, cy, stamp_ns, frame_id)
        self.write_message(topic, msgs.CAMERA_INFO, message, stamp_ns)

    def write_label_info(self, topic: str, classes: ClassSet, stamp_ns: int,
                         frame_id: str = 'camera') -> None:
        """Write what the ids of the label images mean; players offer it to late joiners."""
        message = msgs.make_label_info(classes.names, stamp_ns, frame_id)
        self.write_message(topic, msgs.LABEL_INFO, message, stamp_ns)

    def write_message(self, topic: str, kind: str, message: Any, log_ns: int) -> None:
        """
        Write a message of any type that ``bags.messages`` or ``bags.truth`` knows.

        :raises BagError: for a bad topic name, or a topic recorded as another type.
        """
        name = '/' + topic.strip('/')
        if not _TOPIC.fullmatch(name):
            raise BagError(f'{topic!r}: is no ROS topic name (letters, digits and _ between /, '
                           'no digit first)')
        if name not in self._channels:
            self._channels[name] = (self._writer.add(standard_channel(name, kind)), kind)
        number, known = self._channels[name]
        if known != kind:
            raise BagError(f'{name}: is recorded as {known}, not {kind}')
        # Log times never go back, so that every reader sees the order of writing.
        self._last_log_ns = max(self._last_log_ns, int(log_ns))
        self._writer.write(number, self._last_log_ns, msgs.to_cdr(message, kind))


@lru_cache(maxsize=64)
def standard_channel(topic: str, kind: str) -> Channel:
    """Return the channel of a topic of one of the types that ``bags.messages`` knows."""
    definition, _ = msgs.standard_types().generate_msgdef(kind, ros_version=2)
    profile = qos_text(depth=1 if kind == msgs.LABEL_INFO else 5,
                       latched=kind == msgs.LABEL_INFO)
    return Channel(
        id=0, topic=topic, type=kind, definition=definition, definition_format='msg',
        serialization='cdr',
        metadata=((QOS, profile), (TYPE_HASH, msgs.standard_types().hash_rihs01(kind))))

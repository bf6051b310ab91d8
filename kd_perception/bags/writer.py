"""
Writer of rosbag2 recordings (MCAP) that ROS 2 tools play.

A recording appears under its name when it is complete, or not at all.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
import re
from types import TracebackType
from typing import Any, Literal

import numpy as np
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer

from kd_perception.bags import messages as msgs
from kd_perception.bags.layout import is_only_a_bag
from kd_perception.classes import ClassSet
from kd_perception.errors import BagError
from kd_perception.imaging import encode_jpeg, encode_png
from kd_perception.paths import atomic_directory

Encoding = Literal['rgb8', 'bgr8', 'mono8', 'mono16', 'jpeg', 'png']

# Version 8 of the metadata is the newest that Humble and Iron read as well.
_VERSION: Literal[8] = 8
_TOPIC = re.compile(r'(/[A-Za-z_][A-Za-z0-9_]*)+')
_FOREVER = QosTime(2147483647, 4294967295)


class BagWriter:
    """
    A new recording; a context manager, complete when the block ends without an error.

    :param path: the folder to make.
    :param overwrite: replace the recording that is there, when the new one is complete.
    :raises BagError: when ``path`` exists and ``overwrite`` is false, or is no recording.
    """

    def __init__(self, path: Path | str, *, overwrite: bool = False) -> None:
        self.path = Path(path).expanduser()
        self._overwrite = overwrite
        self._stack = ExitStack()
        self._writer: Writer | None = None
        self._connections: dict[str, Connection] = {}
        self._last_log_ns = 0
        if self.path.exists() and not overwrite:
            raise BagError(f'{self.path}: exists; choose another name or pass --overwrite')
        if self.path.exists() and not is_only_a_bag(self.path):
            raise BagError(f'{self.path}: is no rosbag2 folder, or holds other files too, so it '
                           'is not overwritten; choose another name')

    def __enter__(self) -> BagWriter:
        try:
            self._folder = self._stack.enter_context(
                atomic_directory(self.path, overwrite=self._overwrite))
            # The library makes its folder itself and names the file after it.
            self._writer = Writer(self._folder / self.path.stem, version=_VERSION,
                                  storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except OSError as error:
            self._stack.close()
            if self.path.exists() and not self._overwrite:
                raise BagError(f'{self.path}: exists; choose another name or pass --overwrite') \
                    from None
            raise BagError(f'{self.path}: cannot be written: {error.strerror}') from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        writer, self._writer = self._writer, None
        if kind is not None:
            if writer is not None and writer.storage is not None:
                writer.storage.abort()
            self._stack.__exit__(kind, error, trace)
            return
        try:
            assert writer is not None
            writer.close()
            inner = writer.path
            for file in inner.iterdir():
                file.rename(self._folder / file.name)
            inner.rmdir()
        except BaseException as failure:
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._stack.__exit__(None, None, None)

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
        self._write(topic, msgs.IMAGE, msgs.make_image(pixels, encoding, stamp_ns, frame_id),
                    stamp_ns if log_ns is None else log_ns)

    def write_compressed(self, topic: str, data: bytes, kind: str, stamp_ns: int,
                         frame_id: str = 'camera', log_ns: int | None = None) -> None:
        """Write a picture that is compressed already; ``kind`` is ``jpeg`` or ``png``."""
        self._write(topic, msgs.COMPRESSED_IMAGE,
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
        self._write(topic, msgs.CAMERA_INFO, message, stamp_ns)

    def write_label_info(self, topic: str, classes: ClassSet, stamp_ns: int,
                         frame_id: str = 'camera') -> None:
        """Write what the ids of the label images mean; players offer it to late joiners."""
        message = msgs.make_label_info(classes.names, stamp_ns, frame_id)
        self._write(topic, msgs.LABEL_INFO, message, stamp_ns)

    def _write(self, topic: str, kind: str, message: Any, log_ns: int) -> None:
        if self._writer is None:
            raise BagError(f'{self.path}: is not open for writing')
        name = '/' + topic.strip('/')
        if not _TOPIC.fullmatch(name):
            raise BagError(f'{topic!r}: is no ROS topic name (letters, digits and _ between /, '
                           'no digit first)')
        if name not in self._connections:
            self._connections[name] = self._writer.add_connection(
                name, kind, typestore=msgs.standard_types(),
                offered_qos_profiles=[_qos(latched=kind == msgs.LABEL_INFO)])
        elif self._connections[name].msgtype != kind:
            raise BagError(f'{name}: is recorded as {self._connections[name].msgtype}, not {kind}')
        # Log times never go back, so that every reader sees the order of writing.
        self._last_log_ns = max(self._last_log_ns, int(log_ns))
        self._writer.write(self._connections[name], self._last_log_ns,
                           msgs.to_cdr(message, kind))


def _qos(*, latched: bool) -> Qos:
    return Qos(
        history=QosHistory.KEEP_LAST, depth=1 if latched else 5,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=_FOREVER, lifespan=_FOREVER, liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER, avoid_ros_namespace_conventions=False)

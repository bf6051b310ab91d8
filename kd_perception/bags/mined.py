"""
The recording of kept frames: pictures as they came, or blurred, and why each was kept.

Comes in: serialised pictures with their scores. Goes out: an MCAP recording that ``open_source``
reads as any other, without labels: what the teacher said lies on ``<name>/segmentation/mask``,
which nothing takes for ground truth unless it is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kd_perception.bags import messages as msgs
from kd_perception.bags.metadata import Metadata
from kd_perception.bags.output import RawBagWriter
from kd_perception.bags.writer import standard_channel
from kd_perception.classes import ClassSet
from kd_perception.errors import BagError, ImageError
from kd_perception.imaging import decode_message, encode_jpeg, encode_png

SCORES = 'diagnostic_msgs/msg/DiagnosticArray'
_STATUS = 'diagnostic_msgs/msg/DiagnosticStatus'
_VALUE = 'diagnostic_msgs/msg/KeyValue'
# Of a message in a recording beside its bytes.
_ENVELOPE = 64
_QUALITY = 95
# Bytes of a header, and of a LabelInfo.
_SMALL = 4096

# A picture, uint8 [H, W, 3] RGB, to the same one without what must not be stored; the same array
# where there is nothing to hide.
Redact = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class MinedTopics:
    """
    What the recording is of.

    :param image: topic of the pictures.
    :param image_type: of ``IMAGE_TYPES``.
    :param camera_info: topic of the intrinsics; empty for none.
    :param name: fully qualified name of who keeps, e.g. ``/shadow``; scores lie below it.
    """

    image: str
    image_type: str
    camera_info: str = ''
    name: str = '/shadow'


class MinedBag:
    """
    A recording that begins with the first kept frame: no empty one is left. For one thread.

    Until it is closed it is ``<path>.unfinished``, from which ``bag cut`` recovers what a killed
    writer had let go of.

    :param classes: meaning of the teacher's ids.
    :param about: what is said of it in the metadata, e.g. which models.
    :param max_bytes: what it may hold; what would not fit is refused. 0 for no limit.
    :param file_bytes: begin another file when one holds so much; 0: one file.
    :param keep: whether what was written before an error stays: it cannot be recorded again.
    """

    def __init__(self, path: Path | str, topics: MinedTopics, *, classes: ClassSet | None = None,
                 about: Mapping[str, str] | None = None, max_bytes: int = 0,
                 file_bytes: int = 0, keep: bool = True) -> None:
        self._keep = keep
        self.path = Path(path)
        self.topics = topics
        self._classes = classes
        self._about = dict(about or {})
        self._max_bytes, self._file_bytes = max_bytes, file_bytes
        self._writer: RawBagWriter | None = None
        self.bytes = self.frames = 0

    def __enter__(self) -> MinedBag:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.__exit__(kind, error, trace)

    def close(self) -> None:
        """Complete the recording, if there is one."""
        self.__exit__(None, None, None)

    def write(self, data: bytes, log_ns: int, values: Mapping[str, Any], *,
              redact: Redact | None = None, mask: np.ndarray | None = None,
              camera_info: bytes | None = None) -> bool:
        """
        Write one picture and what is said of it.

        :param data: serialised message of the picture.
        :param log_ns: when it was received.
        :param values: scores, and why it is kept.
        :param redact: hides what must not be stored; the bytes stay as they are where it changes
            nothing.
        :param mask: uint8 ``[H, W]``, the teacher's ids.
        :param camera_info: serialised ``CameraInfo``.
        :returns: whether it was written; False when the budget does not allow it.
        :raises BagError: when the picture cannot be read or the disk not be written.
        :raises ImageError: when the picture cannot be decoded, which only ``redact`` asks for.
        """
        stamp_ns, frame_id = msgs.header_of(data)
        topics = self.topics
        if redact is not None:
            data = redacted(data, topics.image_type, redact)
        parts: list[tuple[str, str, bytes]] = [(topics.image, topics.image_type, data)]
        if camera_info is not None and topics.camera_info:
            parts.append((topics.camera_info, msgs.CAMERA_INFO, camera_info))
        if mask is not None:
            image = msgs.make_image(mask, 'mono8', stamp_ns, frame_id)
            parts.append((f'{topics.name}/segmentation/mask', msgs.IMAGE,
                          msgs.to_cdr(image, msgs.IMAGE)))
        parts.append((f'{topics.name}/disagreement', SCORES,
                      scores_message(topics.name, stamp_ns, frame_id, values)))
        size = sum(len(d) + _ENVELOPE for _, _, d in parts)
        if self._max_bytes and self.bytes + size + (_SMALL if not self.frames else 0) \
                > self._max_bytes:
            return False
        writer = self._open(log_ns, masks=mask is not None)
        for topic, kind, one in parts:
            writer.write(writer.add(standard_channel(topic, kind)), log_ns, one)
        self.bytes += size
        self.frames += 1
        return True

    def _open(self, log_ns: int, *, masks: bool) -> RawBagWriter:
        if self._writer is None:
            writer = RawBagWriter(self.path, max_bytes=self._file_bytes, keep=self._keep,
                                  source=Metadata(custom=self._about))
            writer.__enter__()
            self._writer = writer
            if masks and self._classes is not None:
                info = msgs.make_label_info(self._classes.names, log_ns)
                channel = standard_channel(f'{self.topics.name}/segmentation/label_info',
                                           msgs.LABEL_INFO)
                writer.write(writer.add(channel), log_ns, msgs.to_cdr(info, msgs.LABEL_INFO))
        return self._writer


def standard_message(data: bytes, kind: str) -> Any:
    """
    Return a message of the common types from its bytes.

    :raises BagError: when it is damaged.
    """
    return msgs.deserializer(standard_channel('/message', kind))(data)


def redacted(data: bytes, kind: str, redact: Redact) -> bytes:
    """
    Return a serialised picture without what ``redact`` hides; itself where that is nothing.

    A raw picture becomes ``rgb8``, a compressed one JPEG, or PNG where it was.

    :raises ImageError: when it cannot be decoded: what cannot be looked at is not stored.
    """
    try:
        message = standard_message(data, kind)
    except BagError as error:
        raise ImageError(str(error)) from None
    image = decode_message(message)
    clean = redact(image)
    if clean is image:
        return data
    stamp_ns, frame_id = msgs.stamp_of(message), msgs.frame_id_of(message)
    if kind == msgs.IMAGE:
        return msgs.to_cdr(msgs.make_image(clean, 'rgb8', stamp_ns, frame_id), kind)
    if 'png' in message.format.lower():
        return msgs.to_cdr(msgs.make_compressed(encode_png(clean), 'png', stamp_ns, frame_id),
                           kind)
    return msgs.to_cdr(msgs.make_compressed(encode_jpeg(clean, _QUALITY), 'jpeg', stamp_ns,
                                            frame_id), kind)


def jpeg_message(image_rgb: np.ndarray, stamp_ns: int, frame_id: str) -> bytes:
    """Return a picture as serialised ``CompressedImage``."""
    made = msgs.make_compressed(encode_jpeg(image_rgb, _QUALITY), 'jpeg', stamp_ns, frame_id)
    return msgs.to_cdr(made, msgs.COMPRESSED_IMAGE)


def scores_message(name: str, stamp_ns: int, frame_id: str, values: Mapping[str, Any]) -> bytes:
    """Return scores as a serialised ``DiagnosticArray`` under the header of their picture."""
    types = msgs.standard_types().types
    pairs = [types[_VALUE](key=k, value=told(v)) for k, v in values.items()]
    status = types[_STATUS](level=0, name=f'{name}: disagreement', message='', hardware_id='',
                            values=pairs)
    array = types[SCORES](header=msgs.make_header(stamp_ns, frame_id), status=[status])
    return msgs.to_cdr(array, SCORES)


def read_scores(data: bytes) -> tuple[int, dict[str, str]]:
    """
    Return (stamp in ns, key-value pairs) of what ``scores_message`` made.

    :raises BagError: when it is damaged.
    """
    message = standard_message(data, SCORES)
    if not message.status:
        raise BagError('a message of scores holds no status')
    return msgs.stamp_of(message), {v.key: v.value for v in message.status[0].values}


def told(value: Any) -> str:
    """Return a value as nodes put it into diagnostics."""
    return value if isinstance(value, str) else \
        f'{value:.6g}' if isinstance(value, float) else str(value)

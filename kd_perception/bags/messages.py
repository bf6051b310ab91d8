"""
Message types of recordings without ROS: how to read any, how to make the few that we write.

A recording brings its own definitions, and they win over those of any ROS release. Each type is
compiled when the first of its messages is read, so that an odd definition on a topic that nobody
asked for stops nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
import struct
from typing import Any

import numpy as np
from rosbags.serde import SerdeError
from rosbags.typesys import (
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
    Stores,
    TypesysError,
)
from rosbags.typesys.store import Typestore

from kd_perception.bags.storage import Channel, reason
from kd_perception.errors import BagError
from kd_perception.imaging.video import video_codec

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
LABEL_INFO = 'vision_msgs/msg/LabelInfo'
VISION_CLASS = 'vision_msgs/msg/VisionClass'
HEADER = 'std_msgs/msg/Header'
TIME = 'builtin_interfaces/msg/Time'
IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)
COMPRESSED_VIDEO = 'foxglove_msgs/msg/CompressedVideo'
FFMPEG_PACKET = 'ffmpeg_image_transport_msgs/msg/FFMPEGPacket'
VIDEO_TYPES = (COMPRESSED_VIDEO, FFMPEG_PACKET)
CAMERA_TYPES = (*IMAGE_TYPES, *VIDEO_TYPES)
_READ_TYPES = (*CAMERA_TYPES, LABEL_INFO)
_PARTS = {LABEL_INFO: (LABEL_INFO, VISION_CLASS, HEADER, TIME),
          COMPRESSED_VIDEO: (COMPRESSED_VIDEO, TIME)}

# These are no part of the common interfaces that rosbags ships.
_OWN_TYPES = {
    VISION_CLASS: 'uint16 class_id\nstring class_name\n',
    LABEL_INFO: 'std_msgs/Header header\nvision_msgs/VisionClass[] class_map\n'
                'float32 threshold\n',
    COMPRESSED_VIDEO: 'builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\n'
                      'string format\n',
    FFMPEG_PACKET: 'std_msgs/Header header\nint32 width\nint32 height\nstring encoding\n'
                   'uint64 pts\nuint8 flags\nbool is_bigendian\nuint8[] data\n',
}
_IDL_RULE = '=' * 80 + '\n'


@lru_cache(maxsize=1)
def standard_types() -> Typestore:
    """Return the types of ROS 2 Jazzy with label infos and video packets added."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in _OWN_TYPES.items():
        if name not in store.fielddefs:
            store.register(get_types_from_msg(text, name))
    return store


def deserializer(channel: Channel) -> Callable[[bytes], Any]:
    """
    Return the function that makes a message of a channel's bytes.

    :raises BagError: when the type is unknown or its definition cannot be read.
    """
    store = _types_of(channel.type, channel.definition, channel.definition_format)
    _check_fields(store, channel.type)
    kind = channel.type
    definition = store.get_msgdef(kind)

    def decode(data: bytes) -> Any:
        try:
            if channel.serialization == 'ros1':
                return store.deserialize_ros1(memoryview(data), kind)
            return _from_cdr(store, definition, data)
        except (SerdeError, struct.error, UnicodeDecodeError, ValueError, IndexError,
                AssertionError, MemoryError) as error:
            raise BagError(f'{channel.topic}: a {kind} message is damaged: '
                           f'{reason(error)}') from None

    return decode


def _check_fields(store: Typestore, kind: str) -> None:
    """
    Refuse definitions under which the types that we look into have other fields than in ROS.

    ROS 1 headers have one more, which nobody reads.
    """
    if kind not in _READ_TYPES or store is standard_types():
        return
    parts = _PARTS.get(kind, (kind, HEADER, TIME))
    for name in parts:
        wanted = dict(standard_types().fielddefs[name][1])
        found = dict(store.fielddefs[name][1]) if name in store.fielddefs else {}
        if any(found.get(field) != kept for field, kept in wanted.items()):
            raise BagError(f'the recording defines {name} otherwise than ROS does')


def _from_cdr(store: Typestore, definition: Any, data: bytes) -> Any:
    """Deserialise; bytes behind the message, which some writers leave there, do no harm."""
    if data[:2] not in (b'\x00\x00', b'\x00\x01'):
        raise ValueError('it does not begin as CDR does')
    read = definition.deserialize_cdr_le if data[1] else definition.deserialize_cdr_be
    # A view: the pixels of an image are not copied on their way.
    return read(memoryview(data)[4:], 0, definition.cls, store)[0]


@lru_cache(maxsize=256)
def _types_of(kind: str, definition: str, definition_format: str) -> Typestore:
    if not definition.strip():
        if kind in standard_types().fielddefs:
            return standard_types()
        raise BagError(f'the recording has no definition of {kind}, and it is no common type')
    store = get_typestore(Stores.EMPTY)
    try:
        if definition_format == 'msg':
            store.register(get_types_from_msg(definition, kind))
        elif definition.startswith(f'{_IDL_RULE}IDL: '):
            for part in definition.split(_IDL_RULE)[1:]:
                store.register(get_types_from_idl(part.split('\n', 1)[1]))
        else:
            store.register(get_types_from_idl(definition))
        store.get_msgdef(kind)
    except (TypesysError, KeyError, AssertionError, ValueError, IndexError) as error:
        if kind in standard_types().fielddefs:
            return standard_types()
        raise BagError(f'the definition of {kind} cannot be read: {reason(error)}') from None
    return store


def header_of(data: bytes, serialization: str = 'cdr') -> tuple[int, str]:
    """
    Return (stamp in ns, frame id) of a serialised message that begins with a header.

    :param data: the message, or its first bytes as far as the frame id.
    :raises BagError: when there are too few bytes for a header.
    """
    try:
        if serialization == 'ros1':
            _, seconds, nanoseconds, size = struct.unpack_from('<IIII', data, 0)
            at, end = 16, 16 + size
        else:
            order = '<' if data[1] & 1 else '>'
            seconds, nanoseconds, size = struct.unpack_from(f'{order}iII', data, 4)
            at, end = 16, 16 + max(size - 1, 0)  # CDR strings count their closing zero
        if end > len(data):
            raise ValueError('frame id is cut off')
        return seconds * 1_000_000_000 + nanoseconds, data[at:end].decode(errors='replace')
    except (struct.error, IndexError, ValueError) as error:
        raise BagError(f'message header is damaged: {reason(error)}') from None


def stamp_of(message: Any) -> int:
    """Return the header stamp of a message in nanoseconds."""
    # foxglove_msgs have the fields of a header, but no header.
    stamp = message.header.stamp if hasattr(message, 'header') else message.timestamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def frame_id_of(message: Any) -> str:
    """Return the coordinate frame of a message."""
    return str((message.header if hasattr(message, 'header') else message).frame_id)


def video_codec_of(message: Any) -> str:
    """Return the codec of a video packet."""
    return video_codec(message.encoding if hasattr(message, 'encoding') else message.format)


def make_header(stamp_ns: int, frame_id: str) -> Any:
    """Return a ``std_msgs/Header``."""
    types = standard_types().types
    seconds, nanoseconds = divmod(int(stamp_ns), 1_000_000_000)
    return types[HEADER](
        stamp=types[TIME](sec=seconds, nanosec=nanoseconds),
        frame_id=frame_id)


def make_image(pixels: np.ndarray, encoding: str, stamp_ns: int, frame_id: str) -> Any:
    """Return a ``sensor_msgs/Image`` of uint8 ``[H, W]`` or ``[H, W, C]``, rows not padded."""
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    return standard_types().types[IMAGE](
        header=make_header(stamp_ns, frame_id), height=height, width=width, encoding=encoding,
        is_bigendian=0, step=pixels.nbytes // height, data=pixels.reshape(-1).view(np.uint8))


def make_compressed(data: bytes, kind: str, stamp_ns: int, frame_id: str) -> Any:
    """Return a ``sensor_msgs/CompressedImage``; ``kind`` is ``jpeg`` or ``png``."""
    return standard_types().types[COMPRESSED_IMAGE](
        header=make_header(stamp_ns, frame_id), format=kind, data=np.frombuffer(data, np.uint8))


def make_camera_info(width: int, height: int, fx: float, fy: float, cx: float, cy: float,
                     stamp_ns: int, frame_id: str) -> Any:
    """Return a ``sensor_msgs/CameraInfo`` of a camera without distortion (REP 104)."""
    types = standard_types().types
    zero = 0.0
    return types[CAMERA_INFO](
        header=make_header(stamp_ns, frame_id), height=height, width=width,
        distortion_model='plumb_bob', d=np.zeros(5),
        k=np.array([fx, zero, cx, zero, fy, cy, zero, zero, 1.0]), r=np.eye(3).reshape(-1),
        p=np.array([fx, zero, cx, zero, zero, fy, cy, zero, zero, zero, 1.0, zero]),
        binning_x=0, binning_y=0,
        roi=types['sensor_msgs/msg/RegionOfInterest'](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False))


def make_label_info(names: tuple[str, ...], stamp_ns: int, frame_id: str = '') -> Any:
    """Return a ``vision_msgs/LabelInfo`` that names the ids 0 … K-1."""
    types = standard_types().types
    return types[LABEL_INFO](
        header=make_header(stamp_ns, frame_id),
        class_map=[types[VISION_CLASS](class_id=i, class_name=n) for i, n in enumerate(names)],
        threshold=0.0)


def to_cdr(message: Any, kind: str) -> bytes:
    """Return one of our own messages serialised."""
    return bytes(standard_types().serialize_cdr(message, kind))

"""
Image messages and files to arrays and back, without ROS.

Messages are duck-typed: anything with the fields of ``sensor_msgs/Image`` or
``sensor_msgs/CompressedImage`` will do, so bags and nodes share this codec. Raw images become
views of the message's memory wherever the layout allows.
"""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np

from kd_perception.errors import ImageError

ChannelOrder = Literal['rgb', 'bgr']

# Encoding names of sensor_msgs/image_encodings.hpp: (dtype, channels, channel order).
_RAW: dict[str, tuple[type, int, str]] = {
    'rgb8': (np.uint8, 3, 'rgb'),
    'bgr8': (np.uint8, 3, 'bgr'),
    '8UC3': (np.uint8, 3, 'bgr'),
    'mono8': (np.uint8, 1, 'mono'),
    '8UC1': (np.uint8, 1, 'mono'),
    'mono16': (np.uint16, 1, 'mono'),
    '16UC1': (np.uint16, 1, 'mono'),
}

# First two bytes of JPEG and PNG: the mark without which the data are incomplete.
_END_MARKS = {b'\xff\xd8': b'\xff\xd9', b'\x89P': b'IEND\xaeB`\x82'}

MAX_PIXELS = 1 << 28  # a header that claims more than 268 megapixels is damaged


def raw_view(msg: Any) -> np.ndarray:
    """
    Return the pixels of a ``sensor_msgs/Image`` as they are.

    :returns: ``[H, W]`` or ``[H, W, C]`` of the encoding's type; a read-only or writable view of
        the message, strided where rows are padded; a copy only for foreign endianness.
    :raises ImageError: for an unknown encoding or when size, step and data disagree.
    """
    if msg.encoding not in _RAW:
        raise ImageError(f'encoding {msg.encoding!r} is not supported; supported: '
                         f'{", ".join(_RAW)}')
    dtype, channels, _ = _RAW[msg.encoding]
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    itemsize = np.dtype(dtype).itemsize
    row = width * channels * itemsize
    if height <= 0 or width <= 0 or height * width > MAX_PIXELS:
        raise ImageError(f'image size {width}x{height} is not possible')
    if step < row:
        raise ImageError(f'step {step} is smaller than a row of {row} bytes '
                         f'({width} pixels of {msg.encoding})')
    data = _bytes(msg.data)
    needed = step * (height - 1) + row
    if data.size < needed:
        raise ImageError(f'image claims {width}x{height} {msg.encoding} ({needed} bytes) but '
                         f'carries {data.size}')
    shape: tuple[int, ...] = (height, width, channels)
    strides: tuple[int, ...] = (step, channels * itemsize, itemsize)
    if channels == 1:
        shape, strides = shape[:2], strides[:2]
    # A typed view needs no alignment: numpy reads unaligned strides correctly.
    view = np.ndarray(shape, np.dtype(dtype), buffer=data.data, strides=strides)
    if itemsize > 1 and bool(msg.is_bigendian):
        view = view.byteswap()
    return view


def decode_image(msg: Any, order: ChannelOrder = 'rgb') -> np.ndarray:
    """
    Return a ``sensor_msgs/Image`` as a colour picture.

    :returns: uint8 ``[H, W, 3]`` in ``order``, C-contiguous; a view of the message when its
        encoding has that order and its rows are not padded.
    :raises ImageError: for damaged messages and for encodings that hold no picture.
    """
    view = raw_view(msg)
    if view.dtype != np.uint8:
        raise ImageError(f'encoding {msg.encoding!r} is not a colour or grey 8-bit picture')
    own = _RAW[msg.encoding][2]
    if own == 'mono':
        return cv2.cvtColor(view, cv2.COLOR_GRAY2RGB)
    if own != order:
        return cv2.cvtColor(view, cv2.COLOR_BGR2RGB)  # swaps first and third, either way
    return view if view.flags.c_contiguous else np.ascontiguousarray(view)


def decode_compressed(data: Any, order: ChannelOrder = 'rgb') -> np.ndarray:
    """
    Return a JPEG or PNG byte string as a colour picture.

    :param data: the bytes (``CompressedImage.data``, or a file's content).
    :returns: uint8 ``[H, W, 3]`` in ``order``.
    :raises ImageError: when the bytes are no picture that OpenCV can read.
    """
    image = _imdecode(data, cv2.IMREAD_COLOR)
    if order == 'rgb':
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    return image


def decode_label_image(msg: Any) -> np.ndarray:
    """
    Return the ids of a label ``Image`` (mono8, 8UC1) or PNG-compressed label message.

    :returns: uint8 ``[H, W]``.
    :raises ImageError: when the message holds anything but 8-bit ids.
    """
    if hasattr(msg, 'encoding'):
        view = raw_view(msg)
        if view.ndim != 2 or view.dtype != np.uint8:
            raise ImageError(f'label images must be mono8, not {msg.encoding!r}')
        return view
    if 'jpeg' in msg.format or 'jpg' in msg.format:
        raise ImageError('label images must not be JPEG: it changes the ids; use PNG or mono8')
    labels = _imdecode(msg.data, cv2.IMREAD_UNCHANGED)
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise ImageError('label images must have one channel of 8 bits')
    return labels


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """Return ``image`` (uint8 ``[H, W, 3]`` RGB) as JPEG."""
    return _imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
                     [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(image: np.ndarray) -> bytes:
    """Return ``image`` (uint8/uint16 ``[H, W]``, or uint8 ``[H, W, 3]`` RGB) as PNG."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return _imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """
    Return ``image`` (uint8 ``[H, W, C]``) at another size; itself when the size is equal.

    Area averaging when it shrinks (no aliasing), bilinear otherwise. Labelling, evaluation and
    the node all come through here, so that a network sees the same pixels everywhere.
    """
    if image.shape[:2] == (height, width):
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=mode)


def resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return ``labels`` (uint8 ``[H, W]``) at another size by nearest neighbour."""
    if labels.shape == (height, width):
        return labels
    return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def colorize(mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return uint8 ``[H, W, 3]`` RGB from ids ``[H, W]`` and a ``[256, 3]`` palette."""
    return palette[mask]


def overlay(image: np.ndarray, mask: np.ndarray, palette: np.ndarray,
            opacity: float = 0.5) -> np.ndarray:
    """Return ``image`` (RGB) with the coloured ``mask`` over it; 255 stays see-through."""
    painted = cv2.addWeighted(image, 1.0 - opacity, colorize(mask, palette), opacity, 0.0)
    painted[mask == 255] = image[mask == 255]
    return painted


def _bytes(data: Any) -> np.ndarray:
    """Return any buffer (array.array, bytes, numpy) as uint8 ``[n]`` without a copy."""
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return np.frombuffer(data, np.uint8)


def _imdecode(data: Any, flags: int) -> np.ndarray:
    raw = _bytes(data)
    if raw.size == 0:
        raise ImageError('compressed image is empty')
    # A file that was cut off would otherwise come out half grey from some decoder versions. Zeros
    # behind the end mark, which some cameras leave there, are fine.
    for start, end in _END_MARKS.items():
        if (raw[:2].tobytes() == start and end not in raw[-64:].tobytes()
                and end not in raw.tobytes()):
            raise ImageError(f'compressed image of {raw.size} bytes is cut off')
    try:
        # The ids of a label image and the orientation of a camera are not for EXIF to change.
        image = cv2.imdecode(raw, flags | cv2.IMREAD_IGNORE_ORIENTATION
                             if flags != cv2.IMREAD_UNCHANGED else flags)
    except cv2.error as error:
        raise ImageError(f'compressed image is damaged: {error.err}') from None
    if image is None:
        raise ImageError(f'compressed image of {raw.size} bytes is no JPEG or PNG, or is damaged')
    return image


def _imencode(suffix: str, image: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise ImageError(f'cannot encode an image of shape {image.shape} as {suffix}')
    return data.tobytes()

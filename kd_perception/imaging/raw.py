"""Raw ``sensor_msgs/Image`` messages to arrays: views where the layout allows, else OpenCV."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from kd_perception.errors import ImageError
from kd_perception.imaging.encodings import (
    as_bytes,
    ChannelOrder,
    Encoding,
    find_encoding,
    MAX_PIXELS,
)

# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first four.
_BAYER = {'rggb': 'BG', 'bggr': 'RG', 'gbrg': 'GR', 'grbg': 'GB'}
_FROM = {'': 'GRAY2{}', 'rgb': 'RGB2{}', 'bgr': 'BGR2{}', 'rgba': 'RGBA2{}', 'bgra': 'BGRA2{}',
         **{pattern: f'Bayer{code}2{{}}' for pattern, code in _BAYER.items()},
         'uyvy': 'YUV2{}_UYVY', 'yuyv': 'YUV2{}_YUY2', 'nv12': 'YUV2{}_NV12',
         'nv21': 'YUV2{}_NV21'}
# OpenCV's conversion code by (what is there, what is wanted).
_CODES = {(source, order): getattr(cv2, f'COLOR_{name.format(order.upper())}')
          for source, name in _FROM.items() for order in ('rgb', 'bgr') if source != order}
_SIXTEEN_TO_EIGHT = 255.0 / 65535.0

# ITU-R BT.601, limited range, as OpenCV's other conversions: rows R, G, B over Y, U, V.
_FROM_YUV = np.array([[1.164, 0.0, 1.596], [1.164, -0.391, -0.813], [1.164, 2.018, 0.0]])
_YUV_OFFSET = np.array([16.0, 128.0, 128.0])


def raw_view(msg: Any) -> np.ndarray:
    """
    Return the elements of a ``sensor_msgs/Image`` as they are.

    :returns: ``[H, W]`` or ``[H, W, C]`` of the encoding's type; a read-only or writable view of
        the message, strided where rows are padded; a copy only for foreign endianness.
    :raises ImageError: for an unknown or planar encoding or when size, step and data disagree.
    """
    encoding = find_encoding(msg.encoding)
    if encoding.family == 'planar':
        raise ImageError(f'encoding {msg.encoding!r} keeps colour in a plane of its own; '
                         'decode it')
    return _elements(msg, encoding)


def decode_image(msg: Any, order: ChannelOrder = 'rgb') -> np.ndarray:
    """
    Return a ``sensor_msgs/Image`` as a colour picture.

    16-bit pictures are brought to 8 bits by 255 / 65535 whatever range they use. Alpha is left
    out. YUV is ITU-R BT.601, limited range.

    :returns: uint8 ``[H, W, 3]`` in ``order``; a view of the message when its encoding has that
        order, with strided rows where they are padded, else a new array.
    :raises ImageError: for damaged messages and for encodings that hold no picture.
    """
    encoding = find_encoding(msg.encoding)
    if encoding.family == 'depth':
        raise ImageError(f'encoding {msg.encoding!r} is depth, no picture; decode_depth reads it')
    if encoding.family == 'other':
        raise ImageError(f'encoding {msg.encoding!r} does not say what it shows; publish rgb8, '
                         'bgr8 or mono8')
    if encoding.family == 'planar':
        return _from_planes(msg, encoding, order)
    if encoding.family == 'yuv422' and int(msg.width) % 2:
        raise ImageError(f'{msg.encoding} has pairs of pixels, but rows of {int(msg.width)}')
    return to_picture(_elements(msg, encoding), encoding, order)


def _elements(msg: Any, encoding: Encoding) -> np.ndarray:
    height, width, step = _layout(msg, encoding)
    data = as_bytes(msg.data)
    _require(msg, data, step * (height - 1) + width * encoding.pixel_bytes)
    kind = encoding.dtype
    stored = kind
    if kind.itemsize > 1:
        stored = kind.newbyteorder('>' if msg.is_bigendian else '<')
    if encoding.channels == 1:
        view = np.ndarray((height, width), stored, data.data, 0, (step, kind.itemsize))
    else:
        view = _strided(data, 0, (height, width, encoding.channels), step, stored)
    # Four times as fast as byteswap.
    return view if stored.isnative else view.astype(kind)


def to_picture(pixels: np.ndarray, encoding: Encoding, order: ChannelOrder) -> np.ndarray:
    """
    Return elements, as ``raw_view`` gives them, as a colour picture.

    :param encoding: of the family grey, colour, bayer or yuv422.
    :returns: uint8 ``[H, W, 3]``; ``pixels`` itself where nothing has to change.
    """
    if pixels.dtype != np.uint8:
        pixels = to_eight_bits(pixels)
    if encoding.family == 'bayer':
        return _from_mosaic(pixels, encoding.order, order)
    if encoding.order == order:
        return pixels
    return cv2.cvtColor(pixels, _CODES[encoding.order, order])


def to_eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Return uint16 of any shape as uint8, 65535 becoming 255, rounded."""
    if pixels.strides[0] % 2 or not pixels.flags.aligned:
        pixels = np.array(pixels)  # OpenCV takes no rows that begin at odd bytes
    return cv2.convertScaleAbs(pixels, alpha=_SIXTEEN_TO_EIGHT).reshape(pixels.shape)


def _from_mosaic(pixels: np.ndarray, pattern: str, order: ChannelOrder) -> np.ndarray:
    height, width = pixels.shape
    if height < 2 or width < 2:
        raise ImageError(f'a Bayer mosaic of {width}x{height} holds no colour')
    code = _CODES[pattern, order]
    if height > 2 and width > 2:
        return cv2.cvtColor(pixels, code)
    # OpenCV leaves mosaics without inner pixels black; mirrored, the pattern goes on.
    grown = np.pad(pixels, ((0, 2), (0, 2)), mode='reflect')
    return np.ascontiguousarray(cv2.cvtColor(grown, code)[:height, :width])


def _from_planes(msg: Any, encoding: Encoding, order: ChannelOrder) -> np.ndarray:
    """Return NV12, NV21 (colour at half size) or NV24: ``height`` is that of the picture."""
    height, width, step = _layout(msg, encoding)
    data = as_bytes(msg.data)
    start = step * height
    if encoding.order == 'nv24':
        _require(msg, data, start + 2 * step * (height - 1) + 2 * width)
        planes = np.empty((height, width, 3), np.uint8)
        luma = np.maximum(_strided(data, 0, (height, width, 1), step)[:, :, 0], 16)
        chroma = _strided(data, start, (height, width, 2), 2 * step)
        cv2.mixChannels([luma, chroma], [planes], [0, 0, 1, 1, 2, 2])
        matrix = _FROM_YUV if order == 'rgb' else _FROM_YUV[::-1]
        return cv2.transform(planes, np.column_stack([matrix, -matrix @ _YUV_OFFSET]))
    if height % 2 or width % 2:
        raise ImageError(f'{msg.encoding} has colour at half size, but is {width}x{height}')
    _require(msg, data, start + step * (height // 2 - 1) + width)
    return cv2.cvtColorTwoPlane(
        _strided(data, 0, (height, width, 1), step),
        _strided(data, start, (height // 2, width // 2, 2), step),
        _CODES[encoding.order, order])


def _layout(msg: Any, encoding: Encoding) -> tuple[int, int, int]:
    """Return (height, width, step) of a message when they are possible."""
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    row = width * encoding.pixel_bytes
    if height <= 0 or width <= 0 or height * width > MAX_PIXELS:
        raise ImageError(f'image size {width}x{height} is not possible')
    if step < row:
        raise ImageError(f'step {step} is smaller than a row of {row} bytes '
                         f'({width} pixels of {msg.encoding})')
    return height, width, step


def _require(msg: Any, data: np.ndarray, needed: int) -> None:
    if data.size < needed:
        raise ImageError(f'image claims {int(msg.width)}x{int(msg.height)} {msg.encoding} '
                         f'({needed} bytes) but carries {data.size}')


def _strided(data: np.ndarray, offset: int, shape: tuple[int, int, int], step: int,
             dtype: np.dtype | None = None) -> np.ndarray:
    """Return a view of bytes as rows that lie ``step`` apart, aligned or not."""
    kind = dtype or np.dtype(np.uint8)
    return np.ndarray(shape, kind, buffer=data.data, offset=offset,
                      strides=(step, shape[2] * kind.itemsize, kind.itemsize))

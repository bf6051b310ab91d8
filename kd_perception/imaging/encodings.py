"""
The encodings of ``sensor_msgs/Image`` by name: what an element is, and what it means.

Names and layouts are those of ``sensor_msgs/image_encodings.hpp``; ``nv12`` is beside them because
hardware decoders publish it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
import re
from typing import Literal

import numpy as np

from kd_perception.errors import ImageError

ChannelOrder = Literal['rgb', 'bgr']
Family = Literal['grey', 'colour', 'bayer', 'yuv422', 'planar', 'depth', 'other']

# A header that claims more is damaged or hostile: 134 megapixels are 403 MB as RGB.
MAX_PIXELS = 1 << 27


@dataclass(frozen=True)
class Encoding:
    """
    What the bytes of a raw image mean.

    :param dtype: type of one element, native byte order.
    :param channels: elements per pixel; of planar encodings, those of the first plane.
    :param family: which conversion makes a picture of it.
    :param order: channel order, Bayer pattern or order of Y, U and V.
    """

    dtype: np.dtype
    channels: int
    family: Family
    order: str = ''

    @cached_property
    def pixel_bytes(self) -> int:
        """Return the bytes of one pixel."""
        return self.channels * self.dtype.itemsize


def _table() -> dict[str, Encoding]:
    byte, word = np.dtype(np.uint8), np.dtype(np.uint16)
    table = {
        'mono8': Encoding(byte, 1, 'grey'), 'mono16': Encoding(word, 1, 'grey'),
        # Pictures that were published without saying what they are came from OpenCV: BGR.
        '8UC1': Encoding(byte, 1, 'grey'), '8UC3': Encoding(byte, 3, 'colour', 'bgr'),
        '8UC4': Encoding(byte, 4, 'colour', 'bgra'),
        # REP 118.
        '16UC1': Encoding(word, 1, 'depth'), '32FC1': Encoding(np.dtype(np.float32), 1, 'depth'),
        'nv12': Encoding(byte, 1, 'planar', 'nv12'), 'nv21': Encoding(byte, 1, 'planar', 'nv21'),
        'nv24': Encoding(byte, 1, 'planar', 'nv24'),
    }
    for order in ('rgb', 'bgr', 'rgba', 'bgra'):
        table[f'{order}8'] = Encoding(byte, len(order), 'colour', order)
        table[f'{order}16'] = Encoding(word, len(order), 'colour', order)
    for pattern in ('rggb', 'bggr', 'gbrg', 'grbg'):
        table[f'bayer_{pattern}8'] = Encoding(byte, 1, 'bayer', pattern)
        table[f'bayer_{pattern}16'] = Encoding(word, 1, 'bayer', pattern)
    for name, order in (('yuv422', 'uyvy'), ('uyvy', 'uyvy'), ('yuv422_yuy2', 'yuyv'),
                        ('yuyv', 'yuyv')):
        table[name] = Encoding(byte, 2, 'yuv422', order)
    return table


ENCODINGS = _table()

_GENERIC = re.compile(r'(8U|8S|16U|16S|32S|32F|64F)C([1-4])')
_GENERIC_TYPES = {'8U': 'u1', '8S': 'i1', '16U': 'u2', '16S': 'i2', '32S': 'i4', '32F': 'f4',
                  '64F': 'f8'}


def find_encoding(name: str) -> Encoding:
    """
    Return what an encoding name means; OpenCV's generic types are of the family ``other``.

    :raises ImageError: for a name that is unknown.
    """
    found = ENCODINGS.get(name)
    if found is not None:
        return found
    match = _GENERIC.fullmatch(name)
    if match is None:
        raise ImageError(f'encoding {name[:40]!r} is not supported; supported: '
                         f'{", ".join(ENCODINGS)}')
    return Encoding(np.dtype(_GENERIC_TYPES[match[1]]), int(match[2]), 'other')


def is_depth(name: str) -> bool:
    """Return whether an encoding name stands for depth (REP 118)."""
    found = ENCODINGS.get(name)
    return found is not None and found.family == 'depth'


def is_colour(name: str) -> bool:
    """Return whether an encoding name stands for colours of 8 bits."""
    found = ENCODINGS.get(name)
    return found is not None and found.family == 'colour' and found.dtype == np.uint8


def as_bytes(data: object) -> np.ndarray:
    """Return any buffer (array.array, bytes, numpy) as uint8 ``[n]`` without a copy."""
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    if isinstance(data, list):  # what some bridges make of uint8[]
        try:
            return np.array(data, np.uint8)
        except (OverflowError, TypeError, ValueError):
            raise ImageError('data: holds something other than bytes from 0 to 255') from None
    return np.frombuffer(data, np.uint8)  # type: ignore[call-overload]

"""
Depth messages to metres (REP 118): raw, and as compressed_depth_image_transport writes them.

That transport puts twelve bytes before the picture: the kind of compression and the two parameters
of the quantised inverse depth. The picture is a 16-bit PNG, or RVL after A. D. Wilson, "Fast
Lossless Depth Image Compression", ISS 2017.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from kd_perception.errors import ImageError
from kd_perception.imaging.compressed import (
    CompressedFormat,
    decode_deep_png,
    parse_format,
    picture_header,
)
from kd_perception.imaging.encodings import as_bytes, is_depth, MAX_PIXELS
from kd_perception.imaging.raw import raw_view

_CONFIG = struct.Struct('<iff')
_PNG_MARK = b'\x89PNG'
_METRES = np.float32(0.001)
# A covered camera sends runs of zeros that take no room; noise takes half a byte per pixel.
_RVL_FREE_PIXELS = 1 << 24
_RVL_PIXELS_PER_BYTE = 64


def decode_depth(msg: Any) -> np.ndarray:
    """
    Return a depth ``Image`` (16UC1, mono16, 32FC1) or ``CompressedImage`` in metres.

    :returns: float32 ``[H, W]``, a new array; NaN where nothing was measured: 0 in millimetres,
        and whatever is not positive and finite in metres.
    :raises ImageError: for damaged messages and for those that hold no depth.
    """
    if hasattr(msg, 'encoding'):
        # mono16 is what some older drivers call it; whoever asks for depth has looked.
        if not is_depth(msg.encoding) and msg.encoding != 'mono16':
            raise ImageError(f'encoding {msg.encoding!r} is no depth; 16UC1 and 32FC1 are')
        view = raw_view(msg)
        return _valid(np.array(view)) if view.dtype == np.float32 else _from_millimetres(view)
    said = parse_format(msg.format)
    if not said.depth:
        if said.original in ('16UC1', 'mono16') and said.codec == 'png':
            return _from_millimetres(decode_deep_png(msg.data))
        raise ImageError(f'format {msg.format[:60]!r} is no depth; "16UC1; compressedDepth png" '
                         'is an example')
    return _from_transport(as_bytes(msg.data), said)


def compressed_size(msg: Any) -> tuple[int, int]:
    """
    Return (height, width) of a ``CompressedImage``, picture or depth, without decoding it.

    :raises ImageError: when the bytes are nothing that can be decoded here, or are cut off.
    """
    said = parse_format(msg.format)
    raw = as_bytes(msg.data)
    if said.depth and raw[:4].tobytes() != _PNG_MARK:
        raw = raw[_CONFIG.size:]
        if said.codec == 'rvl':
            return _rvl_size(raw)
    header = picture_header(raw)
    return header.height, header.width


def decode_rvl(data: np.ndarray, pixels: int) -> np.ndarray:
    """
    Return ``pixels`` values that were written as RVL.

    :param data: uint8 ``[n]``: little-endian words of eight nibbles, highest first.
    :returns: uint16 ``[pixels]``.
    :raises ImageError: when the bytes are no RVL or end too early.
    """
    numbers = _variable_length(data)
    out = np.zeros(pixels, np.uint16)
    runs: list[tuple[int, int, int]] = []
    at = filled = 0
    while filled < pixels:
        if at + 1 >= len(numbers):
            raise ImageError('RVL depth is cut off')
        filled += int(numbers[at])
        count = int(numbers[at + 1])
        at += 2
        if filled + count > pixels or at + count > len(numbers):
            raise ImageError('RVL depth is damaged: its runs do not fit the image')
        if count == 0 and numbers[at - 2] == 0:
            raise ImageError('RVL depth is damaged: an empty run')
        runs.append((filled, at, count))
        filled, at = filled + count, at + count
    if not runs:
        return out
    # Each value is stored as its difference to the last one that was not zero.
    chosen = np.concatenate([numbers[a:a + n] for _, a, n in runs])
    values = np.cumsum((chosen >> 1) ^ -(chosen & 1)).astype(np.uint16)
    done = 0
    for start, _, count in runs:
        out[start:start + count] = values[done:done + count]
        done += count
    return out


def _from_transport(raw: np.ndarray, said: CompressedFormat) -> np.ndarray:
    if said.original not in ('16UC1', '32FC1', 'mono16'):
        raise ImageError(f'compressed depth of {said.original[:40]!r} is not supported; 16UC1 and '
                         '32FC1 are')
    if said.codec not in ('png', 'rvl'):
        raise ImageError(f'compressed depth by {said.codec[:40]!r} is not supported; png and rvl '
                         'are')
    # Some drivers leave the parameters out, which millimetres do not need.
    bare = said.original != '32FC1' and raw[:4].tobytes() == _PNG_MARK
    if not bare and raw.size <= _CONFIG.size:
        raise ImageError(f'compressed depth of {raw.size} bytes is cut off')
    picture = raw if bare else raw[_CONFIG.size:]
    values = _rvl_image(picture) if said.codec == 'rvl' and not bare else decode_deep_png(picture)
    if said.original != '32FC1':
        return _from_millimetres(values)
    _, scale, offset = _CONFIG.unpack_from(raw.data)
    if not (np.isfinite(scale) and np.isfinite(offset)):
        raise ImageError('compressed depth is damaged: its quantisation is not finite')
    with np.errstate(divide='ignore', over='ignore', invalid='ignore'):
        # 65,536 divisions instead of one per pixel; 0 stands for "nothing measured".
        metres = _valid(np.float32(scale) / (np.arange(1 << 16, dtype=np.float32)
                                             - np.float32(offset)))
    metres[0] = np.nan
    return metres[values]


def _rvl_image(data: np.ndarray) -> np.ndarray:
    height, width = _rvl_size(data)
    return decode_rvl(data[8:], width * height).reshape(height, width)


def _rvl_size(data: np.ndarray) -> tuple[int, int]:
    if data.size < 8:
        raise ImageError(f'RVL depth of {data.size} bytes is cut off')
    width, height = struct.unpack_from('<II', data.data)
    limit = min(MAX_PIXELS, _RVL_FREE_PIXELS + data.size * _RVL_PIXELS_PER_BYTE)
    if not 0 < width * height <= limit:
        raise ImageError(f'RVL depth of {data.size} bytes claims {width}x{height}, which is not '
                         'possible')
    return height, width


def _variable_length(data: np.ndarray) -> np.ndarray:
    """Return int64 numbers of nibbles: three bits each, lowest first, the fourth says "more"."""
    words = data[:data.size // 4 * 4].reshape(-1, 4)[:, ::-1]
    nibbles = np.empty((words.shape[0], 8), np.uint8)
    nibbles[:, 0::2], nibbles[:, 1::2] = words >> 4, words & 15
    flat = nibbles.reshape(-1)
    last = np.flatnonzero(flat < 8)
    if not last.size:
        raise ImageError('RVL depth is cut off')
    flat = flat[:last[-1] + 1]
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if length.max() > 10:
        raise ImageError('RVL depth is damaged: a number without end')
    numbers = np.zeros(len(first), np.int64)
    for place in range(int(length.max())):
        long_enough = length > place
        numbers[long_enough] |= (flat[first[long_enough] + place] & 7).astype(np.int64) \
            << (3 * place)
    return numbers


def _from_millimetres(values: np.ndarray) -> np.ndarray:
    metres = values.astype(np.float32)
    metres *= _METRES
    metres[values == 0] = np.nan
    return metres


def _valid(metres: np.ndarray) -> np.ndarray:
    """Set to NaN, in place, what is no distance."""
    metres[~((metres > 0) & (metres < np.inf))] = np.nan
    return metres

"""
JPEG and PNG, from ``sensor_msgs/CompressedImage`` or files, to pictures and label ids.

What a file claims is read before a decoder sees it, so that neither a file that was cut off nor
one that claims a size out of proportion to its bytes costs more than a look.
"""

from __future__ import annotations

from dataclasses import dataclass
import struct
from typing import Any
import zlib

import cv2
import numpy as np

from kd_perception.errors import ImageError
from kd_perception.imaging.carla_labels import carla_tags
from kd_perception.imaging.encodings import (
    as_bytes,
    ChannelOrder,
    Encoding,
    ENCODINGS,
    find_encoding,
    is_colour,
    is_depth,
    MAX_PIXELS,
)
from kd_perception.imaging.raw import raw_view, to_eight_bits, to_picture

_PNG_MARK = b'\x89PNG\r\n\x1a\n'
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE = 3
_JPEG_END = b'\xff\xd9'
# A block of 64 pixels takes two bits at least, six blocks make up to 512 pixels; with room.
_JPEG_PIXELS_PER_BYTE = 1024
_DEFLATE_RATIO = 1032  # what zlib can reach at most
_SLACK_PIXELS = 1 << 16
# Since OpenCV 4.10 JPEG comes out as RGB at once.
_DIRECT_RGB = getattr(cv2, 'IMREAD_COLOR_RGB', None)
_PICTURE = Encoding(np.dtype(np.uint8), 3, 'colour', 'bgr')
_GREY = Encoding(np.dtype(np.uint8), 1, 'grey')


@dataclass(frozen=True)
class CompressedFormat:
    """
    What ``CompressedImage.format`` says; empty where it says nothing.

    :param original: encoding of the image before compression, e.g. ``rgb8``.
    :param codec: ``jpeg``, ``png``, ``rvl`` or what else is written there.
    :param stored: encoding that was handed to the compressor, e.g. ``bgr8``.
    :param depth: whether it comes from compressed_depth_image_transport.
    """

    original: str = ''
    codec: str = ''
    stored: str = ''
    depth: bool = False


@dataclass(frozen=True)
class PictureHeader:
    """
    What a JPEG or PNG claims.

    :param kind: ``jpeg`` or ``png``.
    :param width: pixels.
    :param height: pixels.
    :param bits: of one sample.
    :param channels: samples of one pixel; 1 for a palette.
    :param palette: whether the samples are indices of colours.
    """

    kind: str
    width: int
    height: int
    bits: int
    channels: int
    palette: bool = False


def parse_format(text: str) -> CompressedFormat:
    """
    Read ``CompressedImage.format`` in any of the spellings of its history.

    ``jpeg`` · ``rgb8; jpeg compressed bgr8`` · ``mono16; png compressed`` ·
    ``16UC1; compressedDepth`` · ``32FC1; compressedDepth rvl`` · empty.
    """
    first, separator, rest = text.partition(';')
    words = rest.split()
    if not separator:
        words = first.split()
        if len(words) == 1 and words[0] in ENCODINGS:
            # compressed_depth_image_transport once wrote the encoding alone.
            return CompressedFormat(words[0], 'png', depth=is_depth(words[0]))
        first = ''
    lower = [w.lower() for w in words]
    depth = 'compresseddepth' in lower
    after = lower.index('compresseddepth') + 1 if depth else 0
    codec = next(iter(lower[after:]), 'png' if depth else '')
    codec = 'jpeg' if codec in ('jpg', 'jpeg', 'jpe') else codec
    stored = words[2] if len(words) > 2 and lower[1] == 'compressed' else ''
    return CompressedFormat(first.strip(), codec, stored, depth)


def picture_header(data: Any) -> PictureHeader:
    """
    Read what a JPEG or PNG claims, and check that it is whole and the claim plausible.

    :raises ImageError: when it is neither, is cut off, or claims more than its bytes can hold.
    """
    raw = as_bytes(data)
    if raw.size == 0:
        raise ImageError('compressed image is empty')
    mark = raw[:8].tobytes()
    if mark[:2] == b'\xff\xd8':
        header, start = _jpeg_header(raw)
        _check_claim(raw, header, raw.size * _JPEG_PIXELS_PER_BYTE)
        _check_jpeg(raw, start)
    elif _PNG_MARK.startswith(mark):
        header = _png_header(raw)
        _check_claim(raw, header,
                     raw.size * _DEFLATE_RATIO * 8 // (header.bits * header.channels))
        _check_png(raw)
    else:
        raise ImageError(f'compressed image of {raw.size} bytes is no JPEG or PNG')
    return header


def decode_compressed(data: Any, order: ChannelOrder = 'rgb', format_: str = '') -> np.ndarray:
    """
    Return a JPEG or PNG byte string as a colour picture.

    16-bit pictures are brought to 8 bits by 255 / 65535, alpha is left out, and EXIF orientation
    ignored.

    :param data: the bytes (``CompressedImage.data``, or a file's content).
    :param format_: ``CompressedImage.format``; empty for files.
    :returns: uint8 ``[H, W, 3]`` in ``order``.
    :raises ImageError: when the bytes are no whole JPEG or PNG, or hold depth.
    """
    said = parse_format(format_)
    if said.depth or is_depth(said.original):
        raise ImageError(f'format {format_[:60]!r} is depth, no picture; decode_depth reads it')
    header = picture_header(data)
    own = ENCODINGS.get(said.original)
    if (own is not None and own.family == 'bayer' and header.channels == 1
            and not said.stored.startswith(('mono', 'bgr', 'rgb'))):
        # The mosaic itself was compressed: what it shows is known from the format alone.
        return to_picture(_imdecode(data, cv2.IMREAD_UNCHANGED), own, order)
    # Compressors are handed BGR, by convention. One that was handed RGB has swapped the file's
    # colours, and says so.
    swapped = said.stored.startswith('rgb')
    if header.kind == 'png' and header.bits == 16:
        return _from_deep(_imdecode(data, cv2.IMREAD_UNCHANGED), order, swapped)
    rgb = (order == 'rgb') != swapped
    if rgb and _DIRECT_RGB is not None and header.kind == 'jpeg':
        return _imdecode(data, _DIRECT_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    image = _imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if rgb:
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    return image


def decode_label_image(msg: Any) -> np.ndarray:
    """
    Return the ids of a label ``Image`` (mono8, 8UC1) or PNG-compressed label message.

    An ``Image`` of 8-bit colours is taken for one of CARLA's ROS interfaces; see
    ``carla_labels``.

    :returns: uint8 ``[H, W]``; of an ``Image`` of ids, a view of the message.
    :raises ImageError: when the message holds anything but 8-bit ids.
    """
    if hasattr(msg, 'encoding'):
        if msg.encoding in ('mono8', '8UC1'):
            return raw_view(msg)
        if is_colour(msg.encoding):
            return carla_tags(raw_view(msg), find_encoding(msg.encoding).order)
        raise ImageError(f'label images must be mono8, not {msg.encoding!r}')
    if parse_format(msg.format).codec == 'jpeg':
        raise ImageError('label images must not be JPEG: it changes the ids; use PNG or mono8')
    labels = decode_label_png(msg.data)
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise ImageError('label images must have one channel of 8 bits')
    return labels


def decode_label_png(data: Any) -> np.ndarray:
    """
    Return what a PNG of labels holds; of a palette the indices, whatever colours they have.

    :returns: uint8 or uint16 ``[H, W]``, or ``[H, W, C]`` of a PNG of colours.
    :raises ImageError: when it is no whole PNG.
    """
    header = picture_header(data)
    if header.kind == 'jpeg':
        raise ImageError('label images must not be JPEG: it changes the ids; use PNG or mono8')
    # The ids are not for palettes, colour management or EXIF to change.
    if not header.palette:
        return _imdecode(data, cv2.IMREAD_UNCHANGED)
    labels = _imdecode(_as_grey(as_bytes(data)), cv2.IMREAD_UNCHANGED)
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise ImageError('label images must have one channel of 8 bits')
    # Grey of fewer bits is spread over all of 0 to 255.
    return labels // (255 // ((1 << header.bits) - 1))


def decode_deep_png(data: Any) -> np.ndarray:
    """
    Return a 16-bit PNG of one channel as it is: uint16 ``[H, W]``.

    :raises ImageError: when it is another picture.
    """
    header = picture_header(data)
    if header.kind != 'png' or (header.bits, header.channels) != (16, 1):
        raise ImageError(f'depth must be a PNG of one channel of 16 bits, not {header.kind} of '
                         f'{header.channels} of {header.bits}')
    return _imdecode(data, cv2.IMREAD_UNCHANGED)


def _from_deep(image: np.ndarray, order: ChannelOrder, swapped: bool) -> np.ndarray:
    image = to_eight_bits(image)
    if image.ndim == 2:
        return to_picture(image, _GREY, order)
    if image.shape[2] == 4:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    source = Encoding(image.dtype, 3, 'colour', 'rgb') if swapped else _PICTURE
    return to_picture(image, source, order)


def _jpeg_header(raw: np.ndarray) -> tuple[PictureHeader, int]:
    """Return what the frame header says, and where the picture's data begin."""
    at, header = 2, None
    view = memoryview(raw.data).cast('B')
    while at + 4 <= raw.size:
        if view[at] != 0xFF:
            break
        marker = view[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        length = view[at + 2] << 8 | view[at + 3]
        if marker == 0xDA and header is not None:
            return header, at
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 10 <= raw.size:
            bits, height, width, channels = struct.unpack_from('>BHHB', view, at + 4)
            header = PictureHeader('jpeg', width, height, bits, channels)
        elif marker == 0xD9:
            break
        at += 2 + max(2, length)
    if at + 4 > raw.size and not _ends_as_jpeg(raw):
        raise _cut_off(raw)
    raise ImageError(f'compressed image of {raw.size} bytes is damaged: no JPEG picture in it')


def _png_header(raw: np.ndarray) -> PictureHeader:
    if raw.size < 33:
        raise _cut_off(raw)
    name, width, height, bits, kind = struct.unpack_from('>4sIIBB', raw.data, 12)
    if name != b'IHDR' or kind not in _PNG_CHANNELS or bits not in (1, 2, 4, 8, 16):
        raise ImageError(f'compressed image of {raw.size} bytes is damaged: no PNG header')
    return PictureHeader('png', width, height, bits, _PNG_CHANNELS[kind], kind == _PALETTE)


def _check_claim(raw: np.ndarray, header: PictureHeader, limit: int) -> None:
    pixels = header.width * header.height
    if not 0 < pixels <= min(MAX_PIXELS, limit + _SLACK_PIXELS):
        raise ImageError(f'compressed image of {raw.size} bytes claims {header.width}x'
                         f'{header.height}, which is not possible')


def _check_jpeg(raw: np.ndarray, start: int) -> None:
    """
    Look for the end mark behind the beginning of the picture.

    A file that was cut off would otherwise come out half grey from some decoder versions. Zeros
    behind the end mark, which some cameras leave there, are fine; so are earlier end marks, of
    thumbnails.
    """
    if (_JPEG_END not in raw[max(start, raw.size - 64):].tobytes()
            and _JPEG_END not in raw[start:].tobytes()):
        raise _cut_off(raw)


def _check_png(raw: np.ndarray) -> None:
    """
    Follow the chunks of a PNG to its end.

    A decoder may make room for what a chunk claims before it reads it, or print what it thinks of
    a checksum.
    """
    view, at = memoryview(raw.data).cast('B'), 8
    while at + 12 <= raw.size:
        length, name = struct.unpack_from('>I4s', view, at)
        if length > raw.size - at - 12:
            break
        body = at + 8 + length
        if zlib.crc32(view[at + 4:body]) != struct.unpack_from('>I', view, body)[0]:
            raise ImageError(f'compressed image of {raw.size} bytes is damaged: wrong checksum')
        if name == b'IEND':
            return
        at = body + 4
    raise _cut_off(raw)


def _as_grey(raw: np.ndarray) -> np.ndarray:
    """Return a whole PNG with a palette as one whose indices are levels of grey."""
    source, at, kept = raw.tobytes(), 8, [_PNG_MARK]
    while at < len(source):
        length, name = struct.unpack_from('>I4s', source, at)
        end = at + 12 + length
        if name == b'IHDR':
            head = source[at + 4:at + 17] + b'\0' + source[at + 18:at + 8 + length]
            kept += [source[at:at + 4], head, struct.pack('>I', zlib.crc32(head))]
        elif name in (b'IDAT', b'IEND'):
            kept.append(source[at:end])
        if name == b'IEND':
            break
        at = end
    return np.frombuffer(b''.join(kept), np.uint8)


def _ends_as_jpeg(raw: np.ndarray) -> bool:
    return raw[-64:].tobytes().rstrip(b'\0').endswith(_JPEG_END)


def _cut_off(raw: np.ndarray) -> ImageError:
    return ImageError(f'compressed image of {raw.size} bytes is cut off')


def _imdecode(data: Any, flags: int) -> np.ndarray:
    raw = as_bytes(data)
    try:
        image = cv2.imdecode(raw, flags)
    except cv2.error as error:
        raise ImageError(f'compressed image is damaged: {error.err}') from None
    if image is None:
        raise ImageError(f'compressed image of {raw.size} bytes is damaged')
    return image

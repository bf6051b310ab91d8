"""
H.264 and H.265 streams, one picture per message, to pictures.

Comes in: the packets of a stream (Annex B) from a key frame on. Goes out: their pictures, each
with the number of its packet. OpenCV's own FFmpeg decodes: packets travel to it in an AVI file,
which keeps one chunk, one number and one time per packet, so that a packet without a picture
shifts none of the others. B-frames are refused: they come in another order than their packets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import os
import re
import struct
import tempfile
from typing import Any

import cv2
import numpy as np

from kd_perception.errors import ImageError
from kd_perception.imaging.encodings import as_bytes, ChannelOrder, MAX_PIXELS

_FOURCC = {'h264': b'H264', 'h265': b'HEVC'}
_START = b'\0\0\1'
_CHUNK_MS = 40  # what a packet lasts in the file; any will do
# By codec: NAL unit types of pictures, of those that need no other picture, of parameter sets.
_PICTURES = {'h264': range(1, 6), 'h265': range(32)}
_KEYS = {'h264': range(5, 6), 'h265': range(16, 22)}
_PARAMETERS = {'h264': {7, 8}, 'h265': {32, 33, 34}}


def video_codec(name: str) -> str:
    """
    Return ``h264``, ``h265``, or the first word of another name.

    Transports write the codec (``h264``), the encoder (``libx264``, ``hevc_nvenc``), or a list
    (``h264;yuv420p;bgr8;bgr8``).
    """
    first = re.split(r'[;, ]', name.strip().lower())[0]
    if 'hevc' in first or '265' in first:
        return 'h265'
    return 'h264' if '264' in first or 'avc' in first else first[:40]


def is_key_frame(data: Any, codec: str) -> bool:
    """
    Return whether decoding can begin with a packet.

    :raises ImageError: when the packet is no Annex B, or of a codec that is not known here.
    """
    return any(kind in _KEYS[codec] for kind, _ in _units(_checked(data, codec), codec))


def parameter_sets(data: Any, codec: str) -> bytes:
    """Return the parameter sets of a packet, which a decoder needs before the first picture."""
    found = [unit for kind, unit in _units(_checked(data, codec), codec)
             if kind in _PARAMETERS[codec]]
    return b''.join(b'\0' + _START + unit for unit in found)


class VideoDecoder:
    """
    Decodes the packets of a stream in their order; a context manager.

    :param packets: of one codec, beginning with a key frame.
    :raises ImageError: when OpenCV cannot decode them.
    """

    def __init__(self, packets: Sequence[bytes], codec: str) -> None:
        self._last = -1
        # One thread: several would hold pictures back, and would not live on in a forked process.
        options = [cv2.CAP_PROP_N_THREADS, 1] if hasattr(cv2, 'CAP_PROP_N_THREADS') else []
        # FFmpeg would print its own view of a damaged stream; ours is one line.
        os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
        file, name = tempfile.mkstemp(prefix='kd_perception_', suffix='.avi')
        try:
            with os.fdopen(file, 'wb') as out:
                for part in _avi(packets, _FOURCC[codec]):
                    out.write(part)
            self._capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, options)
        except OSError as error:
            raise ImageError(f'{name}: cannot be written: {error.strerror}; set TMPDIR to a '
                             'folder with room') from None
        finally:
            os.unlink(name)
        size = [self._capture.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH,
                                               cv2.CAP_PROP_FRAME_HEIGHT)]
        if not self._capture.isOpened() or not 0 < size[0] * size[1] <= MAX_PIXELS:
            self._capture.release()
            raise ImageError(f'OpenCV cannot decode this {codec} stream')

    def __enter__(self) -> VideoDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        while (found := self.read()) is not None:
            yield found

    def read(self, order: ChannelOrder = 'rgb') -> tuple[int, np.ndarray] | None:
        """
        Return the next picture and the number of its packet; None behind the last.

        :raises ImageError: when pictures come late or in another order than their packets.
        """
        done, image = self._capture.read()
        if not done or image is None:
            return None
        number = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) / _CHUNK_MS)
        # Held back pictures come with the number of a later packet.
        if number <= self._last or (self._last < 0 and number > 0):
            raise ImageError('the video has B-frames, or a damaged key frame: its pictures cannot '
                             'be told apart; record it without B-frames')
        self._last = number
        if order == 'rgb':
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
        return number, image

    def close(self) -> None:
        """Release the decoder."""
        self._capture.release()


def _checked(data: Any, codec: str) -> bytes:
    if codec not in _FOURCC:
        raise ImageError(f'video codec {codec!r} is not decoded; h264 and h265 are')
    raw = as_bytes(data)
    head = raw[:64].tobytes()
    if not head.lstrip(b'\0').startswith(b'\1') or head.find(_START) < 0:
        raise ImageError(f'{codec} packet of {raw.size} bytes is no Annex B: it begins with '
                         f'{head[:4].hex()}')
    return raw.tobytes()


def _units(data: bytes, codec: str) -> Iterator[tuple[int, bytes]]:
    """Yield (type, bytes) of the NAL units up to the first of a picture, which comes empty."""
    at = data.find(_START) + len(_START)
    while at < len(data):
        kind = data[at] & 31 if codec == 'h264' else data[at] >> 1 & 63
        if kind in _PICTURES[codec]:
            yield kind, b''
            return
        end = data.find(_START, at)
        yield kind, data[at:end if end >= 0 else len(data)].rstrip(b'\0')
        if end < 0:
            return
        at = end + len(_START)


def _avi(packets: Sequence[bytes], fourcc: bytes) -> Iterator[bytes]:
    """Yield an AVI file (RIFF, without index) that holds each packet as one chunk."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack('<I', len(data)) + data + b'\0' * (len(data) & 1)

    count = len(packets)
    size = 4 + sum(8 + len(p) + (len(p) & 1) for p in packets)
    # The decoder finds the size of the picture in the stream; the file has to name one.
    width, height = 640, 480
    main = struct.pack('<14I', _CHUNK_MS * 1000, 0, 0, 0, count, 0, 1, 0, width, height,
                       0, 0, 0, 0)
    stream = b'vids' + fourcc + struct.pack('<IHHIIIIIIII4H', 0, 0, 0, 0, _CHUNK_MS, 1000, 0,
                                            count, 0, 0xFFFFFFFF, 0, 0, 0, width, height)
    picture = struct.pack('<IiiHH4sIiiII', 40, width, height, 1, 24, fourcc, 0, 0, 0, 0, 0)
    inner = b'strl' + chunk(b'strh', stream) + chunk(b'strf', picture)
    head = chunk(b'LIST', b'hdrl' + chunk(b'avih', main) + chunk(b'LIST', inner))
    yield b'RIFF' + struct.pack('<I', 4 + len(head) + 8 + size) + b'AVI ' + head
    yield b'LIST' + struct.pack('<I', size) + b'movi'
    for packet in packets:
        yield chunk(b'00dc', packet)

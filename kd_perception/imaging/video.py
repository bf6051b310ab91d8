"""
H.264 and H.265 streams, one picture per message, to pictures.

Comes in: the packets of a stream (Annex B) from a key frame on. Goes out: their pictures, each
with the number of its packet. OpenCV's own FFmpeg decodes: packets travel to it as an AVI stream,
which keeps one chunk, one number and one time per packet, so that a packet without a picture
shifts none of the others.

B-frames are refused: they come in another order than their packets. A decoder that knows of them
from the start holds back its first picture, which tells; one that meets them later would only
shift all that follows. So they are looked for in H.264 packets too, and the packets of a decoder
must be of one ``stream_format`` (H.265 declares its order there).

Since 4.11 OpenCV asks for the stream piece by piece, so that memory does not follow its length.
Before, the packets lie in a temporary file, no more of them than it may hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import io
import os
import re
import struct
import sys
import tempfile
from typing import Any

import cv2
import numpy as np

from kd_perception.errors import ImageError
from kd_perception.imaging.encodings import as_bytes, ChannelOrder, MAX_PIXELS
from kd_perception.imaging.video_headers import Bits, InterlaceWatch

_FOURCC = {'h264': b'H264', 'h265': b'HEVC'}
_START = b'\0\0\1'
_CHUNK_MS = 40  # what a packet lasts in the stream; any will do
_LARGEST_PACKET = 2**31 - 9  # FFmpeg's own bound, and the alignment of a chunk
_STREAMED = hasattr(cv2, 'IStreamReader')
_FILE_BYTES, _FILE_PACKETS = 1 << 30, 128
# By codec: NAL unit types of pictures, of those that need no other picture, of parameter sets.
_PICTURES = {'h264': range(1, 6), 'h265': range(32)}
_KEYS = {'h264': range(5, 6), 'h265': range(16, 22)}
_PARAMETERS = {'h264': {7, 8}, 'h265': {32, 33, 34}}
_FORMAT = {'h264': 7, 'h265': 33}
_SLICE_HEAD = 16  # bytes; what is looked at is at the start of its first slice
_B_FRAMES = ('the video has B-frames, or a damaged key frame: its pictures cannot be told apart; '
             'record it without B-frames')
_INTERLACED = ('the video is interlaced: its pictures are fields, which are not decoded; '
               're-encode it as progressive video')


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


def stream_format(data: Any, codec: str) -> bytes:
    """Return what a packet says of the stream from it on (sequence parameter sets), or nothing."""
    return b''.join(unit for kind, unit in _units(_checked(data, codec), codec)
                    if kind == _FORMAT[codec])


def refuse_b_frames(data: Any, codec: str) -> None:
    """
    Look at the first slice of an H.264 packet.

    :raises ImageError: when it is bidirectional.
    """
    for kind, unit in _units(_checked(data, codec), codec):
        if codec == 'h264' and kind in _PICTURES[codec]:
            bits = Bits(unit)
            bits.golomb()
            if bits.golomb() % 5 == 1:
                raise ImageError(_B_FRAMES)


def coded_frames(packets: Iterable[bytes], codec: str) -> Iterator[bytes]:
    """Yield packets; raise ImageError at one whose pictures are fields."""
    # OpenCV would answer fields with memory that it has not written, as a picture and no error.
    watch = InterlaceWatch(codec)
    for packet in packets:
        if _START in packet[:64] and any(watch.sees(*unit) for unit in _units(packet, codec)):
            raise ImageError(_INTERLACED)
        yield packet


class VideoDecoder:
    """
    Decodes the packets of a progressive stream in their order; a context manager.

    :param packets: of one codec, beginning with a key frame; taken as they are needed.
    :param need: so many packets must fit where a file is needed.
    :raises ImageError: when OpenCV cannot decode them, or would need too large a file for it.
    """

    def __init__(self, packets: Iterable[bytes], codec: str, *, need: int = 1) -> None:
        self._last = -1
        self.full = False  # whether a file ended before the stream
        self._source = _AviStream(coded_frames(packets, codec), _FOURCC[codec])
        # One thread: several would hold pictures back, and would not live on in a forked process.
        options = [cv2.CAP_PROP_N_THREADS, 1] if hasattr(cv2, 'CAP_PROP_N_THREADS') else []
        # FFmpeg would print its own view of a damaged stream; ours is one line.
        os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
        if _STREAMED:
            # The stubs know the class that C++ wraps it in.
            readable: Any = self._source
            self._capture = cv2.VideoCapture(readable, cv2.CAP_FFMPEG, options)
            self._source.check()
        else:
            self._capture = self._from_file(need, options)
        size = [self._capture.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH,
                                               cv2.CAP_PROP_FRAME_HEIGHT)]
        if not self._capture.isOpened() or not 0 < size[0] * size[1] <= MAX_PIXELS:
            self._capture.release()
            raise ImageError(f'OpenCV cannot decode this {codec} stream')

    @property
    def taken(self) -> int:
        """Return how many packets the decoder has been given."""
        return self._source.taken

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
        tries = 0
        done, image = self._capture.read()
        # A packet that FFmpeg refuses ends one reading, not the stream; each such takes a packet.
        while not done and tries < self.taken - self._last:
            tries += 1
            done, image = self._capture.read()
        self._source.check()
        if not done or image is None:
            return None
        number = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) / _CHUNK_MS)
        # Held back pictures come with the number of a later packet.
        if number <= self._last or (self._last < 0 and number > 0):
            raise ImageError(_B_FRAMES)
        self._last = number
        if order == 'rgb':
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
        return number, image

    def close(self) -> None:
        """Release the decoder."""
        self._capture.release()

    def _from_file(self, need: int, options: list[int]) -> cv2.VideoCapture:
        """Return a capture of a temporary file, which is removed at once."""
        file, name = tempfile.mkstemp(prefix='kd_perception_', suffix='.avi')
        try:
            with os.fdopen(file, 'wb') as out:
                # Twice what is asked for: reading on within one stretch must not begin anew often.
                while part := self._source.part():
                    out.write(part)
                    large = out.tell() > _FILE_BYTES
                    if large and self._source.taken < need:
                        raise ImageError(
                            f'its video packet is more than {_FILE_BYTES >> 20} MiB behind the '
                            'last key frame; OpenCV 4.11 or later can decode that')
                    if large or self._source.taken >= max(2 * need, _FILE_PACKETS):
                        self.full = True
                        break
            return cv2.VideoCapture(name, cv2.CAP_FFMPEG, options)
        except OSError as error:
            raise ImageError(f'{name}: cannot be written: {error.strerror}; set TMPDIR to a '
                             'folder with room') from None
        finally:
            os.unlink(name)


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
    """Yield (type, bytes) of the NAL units up to the first of a picture, of which the head."""
    at = data.find(_START) + len(_START)
    while at < len(data):
        kind = data[at] & 31 if codec == 'h264' else data[at] >> 1 & 63
        if kind in _PICTURES[codec]:
            yield kind, data[at:at + _SLICE_HEAD]
            return
        end = data.find(_START, at)
        yield kind, data[at:end if end >= 0 else len(data)].rstrip(b'\0')
        if end < 0:
            return
        at = end + len(_START)


class _AviStream(io.BufferedIOBase):
    """
    An AVI stream (RIFF, without index or end) that holds each packet as one chunk.

    OpenCV reads it, but no error may pass through its C++: it is kept for ``check``.
    """

    def __init__(self, packets: Iterable[bytes], fourcc: bytes) -> None:
        self.taken = 0
        self._packets = iter(packets)
        self._rest = memoryview(_avi_head(fourcc))
        self._error: BaseException | None = None

    def part(self) -> bytes | memoryview:
        """Return the head, then chunk by chunk; nothing behind the last packet."""
        rest, self._rest = self._rest, memoryview(b'')
        if rest:
            return rest
        packet = next(self._packets, None)
        if packet is None:
            return b''
        self.taken += 1
        # A packet that no decoder takes has no picture.
        return _chunk(b'00dc', packet if len(packet) <= _LARGEST_PACKET else b'')

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes, fewer only at the end."""
        parts, missing = [], size if size is not None and size >= 0 else sys.maxsize
        try:
            while missing > 0 and self._error is None and (part := memoryview(self.part())):
                parts.append(part[:missing])
                missing -= len(parts[-1])
                self._rest = part[len(parts[-1]):]
        except BaseException as error:
            self._error = error
        return b''.join(parts)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Refuse, as pipes do: FFmpeg then reads on, and the size is unknown to it."""
        return -1

    def check(self) -> None:
        """Raise what happened while OpenCV read."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack('<I', len(data)) + data + b'\0' * (len(data) & 1)


def _avi_head(fourcc: bytes) -> bytes:
    """Return what comes before the chunks; sizes of 0 stand for a stream without known end."""
    # The decoder finds the size of the picture in the stream; the head has to name one.
    width, height = 640, 480
    main = struct.pack('<14I', _CHUNK_MS * 1000, 0, 0, 0, 0, 0, 1, 0, width, height, 0, 0, 0, 0)
    stream = b'vids' + fourcc + struct.pack('<IHHIIIIIIII4H', 0, 0, 0, 0, _CHUNK_MS, 1000, 0,
                                            0, 0, 0xFFFFFFFF, 0, 0, 0, width, height)
    picture = struct.pack('<IiiHH4sIiiII', 40, width, height, 1, 24, fourcc, 0, 0, 0, 0, 0)
    inner = b'strl' + _chunk(b'strh', stream) + _chunk(b'strf', picture)
    head = b'hdrl' + _chunk(b'avih', main) + _chunk(b'LIST', inner)
    return b'RIFF' + bytes(4) + b'AVI ' + _chunk(b'LIST', head) + b'LIST' + bytes(4) + b'movi'

"""
The pictures of a camera topic, whatever its messages hold: raw, compressed, or a video stream.

A picture of a video stream depends on those before it, back to the last key frame. Reading in
order decodes each packet once; a jump decodes from the key frame before its target. Packets go to
the decoder as it asks for them, so neither takes memory for more than some.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
import os
import threading
from typing import Any, TYPE_CHECKING

import numpy as np

from kd_perception.bags import messages as msgs
from kd_perception.errors import BagError, ImageError
from kd_perception.imaging import decode_message
from kd_perception.imaging.video import (
    is_key_frame,
    parameter_sets,
    refuse_b_frames,
    stream_format,
    VideoDecoder,
)

if TYPE_CHECKING:
    from kd_perception.bags.topics import TopicIndex

_SKIPPED_PICTURES = 15  # decoding so many takes as long as to begin anew behind them
_KEPT_PICTURES = 8  # readers in several threads ask a little out of order
_SEARCHED_PACKETS = 256  # for what a stream repeats at least every few seconds


class TopicPictures:
    """
    Decodes the messages of a topic; of use from any thread and after a fork.

    :param index: of the topic.
    """

    def __init__(self, index: TopicIndex) -> None:
        self._index = index
        self._video = _Stream(index) if index.channels[0][1].type in msgs.VIDEO_TYPES else None

    def decode(self, position: int, message: Any) -> np.ndarray:
        """
        Return the picture of a message.

        :param position: of the message on its topic.
        :returns: uint8 ``[H, W, 3]`` RGB.
        :raises ImageError: when it cannot be decoded, or comes before the first key frame.
        """
        if self._video is None:
            return decode_message(message)
        return self._video.picture(position, message)

    def needed_from(self, position: int) -> int:
        """Return the first message that a picture needs: the key frame at or before it."""
        try:
            return position if self._video is None else self._video.key_before(position)
        except ImageError:
            return position  # nothing can be decoded before the next one

    def close(self) -> None:
        """Release the decoder of a video."""
        if self._video is not None:
            self._video.close()


class _Stream:
    """A topic of video packets, with the decoder that has come furthest."""

    def __init__(self, index: TopicIndex) -> None:
        self._index = index
        self._keys: dict[int, bool] = {}
        self._key_of: dict[int, int] = {}
        self._refused: dict[int, str] = {}  # why nothing from a key frame on can be decoded
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._decoder: VideoDecoder | None = None
        self._process = os.getpid()
        # The packets that the decoder began with and decodes next; whether it has come to its end.
        self._begin, self._next, self._ended = 0, 0, False

    def picture(self, position: int, message: Any) -> np.ndarray:
        with self._lock:
            self._keys[position] = is_key_frame(message.data, msgs.video_codec_of(message))
            if self._process != os.getpid():  # a decoder cannot be shared with the parent
                self._decoder, self._process = None, os.getpid()
            if position not in self._kept:
                self._decode_to(position)
            if position not in self._kept:
                raise ImageError('its video packet holds no picture, or is damaged')
            return self._kept[position]

    def first_picture(self) -> np.ndarray:
        """Return the first key frame's, without a look at what follows."""
        for at in range(min(len(self._index), _SEARCHED_PACKETS)):
            if self._is_key(at):
                with VideoDecoder([self._with_parameters(at)], self._codec(at)) as decoder:
                    for _, image in decoder:
                        return image
                break
        raise ImageError('there is no key frame')

    def key_before(self, position: int) -> int:
        """Return the key frame at or before a packet; each is looked at once."""
        key = -1
        for at in range(position, -1, -1):
            if at in self._key_of:
                key = self._key_of[at]
                break
            if self._is_key(at):
                key = at
                break
        self._key_of[position] = key
        if key < 0:
            raise ImageError('comes before the first key frame of the video')
        return key

    def close(self) -> None:
        """Release the decoder."""
        with self._lock:
            self._forget()

    def _decode_to(self, position: int) -> None:
        key = self.key_before(position)
        if key in self._refused:
            raise ImageError(self._refused[key])
        try:
            self._decode_from(key, position)
        except ImageError as error:
            self._refused[key] = str(error)
            self._forget()
            raise

    def _decode_from(self, key: int, position: int) -> None:
        if self._decoder is None or self._stale(key, position):
            self._open(key, position)
        while self._decoder is not None and self._next <= position and not self._ended:
            found = self._decoder.read()
            if found is not None:
                number, image = found
                self._next = self._begin + number + 1
                image.flags.writeable = False
                self._kept[self._begin + number] = image
                while len(self._kept) > _KEPT_PICTURES:
                    self._kept.popitem(last=False)
            elif not self._given(position) and (self._decoder.full or self._begin < key):
                self._open(key, position)
            else:
                self._next, self._ended = position + 1, True

    def _stale(self, key: int, position: int) -> bool:
        """Return whether it is better, or needed, to begin anew at the key frame."""
        assert self._decoder is not None
        if position < self._next or key - self._next > _SKIPPED_PICTURES:
            return True
        more = self._decoder.full and not self._given(position)
        return self._ended and (more or key >= self._next)

    def _given(self, position: int) -> bool:
        """Return whether the decoder has been given a packet."""
        return self._decoder is not None and self._begin + self._decoder.taken > position

    def _open(self, key: int, position: int) -> None:
        self._forget()
        first, codec = self._with_parameters(key), self._codec(key)
        self._decoder = VideoDecoder(_stretch(self._index, key, first, codec), codec,
                                     need=position - key + 1)
        self._begin, self._next, self._ended = key, key, False

    def _forget(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = None

    def _is_key(self, position: int) -> bool:
        if position not in self._keys:
            try:
                message = self._index.message(position)
                self._keys[position] = is_key_frame(message.data, msgs.video_codec_of(message))
            except (BagError, ImageError):
                self._keys[position] = False
        return self._keys[position]

    def _with_parameters(self, key: int) -> bytes:
        """Return a key frame with the parameter sets that may have come in an earlier packet."""
        packet, codec = _packet(self._index, key), self._codec(key)
        near = range(key, max(-1, key - _SEARCHED_PACKETS), -1)
        for at in (*near, *range(min(key, _SEARCHED_PACKETS))):
            try:
                found = parameter_sets(_packet(self._index, at), codec)
            except ImageError:
                continue
            if found:
                return packet if at == key else found + packet
        return packet

    def _codec(self, position: int) -> str:
        return msgs.video_codec_of(self._index.message(position))


def _stretch(index: TopicIndex, key: int, first: bytes, codec: str) -> Iterator[bytes]:
    """
    Yield the packets from a key frame on, up to where a stream of another form begins.

    No method of the stream, which could not be freed while its decoder holds this generator.

    :param first: the packet of the key frame, with parameter sets.
    :raises ImageError: at a B-frame.
    """
    form = stream_format(first, codec)
    yield first
    for at in range(key + 1, len(index)):
        packet = _packet(index, at, codec)
        if packet:
            if stream_format(packet, codec) not in (b'', form):
                return
            refuse_b_frames(packet, codec)
        yield packet


def _packet(index: TopicIndex, position: int, codec: str = '') -> bytes:
    """Return a packet; an empty one, without picture, for one damaged or of another codec."""
    try:
        message = index.message(position)
        found = msgs.video_codec_of(message)
        is_key_frame(message.data, found)
    except (BagError, ImageError):
        return b''
    return bytes(message.data) if codec in ('', found) else b''


def describe_video(index: TopicIndex) -> tuple[str, int, int]:
    """Return (codec, width, height) of a video topic; size 0 where no picture can be decoded."""
    message = index.message(0)
    codec = msgs.video_codec_of(message)
    if getattr(message, 'width', 0) and getattr(message, 'height', 0):
        return codec, int(message.width), int(message.height)
    stream = _Stream(index)
    try:
        picture = stream.first_picture()
    except (BagError, ImageError):
        return codec, 0, 0
    return codec, picture.shape[1], picture.shape[0]

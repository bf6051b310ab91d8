"""
The pictures of a camera topic, whatever its messages hold: raw, compressed, or a video stream.

A picture of a video stream depends on those before it, back to the last key frame. Reading in
order decodes each packet once; a jump decodes from the key frame before its target.
"""

from __future__ import annotations

from collections import OrderedDict
import os
import threading
from typing import Any, TYPE_CHECKING

import numpy as np

from kd_perception.bags import messages as msgs
from kd_perception.errors import BagError, ImageError
from kd_perception.imaging import decode_message
from kd_perception.imaging.video import is_key_frame, parameter_sets, VideoDecoder

if TYPE_CHECKING:
    from kd_perception.bags.topics import TopicIndex

# Decoded at once for one request; long enough for the key frame distance of most encoders.
_FIRST_WINDOW = 128
_WINDOW_BYTES = 1 << 28
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
        # The packets that the decoder has, and the one that it decodes next.
        self._begin, self._end, self._next = -1, 0, 0

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

    def _decode_to(self, position: int) -> None:
        key = self._key_before(position)
        if key in self._refused:
            raise ImageError(self._refused[key])
        try:
            self._decode_from(key, position)
        except ImageError as error:
            self._refused[key], self._decoder = str(error), None
            raise

    def _decode_from(self, key: int, position: int) -> None:
        reached = self._begin <= key and self._next <= position < self._end
        if self._decoder is None or not reached or key - self._next > _SKIPPED_PICTURES:
            window = _FIRST_WINDOW
            if key == self._begin and position >= self._end:
                # A stream without further key frames: again from the only one, twice as far.
                window = 2 * (self._end - self._begin)
            self._open(key, position, window)
        while self._next <= position and self._decoder is not None:
            found = self._decoder.read()
            if found is None:
                self._next = self._end
                return
            number, image = found
            self._next = self._begin + number + 1
            image.flags.writeable = False
            self._kept[self._begin + number] = image
            while len(self._kept) > _KEPT_PICTURES:
                self._kept.popitem(last=False)

    def _open(self, key: int, position: int, window: int) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None
        # Who goes on where the last window ended reads in order: key frames need not end the next.
        in_order = key == self._end
        packets, size = [self._with_parameters(key)], 0
        stop = min(len(self._index), max(position + 1, key + window))
        for at in range(key + 1, stop):
            packet = self._packet(at)
            if (self._keys[at] and not in_order) or (size > _WINDOW_BYTES and at > position):
                break
            packets.append(packet)
            size += len(packet)
        else:
            # Ends before a key frame where it can, so that the next window begins with it.
            last = max((k for k in range(position + 1, stop) if self._keys[k]), default=stop)
            if stop < len(self._index):
                del packets[last - key:]
        self._decoder = VideoDecoder(packets, self._codec(key))
        self._begin, self._next, self._end = key, key, key + len(packets)

    def _key_before(self, position: int) -> int:
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
        packet, codec = self._packet(key), self._codec(key)
        near = range(key, max(-1, key - _SEARCHED_PACKETS), -1)
        for at in (*near, *range(min(key, _SEARCHED_PACKETS))):
            try:
                found = parameter_sets(self._packet(at), codec)
            except ImageError:
                continue
            if found:
                return packet if at == key else found + packet
        return packet

    def _packet(self, position: int) -> bytes:
        """Return a packet; an empty one, which has no picture, in place of a damaged one."""
        try:
            message = self._index.message(position)
            self._keys[position] = is_key_frame(message.data, msgs.video_codec_of(message))
        except (BagError, ImageError):
            self._keys[position] = False
            return b''
        return bytes(message.data)

    def _codec(self, position: int) -> str:
        return msgs.video_codec_of(self._index.message(position))


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

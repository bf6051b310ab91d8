"""
The interface behind which image messages become pictures.

There is one codec of our own. Where ROS is installed, ``nodes`` may offer one that uses
``cv_bridge``; both pass the same conformance tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_perception.errors import ImageError
from kd_perception.imaging.compressed import decode_compressed
from kd_perception.imaging.encodings import ChannelOrder
from kd_perception.imaging.raw import decode_image


@dataclass(frozen=True)
class ImageCodec:
    """
    Something that decodes image messages.

    :param name: for diagnostics, e.g. ``own codec``.
    :param decode: like ``decode_message``.
    """

    name: str
    decode: Callable[[Any, ChannelOrder], np.ndarray]


def decode_message(msg: Any, order: ChannelOrder = 'rgb') -> np.ndarray:
    """
    Return a ``sensor_msgs/Image`` or ``CompressedImage`` as a colour picture.

    :returns: uint8 ``[H, W, 3]`` in ``order``; may be a read-only view of the message.
    :raises ImageError: for damaged messages and for those that hold no picture.
    """
    if hasattr(msg, 'encoding'):
        return decode_image(msg, order)
    if hasattr(msg, 'format'):
        return decode_compressed(msg.data, order, msg.format)
    raise ImageError(f'{type(msg).__name__} is no image message')


OWN_CODEC = ImageCodec('own codec', decode_message)

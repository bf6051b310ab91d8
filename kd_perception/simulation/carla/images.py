"""
CARLA's images to arrays.

A ``carla.Image`` holds BGRA bytes. Its ``raw_data`` is a view that does not keep the image alive,
so nothing that leaves this module shares memory with one: each function copies once, and converts
on the way.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from kd_perception.errors import SimulationError


def bgra(image: Any) -> np.ndarray:
    """
    Return the pixels of a ``carla.Image``.

    :returns: uint8 ``[H, W, 4]``, read-only; of use only while ``image`` exists.
    :raises SimulationError: when size and data disagree.
    """
    pixels = np.frombuffer(image.raw_data, np.uint8)
    height, width = int(image.height), int(image.width)
    if pixels.size != height * width * 4:
        raise SimulationError(f'a CARLA image of {width}x{height} carries {pixels.size} bytes, '
                              f'not {height * width * 4}')
    return pixels.reshape(height, width, 4)


def rgb(image: Any) -> np.ndarray:
    """Return the picture of an RGB camera: uint8 ``[H, W, 3]`` RGB."""
    return cv2.cvtColor(bgra(image), cv2.COLOR_BGRA2RGB)


def tags(image: Any, lookup: np.ndarray) -> np.ndarray:
    """
    Return the tags of a semantic camera, which are in the red byte.

    :param lookup: uint8 ``[256]``: what a tag becomes, e.g. 255 for one that is unknown.
    :returns: uint8 ``[H, W]``.
    """
    return lookup[bgra(image)[..., 2]]


def instance_ids(image: Any) -> np.ndarray:
    """Return the ids of an instance camera, low byte green, high byte blue: uint16 ``[H, W]``."""
    pixels = bgra(image)
    return pixels[..., 1] | pixels[..., 0].astype(np.uint16) << np.uint16(8)

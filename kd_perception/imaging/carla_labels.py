"""
Label images of CARLA's own ROS interfaces to its tags.

Its ROS bridge publishes the semantic camera in the colours of the Cityscapes palette, its native
ROS 2 publishes the tag in the red byte with green and blue zero; both as ``bgra8``. Which one it
is shows in the pixels: the two share black, which is tag 0 in both.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from kd_perception.classes import load_class_set
from kd_perception.errors import ImageError

_RIDER_RED = 255  # the palette's one other colour without green and blue
_TO_BGRA = {'rgb': cv2.COLOR_RGB2BGRA, 'bgr': cv2.COLOR_BGR2BGRA, 'rgba': cv2.COLOR_RGBA2BGRA}


def carla_tags(pixels: np.ndarray, order: str) -> np.ndarray:
    """
    Return the tags (CARLA 0.9.14 and later) of a label image in colours.

    :param pixels: uint8 ``[H, W, 3]`` or ``[H, W, 4]``.
    :param order: of the channels, such as ``bgra``.
    :returns: uint8 ``[H, W]``; 255 for tags that are unknown here.
    :raises ImageError: when it is of neither form.
    """
    bgra = pixels if order == 'bgra' else cv2.cvtColor(pixels, _TO_BGRA[order])
    # One number per pixel; in the order of BGRA, whatever the machine's.
    colors = np.ascontiguousarray(bgra).view('<u4')[..., 0] & np.uint32(0xFFFFFF)
    red = bgra[..., 2]
    if not (colors & np.uint32(0xFFFF)).any() and not _all_rider(red):
        return _lookup()[red]
    # Neighbours are mostly alike: what is looked up is where the colour changes.
    flat = colors.reshape(-1)
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    runs = flat[starts]
    known, tags = _palette()
    at = np.minimum(np.searchsorted(known, runs), len(known) - 1)
    foreign = np.flatnonzero(known[at] != runs)
    if foreign.size:
        value = int(runs[foreign[0]])
        raise ImageError(
            f'RGB color {(value >> 16, value >> 8 & 255, value & 255)} is neither of the palette '
            'of CARLA 0.9.14 and later nor a tag in the red byte; label images must be mono8 '
            'ids, or as the CARLA ROS bridge or native ROS 2 publish them')
    lengths = np.diff(starts, append=flat.size)
    return np.repeat(tags[at], lengths).reshape(red.shape)


def _all_rider(red: np.ndarray) -> bool:
    """Tell whether this can only be the palette's black and the red of its riders."""
    return bool((red == _RIDER_RED).any() and np.isin(red, (0, _RIDER_RED)).all())


@lru_cache(maxsize=1)
def _lookup() -> np.ndarray:
    """Return uint8 ``[256]``: known tags, 255 for others."""
    table = load_class_set('carla').lookup()
    table.flags.writeable = False
    return table


@lru_cache(maxsize=1)
def _palette() -> tuple[np.ndarray, np.ndarray]:
    """Return the colours as uint32 ``[K]`` 0xRRGGBB, ascending, and the tags uint8 ``[K]``."""
    colors = np.array(load_class_set('carla').colors, np.uint32)
    codes = colors @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    order = np.argsort(codes)
    return codes[order], order.astype(np.uint8)

"""
Small planes made smaller, without loss: what makes a cache of soft labels fit on a disk.

Levels of neighbouring cells are alike, so their differences (the filters of PNG) have short
codes; the winner of every pixel comes in large areas of one id, which deflate likes as they are.
"""

from __future__ import annotations

import zlib

import cv2
import numpy as np

from kd_perception.errors import ConfigError

# Huffman codes of filtered differences alone: a third smaller than searching for repetitions,
# which noise has none of, and twice as fast.
_PNG = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY)
# Higher levels take three times as long for a twentieth of a bit per pixel.
_DEFLATE = 3


def pack_planes(planes: np.ndarray) -> np.ndarray:
    """Return uint8 ``[n]`` for uint8 planes ``[K, h, w]``."""
    count, height, width = planes.shape
    return cv2.imencode('.png', planes.reshape(count * height, width), _PNG)[1].ravel()


def unpack_planes(data: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """
    Return what ``pack_planes`` was given.

    :raises ConfigError: when the bytes are not those of such planes.
    """
    planes = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if planes is None or planes.shape != (shape[0] * shape[1], shape[2]):
        raise ConfigError(f'soft-label record: its bytes are no planes of shape {list(shape)}')
    return planes.reshape(shape)


def pack_ids(ids: np.ndarray) -> np.ndarray:
    """Return uint8 ``[n]`` for class ids, uint8 ``[H, W]``."""
    return np.frombuffer(zlib.compress(ids.tobytes(), _DEFLATE), np.uint8)


def unpack_ids(data: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """
    Return what ``pack_ids`` was given.

    :raises ConfigError: when the bytes are not those of such ids.
    """
    inflate = zlib.decompressobj()
    size = shape[0] * shape[1]
    try:
        # Bounded: a few damaged bytes may claim gigabytes.
        ids = inflate.decompress(data.tobytes(), size)
    except zlib.error:
        ids = b''
    if len(ids) != size:
        raise ConfigError(f'soft-label record: its bytes are no ids of shape {list(shape)}')
    return np.frombuffer(bytearray(ids), np.uint8).reshape(shape)  # writable, as torch likes


def winners(logits: np.ndarray) -> np.ndarray:
    """Return uint8 ``[h, w]``: the arg-max of ``[K, h, w]``; three times as fast as NumPy's."""
    best = logits[0].copy()
    ids = np.zeros(best.shape, np.uint8)
    for index, plane in enumerate(logits[1:], 1):
        ids[plane > best] = index
        np.maximum(best, plane, out=best)
    return ids

"""
Near-duplicates: how far two pictures differ, and which frames of a standing car can go.

The measure is cheap and knows nothing of objects: both pictures become grey and 64 pixels wide,
their brightness and contrast are taken out (an exposure that drifts is no motion), and the mean
absolute difference counts, in percent of the contrast. JPEG files are decoded at an eighth of
their size for it. ``docs/bags.md`` shows what standing and driving recordings measure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np

from kd_perception.errors import ImageError
from kd_perception.imaging import picture_header

# Between what noise makes of one picture (0.8; 2.1 when it is heavy) and slow driving (2.8).
DRIVING = 2.4

_WIDTH = 64
_JPEG = b'\xff\xd8'
# Grey levels: keeps the noise of a picture without contrast (night, fog) from being blown up.
_LEAST_CONTRAST = 16.0


def thumbnail(image: np.ndarray) -> np.ndarray:
    """
    Return what of a picture is compared.

    :param image: uint8 ``[H, W, 3]`` RGB or ``[H, W]``.
    :returns: float32 ``[h, 64]`` of mean 0 and, unless it is nearly flat, deviation 1.
    """
    height = max(1, round(image.shape[0] * _WIDTH / image.shape[1]))
    if image.shape[1] > 4 * _WIDTH:
        image = cv2.resize(image, (4 * _WIDTH, 4 * height), interpolation=cv2.INTER_AREA)
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    # The last step in fractions: whole grey levels would be noise where contrast is low.
    grey = cv2.resize(image.astype(np.float32), (_WIDTH, height), interpolation=cv2.INTER_AREA)
    return (grey - grey.mean()) / max(float(grey.std()), _LEAST_CONTRAST)


def thumbnail_of_jpeg(data: Any) -> np.ndarray | None:
    """Return the thumbnail of a JPEG, decoded small; None when it is none or is damaged."""
    raw = np.frombuffer(data, np.uint8)
    if raw[:2].tobytes() != _JPEG:
        return None
    try:
        picture_header(raw)  # OpenCV takes the memory of whatever size a file claims
        grey = cv2.imdecode(raw, cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION)
    except (ImageError, cv2.error):
        return None
    return None if grey is None else thumbnail(grey)


def change(first: np.ndarray, second: np.ndarray) -> float:
    """Return how far two thumbnails differ, in percent of their contrast."""
    if first.shape != second.shape:
        return 100.0
    return 100.0 * float(np.abs(first - second).mean())


def moving(thumbnails: Iterable[np.ndarray | None], least: float) -> np.ndarray:
    """
    Return the places of the frames that differ enough from the last one kept.

    The first is kept, and so is one that cannot be decoded (None): whoever reads it counts it.

    :param least: percent, see ``change``.
    :returns: int64 ``[m]``, ascending.
    """
    kept: list[int] = []
    last: np.ndarray | None = None
    for place, current in enumerate(thumbnails):
        if current is None:
            kept.append(place)
        elif last is None or change(last, current) >= least:
            kept.append(place)
            last = current
    return np.array(kept, np.int64)

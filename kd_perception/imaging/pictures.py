"""Pictures after decoding and before encoding: files, sizes, colours."""

from __future__ import annotations

import cv2
import numpy as np

from kd_perception.errors import ImageError


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """Return ``image`` (uint8 ``[H, W, 3]`` RGB) as JPEG."""
    return _imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
                     [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(image: np.ndarray, effort: int = 1) -> bytes:
    """
    Return ``image`` (uint8/uint16 ``[H, W]``, or uint8 ``[H, W, 3]`` RGB) as PNG.

    :param effort: 0 … 9; 9 makes masks half as large as 1 and takes several times as long.
    """
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return _imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, effort])


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """
    Return ``image`` (uint8 ``[H, W, C]``) at another size; itself when the size is equal.

    Area averaging when it shrinks (no aliasing), bilinear otherwise. Labelling, evaluation and
    the node all come through here, so that a network sees the same pixels everywhere.
    """
    if image.shape[:2] == (height, width):
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=mode)


def resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return ``labels`` (uint8 ``[H, W]``) at another size by nearest neighbour."""
    if labels.shape == (height, width):
        return labels
    return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def colorize(mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return uint8 ``[H, W, 3]`` RGB from ids ``[H, W]`` and a ``[256, 3]`` palette."""
    return palette[mask]


def overlay(image: np.ndarray, mask: np.ndarray, palette: np.ndarray,
            opacity: float = 0.5) -> np.ndarray:
    """Return ``image`` (RGB) with the coloured ``mask`` over it; 255 stays see-through."""
    painted = cv2.addWeighted(image, 1.0 - opacity, colorize(mask, palette), opacity, 0.0)
    painted[mask == 255] = image[mask == 255]
    return painted


def _imencode(suffix: str, image: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise ImageError(f'cannot encode an image of shape {image.shape} as {suffix}')
    return data.tobytes()

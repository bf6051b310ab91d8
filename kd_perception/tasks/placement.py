"""
Frames of any size into the input of a network, and what it says back onto the frame.

The one place that knows the resize policies of a bundle: labelling, evaluation and the perception
node all come here, so that a network sees the same picture everywhere.

- ``stretch``: the frame fills the input; its aspect may change.
- ``letterbox``: the aspect is kept, the frame lies in the middle, and bars fill the rest.
- ``pad``: the frame keeps its size and lies in the upper left corner; it is shrunk, aspect kept,
  only where it is larger than the input. For inputs that are the camera's size rounded up to the
  network's stride.

Bars have the colour that normalisation turns into zeros (the mean), which is what networks were
padded with in training most often.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from kd_perception.bundle import InputSpec
from kd_perception.imaging import resize_image


@dataclass(frozen=True)
class Placement:
    """
    Where a frame lies in the input: rows ``top`` … ``top + height``, columns alike.

    :param input_size: height and width of the input.
    """

    top: int
    left: int
    height: int
    width: int
    input_size: tuple[int, int]

    @property
    def whole(self) -> bool:
        """Return whether the frame fills the input."""
        return (self.height, self.width) == self.input_size

    def crop(self, plane: np.ndarray) -> np.ndarray:
        """Return the frame's part of ``[H, W]`` at the input's size; a view."""
        if self.whole:
            return plane
        return plane[self.top:self.top + self.height, self.left:self.left + self.width]

    def crop_grid(self, logits: np.ndarray) -> np.ndarray:
        """
        Return the frame's part of logits at the network's own stride.

        The border of the frame need not fall on one of a cell: cells are then interpolated
        between their centres.

        :param logits: float32 ``[K, h, w]`` of the whole input.
        :returns: float32 ``[K, rows, columns]`` of about the same stride.
        """
        if self.whole:
            return logits
        (rows, top), (columns, left) = (
            _span(first, length, whole, cells) for first, length, whole, cells in zip(
                (self.top, self.left), (self.height, self.width), self.input_size,
                logits.shape[1:], strict=True))
        y = np.repeat(top[:, None], columns, 1)
        x = np.repeat(left[None], rows, 0)
        out = np.empty((len(logits), rows, columns), np.float32)
        for plane, cropped in zip(logits, out, strict=True):
            cv2.remap(np.ascontiguousarray(plane, np.float32), x, y, cv2.INTER_LINEAR,
                      dst=cropped, borderMode=cv2.BORDER_REPLICATE)
        return out


def place(size: tuple[int, int], spec: InputSpec) -> Placement:
    """
    Return where a frame goes.

    :param size: height and width of the frame in pixels.
    """
    target = (spec.height, spec.width)
    if spec.resize == 'stretch' or size == target:
        return Placement(0, 0, *target, target)
    scale = min(target[0] / size[0], target[1] / size[1])
    if spec.resize == 'pad':
        scale = min(scale, 1.0)
    height, width = (max(1, min(whole, round(side * scale)))
                     for side, whole in zip(size, target, strict=True))
    if spec.resize == 'pad':
        return Placement(0, 0, height, width, target)
    return Placement((target[0] - height) // 2, (target[1] - width) // 2, height, width, target)


def fill_color(spec: InputSpec) -> tuple[int, int, int]:
    """Return the colour of bars, in the bundle's channel order."""
    first, second, third = (int(np.clip(round(m / spec.scale), 0, 255)) for m in spec.mean)
    return first, second, third


def fit(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """
    Return the picture as an engine takes it, C-contiguous.

    :param image: uint8 ``[H, W, 3]`` of any size, in the bundle's channel order.
    :returns: uint8 ``[spec.height, spec.width, 3]``.
    """
    return _fit(image, spec, fill_color(spec))


def network_input(image_rgb: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Return what :func:`fit` does of an RGB picture, in the bundle's channel order."""
    if spec.channel_order == 'rgb':
        return fit(image_rgb, spec)
    # Turned round after it was resized, when it is small.
    return np.ascontiguousarray(_fit(image_rgb, spec, fill_color(spec)[::-1])[..., ::-1])


def _fit(image: np.ndarray, spec: InputSpec, fill: tuple[int, ...]) -> np.ndarray:
    where = place((image.shape[0], image.shape[1]), spec)
    image = resize_image(image, where.height, where.width)
    if where.whole:
        return np.ascontiguousarray(image)
    out = np.empty((*where.input_size, 3), np.uint8)
    out[:] = fill
    out[where.top:where.top + where.height, where.left:where.left + where.width] = image
    return out


def _span(first: int, length: int, whole: int, cells: int) -> tuple[int, np.ndarray]:
    """Return how many cells lie in a stretch of the input, and their centres in cells."""
    count = max(1, round(length * cells / whole))
    centres = (first + (np.arange(count) + 0.5) * length / count) * cells / whole - 0.5
    return count, centres.astype(np.float32)

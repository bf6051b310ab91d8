"""The part of a camera's image that is looked at: where it lies, and what its mask becomes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_perception.classes import UNLABELLED
from kd_perception.errors import ConfigError
from kd_perception.tasks.segmentation import SegmentationResult


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels in an image."""

    x: int
    y: int
    width: int
    height: int

    def crop(self, image: np.ndarray) -> np.ndarray:
        """Return the window's part of ``[H, W, …]``; a view."""
        return image[self.y:self.y + self.height, self.x:self.x + self.width]


@dataclass(frozen=True)
class Region:
    """
    A rectangle in fractions of the image, so that it means the same at every resolution.

    :param x: left edge, 0 to 1.
    :param y: upper edge.
    :param width: above 0.
    :param height: above 0.
    """

    x: float = 0.0
    y: float = 0.0
    width: float = 1.0
    height: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Region | None:
        """
        Return what ``x, y, width, height`` says; None for an empty text, the whole image.

        :raises ConfigError: when it lies outside of the image or is empty.
        """
        if not text.strip():
            return None
        try:
            x, y, width, height = (float(part) for part in text.strip().strip('[]').split(','))
        except ValueError:
            raise ConfigError(f'region: {text!r} is not x, y, width, height in fractions of the '
                              'image, e.g. 0, 0.4, 1, 0.6') from None
        # Each by itself, so that what is not a number is seen.
        if not (x >= 0 and y >= 0 and width > 0 and height > 0
                and x + width <= 1.0 + 1e-9 and y + height <= 1.0 + 1e-9):
            raise ConfigError(f'region: {text!r} does not lie in the image: fractions from 0 to '
                              '1, x + width and y + height at most 1')
        return cls(x, y, width, height)

    def window(self, height: int, width: int) -> Window:
        """Return the pixels of an image of that size; one at least."""
        left, right = _span(self.x, self.width, width)
        top, bottom = _span(self.y, self.height, height)
        return Window(left, top, right - left, bottom - top)


def paste(result: SegmentationResult, window: Window, height: int,
          width: int) -> SegmentationResult:
    """Return a window's result in the whole image: unlabelled, without confidence, outside."""
    mask = np.full((height, width), UNLABELLED, np.uint8)
    confidence = np.zeros((height, width), np.uint8)
    window.crop(mask)[:] = result.mask
    window.crop(confidence)[:] = result.confidence
    return SegmentationResult(mask, confidence)


def _span(first: float, length: float, pixels: int) -> tuple[int, int]:
    start = min(round(first * pixels), pixels - 1)
    return start, max(start + 1, min(round((first + length) * pixels), pixels))

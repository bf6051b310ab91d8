"""
Random views of a frame: where to look, and how the light falls.

A ``View`` is drawn from a generator seeded by the sample, then applied to the picture and the
labels here, and to cached logits on the training device through ``View.theta``. All three use the
same rectangle and the same pixel centres, so they stay aligned to a fraction of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
import numpy as np

from kd_perception.classes import UNLABELLED
from kd_perception.distillation.recipe import AugmentRecipe

# Pixels beyond the frame are painted in the mean colour of natural pictures: near zero for the
# network after normalisation.
_BORDER = (124, 116, 104)


@dataclass(frozen=True)
class View:
    """
    A rectangle of the frame, brought to the size of a training sample.

    :param top: row of the rectangle in the frame; it may reach beyond the frame.
    :param left: column of the rectangle.
    :param height: rows of the rectangle.
    :param width: columns of the rectangle.
    :param flip: mirrored left to right, after cropping.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool = False

    def theta(self, frame_height: int, frame_width: int) -> np.ndarray:
        """
        Return float32 ``[2, 3]`` for ``affine_grid``: view to frame, both from -1 to 1.

        ``align_corners=False`` is meant: -1 and 1 are the outer edges of the border pixels, which
        makes the matrix independent of the resolution of what is sampled.
        """
        scale_x, scale_y = self.width / frame_width, self.height / frame_height
        shift_x = (2 * self.left + self.width) / frame_width - 1
        shift_y = (2 * self.top + self.height) / frame_height - 1
        sign = -1.0 if self.flip else 1.0
        return np.array([[sign * scale_x, 0, shift_x], [0, scale_y, shift_y]], np.float32)


def draw_view(rng: np.random.Generator, recipe: AugmentRecipe, frame: tuple[int, int],
              crop: tuple[int, int], centre: tuple[int, int] | None = None) -> View:
    """
    Draw a random view.

    :param frame: height and width of the frame.
    :param crop: height and width of the sample.
    :param centre: row and column that the view should contain near its middle, or None.
    """
    zoom = math.exp(rng.uniform(math.log(recipe.scale[0]), math.log(recipe.scale[1])))
    stretch = math.exp(rng.uniform(-recipe.aspect, recipe.aspect) / 2)
    height = max(2, round(crop[0] / zoom / stretch))
    width = max(2, round(crop[1] / zoom * stretch))
    top = _start(rng, height, frame[0], None if centre is None else centre[0])
    left = _start(rng, width, frame[1], None if centre is None else centre[1])
    return View(top, left, height, width, bool(rng.random() < recipe.flip))


def rare_pixel(rng: np.random.Generator, ids: np.ndarray, weights: np.ndarray,
               frame: tuple[int, int]) -> tuple[int, int] | None:
    """
    Draw a class of ``ids`` by ``weights``, then one of its pixels.

    :param ids: class ids ``[h, w]`` of the frame, as coarse as you like.
    :param weights: float ``[K]``; larger for classes that should be looked at more often.
    :param frame: height and width of the frame.
    :returns: row and column in the frame, or None where nothing is labelled.
    """
    present = np.bincount(ids.ravel(), minlength=256)[:len(weights)] > 0
    chances = np.where(present, weights, 0.0)
    if chances.sum() <= 0:
        return None
    chosen = rng.choice(len(weights), p=chances / chances.sum())
    pixels = np.flatnonzero(ids == chosen)
    row, column = divmod(int(pixels[rng.integers(len(pixels))]), ids.shape[1])
    return row * frame[0] // ids.shape[0], column * frame[1] // ids.shape[1]


def view_image(image: np.ndarray, view: View, crop: tuple[int, int]) -> np.ndarray:
    """Return the view of ``image`` (uint8 ``[H, W, 3]``) as uint8 ``[*crop, 3]``, contiguous."""
    part = _cut(image, view, _BORDER)
    if part.shape[:2] != crop:
        shrinks = view.height >= crop[0] and view.width >= crop[1]
        mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        part = cv2.resize(part, (crop[1], crop[0]), interpolation=mode)
    return np.ascontiguousarray(cv2.flip(part, 1) if view.flip else part)


def view_labels(labels: np.ndarray, view: View, crop: tuple[int, int]) -> np.ndarray:
    """Return the view of ``labels`` (uint8 ``[H, W]``); 255 beyond the frame."""
    part = _cut(labels, view, UNLABELLED)
    if part.shape != crop:
        part = cv2.resize(part, (crop[1], crop[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.ascontiguousarray(cv2.flip(part, 1) if view.flip else part)


def jitter(rng: np.random.Generator, recipe: AugmentRecipe, image: np.ndarray) -> np.ndarray:
    """
    Return ``image`` (uint8 ``[H, W, 3]`` RGB) in another light.

    Brightness, contrast and gamma are one table of 256 bytes; saturation and hue one 3x3 matrix:
    two passes over the pixels, whatever is asked.
    """
    gain = 1 + rng.uniform(-recipe.contrast, recipe.contrast)
    offset = rng.uniform(-recipe.brightness, recipe.brightness)
    exponent = math.exp(rng.uniform(-recipe.gamma, recipe.gamma))
    saturation = 1 + rng.uniform(-recipe.saturation, recipe.saturation)
    turn = rng.uniform(-recipe.hue, recipe.hue)
    if recipe.contrast or recipe.brightness or recipe.gamma:
        level = np.linspace(0, 1, 256) ** exponent
        table = (level - 0.5) * gain + 0.5 * (1 + offset)
        image = cv2.LUT(image, np.clip(table * 255 + 0.5, 0, 255).astype(np.uint8))
    if recipe.saturation or recipe.hue:
        image = cv2.transform(image, _colour_matrix(saturation, turn))
    if recipe.blur and rng.random() < recipe.blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
    if recipe.noise:
        sigma = rng.uniform(0, recipe.noise)
        # One draw serves all channels: noise that differs by channel costs three times as much.
        noise = rng.standard_normal(image.shape[:2], np.float32) * sigma
        image = np.clip(image + noise[..., None], 0, 255).astype(np.uint8)
    return image


def _colour_matrix(saturation: float, turn: float) -> np.ndarray:
    """Return the 3x3 matrix that scales and turns colour about the grey axis (in YIQ)."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    cosine, sine = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    middle = np.array([[1, 0, 0], [0, saturation * cosine, -saturation * sine],
                       [0, saturation * sine, saturation * cosine]])
    return (np.linalg.inv(to_yiq) @ middle @ to_yiq).astype(np.float32)


def _start(rng: np.random.Generator, size: int, frame: int, centre: int | None) -> int:
    """Return where a stretch of ``size`` begins, inside the frame where it fits."""
    low, high = min(0, frame - size), max(0, frame - size)
    if centre is None:
        return int(rng.integers(low, high + 1))
    shift = int(rng.integers(-size // 4, size // 4 + 1))
    return int(np.clip(centre + shift - size // 2, low, high))


def _cut(array: np.ndarray, view: View, border: int | tuple[int, int, int]) -> np.ndarray:
    """Return the rectangle, painted with ``border`` where it reaches beyond the frame."""
    height, width = array.shape[:2]
    bottom, right = view.top + view.height, view.left + view.width
    part = array[max(0, view.top):min(height, bottom), max(0, view.left):min(width, right)]
    outside = (max(0, -view.top), max(0, bottom - height),
               max(0, -view.left), max(0, right - width))
    if any(outside):
        return cv2.copyMakeBorder(part, *outside, cv2.BORDER_CONSTANT, value=border)
    return part

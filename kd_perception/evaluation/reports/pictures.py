"""
The mask pictures of a report.

In: sample pictures of a run; out: captions and encoded images (JPEG for the camera, PNG for
masks), each at most ``WIDTH`` pixels wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_perception.classes import UNLABELLED
from kd_perception.evaluation.analysis import Analysis
from kd_perception.evaluation.comparison import SamplePicture
from kd_perception.imaging import (
    colorize,
    encode_jpeg,
    encode_png,
    resize_image,
    resize_labels,
)

WIDTH = 480
_EFFORT = 9
_WRONG = np.array([208, 38, 38], np.uint8)


@dataclass(frozen=True)
class Panel:
    """One picture of a row: caption, MIME type, bytes."""

    caption: str
    mime: str
    data: bytes


def picture_panels(analysis: Analysis, picture: SamplePicture) -> list[Panel]:
    """
    Return two rows: the camera with each arm's mask, the ground truth with each arm's errors.

    The camera is left out where its picture is not there. Without ground truth the arms are held
    against the first one: its mask is no truth, and the captions say so.
    """
    palette = analysis.run.classes.palette()
    # The more arms stand beside each other, the smaller they are shown.
    most = min(WIDTH, 3 * WIDTH // (1 + len(analysis.run.arms)))
    if picture.image is not None:
        image = fit_image(picture.image, most)
        panels = [Panel('camera', 'image/jpeg', encode_jpeg(image, 80))]
    else:  # it could not be had again: errors are drawn on plain grey
        shape = next(iter(picture.masks.values())).shape
        image = fit_image(np.full((*shape, 3), 128, np.uint8), most)
        panels = []
    size = image.shape[:2]
    truth = None if picture.truth is None else resize_labels(picture.truth, *size)
    arms = [a.name for a in analysis.run.arms if a.name in picture.masks]
    masks = {arm: resize_labels(picture.masks[arm], *size) for arm in arms}
    for arm in arms:
        panels.append(Panel(analysis.labels[arm], 'image/png',
                            encode_png(colorize(masks[arm], palette), _EFFORT)))
    grey = greyed(image)
    if truth is not None:
        panels.append(Panel('ground truth', 'image/png',
                            encode_png(colorize(truth, palette), _EFFORT)))
        for arm in arms:
            wrong = (masks[arm] != truth) & (truth != UNLABELLED)
            share = wrong.sum() / max(1, int((truth != UNLABELLED).sum()))
            panels.append(marked(f'wrong in {analysis.labels[arm]}: {share:.1%}', grey, wrong))
    else:
        for arm in arms[1:]:
            differs = masks[arm] != masks[arms[0]]
            panels.append(marked(
                f'{analysis.labels[arm]} differs from {analysis.labels[arms[0]]}: '
                f'{differs.mean():.1%}', grey, differs))
    return panels


def greyed(image: np.ndarray) -> np.ndarray:
    """Return a picture without its colours, uint8 ``[H, W, 3]``."""
    return np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)


def marked(caption: str, grey: np.ndarray, where: np.ndarray) -> Panel:
    """Return a pale picture (uint8 ``[H, W, 3]``) with the pixels of ``where`` in red."""
    painted = (grey // 2 + 110).astype(np.uint8)
    painted[where] = _WRONG
    return Panel(caption, 'image/jpeg', encode_jpeg(painted, 70))


def fit_image(image: np.ndarray, most: int = WIDTH) -> np.ndarray:
    """Return a picture that is at most so many pixels wide."""
    height, width = image.shape[:2]
    if width <= most:
        return np.ascontiguousarray(image)
    return resize_image(image, max(1, round(height * most / width)), most)

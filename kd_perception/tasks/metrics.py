"""
The confusion matrix and the figures that follow from it.

Pixels whose truth is 255 are left out everywhere. A prediction of 255 ("unlabelled", e.g. below
the confidence threshold) where the truth is a class counts as a miss of that class and as a false
positive of none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kd_perception.classes import UNLABELLED
from kd_perception.errors import ConfigError, ImageError


class ConfusionMatrix:
    """
    Counts of (truth, prediction) pairs over any number of frames; exact integers.

    :param num_classes: K, 1 to 255.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= 255:
            raise ConfigError(f'a confusion matrix needs 1 to 255 classes, not {num_classes}')
        self.num_classes = num_classes
        # Row: truth; column: prediction, the last one "unlabelled".
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)
        # Predictions where the truth is void; in no figure but ``iou_with_void``.
        self.on_void = np.zeros(num_classes, np.int64)

    @classmethod
    def from_counts(cls, counts: np.ndarray) -> ConfusionMatrix:
        """Return a matrix that holds a copy of ``counts``, int64 ``[K, K+1]``."""
        matrix = cls(counts.shape[0])
        matrix.counts += counts
        return matrix

    def update(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """
        Count the pixels of one frame.

        :param truth: uint8, any shape; ids below K or 255.
        :param prediction: uint8, same shape; ids below K or 255.
        :raises ImageError: for other types, other shapes or ids outside the classes.
        """
        if truth.dtype != np.uint8 or prediction.dtype != np.uint8:
            raise ImageError(f'masks must be uint8, not {truth.dtype} and {prediction.dtype}')
        if truth.shape != prediction.shape:
            raise ImageError(f'truth has shape {truth.shape}, prediction {prediction.shape}')
        # One pass without a mask: pairs as 16-bit numbers, the pixels to ignore among them.
        pairs = truth.astype(np.uint16)
        pairs <<= 8
        pairs |= prediction
        table = np.bincount(pairs.ravel(), minlength=1 << 16).reshape(256, 256)
        k = self.num_classes
        # 255 as a row is the ignored truth, as a column the missing prediction.
        stray = table[k:UNLABELLED].sum() + table[:k, k:UNLABELLED].sum()
        if stray:
            rows = np.flatnonzero(table[k:UNLABELLED].any(1)) + k
            columns = np.flatnonzero(table[:k, k:UNLABELLED].any(0)) + k
            what = (f'truth holds ids {rows.tolist()}' if rows.size
                    else f'prediction holds ids {columns.tolist()}')
            raise ImageError(f'{what}, but there are {k} classes (0 to {k - 1}, 255 unlabelled); '
                             'use a class map')
        self.counts[:, :k] += table[:k, :k]
        self.counts[:, k] += table[:k, UNLABELLED]
        self.on_void += table[UNLABELLED, :k]

    def merge(self, other: ConfusionMatrix) -> None:
        """
        Add the counts of another matrix.

        :raises ConfigError: when the numbers of classes differ.
        """
        if other.num_classes != self.num_classes:
            raise ConfigError(f'cannot merge matrices of {self.num_classes} and '
                              f'{other.num_classes} classes')
        self.counts += other.counts
        self.on_void += other.on_void

    @property
    def pixels(self) -> int:
        """Return the number of pixels counted."""
        return int(self.counts.sum())

    def support(self) -> np.ndarray:
        """Return the share of true pixels per class, float64 ``[K]``; zeros before any pixel."""
        return self.counts.sum(1) / max(self.pixels, 1)

    def iou(self) -> np.ndarray:
        """Return intersection over union per class; NaN for classes that never occur."""
        hits, truth, predicted = self.sums()
        return _ratio(hits, truth + predicted - hits)

    def mean_iou_with_void(self) -> float:
        """
        Return the mean IoU when predictions on void pixels count as false positives.

        Some published figures are of this kind: void pixels then belong to the union of whatever
        class was predicted there.
        """
        hits, truth, predicted = self.sums()
        chosen = truth > 0
        iou = _ratio(hits, truth + predicted + self.on_void - hits)
        return float(iou[chosen].mean()) if chosen.any() else float('nan')

    def precision(self) -> np.ndarray:
        """Return hits over predictions per class; NaN where nothing was predicted."""
        hits, _, predicted = self.sums()
        return _ratio(hits, predicted)

    def recall(self) -> np.ndarray:
        """Return hits over truth per class; NaN where the truth has none."""
        hits, truth, _ = self.sums()
        return _ratio(hits, truth)

    def f1(self) -> np.ndarray:
        """Return the harmonic mean of precision and recall; NaN for classes that never occur."""
        hits, truth, predicted = self.sums()
        return _ratio(2 * hits, truth + predicted)

    def pixel_accuracy(self) -> float:
        """Return the share of pixels with the right class; NaN before any pixel."""
        return float(np.trace(self.counts[:, :-1]) / self.pixels) if self.pixels else float('nan')

    def mean_iou(self, min_share: float = 0.0) -> float:
        """
        Return the mean IoU over classes that occur in the truth.

        :param min_share: only classes with at least this share of the true pixels.
        :returns: NaN when no class qualifies.
        """
        chosen = (self.counts.sum(1) > 0) & (self.support() >= min_share)
        return float(self.iou()[chosen].mean()) if chosen.any() else float('nan')

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """
        Return all figures as plain types for JSON; NaN becomes None.

        :param names: class names by id.
        """
        columns = {'iou': self.iou(), 'precision': self.precision(), 'recall': self.recall(),
                   'f1': self.f1(), 'share': self.support()}
        per_class = {name: {c: _number(values[i]) for c, values in columns.items()}
                     for i, name in enumerate(names)}
        return {
            'mean_iou': _number(self.mean_iou()),
            'mean_iou_over_0.1_percent': _number(self.mean_iou(0.001)),
            'mean_iou_with_void': _number(self.mean_iou_with_void()),
            'pixel_accuracy': _number(self.pixel_accuracy()), 'pixels': self.pixels,
            'classes': per_class, 'confusion': self.counts.tolist()}

    def sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return hits, true pixels and predicted pixels per class."""
        k = self.num_classes
        return (np.diagonal(self.counts[:, :k]).copy(), self.counts.sum(1),
                self.counts[:, :k].sum(0))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

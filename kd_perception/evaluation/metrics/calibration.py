"""
Whether a network is as often right as it says.

Expected calibration error of Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017):
pixels are put into M bins by confidence, and

    ECE = Σ_m |B_m| / n · | accuracy(B_m) − confidence(B_m) |

over all n pixels with ground truth and an answer, all frames together. Bin m holds confidences in
((m − 1) / M, m / M], the first one 0 too. Confidences are the bytes that the deployable graph
gives, so a histogram of 256 values says everything, whatever the number of frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_perception.classes import UNLABELLED

BINS = 15
_LEVELS = 256


@dataclass(frozen=True)
class Reliability:
    """
    How far one arm can be believed.

    :param ece: expected calibration error, 0 … 1.
    :param confidence: mean of all pixels; ``accuracy``: share of them that are right. Confidence
        above accuracy is overconfidence.
    :param bins: (pixels, mean confidence, accuracy) by bin; NaN where a bin is empty.
    """

    arm: str
    pixels: int
    ece: float
    confidence: float
    accuracy: float
    bins: tuple[tuple[int, float, float], ...]

    def rows(self) -> list[dict[str, int | float]]:
        """Return one row per bin that holds pixels: low, high, pixels, confidence, accuracy."""
        return [{'low': i / len(self.bins), 'high': (i + 1) / len(self.bins), 'pixels': pixels,
                 'confidence': confidence, 'accuracy': accuracy}
                for i, (pixels, confidence, accuracy) in enumerate(self.bins) if pixels]


class Calibration:
    """Counts of pixels by confidence, and of those that were right; exact integers."""

    def __init__(self) -> None:
        self.pixels = np.zeros(_LEVELS, np.int64)
        self.right = np.zeros(_LEVELS, np.int64)

    @classmethod
    def from_counts(cls, counts: np.ndarray) -> Calibration:
        """Return a calibration that holds a copy of int64 ``[2, 256]``: pixels, right ones."""
        out = cls()
        out.pixels += counts[0]
        out.right += counts[1]
        return out

    @property
    def counts(self) -> np.ndarray:
        """Return int64 ``[2, 256]``: pixels by confidence, and those that were right."""
        return np.stack([self.pixels, self.right])

    def update(self, truth: np.ndarray, mask: np.ndarray, confidence: np.ndarray) -> None:
        """
        Count the pixels of one frame.

        :param truth: uint8, ids or 255 for pixels that do not count.
        :param mask: uint8 of the same shape, what was predicted; 255 is no answer.
        :param confidence: uint8 of the same shape, ``round(255 * max softmax)``.
        """
        # One pass without picking pixels: confidence, and 256 more where it is right; what does
        # not count lies above both.
        joint = confidence + _LEVELS * (truth == mask).astype(np.uint16)
        joint[(truth == UNLABELLED) | (mask == UNLABELLED)] = 2 * _LEVELS
        wrong, right = np.bincount(joint.ravel(), minlength=2 * _LEVELS + 1)[:-1].reshape(2, -1)
        self.pixels += wrong + right
        self.right += right

    def bins(self, count: int = BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Return pixels (int64), mean confidence and accuracy (float64) by bin, each ``[count]``.

        Means are NaN where a bin is empty.
        """
        levels = np.arange(_LEVELS)
        # Bin m ends at m / count inclusive; whole numbers, so that no border is rounded.
        which = np.maximum(0, -(-levels * count // (_LEVELS - 1)) - 1)
        pixels = np.bincount(which, self.pixels, count)
        said = np.bincount(which, self.pixels * levels / (_LEVELS - 1), count)
        right = np.bincount(which, self.right, count)
        confidence, accuracy = (np.divide(part, pixels, out=np.full(count, np.nan),
                                          where=pixels > 0) for part in (said, right))
        return pixels.astype(np.int64), confidence, accuracy

    def ece(self, count: int = BINS) -> float:
        """Return the expected calibration error, 0 … 1; NaN before any pixel."""
        pixels, confidence, accuracy = self.bins(count)
        if not pixels.any():
            return float('nan')
        return float(np.nansum(pixels * np.abs(accuracy - confidence)) / pixels.sum())

    @property
    def confidence(self) -> float:
        """Return the mean confidence; NaN before any pixel."""
        total = self.pixels.sum()
        return float(self.pixels @ np.arange(_LEVELS) / (_LEVELS - 1) / total) if total else \
            float('nan')

    @property
    def accuracy(self) -> float:
        """Return the share of pixels that are right; NaN before any pixel."""
        total = self.pixels.sum()
        return float(self.right.sum() / total) if total else float('nan')

    def reliability(self, arm: str) -> Reliability:
        """Return the figures of an arm."""
        pixels, confidence, accuracy = self.bins()
        return Reliability(
            arm, int(self.pixels.sum()), self.ece(), self.confidence, self.accuracy,
            tuple((int(p), float(c), float(a)) for p, c, a in zip(pixels, confidence, accuracy)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain types."""
        pixels, confidence, accuracy = self.bins()
        return {'ece': self.ece(), 'confidence': self.confidence, 'accuracy': self.accuracy,
                'pixels': int(self.pixels.sum()),
                'bins': {'pixels': pixels.tolist(), 'confidence': confidence.tolist(),
                         'accuracy': accuracy.tolist()}}


def reliabilities(counts: Mapping[str, np.ndarray]) -> dict[str, Reliability]:
    """
    Return the figures of every arm that has any pixel.

    :param counts: by arm, int64 ``[2, 256]``.
    """
    return {arm: Calibration.from_counts(c).reliability(arm) for arm, c in counts.items()
            if c[0].any()}

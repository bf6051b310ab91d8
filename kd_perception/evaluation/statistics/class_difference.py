"""
By how much the IoU of every class differs between two arms, with intervals.

In: rows of both; out: one interval per class, from the frames that both answered. Blocks of frames
are resampled together in both arms, so what is hard for both cancels.
"""

from __future__ import annotations

from collections.abc import Iterable
import math

import numpy as np

from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.statistics.arm_intervals import iou_of_totals
from kd_perception.evaluation.statistics.bootstrap import (
    block_indices,
    block_length,
    CONFIDENCE,
    Interval,
    interval_of,
    RESAMPLES,
)
from kd_perception.evaluation.statistics.paired import FEWEST_PAIRS, pair_rows
from kd_perception.evaluation.statistics.shares import drawn_sums


def class_differences(rows: Iterable[FrameRow], reference: str, other: str, *,
                      resamples: int = RESAMPLES, seed: int = 0,
                      confidence: float = CONFIDENCE) -> tuple[Interval, ...]:
    """
    Return IoU of the other arm minus that of the reference by class, -1 … 1.

    :param confidence: of each interval alone.
    :returns: empty without truth or with fewer than ``FEWEST_PAIRS`` frames; NaN for a class that
        is nowhere.
    """
    pairs = [(a, b) for a, b in pair_rows(rows, reference, other)[0] if a.counts and b.counts]
    if len(pairs) < FEWEST_PAIRS:
        return ()
    both = np.array([[a.counts, b.counts] for a, b in pairs], float)  # [n, 2, K, 3]
    if not both[:, 0, :, 1].any():
        return ()
    n, _, classes, _ = both.shape
    error = 1.0 - both[..., 0].sum(axis=2) / np.maximum(1.0, both[..., 1].sum(axis=2))
    block = block_length(error[:, 1] - error[:, 0])

    def differences(totals: np.ndarray) -> np.ndarray:
        """Return float ``[r, K]`` from totals ``[r, 2, K, 3]``."""
        return iou_of_totals(totals[:, 1], classes) - iou_of_totals(totals[:, 0], classes)

    found = differences(both.sum(axis=0)[None])[0]
    drawn = np.concatenate([differences(drawn_sums(both, i))
                            for i in block_indices(n, block, resamples, seed)])
    return tuple(interval_of(float(found[c]), drawn[:, c], n, block, (-1.0, 1.0),
                             confidence)
                 if math.isfinite(found[c]) else Interval(math.nan, -1.0, 1.0, confidence)
                 for c in range(classes))

"""
Accuracy of the arms of a comparison, with intervals over frames.

In: rows with per-class pixel counts; out: IoU, precision and recall by class, mIoU with its
interval, and the paired difference of mIoU between two arms. The pixels of one frame are not
independent, so frames (blocks of them) are resampled, never pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.statistics.bootstrap import (
    block_length,
    bootstrap,
    CONFIDENCE,
    Interval,
    RESAMPLES,
)
from kd_perception.evaluation.statistics.paired import ANSWERED, FEWEST_PAIRS, pair_rows
from kd_perception.evaluation.statistics.shares import drawn_sums, share
from kd_perception.tasks.metrics import ConfusionMatrix

MIN_SHARE = 0.001  # classes below 0.1 % of the labelled pixels stay out of the headline mIoU


@dataclass(frozen=True)
class Accuracy:
    """
    Accuracy of one arm against ground truth.

    :param n: frames with truth and an answer.
    :param miou: mean IoU, 0 … 1, of classes with at least ``MIN_SHARE`` of the labelled pixels.
    :param miou_all: mean IoU of all classes that occur in the truth, as ``evaluate`` has it.
    :param iou: by class; NaN where a class occurs in neither.
    :param share: by class, its part of the labelled pixels.
    """

    arm: str
    n: int
    miou: Interval
    miou_all: float
    pixel_accuracy: float
    iou: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    share: tuple[float, ...]


@dataclass(frozen=True)
class PairedAccuracy:
    """
    Two arms on the frames that both answered.

    :param difference: mIoU of the other arm minus that of the reference, 0 … 1 scale;
        negative: the other is less accurate.
    """

    reference: str
    other: str
    n: int
    difference: Interval


def accuracy(arm: str, rows: Iterable[FrameRow], *, resamples: int = RESAMPLES,
             seed: int = 0) -> Accuracy | None:
    """Return the accuracy of one arm, or None when no pixel has ground truth."""
    own = sorted((r for r in rows if r.arm == arm and r.status in ANSWERED and r.counts),
                 key=lambda r: r.index)
    if not _labelled(own):
        return None
    counts = _counts(own)
    total = counts.sum(axis=0)
    correct, truth, predicted = total.T
    labelled = max(1.0, float(truth.sum()))
    chosen = _chosen(counts)
    iou = share(correct, truth + predicted - correct)
    return Accuracy(
        arm=arm, n=len(own),
        miou=bootstrap(lambda i: _miou(counts[:, chosen], i), len(own),
                       block_length(_error_rate(counts)), resamples=resamples, seed=seed,
                       bounds=(0.0, 1.0)),
        miou_all=float(iou[truth > 0].mean()) if truth.any() else float('nan'),
        pixel_accuracy=float(correct.sum() / labelled),
        iou=tuple(iou.tolist()), precision=tuple(share(correct, predicted).tolist()),
        recall=tuple(share(correct, truth).tolist()),
        f1=tuple(share(2 * correct, truth + predicted).tolist()),
        share=tuple((truth / labelled).tolist()))


def paired_accuracy(rows: Iterable[FrameRow], reference: str, other: str, *,
                    resamples: int = RESAMPLES, seed: int = 0,
                    confidence: float = CONFIDENCE) -> PairedAccuracy | None:
    """Return the difference of mIoU on common frames; None without truth or with too few."""
    pairs = [(a, b) for a, b in pair_rows(rows, reference, other)[0] if a.counts and b.counts]
    if len(pairs) < FEWEST_PAIRS or not _labelled([a for a, _ in pairs]):
        return None
    first, second = _counts([a for a, _ in pairs]), _counts([b for _, b in pairs])
    chosen = _chosen(first)
    block = block_length(_error_rate(second) - _error_rate(first))
    difference = bootstrap(
        lambda i: _miou(second[:, chosen], i) - _miou(first[:, chosen], i), len(pairs), block,
        resamples=resamples, seed=seed, confidence=confidence, bounds=(-1.0, 1.0))
    return PairedAccuracy(reference, other, len(pairs), difference)


def iou_by_class(confusion: np.ndarray) -> np.ndarray:
    """Return float ``[K]`` from a confusion matrix ``[K, K+1]``; NaN for absent classes."""
    return ConfusionMatrix.from_counts(confusion).iou()


def _labelled(rows: list[FrameRow]) -> bool:
    """Return whether any pixel has ground truth."""
    return any(truth for r in rows for _, truth, _ in r.counts or ())


def _counts(rows: list[FrameRow]) -> np.ndarray:
    """Return float ``[n, K, 3]``: correct, in truth, predicted."""
    return np.array([r.counts for r in rows], float)


def _chosen(counts: np.ndarray) -> np.ndarray:
    """Return bool ``[K]``: the classes of the headline, the same for every resample."""
    truth = counts[:, :, 1].sum(axis=0)
    return truth >= max(1.0, MIN_SHARE * truth.sum())


def _miou(counts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return float ``[r]`` from counts ``[n, K, 3]`` and frames ``[r, n]``."""
    if counts.shape[1] == 0:
        return np.full(len(indices), np.nan)
    total = drawn_sums(counts, indices)
    iou = share(total[..., 0], total[..., 1] + total[..., 2] - total[..., 0])
    present = np.isfinite(iou)
    return np.where(present, iou, 0.0).sum(axis=1) / np.maximum(1, present.sum(axis=1))


def _error_rate(counts: np.ndarray) -> np.ndarray:
    """Return float ``[n]``: the share of wrong pixels by frame, whose memory sets the blocks."""
    totals = counts.sum(axis=1)
    return 1.0 - totals[:, 0] / np.maximum(1.0, totals[:, 1])

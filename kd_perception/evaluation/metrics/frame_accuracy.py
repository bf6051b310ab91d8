"""Accuracy of a single frame, from its pixel counts by class (correct, in truth, predicted)."""

from __future__ import annotations

from collections.abc import Sequence

from kd_perception.evaluation.accuracy import MIN_SHARE

Counts = Sequence[tuple[int, int, int]]


def frame_miou(counts: Counts, min_share: float = MIN_SHARE) -> float | None:
    """
    Return the mean IoU of the classes that matter in this frame, 0 … 1.

    :param min_share: classes below this part of the labelled pixels are left out: a speck of
        twenty pixels must not decide over a frame.
    :returns: None without labelled pixels.
    """
    labelled = sum(truth for _, truth, _ in counts)
    iou = [correct / (truth + predicted - correct) for correct, truth, predicted in counts
           if truth + predicted > correct and truth >= max(1.0, min_share * labelled)]
    return sum(iou) / len(iou) if labelled and iou else None


def frame_pixel_accuracy(counts: Counts) -> float | None:
    """Return the share of labelled pixels that are right, 0 … 1; None without any."""
    labelled = sum(truth for _, truth, _ in counts)
    return sum(correct for correct, _, _ in counts) / labelled if labelled else None

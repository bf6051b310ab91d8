"""What was counted of one frame beside its confusion matrix, as figures of that frame alone."""

from __future__ import annotations

import math

from kd_perception.evaluation.metrics.boundary import f_scores
from kd_perception.evaluation.metrics.frame_detail import FrameDetail
from kd_perception.evaluation.metrics.objects import found_of
from kd_perception.evaluation.statistics.shares import mean_known

FRAME_FIGURES = ('boundary', 'objects', 'found', 'flicker')


def frame_figures(detail: FrameDetail | None) -> tuple[float | None, ...]:
    """
    Return a value for each of ``FRAME_FIGURES``; None for what was not measured.

    Boundary F-score as the mean over the classes in the truth of the frame, number of objects,
    number of those that are found, share of pixels that changed since the frame before.
    """
    if detail is None:
        return (None,) * len(FRAME_FIGURES)
    boundary = None if detail.boundary is None else float(mean_known(f_scores(detail.boundary)))
    objects = None if detail.objects is None else float(len(detail.objects))
    found = None if detail.objects is None else float(found_of(detail.objects).sum())
    changed, compared = (0, 0) if detail.flicker is None else detail.flicker.tolist()
    return (None if boundary is None or math.isnan(boundary) else boundary, objects, found,
            changed / compared if compared else None)

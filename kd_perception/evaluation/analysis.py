"""
All that a report says about a comparison, computed once.

In: a ``ComparisonRun``; out: an ``Analysis`` that the report, the command line and the demo read.
The first arm is the reference that the others are held against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict, TypeVar

import numpy as np

from kd_perception.errors import ConfigError
from kd_perception.evaluation.accuracy import (
    Accuracy,
    accuracy,
    iou_by_class,
    paired_accuracy,
    PairedAccuracy,
)
from kd_perception.evaluation.blind_spots import blind_spots, seen_classes
from kd_perception.evaluation.comparison import ComparisonRun, FrameRow
from kd_perception.evaluation.latency_verdict import latency_tails, tail_caution
from kd_perception.evaluation.metrics.boundary import (
    boundary_score,
    BoundaryScore,
    paired_boundary,
)
from kd_perception.evaluation.metrics.calibration import reliabilities, Reliability
from kd_perception.evaluation.metrics.flicker import Flicker, flicker_share, paired_flicker
from kd_perception.evaluation.metrics.objects import (
    KINDS,
    object_recall,
    ObjectRecall,
    paired_objects,
)
from kd_perception.evaluation.statistics.alternate import (
    alternate_accuracy,
    alternate_latency,
    steady_rows,
    swap_costs,
    SwapCost,
)
from kd_perception.evaluation.statistics.arm_intervals import arm_intervals, ArmIntervals
from kd_perception.evaluation.statistics.bootstrap import CONFIDENCE, Interval, RESAMPLES
from kd_perception.evaluation.statistics.class_difference import class_differences
from kd_perception.evaluation.statistics.paired import (
    arm_statistics,
    ArmStatistics,
    pair_rows,
    paired_latency,
    PairedLatency,
    with_stretches,
)
from kd_perception.evaluation.statistics.shares import measured, PairedShare
from kd_perception.evaluation.verdict import arm_labels, cautions, judge, Verdict

T = TypeVar('T')


class _Bootstrap(TypedDict):
    """How every difference between two arms gets its interval."""

    seed: int
    resamples: int
    confidence: float


@dataclass(frozen=True)
class ArmComparison:
    """
    One arm against the reference.

    :param agreement: share of pixels on which both masks agree, or None when not compared.
    :param agreement_miou: mean IoU between the two masks.
    :param classes: difference of IoU by class, other minus reference, -1 … 1; empty without truth.
    :param boundary: difference of the boundary F-score; ``objects``: of the share of found
        objects; ``flicker``: of the share of pixels that flicker. Other minus reference; None
        where not measured.
    :param objects_by_kind: as ``objects``, by kind of object that there is.
    """

    reference: str
    other: str
    latency: PairedLatency | None
    accuracy: PairedAccuracy | None
    agreement: float | None
    agreement_miou: float | None
    verdict: Verdict
    classes: tuple[Interval, ...] = ()
    boundary: PairedShare | None = None
    objects: PairedShare | None = None
    flicker: PairedShare | None = None
    objects_by_kind: Mapping[str, PairedShare] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Analysis:
    """
    The numbers and words of a comparison; mappings are by arm.

    :param boundary, objects, flicker, calibration: None where no arm was measured.
    """

    run: ComparisonRun
    labels: Mapping[str, str]
    statistics: Mapping[str, ArmStatistics]
    accuracies: Mapping[str, Accuracy]
    comparisons: tuple[ArmComparison, ...]
    cautions: tuple[str, ...]
    intervals: Mapping[str, ArmIntervals]
    boundary: Mapping[str, BoundaryScore] | None = None
    objects: Mapping[str, ObjectRecall] | None = None
    flicker: Mapping[str, Flicker] | None = None
    calibration: Mapping[str, Reliability] | None = None
    swaps: Mapping[str, SwapCost] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        if not self.comparisons:
            return f'{self.labels[self.run.arms[0].name]}, measured alone.'
        return ' '.join(c.verdict.headline for c in self.comparisons)


def analyse(run: ComparisonRun, *, seed: int = 0) -> Analysis:
    """
    Compute everything.

    :param seed: of the bootstrap; the same run and seed give the same numbers.
    :raises ConfigError: when no frame was measured.
    """
    arms = [arm.name for arm in run.arms]
    if run.spec.placement == 'isolated':
        served = with_stretches(run.rows)
        rows = {arm: replace(run, rows=tuple(served)).arm_rows(arm) for arm in arms}
    else:
        rows = {arm: run.arm_rows(arm) for arm in arms}
    if not any(rows.values()):
        raise ConfigError(
            f'the comparison holds no measured frames ({len(run.rows)} rows, warm-up '
            f'{run.spec.warmup}): serve more frames than the warm-up takes'
            + ''.join(f'; {note.rstrip(".")}' for note in run.notes))
    alternate = run.spec.placement == 'alternate'
    statistics = {arm: arm_statistics(arm, steady_rows(rows[arm])) for arm in arms}
    accuracies = {arm: found for arm in arms
                  if (found := accuracy(arm, rows[arm], seed=seed)) is not None}
    labels = arm_labels(run)
    intervals = {arm: arm_intervals(rows[arm], seed=seed) for arm in arms}
    comparisons = []
    findings: list[str] = []
    # Bonferroni: of several arms the intervals of one figure shall hold together as often as one.
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(arms) - 1)
    resamples = RESAMPLES * min(5, max(1, len(arms) - 1))  # for quantiles further out
    strict = _Bootstrap(seed=seed, resamples=resamples, confidence=confidence)
    for other in arms[1:]:
        both = (*rows[arms[0]], *rows[other])
        if alternate:
            latency = alternate_latency(both, arms[0], other, len(arms), **strict)
            quality = alternate_accuracy(both, arms[0], other, len(arms), **strict)
        else:
            latency = paired_latency(both, arms[0], other, **strict)
            quality = paired_accuracy(both, arms[0], other, **strict)
        agreement, agreement_miou = _agreement(run.agreement.get(other))
        tails = latency_tails(intervals[arms[0]], intervals[other], len(arms) - 1)
        by_kind = {kind: share for kind in KINDS if (share := paired_objects(
            both, arms[0], other, kind, **strict)) is not None}
        comparisons.append(ArmComparison(
            reference=arms[0], other=other, latency=latency, accuracy=quality,
            agreement=agreement, agreement_miou=agreement_miou,
            verdict=judge(labels[arms[0]], labels[other], latency, quality,
                          run.spec.margin_miou, run.spec.margin_latency_ms, tails),
            classes=class_differences(both, arms[0], other, **strict),
            boundary=paired_boundary(both, arms[0], other, **strict),
            objects=paired_objects(both, arms[0], other, **strict),
            flicker=paired_flicker(both, arms[0], other, **strict), objects_by_kind=by_kind))
        if latency is not None:
            findings += tail_caution(labels[other], latency, tails)
        pairs, _, _ = pair_rows(both, arms[0], other)
        findings += _blind_spots(run, labels[other], comparisons[-1], [
            first for first, second in pairs if second.counts is not None])
    return Analysis(
        run=run, labels=labels, statistics=statistics, accuracies=accuracies,
        comparisons=tuple(comparisons), intervals=intervals,
        cautions=cautions(run, statistics, {c.other: c.latency for c in comparisons}, findings),
        boundary=_of_arms(arms, lambda a: boundary_score(
            a, measured(rows[a], a, 'boundary'), seed=seed)),
        objects=_of_arms(arms, lambda a: object_recall(
            a, measured(rows[a], a, 'objects'), seed=seed)),
        flicker=_of_arms(arms, lambda a: flicker_share(
            a, run.flicker_method, measured(rows[a], a, 'flicker'), seed=seed)),
        calibration=reliabilities(run.confidences) or None, swaps=swap_costs(run))


def _blind_spots(run: ComparisonRun, label: str, found: ArmComparison,
                 rows: Sequence[FrameRow]) -> list[str]:
    """
    Return on what an arm loses more than the margin.

    :param rows: of the reference where both were counted: how often each class is seen there.
    """
    seen = seen_classes(rows, run.classes.names)
    shares = dict(found.objects_by_kind)
    if found.objects is not None and len(shares) > 1:
        shares['all kinds'] = found.objects
    return blind_spots(
        label, run.spec.margin_miou,
        {name: change for name, change in zip(run.classes.names, found.classes) if name in seen},
        {kind: share.difference for kind, share in shares.items()},
        inside=found.verdict.accuracy in ('better', 'within margin'))


def _of_arms(arms: Sequence[str], measure: Callable[[str], T | None]) -> dict[str, T] | None:
    """Return what was measured, by arm; None where nothing was."""
    return {arm: found for arm in arms if (found := measure(arm)) is not None} or None


def _agreement(matrix: np.ndarray | None) -> tuple[float | None, float | None]:
    if matrix is None or matrix.sum() == 0:
        return None, None
    iou = iou_by_class(matrix)
    return float(np.trace(matrix) / matrix.sum()), float(np.nanmean(iou))

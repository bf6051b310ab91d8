"""
All that a report says about a comparison, computed once.

In: a ``ComparisonRun``; out: an ``Analysis`` that the report, the command line and the demo read.
The first arm is the reference that the others are held against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kd_perception.errors import ConfigError
from kd_perception.evaluation.accuracy import (
    Accuracy,
    accuracy,
    iou_by_class,
    paired_accuracy,
    PairedAccuracy,
)
from kd_perception.evaluation.alternate import (
    alternate_accuracy,
    alternate_latency,
    steady_rows,
    swap_costs,
    SwapCost,
)
from kd_perception.evaluation.comparison import ComparisonRun
from kd_perception.evaluation.paired import (
    arm_statistics,
    ArmStatistics,
    paired_latency,
    PairedLatency,
)
from kd_perception.evaluation.verdict import arm_labels, cautions, judge, Verdict


@dataclass(frozen=True)
class ArmComparison:
    """
    One arm against the reference.

    :param agreement: share of pixels on which both masks agree, or None when not compared.
    :param agreement_miou: mean IoU between the two masks.
    """

    reference: str
    other: str
    latency: PairedLatency | None
    accuracy: PairedAccuracy | None
    agreement: float | None
    agreement_miou: float | None
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class Analysis:
    """The numbers and words of a comparison; mappings are by arm."""

    run: ComparisonRun
    labels: Mapping[str, str]
    statistics: Mapping[str, ArmStatistics]
    accuracies: Mapping[str, Accuracy]
    comparisons: tuple[ArmComparison, ...]
    cautions: tuple[str, ...]
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
    comparisons = []
    for other in arms[1:]:
        both = (*rows[arms[0]], *rows[other])
        if alternate:
            latency = alternate_latency(both, arms[0], other, len(arms), seed=seed)
            quality = alternate_accuracy(both, arms[0], other, len(arms), seed=seed)
        else:
            latency = paired_latency(both, arms[0], other, seed=seed)
            quality = paired_accuracy(both, arms[0], other, seed=seed)
        agreement, agreement_miou = _agreement(run.agreement.get(other))
        comparisons.append(ArmComparison(
            reference=arms[0], other=other, latency=latency, accuracy=quality,
            agreement=agreement, agreement_miou=agreement_miou,
            verdict=judge(labels[arms[0]], labels[other], latency, quality,
                          run.spec.margin_miou)))
    return Analysis(
        run=run, labels=labels, statistics=statistics, accuracies=accuracies,
        comparisons=tuple(comparisons),
        cautions=cautions(run, statistics, {c.other: c.latency for c in comparisons}),
        swaps=swap_costs(run))


def _agreement(matrix: np.ndarray | None) -> tuple[float | None, float | None]:
    if matrix is None or matrix.sum() == 0:
        return None, None
    iou = iou_by_class(matrix)
    return float(np.trace(matrix) / matrix.sum()), float(np.nanmean(iou))

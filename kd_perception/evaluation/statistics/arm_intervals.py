"""
How well each figure of one arm is known by itself: intervals that need no other arm.

In: the measured rows of one arm; out: intervals of its latency percentiles, rate, losses and IoU
by class. Two arms of one run are compared frame by frame (``paired``); these are for what cannot
be paired: the picture of accuracy over latency, and a report against an older one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
import math

import numpy as np

from kd_perception.evaluation.comparison import ANSWERED, FrameRow, FRAMES
from kd_perception.evaluation.statistics.bootstrap import (
    block_indices,
    block_length,
    Interval,
    interval_of,
    RESAMPLES,
)
from kd_perception.evaluation.statistics.paired import answer_gaps_s, answer_rate
from kd_perception.evaluation.statistics.shares import drawn_sums, wilson

_QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class ArmIntervals:
    """
    One arm over its measured frames.

    :param n: answered frames; below two, nothing is known.
    :param block: frames drawn together.
    :param p50: of the latency, milliseconds; so are ``p95``, ``p99`` and ``mean``. The upper end
        of a percentile is infinite where so few frames cannot bound it.
    :param fps: answers per second.
    :param lost: share of the published frames without an answer, 0 … 1.
    :param iou: by class, 0 … 1; empty without ground truth.
    """

    n: int
    block: int
    p50: Interval
    p95: Interval
    p99: Interval
    mean: Interval
    fps: Interval
    lost: Interval
    iou: tuple[Interval, ...] = ()


def arm_intervals(rows: Iterable[FrameRow], *, resamples: int = RESAMPLES,
                  seed: int = 0) -> ArmIntervals:
    """
    Return the intervals of one arm.

    :param rows: its measured rows, warm-up left out; those near an exchange of the model count
        for IoU alone, as in its statistics.
    :param seed: of the bootstrap.
    """
    own = sorted(rows, key=lambda r: (r.index, r.key))
    answered = [r for r in own if r.status in ANSWERED and r.latency_ms is not None]
    steady = [r for r in answered if not r.swapping]
    latency = np.array([r.latency_ms for r in steady], float)
    n = latency.size
    block = block_length(latency) if n else 1
    if n < 2:
        estimate = float(latency[0]) if n else math.nan
        p50 = p95 = p99 = mean = Interval(estimate, 0.0, math.inf)
    else:
        drawn = np.concatenate([
            np.vstack([np.quantile(latency[i], _QUANTILES, axis=1), latency[i].mean(axis=1)]).T
            for i in block_indices(n, block, resamples, seed)])
        found = [*np.quantile(latency, _QUANTILES), latency.mean()]
        p50, p95, p99, mean = (
            interval_of(float(e), drawn[:, k], n, block, (0.0, math.inf))
            for k, e in enumerate(found))
        p95, p99 = _bounded(p95, 0.95, n), _bounded(p99, 0.99, n)
    return ArmIntervals(
        n=n, block=block, p50=p50, p95=p95, p99=p99, mean=mean,
        fps=_fps(steady, resamples, seed),
        lost=_lost([r for r in own if not r.swapping], resamples, seed),
        iou=_iou(answered, resamples, seed))


def _bounded(interval: Interval, quantile: float, n: int) -> Interval:
    """
    Take the upper end from a percentile that so few frames cannot bound from above.

    All of ``n`` frames lie below the percentile ``q`` with probability q^n; when that is likelier
    than the tail of the interval, the largest value seen is no bound (order statistics).
    """
    enough = quantile ** n <= (1.0 - interval.confidence) / 2.0
    return interval if enough else replace(interval, high=math.inf)


def _fps(answered: Sequence[FrameRow], resamples: int, seed: int) -> Interval:
    """Return the rate: the inverse of the mean time between answers."""
    gaps, estimate = answer_gaps_s(answered), answer_rate(answered)
    if gaps.size < 2 or not estimate:
        return Interval(estimate, 0.0, math.inf)
    block = block_length(gaps)
    drawn = np.concatenate([gaps[i].mean(axis=1)
                            for i in block_indices(gaps.size, block, resamples, seed)])
    mean = interval_of(1.0 / estimate, drawn, gaps.size, block, (1e-9, math.inf))
    return Interval(estimate, 1.0 / mean.high, 1.0 / mean.low)


def _lost(rows: Sequence[FrameRow], resamples: int, seed: int) -> Interval:
    """
    Return the share of lost frames.

    The wider at each end of a bootstrap over blocks, which sees that losses come in bursts, and of
    Wilson's interval (1927), which knows that none seen is not none ever.
    """
    flags = np.array([r.status == 'lost' for r in rows
                      if r.status in FRAMES], float)
    n = flags.size
    if n == 0:
        return Interval(math.nan, 0.0, 1.0)
    share = float(flags.mean())
    low, high = wilson(share, n)
    low, high = max(0.0, low), min(1.0, high)
    if 0.0 < share < 1.0 and n >= 8:
        block = block_length(flags)
        drawn = np.concatenate([flags[i].mean(axis=1)
                                for i in block_indices(n, block, resamples, seed)])
        blocks = interval_of(share, drawn, n, block, (0.0, 1.0))
        low, high = min(low, blocks.low), max(high, blocks.high)
    return Interval(share, min(low, share), max(high, share))


def _iou(answered: Sequence[FrameRow], resamples: int, seed: int) -> tuple[Interval, ...]:
    """Return IoU by class; NaN for classes that are nowhere."""
    counts = np.array([r.counts for r in answered if r.counts], float)  # [n, K, 3]
    if counts.size == 0 or not counts[:, :, 1].any():
        return ()
    n, k = counts.shape[:2]
    totals = counts.sum(axis=1)
    block = block_length(1.0 - totals[:, 0] / np.maximum(1.0, totals[:, 1]))
    drawn = np.concatenate([
        iou_of_totals(drawn_sums(counts, i), k)
        for i in block_indices(n, block, resamples, seed)])
    found = iou_of_totals(counts.sum(axis=0)[None], k)[0]
    return tuple(interval_of(float(found[c]), drawn[:, c], n, block, (0.0, 1.0)) if
                 math.isfinite(found[c]) else Interval(math.nan, 0.0, 1.0) for c in range(k))


def iou_of_totals(totals: np.ndarray, classes: int) -> np.ndarray:
    """Return IoU float ``[r, K]`` from summed counts, reshaped to ``[r, K, 3]``."""
    correct, truth, predicted = np.moveaxis(totals.reshape(-1, classes, 3), 2, 0)
    union = truth + predicted - correct
    return np.divide(correct, union, out=np.full(union.shape, np.nan), where=union > 0)

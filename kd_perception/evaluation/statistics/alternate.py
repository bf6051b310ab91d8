"""
Statistics where one node exchanged its model between blocks of frames: placement ``alternate``.

Each frame was answered by one model only, so nothing can be paired frame by frame. A round holds
one block of every arm, close in time; the bootstrap draws whole rounds, so that what changes
slowly hits both arms of a draw, and what neighbouring frames share stays together. The difference
is that of the medians (means) over all frames drawn, not the median of differences. Rows near an
exchange of models are left out and reported apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kd_perception.evaluation.accuracy import MIN_SHARE, PairedAccuracy
from kd_perception.evaluation.comparison import ComparisonRun, FrameRow
from kd_perception.evaluation.statistics.bootstrap import (
    block_length,
    bootstrap,
    CONFIDENCE,
    Interval,
    RESAMPLES,
)
from kd_perception.evaluation.statistics.paired import ANSWERED, PairedLatency, summarize, Summary

FEWEST_ROUNDS = 4


@dataclass(frozen=True)
class SwapCost:
    """
    What the exchanges to one arm's model cost, as seen from outside.

    :param frames: frames that this arm's model answered while an exchange was going on or had
        just been made.
    :param lost: frames of that time without an answer.
    :param latency: of those answered.
    """

    frames: int
    lost: int
    latency: Summary


def steady_rows(rows: Iterable[FrameRow]) -> tuple[FrameRow, ...]:
    """Return the rows that no exchange touched."""
    return tuple(r for r in rows if not r.swapping)


def swap_costs(run: ComparisonRun) -> Mapping[str, SwapCost]:
    """Return, by arm, what happened to the frames near exchanges; empty for other placements."""
    if run.spec.placement != 'alternate':
        return {}
    out = {}
    for arm in run.arms:
        rows = [r for r in run.arm_rows(arm.name) if r.swapping]
        out[arm.name] = SwapCost(
            len(rows), sum(r.status == 'lost' for r in rows),
            summarize([r.latency_ms for r in rows
                       if r.status in ANSWERED and r.latency_ms is not None]))
    return out


def alternate_latency(rows: Iterable[FrameRow], reference: str, other: str, arms: int, *,
                      resamples: int = RESAMPLES, seed: int = 0,
                      confidence: float = CONFIDENCE) -> PairedLatency | None:
    """
    Compare two arms by rounds.

    :param rows: measured rows of both; those of exchanges are left out here.
    :param arms: how many arms a round has.
    :param confidence: of each interval alone.
    :returns: None with fewer than ``FEWEST_ROUNDS`` rounds in which both answered.
    """
    rounds = _rounds(rows, (reference, other), arms, lambda r: r.latency_ms is not None)
    if len(rounds) < FEWEST_ROUNDS:
        return None
    a, b = ([np.array([r.latency_ms for r in pair[i]], float) for pair in rounds] for i in (0, 1))
    block = block_length(np.array([np.median(x) - np.median(y) for x, y in zip(a, b)]))

    def interval(statistic: Callable[[np.ndarray, np.ndarray], float]) -> Interval:
        def drawn(indices: np.ndarray) -> np.ndarray:
            return np.array([statistic(np.concatenate([a[i] for i in row]),
                                       np.concatenate([b[i] for i in row])) for row in indices])
        return bootstrap(drawn, len(rounds), block, resamples=resamples, seed=seed,
                         confidence=confidence)

    first, second = sum(map(len, a)), sum(map(len, b))
    return PairedLatency(
        reference=reference, other=other, n=min(first, second), unpaired=0, ambiguous=0,
        block=block,
        mean_difference=interval(lambda x, y: float(x.mean() - y.mean())),
        median_difference=interval(lambda x, y: float(np.median(x) - np.median(y))),
        mean_ratio=interval(lambda x, y: float(x.mean() / y.mean())),
        median_ratio=interval(lambda x, y: float(np.median(x) / np.median(y))),
        basis=f'{first} and {second} frames in {len(rounds)} rounds of blocks, not the same '
              'frames')


def alternate_accuracy(rows: Iterable[FrameRow], reference: str, other: str, arms: int, *,
                       resamples: int = RESAMPLES, seed: int = 0,
                       confidence: float = CONFIDENCE) -> PairedAccuracy | None:
    """
    Return the difference of mIoU over the frames of each arm; None as in ``alternate_latency``.

    The frames differ, so what is in them adds to the interval.
    """
    rounds = _rounds(rows, (reference, other), arms, lambda r: bool(r.counts))
    if len(rounds) < FEWEST_ROUNDS:
        return None
    # int64 [rounds, K, 3] of each arm: pixels add up.
    sums = [np.array([np.array([r.counts for r in pair[i]], np.int64).sum(axis=0)
                      for pair in rounds]) for i in (0, 1)]
    truth = sums[0][..., 1].sum(axis=0) + sums[1][..., 1].sum(axis=0)
    if not truth.sum():
        return None
    chosen = truth >= max(1.0, MIN_SHARE * truth.sum())
    gaps = np.array([_miou(sums[1][[i]].sum(axis=0)[chosen]) - _miou(
        sums[0][[i]].sum(axis=0)[chosen]) for i in range(len(rounds))])

    def drawn(indices: np.ndarray) -> np.ndarray:
        return np.array([_miou(sums[1][row].sum(axis=0)[chosen])
                         - _miou(sums[0][row].sum(axis=0)[chosen]) for row in indices])

    return PairedAccuracy(
        reference, other, min(sum(len(pair[i]) for pair in rounds) for i in (0, 1)),
        bootstrap(drawn, len(rounds), block_length(gaps), resamples=resamples, seed=seed,
                  confidence=confidence, bounds=(-1.0, 1.0)))


def _rounds(rows: Iterable[FrameRow], names: Sequence[str], arms: int,
            usable: Callable[[FrameRow], bool]) -> list[tuple[list[FrameRow], list[FrameRow]]]:
    """Return the rows of both arms by round, in time order, of rounds that have both."""
    found: dict[int, tuple[list[FrameRow], list[FrameRow]]] = {}
    for row in steady_rows(rows):
        if row.arm in names and row.block >= 0 and row.status in ANSWERED and usable(row):
            found.setdefault(row.block // arms, ([], []))[names.index(row.arm)].append(row)
    return [found[key] for key in sorted(found) if all(found[key])]


def _miou(counts: np.ndarray) -> float:
    """Return mean IoU of ``[K, 3]`` pixels: correct, in truth, predicted."""
    union = counts[:, 1] + counts[:, 2] - counts[:, 0]
    there = union > 0
    return float((counts[there, 0] / union[there]).mean()) if there.any() else 0.0

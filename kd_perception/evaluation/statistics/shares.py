"""
Intervals of what is counted by frame: boundaries, objects and flicker are shares, so many of so
many. Frames (blocks of them) are what a bootstrap may draw.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import math
from statistics import NormalDist

import numpy as np

from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.statistics.bootstrap import (
    block_indices,
    block_length,
    CONFIDENCE,
    Interval,
    interval_of,
    RESAMPLES,
)
from kd_perception.evaluation.statistics.paired import ANSWERED, FEWEST_PAIRS, pair_rows

# Blocks of fewer frames are summed frame by frame.
_SHORT = 32


@dataclass(frozen=True)
class PairedShare:
    """
    Two arms on the frames that both answered.

    :param n: frames.
    :param difference: the other arm minus the reference, on a scale of 0 … 1.
    """

    reference: str
    other: str
    n: int
    difference: Interval


def measured(rows: Iterable[FrameRow], arm: str, what: str) -> list[np.ndarray]:
    """
    Return the counts of one arm, in the order of the frames that have them.

    :param what: field of ``FrameDetail``.
    """
    own = sorted((r for r in rows if r.arm == arm and r.status in ANSWERED),
                 key=lambda r: r.index)
    return [counts for r in own if (counts := _counts(r, what)) is not None]


def measured_pairs(rows: Iterable[FrameRow], reference: str, other: str,
                   what: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the counts of frames that both arms have; none where they are too few."""
    pairs = [(_counts(a, what), _counts(b, what)) for a, b in pair_rows(rows, reference, other)[0]]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return known if len(known) >= FEWEST_PAIRS else []


def _counts(row: FrameRow, what: str) -> np.ndarray | None:
    found: np.ndarray | None = getattr(row.detail, what, None)
    return found


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, NaN where there is nothing."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def mean_known(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is not NaN; NaN where nothing is known."""
    known = np.isfinite(values)
    return share(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))


def drawn_sums(counts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """
    Return the sums of resampled frames.

    :param counts: ``[n, ...]`` by frame.
    :param indices: int64 ``[r, n]``, frames drawn.
    :returns: float64 ``[r, ...]``.
    """
    n, (resamples, drawn) = len(counts), indices.shape
    flat = counts.reshape(n, -1).astype(float)
    begins = np.ones(indices.shape, bool)
    begins[:, 1:] = indices[:, 1:] != indices[:, :-1] + 1
    first = np.flatnonzero(begins)
    if first.size * _SHORT > indices.size:
        # How often each frame was drawn: one matrix product then sums all resamples.
        times = np.bincount((indices + n * np.arange(resamples)[:, None]).ravel(),
                            minlength=n * resamples).reshape(-1, n)
        sums = times @ flat
    else:
        # The sum of a block of neighbours is the difference of two running sums.
        until = np.concatenate([np.zeros((1, flat.shape[1])), np.cumsum(flat, axis=0)])
        last = np.append(first[1:], indices.size) - 1
        drawn_frames = indices.ravel()
        blocks = until[drawn_frames[last] + 1] - until[drawn_frames[first]]
        sums = np.add.reduceat(blocks, np.searchsorted(first, drawn * np.arange(resamples)))
    return np.asarray(sums).reshape(resamples, *counts.shape[1:])


def wilson(estimate: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """
    Return the score interval of a share (Wilson 1927).

    :param n: independent observations behind it.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = estimate + z * z / (2 * n)
    half = z * math.sqrt(estimate * (1 - estimate) / n + z * z / (4 * n * n))
    return (max(0.0, (middle - half) / (1 + z * z / n)),
            min(1.0, (middle + half) / (1 + z * z / n)))


def share_intervals(parts: np.ndarray, wholes: np.ndarray, *, resamples: int = RESAMPLES,
                    seed: int = 0) -> list[Interval]:
    """
    Return the interval of each of C shares, all from the same resamples.

    :param parts: ``[n, C]`` by frame; ``wholes``: the same, what they are parts of.
    :returns: C intervals within 0 … 1; NaN where a share has no whole at all, and 0 … 1 where
        frames are too few or the share exists in too few of them to be drawn.
    """
    n = len(parts)
    with np.errstate(invalid='ignore'):
        series = share(parts.sum(axis=1).astype(float), wholes.sum(axis=1).astype(float))
    known = series[np.isfinite(series)]
    # Frames without anything to measure are part of the series, but know no share.
    block = max(1, min(block_length(known) if len(known) else 1, max(1, n // 4)))
    estimates = share(parts.sum(axis=0).astype(float), wholes.sum(axis=0).astype(float))
    drawn = np.concatenate([
        share(drawn_sums(parts, i), drawn_sums(wholes, i))
        for i in block_indices(n, block, resamples, seed)])
    out = []
    for column, estimate in enumerate(estimates):
        with_any = int((wholes[:, column] > 0).sum())
        out.append(Interval(math.nan, math.nan, math.nan) if np.isnan(estimate) else
                   interval_of(float(estimate), drawn[:, column], max(with_any, 1), block,
                               (0.0, 1.0)))
    return out

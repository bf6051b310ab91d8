"""
Confidence intervals for measurements that follow one another in time.

In: numbers by frame, in time order; out: intervals. Neighbouring frames are alike (a busy moment
slows several), so whole blocks of them are drawn, not single frames: the circular block bootstrap.
Seeded, vectorised, bounded in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import math
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000
_CHUNK = 4_000_000  # drawn indices held at a time: 32 MB


@dataclass(frozen=True)
class Interval:
    """
    An estimate with its confidence interval.

    :param confidence: 0.95 for "95 %".
    """

    estimate: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    def excludes(self, value: float) -> bool:
        """Return whether ``value`` lies outside, so that a difference from it is shown."""
        # Written so that an interval that does not exist (NaN) shows nothing.
        return value < self.low or value > self.high


def family_factor(count: int) -> float:
    """Return how much wider ``count`` intervals are that all hold together (Bonferroni)."""
    normal = NormalDist()
    tail = (1.0 - CONFIDENCE) / 2.0
    return normal.inv_cdf(1.0 - tail / max(1, count)) / normal.inv_cdf(1.0 - tail)


def block_length(values: np.ndarray) -> int:
    """
    Return how many neighbours to draw together, from the autocorrelation of ``values``.

    Twice what the rule of Politis and White asks for, but 1.3 sqrt(n) at least and n/4 at most.
    Their rule minimises the error of a variance; intervals need longer blocks, also where the
    memory is too weak to be seen in n values (Lazarus, Lewis, Stock and Watson 2018, from whom
    the 1.3 is). What this covers is in ``docs/report.md``.

    :param values: float ``[n]`` in time order: for a statistic other than the mean its influence,
        e.g. the side of the median on which each value lies.
    """
    n = values.size
    least = math.ceil(1.3 * math.sqrt(n))
    return max(1, min(max(least, 2 * _variance_block_length(values)), n // 4))


def _variance_block_length(values: np.ndarray) -> int:
    """Return Politis and White's length (2004, corrected 2009) for circular blocks."""
    n = values.size
    centred = values - values.mean()
    variance = float(centred @ centred) / n
    if n < 8 or variance <= 0:
        return 1
    longest = math.ceil(min(3 * math.sqrt(n), n / 3))
    quiet = max(5, math.ceil(math.sqrt(math.log10(n))))
    lags = min(n - 1, 2 * longest + quiet)
    # All lags at once (Wiener-Khinchin); the zeros keep the ends of the series apart.
    spectrum = np.fft.rfft(centred, n + lags)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, n + lags)[:lags + 1] / n
    small = np.abs(covariance / variance) < 2 * math.sqrt(math.log10(n) / n)
    # The memory ends at the first lag after which `quiet` correlations in a row are noise.
    memory = next((m for m in range(lags - quiet + 1) if small[m + 1:m + 1 + quiet].all()),
                  longest)
    if memory == 0:
        return 1
    reach = min(2 * memory, lags)
    k = np.arange(-reach, reach + 1)
    window = np.clip(2.0 * (1.0 - np.abs(k) / reach), 0.0, 1.0)  # flat top, then falling
    weighted = window * covariance[np.abs(k)]
    spread, slope = float(weighted.sum()), float((weighted * np.abs(k)).sum())
    if spread <= 0:
        return longest
    length = (2 * slope ** 2 / (4 / 3 * spread ** 2)) ** (1 / 3) * n ** (1 / 3)
    return int(min(max(1, math.ceil(length)), longest))


def block_indices(n: int, block: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield int64 ``[r, n]`` indices of resampled series, ``resamples`` rows in all."""
    rng = np.random.default_rng(seed)
    blocks = math.ceil(n / block)
    step = max(1, _CHUNK // n)
    for first in range(0, resamples, step):
        rows = min(step, resamples - first)
        starts = rng.integers(0, n, (rows, blocks, 1))
        drawn = (starts + np.arange(block)).reshape(rows, -1)[:, :n]
        np.subtract(drawn, n, out=drawn, where=drawn >= n)  # in a circle; % is slower
        yield drawn


def bootstrap(statistic: Callable[[np.ndarray], np.ndarray], n: int, block: int, *,
              resamples: int = RESAMPLES, seed: int = 0, confidence: float = CONFIDENCE,
              bounds: tuple[float, float] = (-math.inf, math.inf)) -> Interval:
    """
    Return the interval of a statistic of a series of ``n`` frames.

    :param statistic: takes indices int64 ``[r, n]``, returns float ``[r]``.
    :param block: frames drawn together, from ``block_length``.
    :param bounds: smallest and largest value that the statistic can have.
    :returns: percentile interval, widened for the few independent blocks that there are; where
        there are fewer than two, ``bounds``: nothing is known.
    """
    estimate = float(statistic(np.arange(n)[None])[0])
    drawn = np.concatenate([statistic(i) for i in block_indices(n, block, resamples, seed)])
    return interval_of(estimate, drawn, n, block, bounds, confidence)


def interval_of(estimate: float, drawn: np.ndarray, n: int, block: int,
                bounds: tuple[float, float], confidence: float = CONFIDENCE) -> Interval:
    """
    Return the interval of an estimate from what the resamples gave; see ``bootstrap``.

    :param drawn: float ``[r]``; what is not finite does not count.
    """
    factor = small_sample_factor(n, block, confidence)
    drawn = drawn[np.isfinite(drawn)]
    if math.isinf(factor) or drawn.size == 0:
        return Interval(estimate, *bounds, confidence)
    tail = (1.0 - confidence) / 2.0
    low, high = (float(v) for v in np.quantile(drawn, (tail, 1.0 - tail)))
    return Interval(estimate, max(bounds[0], estimate - factor * max(0.0, estimate - low)),
                    min(bounds[1], estimate + factor * max(0.0, high - estimate)), confidence)


def small_sample_factor(n: int, block: int, confidence: float = CONFIDENCE) -> float:
    """
    Return by how much a block-bootstrap interval is too narrow.

    Resampling knows its own data only: its variance misses a share of block/n, and a normal
    quantile is used where Student's with n/block - 1 degrees of freedom belongs.
    """
    blocks = n / block
    if blocks < 2:
        return math.inf
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    freedom = max(1.0, blocks - 1)
    student = z + (z ** 3 + z) / (4 * freedom) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (
        96 * freedom ** 2)
    return student / z * math.sqrt(blocks / (blocks - 1))

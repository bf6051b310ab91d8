"""
How well a mask follows the outlines of things: the boundary F-score.

Csurka, Larlus, Perronnin: "What is a good evaluation measure for semantic segmentation?" (BMVC
2013). A boundary pixel of a class is one of its pixels beside (up, down, left, right) another
class. Precision is the share of predicted boundary pixels with a true one of their class within
the tolerance, recall the share of true ones with a predicted one, and F = 2 P R / (P + R). The
tolerance is 0.75 % of the picture's diagonal, at least one pixel, as a Euclidean distance.

Pixels without ground truth are no part of it: they are taken out of the prediction too, and an
edge against them is no boundary. Neither is the edge of the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
import math

import numpy as np

from kd_perception.classes import UNLABELLED
from kd_perception.evaluation.accuracy import MIN_SHARE
from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.statistics.bootstrap import (
    block_length,
    bootstrap,
    CONFIDENCE,
    Interval,
    RESAMPLES,
)
from kd_perception.evaluation.statistics.shares import (
    drawn_sums,
    mean_known,
    measured_pairs,
    PairedShare,
    share,
)

TOLERANCE = 0.0075  # of the diagonal
_BITS = 64


@dataclass(frozen=True)
class BoundaryScore:
    """
    Boundary F-score of one arm.

    :param n: frames.
    :param score: mean over classes of ``f``, 0 … 1; classes with at least 0.1 % of the true
        boundary pixels.
    :param f: by class, the mean over the frames in whose truth the class has a boundary; NaN where
        it has none in any.
    :param precision: by class over all frames; ``recall``: the same.
    :param frames: by class, frames in whose truth it has a boundary.
    """

    arm: str
    n: int
    score: Interval
    f: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    frames: tuple[int, ...]

    def rows(self, names: Sequence[str]) -> list[dict[str, str | float | int]]:
        """Return one row per class that occurs: class, f, precision, recall, frames."""
        return [{'class': name, 'f': self.f[i], 'precision': self.precision[i],
                 'recall': self.recall[i], 'frames': self.frames[i]}
                for i, name in enumerate(names) if self.frames[i]]


class TrueBoundary:
    """
    The boundaries in the ground truth of a frame, to count any number of masks against.

    :param truth: uint8 ``[H, W]``, ids or 255 for pixels that do not count.
    :param num_classes: K.
    :param tolerance: of the diagonal.
    """

    def __init__(self, truth: np.ndarray, num_classes: int,
                 tolerance: float = TOLERANCE) -> None:
        self._truth = truth
        self._num_classes = num_classes
        self.radius = max(1.0, tolerance * math.hypot(*truth.shape))
        self._void = truth == UNLABELLED
        self._edges = _Edges(truth, num_classes, self.radius)

    def count(self, mask: np.ndarray) -> np.ndarray:
        """
        Return int32 ``[K, 4]``: predicted boundary pixels that are near a true one, predicted
        ones, true ones that are near a predicted one, true ones.

        :param mask: uint8 ``[H, W]``; 255 and ids beyond the classes are no class.
        """
        # Void is made equal in both, so that an edge against it is a boundary in neither. What the
        # model left open is an id of its own: the region of a class does end there.
        known = np.where(mask < self._num_classes, mask, np.uint8(UNLABELLED - 1))
        known[self._void] = UNLABELLED
        predicted = _Edges(known, self._num_classes, self.radius)
        return np.stack([self._edges.near(predicted), predicted.sizes,
                         predicted.near(self._edges), self._edges.sizes], axis=1).astype(np.int32)


def count_boundaries(truth: np.ndarray, mask: np.ndarray, num_classes: int,
                     tolerance: float = TOLERANCE) -> np.ndarray:
    """Return what ``TrueBoundary(truth, …).count(mask)`` does."""
    return TrueBoundary(truth, num_classes, tolerance).count(mask)


def f_scores(counts: np.ndarray) -> np.ndarray:
    """Return F by class, ``[...]`` from counts ``[..., 4]``; NaN where the truth has none."""
    hits, predicted, found, truth = np.moveaxis(counts.astype(float), -1, 0)
    precision = np.where(predicted > 0, hits / np.maximum(predicted, 1), 0.0)
    recall = share(found, truth)
    total = precision + recall
    return np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1), total)


def boundary_score(arm: str, counts: Sequence[np.ndarray], *, resamples: int = RESAMPLES,
                   seed: int = 0) -> BoundaryScore | None:
    """
    Return the score over frames, or None when the truth has no boundary.

    :param counts: by frame in time order, int32 ``[K, 4]``.
    """
    if not counts:
        return None
    by_frame = np.stack(counts)
    total = by_frame.sum(axis=0, dtype=np.int64)
    if not total[:, 3].any():
        return None
    f, known = _scores(by_frame)
    chosen = _chosen(total)
    mean, frames = share(f.sum(axis=0), known.sum(axis=0)), known.sum(axis=0)
    return BoundaryScore(
        arm=arm, n=len(counts),
        score=bootstrap(lambda i: _mean_of_classes(f[:, chosen], known[:, chosen], i),
                        len(counts), block_length(_series(f, known)), resamples=resamples,
                        seed=seed, bounds=(0.0, 1.0)),
        f=tuple(mean.tolist()), frames=tuple(int(n) for n in frames),
        precision=tuple(share(total[:, 0].astype(float), total[:, 1]).tolist()),
        recall=tuple(share(total[:, 2].astype(float), total[:, 3]).tolist()))


def paired_boundary(rows: Iterable[FrameRow], reference: str, other: str, *,
                    resamples: int = RESAMPLES, seed: int = 0,
                    confidence: float = CONFIDENCE) -> PairedShare | None:
    """Return the difference of two arms on common frames; None where it was not measured."""
    pairs = measured_pairs(rows, reference, other, 'boundary')
    if not pairs:
        return None
    first, second = (np.stack([p[k] for p in pairs]) for k in (0, 1))
    total = first.sum(axis=0, dtype=np.int64)
    if not total[:, 3].any():
        return None
    chosen = _chosen(total)
    (f, known), (g, _) = _scores(first[:, chosen]), _scores(second[:, chosen])
    difference = bootstrap(
        lambda i: _mean_of_classes(g, known, i) - _mean_of_classes(f, known, i), len(pairs),
        block_length(_series(g, known) - _series(f, known)), resamples=resamples, seed=seed,
        confidence=confidence, bounds=(-1.0, 1.0))
    return PairedShare(reference, other, len(pairs), difference)


class _Edges:
    """Boundary pixels of a map of ids, and the map of what lies near them, one bit per class."""

    def __init__(self, ids: np.ndarray, num_classes: int, radius: float) -> None:
        self._num_classes = num_classes
        self._shape = ids.shape
        edge = np.zeros(ids.shape, bool)
        for now, beside in (((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
                            ((slice(None), slice(1, None)), (slice(None), slice(None, -1)))):
            a, b = ids[now], ids[beside]
            differ = (a != b) & (a != UNLABELLED) & (b != UNLABELLED)
            edge[now] |= differ
            edge[beside] |= differ
        edge &= ids < num_classes
        self._where = np.flatnonzero(edge)
        self._ids = ids.ravel()[self._where]
        self.sizes = np.bincount(self._ids, minlength=num_classes)
        self._radius = radius
        self._spread: list[np.ndarray] | None = None

    def near(self, others: _Edges) -> np.ndarray:
        """Return by class how many of the others' pixels have one of these within the radius."""
        if self._spread is None:
            self._spread = list(self._dilated())
        hits = np.zeros(self._num_classes, np.int64)
        for first, near in zip(range(0, self._num_classes, _BITS), self._spread):
            bits = others._ids.astype(np.int64) - first
            mine = (bits >= 0) & (bits < _BITS)
            there = near.ravel()[others._where[mine]]
            hit = (there >> bits[mine].astype(near.dtype)) & near.dtype.type(1) != 0
            hits += np.bincount(others._ids[mine][hit], minlength=self._num_classes)
        return hits

    def _dilated(self) -> Iterator[np.ndarray]:
        """
        Yield maps of classes near by, as many as bits need.

        All classes spread at once: a disk is rows of different width, so bits are first spread to
        the sides and then moved up and down.
        """
        for first in range(0, self._num_classes, _BITS):
            kind = _smallest(min(self._num_classes - first, _BITS))
            bits = self._ids.astype(np.int64) - first
            mine = (bits >= 0) & (bits < _BITS)
            near = np.zeros(self._shape, kind)
            near.ravel()[self._where[mine]] = kind.type(1) << bits[mine].astype(kind)
            yield _spread(near, self._radius)


def _spread(bits: np.ndarray, radius: float) -> np.ndarray:
    """Return the bitwise OR over a disk around every pixel."""
    out = np.zeros_like(bits)
    height, width = bits.shape
    wide, reached = bits.copy(), 0
    # From the narrowest row of the disk (the farthest) to the widest (the middle).
    for dy in range(min(math.floor(radius), height - 1), -1, -1):
        half = min(math.floor(math.sqrt(radius * radius - dy * dy)), width - 1)
        for step in range(reached + 1, half + 1):
            wide[:, step:] |= bits[:, :-step]
            wide[:, :-step] |= bits[:, step:]
        reached = half
        out[dy:] |= wide[:height - dy]
        if dy:
            out[:-dy] |= wide[dy:]
    return out


def _smallest(bits: int) -> np.dtype:
    return np.dtype(next(f'u{size}' for size in (1, 2, 4, 8) if 8 * size >= bits))


def _scores(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return F ``[n, K]``, 0 where unknown, and where it is known."""
    f = f_scores(counts)
    known = np.isfinite(f)
    return np.where(known, f, 0.0), known


def _chosen(total: np.ndarray) -> np.ndarray:
    """Return bool ``[K]``: the classes of the headline."""
    return total[:, 3] >= max(1.0, MIN_SHARE * total[:, 3].sum())


def _mean_of_classes(f: np.ndarray, known: np.ndarray, indices: np.ndarray) -> np.ndarray:
    return mean_known(share(drawn_sums(f, indices), drawn_sums(known, indices)))


def _series(f: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return ``[n]``: the mean of a frame's classes, whose memory sets the blocks."""
    return share(f.sum(axis=1), np.maximum(known.sum(axis=1), 1))

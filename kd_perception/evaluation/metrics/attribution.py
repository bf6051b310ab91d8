"""
Whether two networks look at the same things: their maps of attention, held against each other.

Maps come in, small and by frame and class (``distillation/reports/attribution.py`` makes them);
rank correlations go out. Ranks, because gradients of two networks have different scales and a few
cells with very large values. Within the segment alone, because outside of it every network's map
fades with distance: over the whole frame a network with random weights agreed with a trained
teacher better (0.79) than its student did (0.74); within segments it was 0.25 against 0.43, and
0.35 for a student that this teacher had not taught (CamVid, 18 segments).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Fewer cells in a segment say nothing.
FEWEST_CELLS = 8


@dataclass(frozen=True, eq=False)
class AttributionPair:
    """
    Maps of one class in one frame, float ``[rows, columns]``.

    :param inside: bool ``[rows, columns]``, the cells of the segment that was asked about.
    :param random: of the student's network with weights drawn anew, several times.
    :param image: uint8 ``[H, W, 3]``, the frame, small.
    """

    frame: str
    class_id: int
    inside: np.ndarray
    student: np.ndarray
    teacher: np.ndarray
    random: tuple[np.ndarray, ...]
    image: np.ndarray

    @property
    def correlation(self) -> float:
        """Return the rank correlation of student and teacher."""
        return self._within(self.student)

    @property
    def reference(self) -> float:
        """Return the mean rank correlation of the random networks and the teacher."""
        return _mean([self._within(r) for r in self.random])

    def _within(self, other: np.ndarray) -> float:
        if np.count_nonzero(self.inside) < FEWEST_CELLS:
            return float('nan')
        return rank_correlation(other[self.inside], self.teacher[self.inside])


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """
    Return Spearman's correlation, -1 … 1; NaN where one of the maps is flat.

    :param first: float, any shape; equal values share their mean rank.
    """
    ranks = [_ranks(np.asarray(v, float).ravel()) for v in (first, second)]
    a, b = (r - r.mean() for r in ranks)
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float('nan')


def summary(pairs: Sequence[AttributionPair], names: Sequence[str]) -> dict[str, Any]:
    """
    Return mean correlations over pairs, whole and by class, as plain types.

    :param names: class names by id.
    """
    def means(chosen: Sequence[AttributionPair]) -> dict[str, Any]:
        return {'maps': len(chosen),
                'correlation': _mean([p.correlation for p in chosen]),
                'random_weights': _mean([p.reference for p in chosen])}

    classes = sorted({p.class_id for p in pairs})
    return {**means(pairs), 'frames': len({p.frame for p in pairs}),
            'classes': {names[c]: means([p for p in pairs if p.class_id == c])
                        for c in classes}}


def _ranks(values: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[which]


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float('nan')

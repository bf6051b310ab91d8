"""
Whether two networks look at the same things: their maps of attention, held against each other.

Maps come in, small and by frame and class (``distillation/attribution.py`` makes them); rank
correlations go out. Ranks, because gradients of two networks have different scales and a few
cells with very large values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class AttributionPair:
    """
    Maps of one class in one frame, float ``[rows, columns]``.

    :param random: of the student's network with weights drawn anew.
    :param image: uint8 ``[H, W, 3]``, the frame, small.
    """

    frame: str
    class_id: int
    student: np.ndarray
    teacher: np.ndarray
    random: np.ndarray
    image: np.ndarray

    @property
    def correlation(self) -> float:
        """Return the rank correlation of student and teacher."""
        return rank_correlation(self.student, self.teacher)

    @property
    def reference(self) -> float:
        """Return the rank correlation of the random network and the teacher."""
        return rank_correlation(self.random, self.teacher)


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

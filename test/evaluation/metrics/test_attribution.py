from __future__ import annotations

import numpy as np
import pytest

from kd_perception.evaluation.metrics.attribution import (
    AttributionPair,
    rank_correlation,
    summary,
)


def spearman(first: list[float], second: list[float]) -> float:
    """Return the correlation of ranks that are counted pair by pair."""
    def ranks(values: list[float]) -> np.ndarray:
        return np.array([sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2
                         for x in values])
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def test_correlation_of_ranks_with_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.integers(0, 6, 30).astype(float), rng.normal(size=30)
        assert rank_correlation(a, b) == pytest.approx(spearman(a.tolist(), b.tolist()))
    values = rng.normal(size=(4, 5))
    assert rank_correlation(values, np.exp(values)) == pytest.approx(1)
    assert rank_correlation(values, -values) == pytest.approx(-1)
    assert np.isnan(rank_correlation(values, np.zeros((4, 5))))


def test_only_the_segment_counts() -> None:
    rng = np.random.default_rng(0)
    inside = np.zeros((6, 8), bool)
    inside[:3] = True
    teacher, student = rng.random((6, 8)), rng.random((6, 8))
    student[:3] = np.sqrt(teacher[:3])
    pair = AttributionPair('a', 0, inside, student, teacher, (teacher[::-1],),
                           np.zeros((6, 8, 3), np.uint8))
    assert pair.correlation == pytest.approx(1)
    assert abs(pair.reference) < 0.9


def test_means_are_taken_by_class() -> None:
    up, down = np.arange(24.0).reshape(4, 6), -np.arange(24.0).reshape(4, 6)
    image = np.zeros((4, 6, 3), np.uint8)
    everywhere, few = np.ones((4, 6), bool), np.zeros((4, 6), bool)
    few[0] = True
    pairs = [AttributionPair('a', 0, everywhere, up, up, (down, down), image),
             AttributionPair('b', 2, everywhere, up, down, (np.zeros((4, 6)),), image),
             AttributionPair('b', 1, few, up, up, (up,), image)]
    found = summary(pairs, ('road', 'car', 'sky'))
    assert found['correlation'] == pytest.approx(0)
    assert found['random_weights'] == pytest.approx(-1)  # the flat map says nothing
    assert (found['maps'], found['frames']) == (3, 2)
    assert set(found['classes']) == {'road', 'car', 'sky'}
    assert np.isnan(found['classes']['car']['correlation']), 'six cells say nothing'
    assert found['classes']['sky']['correlation'] == pytest.approx(-1)

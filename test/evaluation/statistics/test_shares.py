"""Intervals of shares that are counted by frame."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.evaluation.statistics.bootstrap import block_indices
from kd_perception.evaluation.statistics.shares import (
    drawn_sums,
    mean_known,
    share_intervals,
    wilson,
)


def test_sums_of_resampled_frames():
    counts = np.arange(12).reshape(4, 3)
    indices = np.array([[0, 0, 3, 3], [1, 2, 1, 1]])
    np.testing.assert_array_equal(drawn_sums(counts, indices), counts[indices].sum(axis=1))


@pytest.mark.parametrize('block', [1, 7, 31, 33, 60, 200])
@pytest.mark.parametrize('shape', [(200,), (200, 3), (200, 2, 4)])
def test_sums_of_drawn_blocks_are_those_of_their_frames(block, shape):
    rng = np.random.default_rng(block)
    for counts in (rng.integers(0, 1000, shape), rng.normal(size=shape)):
        for indices in block_indices(200, block, 300, seed=1):
            np.testing.assert_allclose(drawn_sums(counts, indices), counts[indices].sum(axis=1),
                                       rtol=1e-9, atol=1e-9)
    # A row may begin where the one before it ended.
    rows = np.arange(200).reshape(4, 50)
    np.testing.assert_allclose(drawn_sums(counts, rows), counts[rows].sum(axis=1), atol=1e-9)


def test_mean_of_what_is_known():
    nan = np.nan
    np.testing.assert_array_equal(mean_known(np.array([[1., nan, 3.], [nan, nan, nan]])),
                                  [2., nan])


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(60):
        wholes = rng.integers(0, 6, (80, 2))
        parts = rng.binomial(wholes, 0.7)
        for found in share_intervals(parts, wholes, resamples=200, seed=trial):
            assert 0 <= found.low <= found.estimate <= found.high <= 1
            hits += found.low <= 0.7 <= found.high
    assert 104 <= hits <= 120


def test_what_is_never_there_has_no_share_and_what_is_rare_no_narrow_one():
    wholes = np.zeros((40, 3), int)
    wholes[:, 0], wholes[7, 1] = 5, 1
    never = share_intervals(wholes // 2, wholes, resamples=50)[2]
    assert np.isnan([never.estimate, never.low, never.high]).all()
    rare = share_intervals(wholes, wholes, resamples=50)[1]
    assert (rare.estimate, rare.low, rare.high) == (1.0, 0.0, 1.0)
    assert share_intervals(wholes, wholes, resamples=50)[0].low == pytest.approx(1.0)


def test_score_interval_of_textbook_examples():
    # Agresti and Coull 1998: 0 of 10 is 0 … 0.278; and it is symmetric.
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    low, high = wilson(0.5, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)

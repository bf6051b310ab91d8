"""Boundary F-score, against one worked out pixel by pixel and against known pictures."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.metrics.boundary import (
    boundary_score,
    count_boundaries,
    f_scores,
    paired_boundary,
    TrueBoundary,
)
from kd_perception.evaluation.metrics.frame_detail import FrameDetail


def slow_counts(truth: np.ndarray, mask: np.ndarray, classes: int, radius: float) -> np.ndarray:
    """Return the counts by comparing every boundary pixel with every other."""
    mask = np.where(mask < classes, mask, 254)
    mask = np.where(truth == 255, 255, mask)

    def edges(ids: np.ndarray, c: int) -> np.ndarray:
        out = []
        for y, x in np.argwhere(ids == c):
            beside = [ids[v, u] for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
                      if 0 <= v < ids.shape[0] and 0 <= u < ids.shape[1]]
            if any(b not in (c, 255) for b in beside):
                out.append((y, x))
        return np.array(out).reshape(-1, 2)

    counts = []
    for c in range(classes):
        t, p = edges(truth, c), edges(mask, c)
        apart = ((t[:, None] - p[None]) ** 2).sum(-1) <= radius ** 2
        counts.append((apart.any(0).sum() if len(t) else 0, len(p),
                       apart.any(1).sum() if len(p) else 0, len(t)))
    return np.array(counts)


def square(left: int = 20, size: int = 60) -> np.ndarray:
    ids = np.zeros((100, 100), np.uint8)
    ids[20:20 + size, left:left + size] = 1
    return ids


@pytest.mark.parametrize('radius', [1.0, 2.5, 3.0])
def test_counts_are_those_of_every_pixel_with_every_other(radius):
    rng = np.random.default_rng(1)
    for _ in range(4):
        small = rng.integers(0, 5, (2, 5, 6), dtype=np.uint8)
        truth, mask = (np.kron(s, np.ones((5, 5), np.uint8)) for s in small)
        truth[rng.random(truth.shape) < 0.05] = 255
        truth[truth == 4] = 255
        mask[mask == 4] = 255
        tolerance = radius / np.hypot(*truth.shape)
        counts = count_boundaries(truth, mask, 4, tolerance)
        np.testing.assert_array_equal(counts, slow_counts(truth, mask, 4, radius))


def test_a_perfect_mask_scores_one_and_one_without_edges_nothing():
    truth = square()
    np.testing.assert_allclose(f_scores(count_boundaries(truth, truth, 2)), 1.0)
    flat = f_scores(count_boundaries(truth, np.zeros_like(truth), 2))
    np.testing.assert_array_equal(flat, 0.0)


def test_a_shift_within_the_tolerance_is_free_and_one_beyond_it_costs_known_sides():
    truth = square()                           # the diagonal is 141 px: 0.75 % are 1.06 px
    assert TrueBoundary(truth, 2).radius == pytest.approx(1.06, abs=0.01)
    np.testing.assert_allclose(f_scores(count_boundaries(truth, square(21), 2)), 1.0)
    near, predicted, found, true = count_boundaries(truth, square(23), 2)[1]
    assert predicted == true == 4 * 60 - 4
    # The upper and lower side overlap in 57 columns and reach one further; the sides at the left
    # and right are 3 px off, but for where they cross the true upper and lower side.
    assert near == found == 2 * 58 + 2 * 2 - 2
    wide = count_boundaries(truth, square(23), 2, tolerance=3 / np.hypot(100, 100) + 1e-9)
    np.testing.assert_allclose(f_scores(wide), 1.0)


def test_the_tolerance_is_a_pixel_at_least():
    truth = square(2, 10)[:24, :24]
    assert TrueBoundary(truth, 2).radius == 1.0


def test_what_has_no_truth_is_no_boundary():
    truth, mask = square(), square()
    truth[:, 50:] = 255
    mask[:, 52:] = 1        # anything there
    counts = count_boundaries(truth, mask, 2)
    np.testing.assert_allclose(f_scores(counts), 1.0)
    assert counts[1, 3] == 60 + 2 * 29  # no right side, and none where the truth ends


def test_what_the_model_leaves_open_ends_a_region():
    truth = np.zeros((40, 40), np.uint8)
    truth[20:] = 1
    mask = truth.copy()
    mask[:, 20:] = 255
    counts = count_boundaries(truth, mask, 2)
    assert counts[0, 1] > counts[0, 0] > 0
    assert counts[0, 2] < counts[0, 3] == 40


def test_more_classes_than_bits():
    rng = np.random.default_rng(0)
    ids = np.kron(rng.integers(0, 150, (6, 6), dtype=np.uint8), np.ones((4, 4), np.uint8))
    np.testing.assert_array_equal(count_boundaries(ids, np.roll(ids, 1, 1), 150, 0.07),
                                  slow_counts(ids, np.roll(ids, 1, 1), 150,
                                              0.07 * np.hypot(24, 24)))


def rows(arm: str, counts: list[np.ndarray]) -> list[FrameRow]:
    return [FrameRow(arm, i, 'c', i, 0, 1, detail=FrameDetail(boundary=c))
            for i, c in enumerate(counts)]


def test_score_is_the_mean_over_frames_then_classes():
    truth = square()
    good, bad = count_boundaries(truth, truth, 3), count_boundaries(truth, truth * 0, 3)
    score = boundary_score('a', [good, bad] * 10, resamples=200)
    assert score.f[:2] == (0.5, 0.5)
    assert np.isnan(score.f[2])
    assert score.frames == (20, 20, 0)
    assert score.score.estimate == pytest.approx(0.5)
    assert score.score.low < 0.5 < score.score.high
    assert [r['class'] for r in score.rows(('x', 'y', 'z'))] == ['x', 'y']
    assert boundary_score('a', []) is None


def test_two_arms_are_compared_on_the_frames_of_both():
    rng = np.random.default_rng(3)
    truth = square()
    first = [count_boundaries(truth, truth, 2) for _ in range(30)]
    second = [count_boundaries(truth, square(20 + int(rng.integers(0, 8))), 2)
              for _ in range(30)]
    both = rows('a', first) + rows('b', second[:25])
    found = paired_boundary(both, 'a', 'b', resamples=500)
    alone = boundary_score('b', second[:25], resamples=10)
    assert found.n == alone.n == 25
    assert found.difference.estimate == pytest.approx(alone.score.estimate - 1.0)
    assert found.difference.low < found.difference.estimate < found.difference.high < 0
    same = paired_boundary(rows('a', first) + rows('b', first), 'a', 'b', resamples=50)
    assert (same.difference.low, same.difference.high) == (0, 0)
    assert paired_boundary([FrameRow('a', 0, 'c', 0, 0, 1)], 'a', 'b') is None

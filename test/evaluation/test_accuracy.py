"""Accuracy from per-frame counts, against matrices added up by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kd_perception.evaluation import comparison as c
from kd_perception.evaluation.accuracy import accuracy, iou_by_class, MIN_SHARE, paired_accuracy
from kd_perception.tasks.metrics import ConfusionMatrix


def rows_of(arm: str, masks: list[np.ndarray], truths: list[np.ndarray],
            classes: int) -> list[c.FrameRow]:
    return [c.FrameRow(arm, i, 'camera', i, 0, 1, counts=c.class_counts(
        c.confusion_matrix(t, m, classes))) for i, (m, t) in enumerate(zip(masks, truths))]


@pytest.fixture
def scene() -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    truths = [rng.integers(0, 3, (30, 40), dtype=np.uint8) for _ in range(24)]
    masks = [np.where(rng.random(t.shape) < 0.2, rng.integers(0, 3, t.shape), t).astype(np.uint8)
             for t in truths]
    for truth in truths:
        truth[0] = 255
    return truths, masks


def test_accuracy_equals_the_whole_matrix(scene):
    truths, masks = scene
    total = sum(c.confusion_matrix(t, m, 4) for t, m in zip(truths, masks))
    result = accuracy('a', rows_of('a', masks, truths, 4), resamples=200)
    iou = iou_by_class(total)
    np.testing.assert_allclose(result.iou, iou)
    assert np.isnan(iou[3])
    assert result.miou.estimate == pytest.approx(np.mean(iou[:3]))
    assert result.miou_all == pytest.approx(np.mean(iou[:3]))
    assert result.pixel_accuracy == pytest.approx(np.trace(total[:, :4]) / total.sum())
    assert result.recall[0] == pytest.approx(total[0, 0] / total[0].sum())
    assert result.precision[0] == pytest.approx(total[0, 0] / total[:, 0].sum())
    assert result.f1[0] == pytest.approx(
        2 / (1 / result.recall[0] + 1 / result.precision[0]))
    assert sum(result.share) == pytest.approx(1.0)
    assert result.miou.low < result.miou.estimate < result.miou.high
    assert result.n == 24


def test_a_single_frame_has_an_accuracy_but_no_interval(scene):
    truths, masks = scene
    result = accuracy('a', rows_of('a', masks[:1], truths[:1], 3), resamples=50)
    assert (result.miou.low, result.miou.high) == (0.0, 1.0)
    assert 0.0 < result.miou.estimate < 1.0


def test_intervals_stay_within_what_a_miou_can_be():
    truth = np.zeros((20, 20), np.uint8)
    masks = [np.zeros_like(truth) for _ in range(8)]
    masks[3][:] = 1
    result = accuracy('a', rows_of('a', masks, [truth] * 8, 2), resamples=200)
    assert result.miou.low >= 0.0
    assert result.miou.high <= 1.0


def test_rare_class_stays_out_of_the_headline_only():
    truth = np.zeros((50, 50), np.uint8)
    truth[0, 0] = 1  # 0.04 % of the pixels, and missed
    rows = rows_of('a', [np.zeros_like(truth)] * 10, [truth] * 10, 2)
    assert 1 / truth.size < MIN_SHARE
    result = accuracy('a', rows, resamples=50)
    assert result.miou.estimate == pytest.approx(2499 / 2500)
    assert result.miou_all == pytest.approx(2499 / 5000)


def test_class_that_is_only_predicted_counts_as_a_miss_of_others_alone():
    truth = np.zeros((50, 50), np.uint8)
    mask = truth.copy()
    mask[:25] = 1  # never true
    rows = rows_of('a', [mask] * 10, [truth] * 10, 2)
    matrix = ConfusionMatrix(2)
    matrix.update(truth, mask)
    result = accuracy('a', rows, resamples=50)
    assert result.miou_all == pytest.approx(0.5)
    assert result.miou_all == pytest.approx(matrix.mean_iou())


def test_unlabelled_prediction_is_a_miss():
    truth = np.zeros((10, 10), np.uint8)
    mask = truth.copy()
    mask[:5] = 255
    assert accuracy('a', rows_of('a', [mask] * 9, [truth] * 9, 1), resamples=50).iou == (0.5,)


def test_difference_is_other_minus_reference_on_common_frames(scene):
    truths, masks = scene
    rows = rows_of('a', [np.where(t == 255, 0, t).astype(np.uint8) for t in truths], truths, 3)
    rows += rows_of('b', masks, truths, 3)
    lost = [replace(r, received_ns=None, status='lost', counts=None)
            if r.arm == 'b' and r.index == 4 else r for r in rows]
    result = paired_accuracy(lost, 'a', 'b', resamples=200)
    assert result.n == 23
    total = sum(c.confusion_matrix(t, m, 3)
                for i, (t, m) in enumerate(zip(truths, masks)) if i != 4)
    assert result.difference.estimate == pytest.approx(np.mean(iou_by_class(total)) - 1.0)
    assert result.difference.high < 0


def test_interval_covers_the_true_miou():
    """Frames of varying difficulty: the interval over frames covers the long-run value."""
    rng = np.random.default_rng(4)
    population = [varied_frame(rng) for _ in range(3000)]
    truth = accuracy('a', population, resamples=2).miou.estimate
    hits = 0
    for trial in range(100):
        chosen = rng.integers(0, len(population), 60)
        rows = [replace(population[j], stamp_ns=i, index=i) for i, j in enumerate(chosen)]
        hits += not accuracy('a', rows, resamples=200, seed=trial).miou.excludes(truth)
    assert hits >= 86


def varied_frame(rng: np.random.Generator) -> c.FrameRow:
    good = rng.beta(8, 2)
    first = int(rng.integers(300, 700))
    a, b = int(first * good), int((1000 - first) * good)
    counts = ((a, first, a + 1000 - first - b), (b, 1000 - first, b + first - a))
    return c.FrameRow('a', 0, 'camera', 0, 0, 1, counts=counts)


def test_without_truth_there_is_no_accuracy():
    rows = [c.FrameRow(arm, i, 'camera', i, 0, 1) for arm in 'ab' for i in range(20)]
    assert accuracy('a', rows) is None
    assert paired_accuracy(rows, 'a', 'b') is None

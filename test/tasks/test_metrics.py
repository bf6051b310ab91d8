"""The confusion matrix against counts made by hand and by a slow second way."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kd_perception.errors import ConfigError, ImageError
from kd_perception.tasks.metrics import ConfusionMatrix


def test_counts_by_hand() -> None:
    matrix = ConfusionMatrix(3)
    truth = np.array([[0, 0, 0, 1], [1, 255, 255, 2]], np.uint8)
    guess = np.array([[0, 0, 1, 1], [255, 0, 2, 2]], np.uint8)
    matrix.update(truth, guess)
    assert matrix.counts.tolist() == [[2, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    assert matrix.pixels == 6
    # Two void pixels were called 0 and 2: they join the unions of these.
    assert matrix.mean_iou_with_void() == pytest.approx((2 / 4 + 1 / 3 + 1 / 2) / 3)
    both = ConfusionMatrix(3)
    both.merge(matrix)
    assert both.mean_iou_with_void() == matrix.mean_iou_with_void()
    np.testing.assert_allclose(matrix.iou(), [2 / 3, 1 / 3, 1])
    np.testing.assert_allclose(matrix.precision(), [1, 1 / 2, 1])
    np.testing.assert_allclose(matrix.recall(), [2 / 3, 1 / 2, 1])
    np.testing.assert_allclose(matrix.f1(), [4 / 5, 1 / 2, 1])
    np.testing.assert_allclose(matrix.support(), [3 / 6, 2 / 6, 1 / 6])
    assert matrix.pixel_accuracy() == pytest.approx(4 / 6)
    assert matrix.mean_iou() == pytest.approx(2 / 3)
    assert matrix.mean_iou(min_share=0.3) == pytest.approx(1 / 2)


def test_against_a_second_way() -> None:
    generator = np.random.default_rng(1)
    k = 5
    truth = generator.choice([0, 1, 2, 3, 4, 255], (40, 50)).astype(np.uint8)
    guess = generator.choice([0, 1, 2, 3, 4, 255], (40, 50)).astype(np.uint8)
    matrix = ConfusionMatrix(k)
    matrix.update(truth, guess)
    for c in range(k):
        valid = truth != 255
        both = ((truth == c) & (guess == c)).sum()
        either = (((truth == c) | (guess == c)) & valid).sum()
        assert matrix.iou()[c] == pytest.approx(both / either)


def test_merge_is_update_of_both() -> None:
    generator = np.random.default_rng(2)
    whole, first, second = (ConfusionMatrix(4) for _ in range(3))
    for part in (first, second):
        truth, guess = generator.integers(0, 4, (2, 30, 30)).astype(np.uint8)
        part.update(truth, guess)
        whole.update(truth, guess)
    first.merge(second)
    assert (first.counts == whole.counts).all()
    with pytest.raises(ConfigError, match='4 and 5'):
        first.merge(ConfusionMatrix(5))


def test_absent_classes_are_nan_and_left_out() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.zeros((2, 2), np.uint8), np.array([[0, 0], [0, 1]], np.uint8))
    assert np.isnan(matrix.iou()[2])
    assert np.isnan(matrix.precision()[2])
    assert matrix.iou()[1] == 0  # predicted, never true: wrong, but not in the mean
    assert matrix.mean_iou() == pytest.approx(3 / 4)
    assert np.isnan(ConfusionMatrix(3).mean_iou())
    assert np.isnan(ConfusionMatrix(3).pixel_accuracy())


@pytest.mark.parametrize(('truth', 'guess', 'says'), [
    (7, 0, r'truth holds ids \[7\]'), (0, 9, r'prediction holds ids \[9\]')])
def test_stray_ids_are_refused(truth: int, guess: int, says: str) -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(ImageError, match=says):
        matrix.update(np.full((2, 2), truth, np.uint8), np.full((2, 2), guess, np.uint8))
    assert matrix.pixels == 0


def test_stray_prediction_on_void_truth_is_ignored() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.full((2, 2), 255, np.uint8), np.full((2, 2), 9, np.uint8))
    assert matrix.pixels == 0


def test_shapes_and_types_are_checked() -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(ImageError, match='shape'):
        matrix.update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ImageError, match='uint8'):
        matrix.update(np.zeros((2, 2), np.int64), np.zeros((2, 2), np.uint8))
    with pytest.raises(ConfigError):
        ConfusionMatrix(0)


def test_255_classes_fit() -> None:
    matrix = ConfusionMatrix(255)
    truth = np.arange(256, dtype=np.uint8)
    matrix.update(truth, truth)
    assert matrix.pixels == 255
    assert matrix.mean_iou() == 1


def test_dict_is_json_and_names_classes() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    data = json.loads(json.dumps(matrix.to_dict(('road', 'sky')), allow_nan=False))
    assert data['classes']['road']['iou'] == 1
    assert data['classes']['sky']['iou'] is None
    assert data['mean_iou'] == 1
    assert data['pixels'] == 4

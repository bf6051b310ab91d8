from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_perception.distillation.losses.weighting import (
    decisions,
    near_boundary,
    PixelWeighting,
)
from kd_perception.distillation.recipe import WeightingRecipe

SEEN = np.array([9000, 900, 100, 0])


def teacher(ids: np.ndarray, sure: float = 4.0) -> torch.Tensor:
    """Return logits of 4 classes that decide for ``ids`` ``[h, w]``."""
    logits = np.zeros((1, 4, *ids.shape), np.float32)
    for place in np.ndindex(ids.shape):
        logits[(0, ids[place], *place)] = sure
    return torch.from_numpy(logits)


def unlabelled(rows: int, columns: int) -> torch.Tensor:
    return torch.full((1, 2 * rows, 2 * columns), 255, dtype=torch.uint8)


def weigh(ids: np.ndarray, valid: np.ndarray | None = None, seen: np.ndarray = SEEN,
          **settings: float) -> np.ndarray:
    mask = torch.from_numpy(np.ones(ids.shape) if valid is None else valid)[None]
    recipe = WeightingRecipe(**settings)  # type: ignore[arg-type]
    return PixelWeighting(recipe, seen)(teacher(ids), mask, unlabelled(*ids.shape))[0].numpy()


STRIPES = np.repeat([0, 0, 0, 1, 1, 1], 4).reshape(6, 4)


def test_ground_truth_decides_where_there_is_some() -> None:
    labels = unlabelled(6, 4)
    labels[0, :2] = 3
    got = decisions(teacher(STRIPES), labels)[0].numpy()
    assert (got[0] == 3).all()
    np.testing.assert_array_equal(got[1:], STRIPES[1:])


@pytest.mark.parametrize('width', [1, 2])
def test_boundaries_are_where_another_class_is_near(width: int) -> None:
    valid = torch.ones(1, 6, 4, dtype=torch.bool)
    got = near_boundary(torch.from_numpy(STRIPES)[None], valid, width)[0].numpy()
    np.testing.assert_array_equal(got.all(1), [abs(y - 2.5) < width for y in range(6)])
    np.testing.assert_array_equal(got.any(1), got.all(1))
    valid[:, 3:] = False
    assert not near_boundary(torch.from_numpy(STRIPES)[None], valid, width).any()


def test_boundary_pixels_count_more_and_the_mean_stays() -> None:
    got = weigh(STRIPES, boundary=2.0)
    assert got.mean() == pytest.approx(1)
    np.testing.assert_allclose(got[2:4] / got[0], 3.0, rtol=1e-5)


def test_sure_pixels_count_more_or_less() -> None:
    logits = teacher(STRIPES)
    logits[..., 0] /= 4
    p = torch.softmax(logits, 1).amax(1)[0]
    ones = torch.ones(1, 6, 4)
    for exponent in (2.0, -1.0):
        recipe = WeightingRecipe(confidence=exponent)
        got = PixelWeighting(recipe, SEEN)(logits, ones, unlabelled(6, 4))[0]
        assert float(got.mean()) == pytest.approx(1)
        assert float(got[0, 0] / got[0, 1]) == pytest.approx(
            float(p[0, 0] / p[0, 1]) ** exponent, rel=1e-4)


def test_classes_are_balanced_by_what_was_seen_within_bounds() -> None:
    ids = np.array([[0, 1, 2, 3]])
    half = weigh(ids, class_balance=0.5)[0]
    np.testing.assert_allclose(half[:3] / half[0], [1, np.sqrt(10), np.sqrt(90)], rtol=1e-4)
    whole = weigh(ids, class_balance=1.0)[0]
    # Inverse shares would be 1 : 10 : 90 : infinite; the ratio is bounded to 50.
    np.testing.assert_allclose(whole / whole[0], [1, 10, 50, 50], rtol=1e-4)
    np.testing.assert_allclose(weigh(ids, seen=np.zeros(4), class_balance=1.0), 1)


def test_all_together_are_a_product_over_valid_pixels() -> None:
    valid = np.ones((6, 4))
    valid[0] = 0
    settings = {'boundary': 3.0, 'boundary_width': 2, 'confidence': 1.5, 'class_balance': 1.0}
    got = weigh(STRIPES, valid, **settings)
    assert not got[0].any()
    assert got[1:].mean() == pytest.approx(1)
    product = weigh(STRIPES, valid, boundary=3.0, boundary_width=2)
    product *= weigh(STRIPES, valid, confidence=1.5) * weigh(STRIPES, valid, class_balance=1.0)
    np.testing.assert_allclose(got, product / product[1:].mean(), rtol=1e-4)


@pytest.mark.parametrize('factor', [0.0, 0.25, 3.0])
def test_where_there_is_ground_truth_the_teacher_has_another_say(factor: float) -> None:
    labels = unlabelled(6, 4).repeat(3, 1, 1)
    labels[0] = 3
    labels[1, :6] = 3  # the rest of this frame is void
    valid = torch.ones(3, 6, 4)
    valid[:, :, 0] = 0
    got = PixelWeighting(WeightingRecipe(labelled=factor), SEEN)(
        teacher(STRIPES).repeat(3, 1, 1, 1), valid, labels).numpy()
    assert not got[..., 0].any()
    np.testing.assert_allclose(got[:2, :, 1:], factor * got[2, 0, 1], rtol=1e-5)
    np.testing.assert_allclose(got[2, :, 1:], got[2, 0, 1], rtol=1e-5)
    assert got[..., 1:].mean() == pytest.approx(1)


def test_a_batch_that_is_labelled_all_over_teaches_nothing_then() -> None:
    labels = torch.zeros(1, 12, 8, dtype=torch.uint8)
    labels[0, 0] = 255  # of a few void pixels nothing is learned either
    got = PixelWeighting(WeightingRecipe(labelled=0.0), SEEN)(
        teacher(STRIPES), torch.ones(1, 6, 4), labels)
    assert not got.any()


def test_a_recipe_that_weighs_nothing_is_off() -> None:
    assert WeightingRecipe(boundary_width=3).off
    assert not WeightingRecipe(labelled=0.0).off


def test_nothing_valid_stays_nothing() -> None:
    assert not weigh(STRIPES, np.zeros((6, 4)), boundary=1.0, confidence=1.0).any()

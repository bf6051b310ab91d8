from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from kd_perception.distillation.augmentation import (
    draw_view,
    jitter,
    rare_pixel,
    View,
    view_image,
    view_labels,
)
from kd_perception.distillation.recipe import AugmentRecipe

FRAME = (60, 90)


def ramp() -> np.ndarray:
    """Return a picture whose red is the column and green the row, times two."""
    rows, columns = np.mgrid[:FRAME[0], :FRAME[1]]
    return np.stack([2 * columns, 2 * rows, 0 * rows], -1).astype(np.uint8)


def test_the_full_view_changes_nothing() -> None:
    image, view = ramp(), View(0, 0, *FRAME)
    assert np.array_equal(view_image(image, view, FRAME), image)
    assert np.array_equal(view.theta(*FRAME), [[1, 0, 0], [0, 1, 0]])


def test_a_flip_mirrors() -> None:
    view = View(0, 0, *FRAME, flip=True)
    assert np.array_equal(view_image(ramp(), view, FRAME), ramp()[:, ::-1])


@pytest.mark.parametrize('view', [
    View(10, 20, 30, 40), View(10, 20, 30, 40, flip=True), View(5, 7, 24, 33),
    View(-10, -15, 80, 120), View(-10, -15, 80, 120, flip=True)])
def test_logits_warped_by_theta_lie_under_the_picture(view: View) -> None:
    """A ramp is linear, so every resampling that has its pixel centres right gives one value."""
    crop = (48, 64)
    picture = view_image(ramp(), view, crop).astype(np.float32)
    source = torch.from_numpy(ramp().astype(np.float32)).permute(2, 0, 1)[None]
    theta = torch.from_numpy(view.theta(*FRAME))[None]
    grid = functional.affine_grid(theta, [1, 3, *crop], align_corners=False)
    warped = functional.grid_sample(source, grid, align_corners=False, padding_mode='border')
    # Two pixels from the border of the frame, where either interpolation has no neighbour.
    inside = ((grid[0].abs() < 1 - 4 / 60).all(-1)).numpy()
    difference = np.abs(warped[0].permute(1, 2, 0).numpy() - picture)[inside]
    assert inside.sum() > 1000
    # 0.75 covers rounding to bytes; half a pixel of shift would be 1.
    assert difference[:, :2].max() < 0.75


def test_labels_keep_their_ids_and_are_unlabelled_beyond_the_frame() -> None:
    labels = np.zeros(FRAME, np.uint8)
    labels[:, 45:] = 7
    seen = view_labels(labels, View(-30, -45, 120, 180), (60, 90))
    assert set(np.unique(seen)) == {0, 7, 255}
    assert seen[30, 30] == 0
    assert seen[30, 60] == 7
    assert (seen[:14] == 255).all()


def test_views_are_within_bounds_and_repeat_by_seed() -> None:
    recipe = AugmentRecipe(scale=(1.0, 2.0), aspect=0.1)
    drawn = [draw_view(np.random.default_rng(i), recipe, FRAME, (30, 40)) for i in range(200)]
    again = [draw_view(np.random.default_rng(i), recipe, FRAME, (30, 40)) for i in range(200)]
    assert drawn == again
    assert len(set(drawn)) > 150
    for view in drawn:
        assert 0 <= view.top <= FRAME[0] - view.height
        assert 0 <= view.left <= FRAME[1] - view.width
        assert 14 <= view.height <= 32
    assert 60 < sum(v.flip for v in drawn) < 140


def test_a_view_larger_than_the_frame_contains_it() -> None:
    recipe = AugmentRecipe(scale=(0.25, 0.25))
    for seed in range(20):
        view = draw_view(np.random.default_rng(seed), recipe, FRAME, (60, 90))
        assert view.top <= 0
        assert view.left <= 0
        assert view.top + view.height >= FRAME[0]
        assert view.left + view.width >= FRAME[1]


def test_a_view_is_drawn_around_its_centre() -> None:
    recipe = AugmentRecipe(scale=(1.5, 2.0))
    for seed in range(50):
        view = draw_view(np.random.default_rng(seed), recipe, FRAME, (30, 40), centre=(50, 10))
        assert view.top <= 50 < view.top + view.height
        assert view.left <= 10 < view.left + view.width


def test_rare_classes_are_looked_at_by_weight() -> None:
    ids = np.zeros((15, 20), np.uint8)
    ids[7, 11] = 3
    weights = np.array([1.0, 1.0, 1.0, 3.0])
    rng = np.random.default_rng(0)
    drawn = [rare_pixel(rng, ids, weights, (60, 80)) for _ in range(400)]
    share = sum(p == (28, 44) for p in drawn) / len(drawn)
    assert 0.65 < share < 0.85
    assert rare_pixel(rng, np.full((4, 4), 255, np.uint8), weights, (60, 80)) is None


def test_no_jitter_changes_nothing_and_grey_stays_grey_under_colour() -> None:
    still = AugmentRecipe(brightness=0, contrast=0, saturation=0, hue=0, gamma=0)
    assert np.array_equal(jitter(np.random.default_rng(0), still, ramp()), ramp())
    grey = np.repeat(np.arange(240, dtype=np.uint8)[:, None, None], 3, 2).repeat(4, 1)
    turned = AugmentRecipe(brightness=0, contrast=0, saturation=0.9, hue=0.4, gamma=0)
    seen = jitter(np.random.default_rng(1), turned, grey).astype(int)
    assert np.abs(seen - grey).max() <= 2


def test_jitter_repeats_by_seed_and_stays_in_bytes() -> None:
    wild = AugmentRecipe(brightness=0.9, contrast=0.9, saturation=1, hue=0.5, gamma=0.9, blur=1,
                         noise=30)
    first, second = (jitter(np.random.default_rng(5), wild, ramp()) for _ in range(2))
    assert first.dtype == np.uint8
    assert first.shape == ramp().shape
    assert np.array_equal(first, second)
    assert not np.array_equal(first, jitter(np.random.default_rng(6), wild, ramp()))

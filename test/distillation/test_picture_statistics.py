"""What a run says of its training pictures, in the bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from kd_perception.bundle import load_bundle, ModelBundle, STATISTICS
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.trainer import distill, train
from kd_perception.tasks.familiarity import load_statistics, picture_features


def scores(bundle: ModelBundle, folder: Path, light: float = 1.0) -> np.ndarray:
    """Return the distances of the pictures of a folder over the limit."""
    statistics = load_statistics(bundle)
    assert statistics is not None
    pictures = [cv2.imread(str(f)) * light for f in sorted(folder.glob('*.png'))]
    return np.array([statistics.distance(picture_features(p.astype(np.uint8), 'bgr'))
                     for p in pictures]) / statistics.limit


def test_training_leaves_statistics_of_its_pictures(
        make_recipe: Callable[..., Recipe], many_stripes: Path, bare_stripes: Path,
        tmp_path: Path) -> None:
    # What augmentation makes of the pictures is no part of them.
    recipe = make_recipe(train=many_stripes, steps=2,
                         augment={'crop': [24, 32], 'brightness': 0.9})
    bundle = load_bundle(train(recipe, tmp_path / 'run').path)
    statistics = load_statistics(bundle)
    assert statistics is not None
    assert statistics.pictures == bundle.spec.statistics['frames'] == 75
    assert bundle.sizes[STATISTICS] < 20_000
    assert (scores(bundle, bare_stripes) > 1).mean() < 0.3
    assert (scores(bundle, bare_stripes, light=0.2) > 1).mean() > 0.9


def test_a_student_without_labels_has_them_too(
        make_recipe: Callable[..., Recipe], many_stripes: Path, tmp_path: Path,
        teacher: ModelBundle) -> None:
    recipe = make_recipe(train=many_stripes, steps=2, distillation={'view': 'online'})
    bundle = distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=None)
    statistics = load_statistics(bundle)
    assert statistics is not None
    assert statistics.pictures == 75
    assert load_statistics(teacher) is None


def test_few_frames_have_none(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    assert not train(make_recipe(steps=2), tmp_path / 'run').has(STATISTICS)

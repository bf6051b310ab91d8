from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from kd_perception.bags.source import open_source
from kd_perception.bundle import ModelBundle
from kd_perception.classes import class_map_from_dict, ClassMap, ClassSet
from kd_perception.distillation.cache import SoftLabelCache
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.labelling import label
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.teachers.teacher import Lesson
from kd_perception.distillation.teachers.translated import TranslatedTeacher
from kd_perception.distillation.trainer import distill
from kd_perception.errors import ConfigError, TrainingError
from kd_perception.tasks.soft_labels import SoftLabelCodec

Make = Callable[..., Recipe]
SOURCE = ClassSet.from_names('five', ('car', 'bus', 'road', 'sky', 'ego'))
TARGET = ClassSet.from_names('two', ('road', 'vehicle'))
MAP = {'map': {'road': ['road'], 'vehicle': ['car', 'bus']}, 'drop': ['sky'], 'ignore': ['ego']}


class Says:
    """A teacher that says the same of everything."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def teach(self, batch: Batch, grid: tuple[int, int]) -> Lesson:
        valid = torch.ones_like(self.logits[:, 0], dtype=torch.bool)
        valid[:, 0, 0] = False
        return Lesson(self.logits, valid)


def translated(class_map: ClassMap, logits: np.ndarray) -> Lesson:
    teacher = TranslatedTeacher(Says(torch.from_numpy(logits)), class_map, 5, 2)
    return teacher.teach(None, (1, 1))  # type: ignore[arg-type]


def test_probabilities_of_merged_classes_add_up_and_the_rest_renormalises() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (2, 5, 4, 6)).astype(np.float32)
    class_map = class_map_from_dict(MAP, SOURCE, TARGET)
    lesson = translated(class_map, logits)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    expected = np.stack([p[:, 2], p[:, 0] + p[:, 1]], 1) / (1 - p[:, 3:4] - p[:, 4:5])
    np.testing.assert_allclose(lesson.logits.softmax(1), expected, rtol=1e-5)
    silent = logits.argmax(1) == 4
    silent[:, 0, 0] = True  # as the teacher itself said
    assert silent.sum() > 4
    np.testing.assert_array_equal(lesson.valid, ~silent)
    # A dropped class keeps nothing from being taught.
    assert lesson.valid[torch.from_numpy((logits.argmax(1) == 3) & ~silent)].all()


def test_maps_are_checked_both_ways() -> None:
    def refused(match: str, **changes: object) -> None:
        with pytest.raises(ConfigError, match=match):
            class_map_from_dict({**MAP, **changes}, SOURCE, TARGET)

    refused("neither mapped nor ignored: .'sky'.", drop=[])
    refused("'sky' is mapped twice", ignore=['ego', 'sky'])
    refused("nothing maps to .'vehicle'", map={'road': ['road']}, drop=['sky', 'car', 'bus'])
    refused("'tram' is no class of 'five'", drop=['sky', 'tram'])
    refused('needs a list of classes', drop='sky')
    assert class_map_from_dict(MAP, SOURCE, TARGET).dropped == (3,)
    np.testing.assert_array_equal(class_map_from_dict(MAP, SOURCE, TARGET).table[:5],
                                  [1, 1, 0, 255, 255])


@pytest.fixture
def coarse(tmp_path: Path, driving: ClassSet) -> tuple[Path, Path]:
    """Return a class set of three classes and a map to it from the twelve of the teacher."""
    names = driving.names
    path = tmp_path / 'three.yaml'
    path.write_text(yaml.safe_dump(
        {'name': 'three', 'classes': [{'name': n, 'color': [i, i, i]}
                                      for i, n in enumerate(('ground', 'things', 'far'))]}))
    there = tmp_path / 'map.yaml'
    there.write_text(yaml.safe_dump({
        'source': 'driving', 'target': 'three', 'ignore': [names[11]], 'drop': [names[10]],
        'map': {'ground': list(names[:3]), 'things': list(names[3:7]), 'far': list(names[7:10])}}))
    return path, there


@pytest.mark.parametrize('view', ['warp', 'online'])
def test_a_student_of_fewer_classes_learns_from_a_teacher_of_more(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path,
        coarse: tuple[Path, Path], view: str) -> None:
    classes, class_map = coarse
    cache = None
    if view == 'warp':
        cache = tmp_path / 'c'
        label(teacher, open_source(bare_stripes), cache, engine='onnxruntime',
              codec=SoftLabelCodec('fp16', 2, offset=True))
    recipe = make_recipe(
        train=bare_stripes, steps=60, classes=str(classes), augment={'focus': 0.5},
        data={'validation_share': 0.25},
        network={'builder': 'toy', 'arguments': {'width': 16}},
        # Losses on logits are defined behind a map.
        distillation={'view': view, 'class_map': str(class_map),
                      'losses': {'kl': {}, 'cwd': {'weight': 0.1}}})
    bundle = distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache)
    assert bundle.spec.classes.names == ('ground', 'things', 'far')
    metrics = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    assert metrics['validation']['pixel_accuracy'] > 0.6
    if cache is not None:  # the truth that was measured against is the mapped one
        counts = np.zeros(3)
        labels = SoftLabelCache(cache)
        for key in labels.keys[9:]:
            p = np.exp(labels[key])
            merged = np.stack([p[:3].sum(0), p[3:7].sum(0), p[7:10].sum(0)]).argmax(0)
            counts += np.bincount(merged[labels[key].argmax(0) != 11], minlength=3)
        assert metrics['validation']['pixels'] == pytest.approx(counts.sum(), rel=0.01)


def test_a_codec_that_does_not_keep_the_unlikely_is_refused_behind_a_dropping_map(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path,
        coarse: tuple[Path, Path]) -> None:
    recipe = make_recipe(train=bare_stripes, classes=str(coarse[0]),
                         distillation={'class_map': str(coarse[1]),
                                       'losses': {'kl': {'temperature': 0.5}}})
    for codec, match in ((SoftLabelCodec('packed', 2), "'packed' cannot serve a class map that "
                          'drops classes.*--codec fp16'),
                         (SoftLabelCodec('topk', 2, k=3, temperature=0.5),
                          "'topk' cannot serve.* a class map")):
        label(teacher, open_source(bare_stripes), tmp_path / codec.name, codec=codec,
              engine='onnxruntime')
        with pytest.raises(TrainingError, match=match):
            distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=tmp_path / codec.name)


def test_a_missing_a_needless_and_a_wrong_map_are_told(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path,
        coarse: tuple[Path, Path]) -> None:
    def refused(match: str, **distillation: object) -> None:
        recipe = make_recipe(train=bare_stripes, classes=classes, data={'validation_share': 0.25},
                             distillation={'view': 'online', **distillation})
        with pytest.raises(Exception, match=match):
            distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=None)

    classes = str(coarse[0])
    refused("predicts 'driving', the recipe asks for 'three': .*driving_to_three.yaml")
    classes = 'driving'
    refused('the teacher predicts the classes of .driving. already', class_map=str(coarse[1]))
    classes = 'camvid'
    refused("target is 'three', but it is used for 'camvid'", class_map=str(coarse[1]))
    assert not (tmp_path / 'run').exists()

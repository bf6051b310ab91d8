from __future__ import annotations

from collections.abc import Callable
from functools import partial
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kd_perception.bags.source import open_source
from kd_perception.bundle import BundleSpec, InputSpec, load_bundle, ModelBundle, NetworkSpec
from kd_perception.classes import ClassSet
from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.label_import import import_labels
from kd_perception.distillation.labelling import label
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.teachers.ensemble import Ensemble
from kd_perception.distillation.teachers.teacher import Lesson
from kd_perception.distillation.trainer import distill
from kd_perception.errors import ConfigError, TrainingError
from kd_perception.networks.deploy import save_bundle
from kd_perception.networks.registry import build
from kd_perception.tasks.soft_labels import SoftLabelCodec

Make = Callable[..., Recipe]


class Says:
    """A teacher that says the same of everything."""

    def __init__(self, logits: np.ndarray, valid: np.ndarray) -> None:
        self.lesson = Lesson(torch.from_numpy(logits), torch.from_numpy(valid))

    def teach(self, batch: Batch, grid: tuple[int, int]) -> Lesson:
        return self.lesson


@pytest.mark.parametrize('combine', ['mean', 'confident'])
def test_the_joint_distribution_is_that_of_the_equation(combine: str) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, [[[[[1]]]], [[[[4]]]], [[[[9]]]]], (3, 2, 5, 4, 6)).astype(np.float32)
    valid = rng.random((3, 2, 4, 6)) < 0.7
    weights = (1.0, 2.0, 0.5)
    lesson = Ensemble([Says(t, v) for t, v in zip(logits, valid, strict=True)], combine,
                     weights).teach(None, (1, 1))  # type: ignore[arg-type]
    heard = valid.any(0)
    np.testing.assert_array_equal(lesson.valid, heard)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(2, keepdims=True)
    gates = np.array(weights)[:, None, None, None] * valid
    if combine == 'confident':
        entropy = -(p * np.log(p)).sum(2)
        gates = gates * np.maximum(1 - entropy / np.log(5), 1e-4)
    with np.errstate(invalid='ignore'):
        expected = (gates[:, :, None] * p).sum(0) / gates.sum(0)[:, None]
    got = lesson.logits.exp().numpy()
    np.testing.assert_allclose(got.transpose(0, 2, 3, 1)[heard],
                               expected.transpose(0, 2, 3, 1)[heard], rtol=1e-4, atol=1e-7)
    assert torch.isfinite(lesson.logits).all()
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5)


def test_who_is_sure_teaches_where_another_is_not() -> None:
    sure = np.zeros((1, 4, 2, 2), np.float32)
    sure[:, 1] = 12
    dull = np.zeros((1, 4, 2, 2), np.float32)
    dull[:, 2] = 0.3
    known = np.ones((1, 2, 2), bool)
    teachers = [Says(dull, known), Says(sure, known)]
    gated, mean = (Ensemble(teachers, c).teach(None, (1, 1)).logits.exp()  # type: ignore[arg-type]
                   for c in ('confident', 'mean'))
    assert float(gated[0, 1].min()) > 0.95 > 0.7 > float(mean[0, 1].max())
    both = Ensemble([teachers[0]] * 2, 'confident').teach(None, (1, 1))  # type: ignore[arg-type]
    torch.testing.assert_close(both.logits.exp(), torch.from_numpy(dull).softmax(1))


def test_grids_are_brought_to_the_finest() -> None:
    known = np.ones((1, 2, 3), bool)
    coarse = Says(np.random.default_rng(0).normal(0, 1, (1, 4, 2, 3)).astype(np.float32), known)
    fine = Says(np.zeros((1, 4, 4, 6), np.float32), np.ones((1, 4, 6), bool))
    lesson = Ensemble([coarse, fine]).teach(None, (1, 1))  # type: ignore[arg-type]
    assert lesson.logits.shape == (1, 4, 4, 6)
    assert lesson.valid.shape == (1, 4, 6)


@pytest.fixture
def other(tmp_path: Path, driving: ClassSet) -> ModelBundle:
    torch.manual_seed(5)
    spec = BundleSpec(name='other', task='segmentation', role='teacher', classes=driving,
                      input=InputSpec(32, 48), network=NetworkSpec('toy', {'width': 12}))
    return save_bundle(tmp_path / 'other', build(spec.network, len(driving)), spec)


def labelled(bundle: ModelBundle, bare_stripes: Path, out: Path, stride: int) -> Path:
    label(bundle, open_source(bare_stripes), out, engine='onnxruntime',
          codec=SoftLabelCodec('u8', stride))
    return out


def test_two_caches_teach_one_student_and_resume_to_the_bit(
        make_recipe: Make, teacher: ModelBundle, other: ModelBundle, bare_stripes: Path,
        tmp_path: Path, resumes: Callable[..., None]) -> None:
    caches = [labelled(teacher, bare_stripes, tmp_path / 'a', 2),
              labelled(other, bare_stripes, tmp_path / 'b', 4)]
    recipe = make_recipe(train=bare_stripes, augment={'focus': 0.5}, distillation={
        'teachers': {'combine': 'confident', 'weights': [1, 2]}})
    resumes(partial(distill, recipe, teacher=[teacher, other], cache_dir=caches))
    whole = load_bundle(tmp_path / 'whole' / 'bundle')
    assert whole.spec.lineage.parents == (teacher.hash, other.hash)


def test_teachers_in_the_loop_and_imported_labels_take_part(
        make_recipe: Make, teacher: ModelBundle, other: ModelBundle, stripes: Path,
        driving: ClassSet, tmp_path: Path) -> None:
    bundle = distill(make_recipe(train=stripes, steps=2, distillation={'view': 'online'}),
                     tmp_path / 'online', teacher=[teacher, other], cache_dir=None)
    assert bundle.spec.lineage.parents == (teacher.hash, other.hash)
    import_labels(stripes.with_name('train_labels'), open_source(stripes), tmp_path / 'i', driving,
                  kind='ids')
    label(teacher, open_source(stripes), tmp_path / 'c', engine='onnxruntime')
    bundle = distill(make_recipe(train=stripes, steps=2), tmp_path / 'mixed', teacher=teacher,
                     cache_dir=[tmp_path / 'i', tmp_path / 'c'])
    assert bundle.spec.lineage.parents == (teacher.hash,)
    stored = (tmp_path / 'mixed' / 'recipe.yaml').read_text()
    assert json.dumps(teacher.hash).strip('"') in stored


def test_what_several_teachers_cannot_do_is_told(
        make_recipe: Make, teacher: ModelBundle, other: ModelBundle, bare_stripes: Path,
        tmp_path: Path) -> None:
    first = labelled(teacher, bare_stripes, tmp_path / 'a', 2)

    def refused(match: str, bundles: list, caches: list, **settings: object) -> None:
        recipe = make_recipe(train=bare_stripes, distillation=settings)
        with pytest.raises(TrainingError, match=match):
            distill(recipe, tmp_path / 'run', teacher=bundles, cache_dir=caches)

    refused('no cache left for it; give a --cache for every --teacher', [teacher, other], [first])
    refused('was labelled by another of the teachers; give every --cache in the order of its',
            [other, teacher], [first, first])
    refused("was labelled by 'toy_teacher' .* not by 'other'", [other], [first])
    refused('1 weights for 2 teachers', [teacher, other], [], view='online',
            teachers={'weights': [1]})
    refused("'cwd' looks at logits themselves, which several", [teacher, other], [],
            view='online', losses={'cwd': {}})
    # Not first that a cache must be made anew: no cache would do.
    refused("'cwd' looks at logits themselves, which several", [teacher, other], [first, first],
            losses={'cwd': {}})
    with pytest.raises(ConfigError, match='must all be above 0'):
        make_recipe(distillation={'teachers': {'weights': [1, 0]}})
    with pytest.raises(ConfigError, match="teachers.combine: 'vote' is none of mean, confident"):
        make_recipe(distillation={'teachers': {'combine': 'vote'}})

"""Every method that a recipe can choose, in small real runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import json
from pathlib import Path

import pytest

from kd_perception.bags.source import open_source
from kd_perception.bundle import ModelBundle
from kd_perception.distillation.labelling import label
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.trainer import distill
from kd_perception.errors import TrainingError
from kd_perception.tasks.soft_labels import SoftLabelCodec

Make = Callable[..., Recipe]
WEIGHTING = {'boundary': 2.0, 'confidence': 0.5, 'class_balance': 0.5}
ON_OUTPUTS = {'kl': {'end': 0.5}, 'mse': {}, 'soft_cross_entropy': {}, 'dkd': {'start': 0.5},
              'dist': {}, 'pairwise': {'cells': 64}, 'cross_image': {'cells': 256}}


def terms(run: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run / 'train.jsonl').read_text().splitlines()]
    return [line[name] for line in lines if line['event'] == 'train' and name in line]


@pytest.fixture(scope='module')
def cache(teacher: ModelBundle, bare_stripes: Path,
          tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('cache') / 'cache'
    label(teacher, open_source(bare_stripes), folder, engine='onnxruntime',
          codec=SoftLabelCodec('u8', stride=2))
    return folder


@pytest.mark.parametrize('name', ON_OUTPUTS)
def test_each_loss_alone_leads_to_the_teacher(make_recipe: Make, teacher: ModelBundle,
                                              bare_stripes: Path, cache: Path, tmp_path: Path,
                                              name: str) -> None:
    losses: dict = {name: {k: v for k, v in ON_OUTPUTS[name].items() if k == 'cells'}}
    watched = name
    if name == 'soft_cross_entropy':
        # Most of it is the teacher's entropy, which stays: look at what it has above that.
        losses['kl'] = {'weight': 1e-6, 'temperature': 1}
        watched = 'kl'
    recipe = make_recipe(train=bare_stripes, steps=30, validate_every=30,
                         distillation={'losses': losses})
    distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache)
    values = terms(tmp_path / 'run', watched)
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


def test_places_are_learned_from_a_teacher_in_the_loop(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path) -> None:
    recipe = make_recipe(train=bare_stripes, steps=30, validate_every=30,
                         distillation={'losses': {'cwd': {'weight': 3}}, 'view': 'online'})
    distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=None)
    values = terms(tmp_path / 'run', 'cwd')
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


def test_all_together_weighted_resume_to_the_bit(make_recipe: Make, teacher: ModelBundle,
                                                 bare_stripes: Path, cache: Path,
                                                 tmp_path: Path,
                                                 resumes: Callable[..., None]) -> None:
    recipe = make_recipe(train=bare_stripes,
                         distillation={'losses': ON_OUTPUTS, 'weighting': WEIGHTING})
    resumes(partial(distill, recipe, teacher=teacher, cache_dir=cache))
    assert len(terms(tmp_path / 'whole', 'kl')) == len(terms(tmp_path / 'whole', 'dkd')) == 6


def test_weighting_changes_what_is_learned(make_recipe: Make, teacher: ModelBundle,
                                           bare_stripes: Path, cache: Path,
                                           tmp_path: Path) -> None:
    first = {}
    for name, strength in (('even', 0.0), ('class_balance', 1.0), ('boundary', 4.0)):
        weighting = {} if name == 'even' else {name: strength}
        recipe = make_recipe(train=bare_stripes, steps=1,
                             distillation={'losses': {'kl': {}}, 'weighting': weighting})
        distill(recipe, tmp_path / name, teacher=teacher, cache_dir=cache)
        first[name] = terms(tmp_path / name, 'kl')[0]
    assert len({round(v, 5) for v in first.values()}) == 3


@pytest.mark.parametrize(('distillation', 'codec', 'message'), [
    ({'losses': {'cwd': {}}}, 'u8', "cannot serve loss 'cwd', which looks at logits"),
    ({'losses': {'mse': {}}}, 'topk', "cannot serve loss 'mse', which looks at relative logits"),
    ({'losses': {'dkd': {}}}, 'topk', "serve loss 'dkd', .* at temperature 4; .*--codec u8$"),
    ({'losses': {'dkd': {}}}, 'packed', "'packed' cannot serve loss 'dkd', which looks at the "
     'other classes, at temperature 4; label again with --codec u8$'),
    ({'losses': {'kl': {'temperature': 8}}}, 'packed', "'packed' cannot serve loss 'kl', which "
     'looks at softmax, at temperature 8; label again with --codec u8$'),
    ({'losses': {'dist': {}}, 'weighting': {'boundary': 1}}, 'u8',
     'distillation.weighting: none of the losses dist is a mean over pixels .* are: dkd, kl, mse'),
])
def test_what_does_not_fit_is_refused(make_recipe: Make, teacher: ModelBundle, cache: Path,
                                      bare_stripes: Path, tmp_path: Path, distillation: dict,
                                      codec: str, message: str) -> None:
    if codec != 'u8':
        cache = tmp_path / 'cache'
        label(teacher, open_source(bare_stripes, limit=1), cache, engine='onnxruntime',
              codec=SoftLabelCodec(codec, stride=2))
    with pytest.raises(TrainingError, match=message) as caught:
        distill(make_recipe(train=bare_stripes, distillation=distillation), tmp_path / 'run',
                teacher=teacher, cache_dir=cache)
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'run').exists()

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kd_perception.bags.source import open_source
from kd_perception.bundle import ModelBundle
from kd_perception.classes import ClassSet
from kd_perception.distillation.cache import SoftLabelCache
from kd_perception.distillation.dataset import Batches
from kd_perception.distillation.frame_store import FrameStore, open_sources
from kd_perception.distillation.labelling import check, label
from kd_perception.distillation.recipe import Recipe, SourceRecipe
from kd_perception.distillation.teachers.cached import CachedTeacher, ViewTeacher
from kd_perception.distillation.teachers.online import OnlineTeacher
from kd_perception.distillation.trainer import distill
from kd_perception.distillation.views import ViewPlan
from kd_perception.errors import ConfigError, EngineError, TrainingError
from kd_perception.frames import FrameKey
from kd_perception.tasks.soft_labels import SoftLabelCodec

Make = Callable[..., Recipe]
AUGMENT = {'crop': [24, 32], 'hue': 0.1, 'blur': 0.5, 'noise': 5.0, 'aspect': 0.2}
KEY = FrameKey('f' * 16, 'camera', 3)
EXACT = SoftLabelCodec('fp16', 1)


@pytest.fixture
def recipe(make_recipe: Make, bare_stripes: Path) -> Recipe:
    return make_recipe(train=bare_stripes, augment=AUGMENT, distillation={'view': 'views'})


@pytest.fixture
def store(bare_stripes: Path, driving: ClassSet) -> FrameStore:
    return FrameStore(open_sources([SourceRecipe(str(bare_stripes))], driving), (32, 48))


def labelled(teacher: ModelBundle, bare_stripes: Path, out: Path, recipe: Recipe, count: int = 3,
             **options: object) -> Path:
    settings = {'codec': EXACT, 'precision': 'fp32', 'shard_size': 5, **options}
    label(teacher, open_source(bare_stripes), out,
          views=ViewPlan.of(recipe, count), **settings)  # type: ignore[arg-type]
    return out


def test_a_view_depends_on_seed_frame_and_number_alone(recipe: Recipe) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    plan = ViewPlan.of(recipe, 4)
    first = plan.draw(image, KEY, 2)
    again = ViewPlan.of(recipe, 9).draw(image.copy(), KEY, 2)
    assert first[0] == again[0]
    assert all(np.array_equal(a, b) for a, b in zip(first[1:], again[1:], strict=True))
    assert first[1].shape == (24, 32, 3)
    assert not np.array_equal(first[1], first[2])  # the light was changed
    others = [plan.draw(image, KEY, 3), plan.draw(image, replace(KEY, index=4), 2),
              replace(plan, seed=1).draw(image, KEY, 2)]
    assert all(not np.array_equal(first[1], other[1]) for other in others)


def test_the_plan_comes_back_from_its_manifest(recipe: Recipe) -> None:
    plan = ViewPlan.of(recipe, 4)
    made = json.loads(json.dumps({'count': plan.count, **plan.to_dict()}))
    assert plan.difference(made) == ''
    back = ViewPlan.from_dict(made)
    image = np.zeros((32, 48, 3), np.uint8)
    assert back.draw(image, KEY, 1)[0] == plan.draw(image, KEY, 1)[0]
    with pytest.raises(ConfigError, match='does not say which views'):
        ViewPlan.from_dict({'count': 3})
    with pytest.raises(ConfigError, match='0 views of a frame'):
        ViewPlan.of(recipe, 0)


def test_lessons_of_views_are_those_of_the_teacher_in_the_loop(
        recipe: Recipe, teacher: ModelBundle, bare_stripes: Path, store: FrameStore,
        tmp_path: Path) -> None:
    cache = SoftLabelCache(labelled(teacher, bare_stripes, tmp_path / 'c', recipe))
    assert len(cache) == 12
    batches = Batches(store, recipe.augment, crop=(24, 32), batch_size=6, seed=7, caches=[cache],
                      views=ViewPlan.of(recipe, 3))
    online, views = OnlineTeacher(teacher, crop=(24, 32)), ViewTeacher()
    pictures = set()
    for step in range(8):
        batch = batches.batch(step)
        expected, got = online.teach(batch, (12, 16)), views.teach(batch, (12, 16))
        centred = expected.logits - expected.logits.amax(1, keepdim=True)
        torch.testing.assert_close(got.logits, centred, atol=0.01, rtol=0.002)
        assert torch.equal(got.valid, expected.valid)
        pictures |= {image.numpy().tobytes() for image in batch.images}
    assert len(pictures) == 36  # the fourth epoch shows the views of the first again
    # Warped labels of whole frames are not that near, or this comparison could not fail.
    label(teacher, open_source(bare_stripes), tmp_path / 'w', codec=EXACT, engine='onnxruntime')
    warped = Batches(store, recipe.augment, crop=(24, 32), batch_size=6, seed=7,
                     caches=[SoftLabelCache(tmp_path / 'w')]).batch(0)
    gap = CachedTeacher((32, 48)).teach(warped, (12, 16)).logits - \
        online.teach(warped, (12, 16)).logits
    assert float((gap - gap.mean(1, keepdim=True)).abs().max()) > 0.05


def test_labelling_views_goes_on_behind_a_stop_and_can_be_checked(
        recipe: Recipe, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path) -> None:
    labelled(teacher, bare_stripes, tmp_path / 'whole', recipe)

    def interrupt(done: int, total: int, note: str) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        labelled(teacher, bare_stripes, tmp_path / 'c', recipe, progress=interrupt)
    assert len(SoftLabelCache(tmp_path / 'c')) == 5
    report = label(teacher, open_source(bare_stripes), tmp_path / 'c', codec=EXACT, shard_size=5,
                   views=ViewPlan.of(recipe, 3), precision='fp32')
    assert (report.labelled, report.present, report.engine) == (7, 5, 'torch')
    kept = [(tmp_path / 'whole' / 'manifest.json'), *(tmp_path / 'whole').glob('shard-*')]
    assert len(kept) == 7
    for file in kept:
        assert file.read_bytes() == (tmp_path / 'c' / file.name).read_bytes()
    checked = check(teacher, open_source(bare_stripes), tmp_path / 'c', samples=3,
                    precision='fp32')
    assert checked.frames == 3
    assert checked.agreement > 0.999
    with pytest.raises(TrainingError, match='another making .views.count: 3 -> 2'):
        labelled(teacher, bare_stripes, tmp_path / 'c', recipe, 2)
    with pytest.raises(EngineError, match='views are labelled by torch'):
        labelled(teacher, bare_stripes, tmp_path / 'd', recipe, engine='onnxruntime')


def test_a_run_on_views_resumes_to_the_bit(recipe: Recipe, teacher: ModelBundle,
                                           bare_stripes: Path, tmp_path: Path,
                                           resumes: Callable[..., None]) -> None:
    cache = labelled(teacher, bare_stripes, tmp_path / 'c', recipe, 2, codec=None)
    resumes(partial(distill, recipe, teacher=teacher, cache_dir=cache))


def test_other_views_are_refused_by_the_key_that_differs(
        recipe: Recipe, make_recipe: Make, teacher: ModelBundle, bare_stripes: Path,
        tmp_path: Path) -> None:
    cache = labelled(teacher, bare_stripes, tmp_path / 'c', recipe)

    def refused(match: str, wrong: Recipe, where: Path = cache) -> None:
        with pytest.raises(TrainingError, match=match):
            distill(wrong, tmp_path / 'run', teacher=teacher, cache_dir=where)

    def change(**augment: object) -> Recipe:
        return replace(recipe, augment=replace(recipe.augment, **augment))  # type: ignore[arg-type]

    refused(r'drawn differently .augment.flip: 0.5 -> 0.25', change(flip=0.25))
    refused(r'drawn differently .augment.crop: \[24, 32\] -> \[16, 32\]', change(crop=(16, 32)))
    refused(r'drawn differently .seed: 0 -> 1', replace(recipe, seed=1))
    refused(r'drawn differently .input.height: 32 -> 48',
            replace(recipe, input=replace(recipe.input, height=48)))
    four = replace(recipe.distillation, views=4)
    refused('holds 3 views of a frame, distillation.views asks for 4',
            replace(recipe, distillation=four))
    refused('of numbered views; set --distillation.view views', make_recipe(train=bare_stripes))
    label(teacher, open_source(bare_stripes), tmp_path / 'w', engine='onnxruntime')
    refused('of whole frames; set --distillation.view warp', recipe, tmp_path / 'w')
    assert not (tmp_path / 'run').exists()
    # Another seed of the student may share the views of the first.
    shared = replace(recipe, seed=1, distillation=replace(recipe.distillation, views_seed=0))
    distill(shared, tmp_path / 'shared', teacher=teacher, cache_dir=cache)

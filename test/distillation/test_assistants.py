"""A chain of sizes between teacher and student."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import signal

import pytest
from safetensors.torch import load_file
import torch

from kd_perception.bags.source import open_source
from kd_perception.bundle import load_bundle, ModelBundle
from kd_perception.distillation.assistants import assistant_recipes
from kd_perception.distillation.cache import SoftLabelCache
from kd_perception.distillation.labelling import label
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.trainer import distill
from kd_perception.distillation.views import ViewPlan
from kd_perception.errors import ConfigError, TrainingError
from kd_perception.tasks.soft_labels import SoftLabelCodec

Make = Callable[..., Recipe]
CHAIN = {'assistants': [
    {'network': {'builder': 'toy', 'arguments': {'width': 12}}, 'optimization': {'steps': 6}},
    {'student': {'from_teacher': 'both', 'ratio': 0.7}, 'optimization': {'learning_rate': 0.01}}]}


@pytest.fixture(scope='module')
def cache(teacher: ModelBundle, bare_stripes: Path,
          tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('labels') / 'cache'
    label(teacher, open_source(bare_stripes), folder, engine='onnxruntime',
          codec=SoftLabelCodec(stride=2))
    return folder


def weights(bundle: ModelBundle) -> dict[str, torch.Tensor]:
    return load_file(bundle.file('weights.safetensors'))


def test_each_learns_from_the_one_before(make_recipe: Make, teacher: ModelBundle, cache: Path,
                                         bare_stripes: Path, tmp_path: Path) -> None:
    recipe = make_recipe(train=bare_stripes, distillation=CHAIN)
    notes: list[str] = []
    bundle = distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache,
                     progress=lambda done, total, note: notes.append(note))
    first, second = (load_bundle(tmp_path / 'run' / 'assistants' / n / 'bundle') for n in '12')
    assert first.spec.network.arguments == {'width': 12}
    assert second.spec.network.channels['0'] == (3, 8)
    assert (first.spec.name, first.spec.role) == ('toy_assistant_1', 'assistant')
    assert first.spec.lineage.parents == (teacher.hash,)
    assert second.spec.lineage.parents == (teacher.hash, first.hash)
    assert bundle.spec.lineage.parents == (teacher.hash, first.hash, second.hash)
    assert bundle.spec.role == 'student'
    for number, assistant in enumerate((first, second), 1):
        made = SoftLabelCache(tmp_path / 'run' / 'assistants' / f'{number}_cache')
        assert made.teacher_hash == assistant.hash
        assert len(made) == 12
        assert made.made_with['codec'] == SoftLabelCache(cache).made_with['codec']
    assert any(note.startswith('assistant 1: ') for note in notes)
    assert any(note.startswith('assistant 2: ') for note in notes)
    assert not notes[-1].startswith('assistant')
    # The student was taught by the last assistant, not by the teacher.
    alone = distill(make_recipe(train=bare_stripes), tmp_path / 'alone', teacher=second,
                    cache_dir=tmp_path / 'run' / 'assistants' / '2_cache')
    own, other = weights(bundle), weights(alone)
    assert all(torch.equal(own[name], other[name]) for name in own)
    with pytest.raises(TrainingError, match='is finished already'):
        distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache)


def test_a_chain_goes_on_where_it_stopped(make_recipe: Make, teacher: ModelBundle, cache: Path,
                                          bare_stripes: Path, tmp_path: Path) -> None:
    recipe = make_recipe(train=bare_stripes, distillation=CHAIN)
    whole = distill(recipe, tmp_path / 'whole', teacher=teacher, cache_dir=cache)
    for ready, (who, at) in enumerate((('assistant 1: loss', 3), ('assistant 2: loss', 5),
                                       ('loss', 7))):
        def stop(done: int, total: int, note: str, who: str = who, at: int = at) -> None:
            if done == at and note.startswith(who):
                os.kill(os.getpid(), signal.SIGINT)

        before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'run').rglob('bundle.yaml')}
        with pytest.raises(KeyboardInterrupt):
            distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache, progress=stop)
        bundles = {p: p.stat().st_mtime_ns for p in (tmp_path / 'run').rglob('bundle.yaml')}
        assert len(bundles) == ready
        # Assistants that were ready were not trained again.
        assert before.items() <= bundles.items()
    resumed = distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=cache)
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_assistants_teach_in_the_loop(make_recipe: Make, teacher: ModelBundle, bare_stripes: Path,
                                      tmp_path: Path) -> None:
    recipe = make_recipe(train=bare_stripes, steps=2, distillation={
        'view': 'online', 'assistants': CHAIN['assistants'][:1]})
    bundle = distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=None)
    assert len(bundle.spec.lineage.parents) == 2
    assert [p.name for p in (tmp_path / 'run' / 'assistants').iterdir()] == ['1']


def test_several_teachers_teach_the_first_assistant_alone(
        make_recipe: Make, teacher: ModelBundle, cache: Path, bare_stripes: Path,
        tmp_path: Path) -> None:
    recipe = make_recipe(train=bare_stripes, steps=2, distillation={
        'teachers': {'weights': [1, 3]}, **CHAIN})
    bundle = distill(recipe, tmp_path / 'run', teacher=[teacher, teacher],
                     cache_dir=[cache, cache])
    assert bundle.spec.lineage.parents[:2] == (teacher.hash, teacher.hash)
    assert len(bundle.spec.lineage.parents) == 4


def test_assistants_label_the_views_that_their_teacher_has_labelled(
        make_recipe: Make, teacher: ModelBundle, bare_stripes: Path, tmp_path: Path) -> None:
    recipe = make_recipe(train=bare_stripes, steps=2, data={'validation_share': 0.25},
                         distillation={'view': 'views', 'assistants': CHAIN['assistants'][:1]})
    label(teacher, open_source(bare_stripes), tmp_path / 'cache', views=ViewPlan.of(recipe, 2),
          codec=SoftLabelCodec(stride=2))
    distill(recipe, tmp_path / 'run', teacher=teacher, cache_dir=tmp_path / 'cache')
    one, other = (SoftLabelCache(folder) for folder in (
        tmp_path / 'cache', tmp_path / 'run' / 'assistants' / '1_cache'))
    assert one.views == other.views
    assert one.views is not None


def test_assistants_of_another_recipe_are_refused_and_overwritten_on_request(
        make_recipe: Make, teacher: ModelBundle, cache: Path, bare_stripes: Path,
        tmp_path: Path) -> None:
    def chain(steps: int) -> Recipe:
        assistant = {**CHAIN['assistants'][0], 'optimization': {'steps': steps}}
        return make_recipe(train=bare_stripes, steps=2, distillation={'assistants': [assistant]})

    notes: list[str] = []

    def stop(done: int, total: int, note: str) -> None:
        notes.append(note)
        if note == 'reading frames' and any(n.startswith('assistant 1: ') for n in notes):
            raise KeyboardInterrupt

    run = tmp_path / 'run'
    with pytest.raises(KeyboardInterrupt):
        distill(chain(2), run, teacher=teacher, cache_dir=cache, progress=stop)
    # Of the student, which has not begun, nothing is left; what was trained is.
    assert [p.name for p in run.iterdir()] == ['assistants']
    (run / 'assistants' / 'mine.txt').write_text('kept')
    with pytest.raises(TrainingError, match='an assistant of another recipe .optimization.steps'):
        distill(chain(3), run, teacher=teacher, cache_dir=cache)
    bundle = distill(chain(3), run, teacher=teacher, cache_dir=cache, overwrite=True)
    assert (run / 'assistants' / 'mine.txt').read_text() == 'kept'
    assert bundle.spec.lineage.parents[0] == teacher.hash


def test_an_assistant_that_cannot_be_trained_leaves_nothing(
        make_recipe: Make, teacher: ModelBundle, cache: Path, bare_stripes: Path,
        tmp_path: Path) -> None:
    chain = {'assistants': [{'network': {'builder': 'toy', 'arguments': {'wide': 8}}}]}
    with pytest.raises(ConfigError, match=r"network 'toy': arguments .* do not fit"):
        distill(make_recipe(train=bare_stripes, distillation=chain), tmp_path / 'run',
                teacher=teacher, cache_dir=cache)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(('assistant', 'message'), [
    ({}, r'distillation.assistants\[0\].network.builder: is missing'),
    ({'network': {'builder': 'toy'}, 'student': {'ratio': 5}},
     r'distillation.assistants\[0\].student.ratio: 5 is not within'),
    ({'network': {'builder': 'toy'}, 'optimisation': {}}, 'unknown key; did you mean'),
    ({'network': {'builder': 'toy'}, 'optimization': {'stepz': 3}},
     r'distillation.assistants\[0\].optimization.stepz: unknown key'),
    ({'network': {'builder': 'toy'}, 'optimization': {'batch_size': 0}},
     r'distillation.assistants\[0\]: optimization.batch_size: 0 is not within')])
def test_wrong_settings_are_refused_with_their_path(make_recipe: Make, assistant: dict,
                                                    message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assistant_recipes(make_recipe(distillation={'assistants': [assistant]}))


def test_another_length_replaces_that_of_the_student(make_recipe: Make) -> None:
    chain = [{'network': {'builder': 'toy'}, 'optimization': {'epochs': 3}}]
    one, = assistant_recipes(make_recipe(steps=5, distillation={'assistants': chain}))
    assert (one.optimization.steps, one.optimization.epochs) == (0, 3)


def test_a_student_that_teaches_itself_has_no_assistants(make_recipe: Make) -> None:
    with pytest.raises(ConfigError, match='distillation.assistants: pass on what a teacher knows'):
        assistant_recipes(make_recipe(distillation={**CHAIN, 'ema_teacher': True}))

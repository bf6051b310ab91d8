"""Searches: the best of many runs, however often they are killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import optuna
import pytest
import yaml

from kd_perception.bags.source import open_source
from kd_perception.bundle import load_bundle, ModelBundle
from kd_perception.classes import load_class_set
from kd_perception.cli.main import main
from kd_perception.distillation.labelling import label
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_file import load_recipe
from kd_perception.distillation.search import curve, is_behind, search
from kd_perception.distillation.trainer import require_teachable, train
from kd_perception.errors import ConfigError, KdPerceptionError, TrainingError

Make = Callable[..., Recipe]
SPACE = {'optimization.learning_rate': {'low': 1e-5, 'high': 0.05, 'log': True},
         'optimization.optimizer': {'choices': ['adamw', 'sgd']}}


def one(recipe: Recipe, out: Path, told: Callable) -> ModelBundle:
    return train(recipe, out, progress=told)


@pytest.fixture
def light(teacher: ModelBundle) -> Callable[..., ModelBundle]:
    """Return a run without any training, as good as its learning rate is near to 0.01."""
    def run(recipe: Recipe, out: Path, told: Callable) -> ModelBundle:
        out.mkdir(parents=True)
        (out / 'train.jsonl').write_text('')
        score = 1 / (1 + abs(np.log(recipe.optimization.learning_rate / 0.01)))
        (out / 'metrics.json').write_text(json.dumps(
            {'validation_against': 'teacher', 'validation': {'mean_iou': score}}))
        shutil.copytree(teacher.path, out / 'bundle')
        return load_bundle(out / 'bundle')
    return run


def searching(recipe: Recipe, **space: object) -> Recipe:
    return replace(recipe, search=space or SPACE)


def result(out: Path) -> dict:
    return json.loads((out / 'search.json').read_text())


def test_the_best_of_all_trials_is_kept_with_its_recipe(make_recipe: Make,
                                                        tmp_path: Path) -> None:
    out, seen = tmp_path / 'out', []
    recipe = searching(make_recipe(steps=6))
    bundle = search(recipe, out, 3, one, kind='train', progress=lambda *a: seen.append(a))
    found = result(out)
    assert (found['trials'], found['complete'], found['pruned'], found['failed']) == (3, 3, 0, 0)
    assert found['objective'] == 'validation mIoU'
    assert found['validation_against'] == 'ground truth'
    assert found['space'] == recipe.search
    # The first trial is the recipe as it is.
    assert found['all'][0]['values'] == {'optimization.learning_rate': 0.02,
                                         'optimization.optimizer': 'adamw'}
    assert len({t['values']['optimization.learning_rate'] for t in found['all']}) == 3
    best = max(found['all'], key=lambda t: t['mean_iou'])
    assert found['best'] == best
    folder = out / 'trials' / f'{best["number"]:04}'
    assert bundle.path == out / 'bundle'
    assert bundle.hash == load_bundle(folder / 'bundle').hash
    metrics = json.loads((folder / 'metrics.json').read_text())
    assert metrics['validation']['mean_iou'] == pytest.approx(best['mean_iou'])
    again = load_recipe(out / 'best_recipe.yaml')
    assert again.hash() == bundle.spec.lineage.recipe
    assert again.optimization.learning_rate == best['values']['optimization.learning_rate']
    assert not again.search
    assert not (folder / 'checkpoints').exists()
    assert seen[-1][:2] == (3, 3)


@pytest.mark.parametrize(('losses', 'key', 'dimension', 'first', 'kind'), [
    ({'kl': {}}, 'kl.temperature', {'choices': [1, 2, 4, 8]}, 2, int),
    ({'kl': {}}, 'kl.temperature', {'low': 1, 'high': 8}, 2.0, float),
    ({'kl': {'temperature': 3}}, 'kl.temperature', {'low': 1, 'high': 8}, 3.0, float),
    ({'kl': {'weight': 0}, 'dkd': {}}, 'kl.weight', {'low': 0, 'high': 1}, 0.0, float),
    ({'kl': {}, 'pairwise': {}}, 'pairwise.cells', {'low': 64, 'high': 1024}, 512, int),
    ({'kl': {}}, 'dist.weight', {'low': 1, 'high': 8}, None, float)])
def test_the_first_trial_has_the_defaults_of_losses(
        make_recipe: Make, light: Callable, tmp_path: Path, losses: dict, key: str,
        dimension: dict, first: float | None, kind: type) -> None:
    key = f'distillation.losses.{key}'
    recipe = searching(make_recipe(distillation={'losses': losses}), **{key: dimension})
    search(recipe, tmp_path / 'out', 2, light, kind='distill')
    values = [t['values'][key] for t in result(tmp_path / 'out')['all']]
    assert first is None or values[0] == first
    assert all(isinstance(v, kind) for v in values)


def test_changed_frames_are_another_search(make_recipe: Make, light: Callable, stripes: Path,
                                           tmp_path: Path) -> None:
    drive, out = tmp_path / 'drive', tmp_path / 'out'
    shutil.copytree(stripes, drive)
    shutil.copytree(f'{stripes}_labels', f'{drive}_labels')
    recipe = searching(make_recipe(train=drive))
    search(recipe, out, 1, light, kind='train')
    next(drive.iterdir()).unlink()
    with pytest.raises(TrainingError, match=rf'holds another search \(data.{drive}: '):
        search(recipe, out, 2, light, kind='train')
    # A search of an earlier release does not say what its data was.
    told = json.loads((out / 'study.json').read_text())
    assert list(told.pop('data')) == [str(drive)]
    (out / 'study.json').write_text(json.dumps(told))
    search(recipe, out, 2, light, kind='train')


def test_a_finished_search_is_not_touched_and_a_larger_one_goes_on(
        make_recipe: Make, light: Callable, tmp_path: Path) -> None:
    out, recipe = tmp_path / 'out', searching(make_recipe(steps=6))
    search(recipe, out, 14, light, kind='train')
    found = result(out)
    assert found['best'] == max(found['all'], key=lambda t: t['mean_iou'])
    # Not blind: what was learned of the first ten shows in the others.
    scores = [t['mean_iou'] for t in found['all']]
    assert np.mean(scores[10:]) > np.mean(scores[:10])
    with pytest.raises(TrainingError, match='is finished already, with 14 trials'):
        search(recipe, out, 14, light, kind='train')
    search(recipe, out, 15, light, kind='train')
    assert result(out)['all'][:14] == found['all']
    assert result(out)['trials'] == 15
    with pytest.raises(TrainingError, match='another search .recipe.optimization.steps: 6 -> 7'):
        search(searching(make_recipe(steps=7)), out, 16, light, kind='train')
    with pytest.raises(TrainingError, match='another search .kind'):
        search(recipe, out, 16, light, kind='distill')
    search(searching(make_recipe(steps=7)), out, 1, light, kind='train', overwrite=True)
    assert result(out)['trials'] == 1
    assert [p.name for p in (out / 'trials').iterdir()] == ['0000']


def test_what_was_killed_between_two_writes_is_made_good(make_recipe: Make, light: Callable,
                                                         tmp_path: Path) -> None:
    recipe = searching(make_recipe(steps=6))

    def killed(recipe: Recipe, out: Path, told: Callable) -> ModelBundle:
        made = light(recipe, out, told)
        if out.name == '0002':
            raise KeyboardInterrupt  # finished, and the study does not know
        return made

    with pytest.raises(KeyboardInterrupt):
        search(recipe, tmp_path / 'out', 3, killed, kind='train')
    # Killed while values were drawn: a trial without any.
    study = optuna.load_study(study_name='search',
                              storage=f'sqlite:///{tmp_path / "out" / "study.db"}')
    study.ask()
    search(recipe, tmp_path / 'out', 3, light, kind='train')
    found = result(tmp_path / 'out')
    assert [t['number'] for t in found['all']] == [0, 1, 2]
    # All trials are told, the result is not written.
    (tmp_path / 'out' / 'search.json').unlink()
    shutil.rmtree(tmp_path / 'out' / 'bundle')
    search(recipe, tmp_path / 'out', 3, light, kind='train')
    assert result(tmp_path / 'out') == found


def test_a_stopped_search_goes_on_and_proposes_the_same(make_recipe: Make,
                                                        tmp_path: Path) -> None:
    recipe = searching(make_recipe(steps=6))
    search(recipe, tmp_path / 'whole', 2, one, kind='train')

    def stop(done: int, total: int, note: str) -> None:
        if note.startswith('trial 1: 3/6 loss'):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        search(recipe, tmp_path / 'out', 2, one, kind='train', progress=stop)
    assert not (tmp_path / 'out' / 'search.json').exists()
    search(recipe, tmp_path / 'out', 2, one, kind='train')
    events = (tmp_path / 'out' / 'trials' / '0001' / 'train.jsonl').read_text()
    assert '"event": "resumed", "step": 3' in events
    assert result(tmp_path / 'out') == result(tmp_path / 'whole')


def test_a_trial_that_diverges_counts_as_failed(make_recipe: Make, light: Callable,
                                                tmp_path: Path) -> None:
    space = {'optimization.learning_rate': {'choices': [0.02, 0.01]}}
    calls: list[float] = []

    def fails(recipe: Recipe, out: Path, told: Callable) -> ModelBundle:
        calls.append(recipe.optimization.learning_rate)
        if len(calls) < 4:
            out.mkdir(parents=True)
            (out / 'train.jsonl').write_text('')
            raise TrainingError("loss term 'kl' is nan at step 3")
        return light(recipe, out, told)

    recipe = searching(make_recipe(steps=2), **space)
    with pytest.raises(TrainingError, match=r"all 3 trials failed, the last by: .* 'kl' is"):
        search(recipe, tmp_path, 3, fails, kind='train')
    search(recipe, tmp_path, 4, fails, kind='train')
    found = result(tmp_path)
    assert (found['complete'], found['failed']) == (1, 3)
    assert found['all'][0]['note'] == "loss term 'kl' is nan at step 3"
    assert found['best']['number'] == 3


def test_what_is_wrong_for_every_trial_ends_the_search_and_leaves_nothing(
        make_recipe: Make, bare_stripes: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / 'out'

    def refused(match: str, recipe: Recipe, trials: int = 2, kind: str = 'train') -> None:
        with pytest.raises((ConfigError, TrainingError), match=match):
            search(recipe, out, trials, one, kind=kind)
        assert not out.exists()

    refused('has no labels to learn from', searching(make_recipe(train=bare_stripes)))
    refused('names nothing to search; add e.g.', make_recipe())
    refused('at least one', searching(make_recipe()), 0)
    refused('search.optimization.stepz: .*unknown key; did you mean .steps',
            searching(make_recipe(), **{'optimization.stepz': {'choices': [1]}}))
    refused('search.optimization.learning_rate: optimization.learning_rate: 1000 is not within',
            searching(make_recipe(), **{'optimization.learning_rate': {'low': 1, 'high': 1000}}))
    refused(r'search.*\.temperature: distillation.losses.kl.temperature: 1000 is not within',
            searching(make_recipe(), **{
                'distillation.losses.kl.temperature': {'choices': [1, 1000]}}), kind='distill')
    refused('search.optimization.batch_size: distillation.losses.relational.regions: with 1 and '
            'batch_size 2', searching(make_recipe(distillation={'losses': {'relational': {
                'layers': {'0': '0'}}}}), **{'optimization.batch_size': {'choices': [2, 8]}}),
            kind='distill')
    monkeypatch.setenv('WORLD_SIZE', '2')
    refused('does not run under torchrun', searching(make_recipe()))
    monkeypatch.delenv('WORLD_SIZE')
    monkeypatch.setitem(sys.modules, 'optuna', None)
    refused(r"needs optuna .*pip install 'kd_perception\[search\]'", searching(make_recipe()))
    monkeypatch.undo()
    out.mkdir()
    (out / 'notes.txt').write_text('mine')
    with pytest.raises(TrainingError, match='is not empty and holds no search'):
        search(searching(make_recipe()), out, 2, one, kind='train')
    assert [p.name for p in out.iterdir()] == ['notes.txt']


@pytest.mark.parametrize(('losses', 'space', 'key'), [
    ({'kl': {}}, {'kl.temperature': {'choices': [1, 2, 8]}}, 'kl.temperature'),
    ({'kl': {}}, {'kl.temperature': {'low': 1, 'high': 8}}, 'kl.temperature'),
    ({'kl': {}}, {'kl.weight': {'low': 1, 'high': 2}, 'cwd.weight': {'low': 0, 'high': 1}}, ''),
    ({'kl': {'weight': 0}, 'dist': {}},
     {'kl.weight': {'low': 0, 'high': 1}, 'kl.temperature': {'low': 1, 'high': 8}},
     'kl.temperature')])
def test_what_soft_labels_cannot_serve_is_refused_before_the_first_trial(
        make_recipe: Make, light: Callable, teacher: ModelBundle, bare_stripes: Path,
        tmp_path: Path, losses: dict, space: dict, key: str) -> None:
    label(teacher, open_source(bare_stripes, limit=1), tmp_path / 'cache', engine='onnxruntime')
    recipe = searching(make_recipe(train=bare_stripes, distillation={'losses': losses}),
                       **{f'distillation.losses.{k}': v for k, v in space.items()})
    begins = f'search.distillation.losses.{key}: ' if key else ''
    with pytest.raises(KdPerceptionError, match=f"^{begins}{tmp_path}.*'packed' cannot serve"):
        search(recipe, tmp_path / 'out', 2, light, kind='distill', check=partial(
            require_teachable, teacher=teacher, cache_dir=tmp_path / 'cache'))
    assert not (tmp_path / 'out').exists()


def test_a_recipe_is_checked_with_values_that_the_search_can_take(make_recipe: Make,
                                                                  light: Callable,
                                                                  tmp_path: Path) -> None:
    seen = []
    recipe = searching(
        make_recipe(distillation={'losses': {'kl': {'temperature': 8}}}),
        **{'distillation.losses.kl.temperature': {'low': 1, 'high': 4},
           'optimization.learning_rate': {'low': 0.01, 'high': 0.03}})
    search(recipe, tmp_path / 'out', 1, light, kind='distill', check=seen.append)
    assert [(r.distillation.losses['kl']['temperature'], r.optimization.learning_rate)
            for r in seen] == [(1, 0.02), (1, 0.02), (4, 0.02), (1, 0.01), (1, 0.03)]


def test_the_median_rule_by_hand() -> None:
    others = [[0.1, 0.5], [0.2, 0.4, 0.9], [0.3, 0.1], [0.1, 0.6]]
    # Best so far at the second validation: 0.5, 0.4, 0.3, 0.6; their median is 0.45.
    assert is_behind([0.1, 0.44], others)
    assert not is_behind([0.1, 0.46], others)
    assert not is_behind([0.46, 0.1], others)
    assert not is_behind([0.0], others)  # the first validation says little
    assert not is_behind([0.0, 0.0], others[:3])  # nor do three others
    assert not is_behind([0.0, 0.0, 0.0], others)


def test_trials_below_the_median_are_stopped(make_recipe: Make, tmp_path: Path) -> None:
    def last_is_bad(recipe: Recipe, out: Path, told: Callable) -> ModelBundle:
        if out.name == '0004':
            recipe = replace(recipe, optimization=replace(recipe.optimization,
                                                          learning_rate=1e-9))
        return one(recipe, out, told)

    recipe = searching(make_recipe(steps=20, validate_every=5, ema_decay=0),
                       **{'optimization.learning_rate': {'low': 0.02, 'high': 0.04}})
    search(recipe, tmp_path, 5, last_is_bad, kind='train', prune=True)
    found = result(tmp_path)
    last = found['all'][4]
    assert last['state'] == 'pruned'
    assert last['mean_iou'] is None
    assert len(curve(tmp_path / 'trials' / '0004')) == 2
    assert found['trials'] == found['complete'] + found['pruned'] == 5
    assert found['best']['number'] < 4


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Return a folder with a recipe that names a search, and labelled frames."""
    palette, rng = load_class_set('driving').palette(), np.random.default_rng(0)
    for name in ('drive', 'drive_labels'):
        (tmp_path / name).mkdir()
    for index in range(12):
        ids = cv2.resize(rng.integers(0, 12, (4, 6)).astype(np.uint8), (48, 32),
                         interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(tmp_path / 'drive' / f'{index:02}.png'), palette[ids][..., ::-1])
        cv2.imwrite(str(tmp_path / 'drive_labels' / f'{index:02}.png'), ids)
    (tmp_path / 'recipe.yaml').write_text(yaml.safe_dump({
        'name': 'small', 'input': {'height': 32, 'width': 48},
        'network': {'builder': 'compact', 'arguments': {'width': 8}},
        'data': {'defaults': {'classes': 'driving'}}, 'augment': {'crop': [32, 32]},
        'optimization': {'steps': 30, 'batch_size': 2, 'precision': 'fp32', 'log_every': 1,
                         'checkpoint_minutes': 0.0001, 'validate_every': 10 ** 6},
        'search': {'optimization': {'learning_rate': {'low': '1e-4', 'high': '1e-2',
                                                      'log': True}}}}))
    return tmp_path


def test_processes_share_the_trials_and_take_up_those_of_the_killed(world: Path) -> None:
    out = world / 'out'
    words = [sys.executable, '-m', 'kd_perception.cli.main', 'train', world / 'recipe.yaml',
             '--data', world / 'drive', '--out', out, '--search', 2, '--no-report']

    def start() -> subprocess.Popen:
        return subprocess.Popen([str(w) for w in words], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    killed = start()
    events = out / 'trials' / '0000' / 'train.jsonl'
    while not (events.is_file() and events.read_text().count('"train"') >= 5):
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    both = [start(), start()]
    said = [p.communicate(timeout=150) for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert all('trial' in text for text, _ in said)
    found = result(out)
    assert [t['state'] for t in found['all']] == ['complete'] * 2
    assert '"resumed"' in events.read_text()
    # Nobody did the work of another: every trial has each of its steps once.
    for number in range(2):
        lines = (out / 'trials' / f'{number:04}' / 'train.jsonl').read_text().splitlines()
        begun = [json.loads(line)['step'] for line in lines if '"validation"' in line]
        assert begun == [30]


def test_the_command_line_adds_dimensions_and_refuses_what_it_would_ignore(
        world: Path, capsys: pytest.CaptureFixture) -> None:
    words = ['train', str(world / 'recipe.yaml'), '--data', str(world / 'drive'), '--out',
             str(world / 'out'), '--optimization.steps', '2', '--no-report']
    assert main([*words, '--prune']) == 2
    assert '--prune is of a search' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        main([*words, '--search', '0'])
    assert "'0': at least 1" in capsys.readouterr().err
    assert main([*words, '--search', '2', '--search.network.arguments.width',
                 '{choices: [8, 16]}']) == 0
    assert 'trial ' in capsys.readouterr().out
    found = result(world / 'out')
    assert set(found['space']) == {'optimization.learning_rate', 'network.arguments.width'}
    assert all(t['values']['network.arguments.width'] in (8, 16) for t in found['all'])
    capsys.readouterr()
    assert main(words) == 2
    assert 'holds a search, which goes on with --search N' in capsys.readouterr().err


def test_a_distillation_is_searched_without_ground_truth(
        world: Path, teacher: ModelBundle, capsys: pytest.CaptureFixture) -> None:
    shutil.rmtree(world / 'drive_labels')
    assert main(['label', '--teacher', str(teacher.path), str(world / 'drive'), '--out',
                 str(world / 'cache'), '--engine', 'onnxruntime']) == 0
    words = ['distill', str(world / 'recipe.yaml'), '--teacher', str(teacher.path), '--cache',
             str(world / 'cache'), '--data', str(world / 'drive'), '--out', str(world / 'out'),
             '--optimization.steps', '2', '--search', '2',
             '--search.distillation.losses.kl.temperature', '{choices: [1, 4]}']
    assert main([*words[:-1], '{choices: [1, 8]}']) == 2
    assert 'kl.temperature: ' in (told := capsys.readouterr().err)
    assert "'packed' cannot serve" in told
    assert not (world / 'out').exists()
    assert main(words) == 0
    said = ' '.join(capsys.readouterr().out.split())
    assert 'agreement, not accuracy' in said
    assert re.search(r'/trials/000[01]/report\.html', said), 'the best trial has a report'
    found = result(world / 'out')
    assert found['validation_against'] == 'teacher'
    assert {t['values']['distillation.losses.kl.temperature'] for t in found['all']} <= {1, 4}
    assert load_bundle(world / 'out' / 'bundle').spec.lineage.parents == (teacher.hash,)
    assert main(words) == 2
    assert 'is finished already, with 2 trials' in capsys.readouterr().err

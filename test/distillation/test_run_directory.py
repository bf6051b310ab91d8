from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path

import pytest
from torch import nn
import yaml

from kd_perception.distillation.checkpoint import save_checkpoint
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.run_directory import RunDirectory
from kd_perception.errors import TrainingError

Make = Callable[..., Recipe]
DATA = {'data': ['abc']}


def start(path: Path, recipe: Recipe, checkpoint: bool = True) -> None:
    with RunDirectory(path, recipe, 'train', DATA) as run:
        assert not run.resuming
        if checkpoint:
            save_checkpoint(run.last, nn.Linear(1, 1), state={'step': 1})


def test_a_new_directory_starts_and_an_unfinished_one_resumes(tmp_path: Path,
                                                              make_recipe: Make) -> None:
    start(tmp_path / 'run', make_recipe())
    with RunDirectory(tmp_path / 'run', make_recipe(), 'train', DATA) as run:
        assert run.resuming


def test_a_directory_with_nothing_but_the_lock_of_a_killed_run_is_new(
        tmp_path: Path, make_recipe: Make) -> None:
    (tmp_path / '.lock').touch()
    (tmp_path / '.recipe.yaml.k3j2.yaml').touch()
    start(tmp_path, make_recipe())
    assert (tmp_path / 'recipe.yaml').is_file()


def test_what_kills_have_left_half_written_goes_when_the_run_goes_on(tmp_path: Path,
                                                                     make_recipe: Make) -> None:
    start(tmp_path, make_recipe())
    whole = sorted(tmp_path.rglob('*'))
    for name in ('checkpoints/.last.safetensors.a1.safetensors', '.metrics.json.b2.json',
                 'checkpoints/.best.safetensors.c3.safetensors'):
        (tmp_path / name).write_bytes(b'half')
    (tmp_path / '.bundle.d4').mkdir()
    (tmp_path / '.bundle.d4' / 'bundle.yaml').touch()
    (tmp_path / '.mine').touch()
    with RunDirectory(tmp_path, make_recipe(), 'train', DATA) as run:
        assert run.resuming
        assert sorted(tmp_path.rglob('*')) == sorted([*whole, tmp_path / '.mine'])


@pytest.mark.parametrize(('kind', 'steps', 'data', 'difference'), [
    ('train', 13, 'abc', 'recipe.optimization.steps: 12 -> 13'),
    ('distill', 12, 'abc', "kind: 'train' -> 'distill'"),
    ('train', 12, 'abd', r"identity.data: \['abc'\] -> \['abd'\]")])
def test_another_run_is_refused_by_what_differs(
        tmp_path: Path, make_recipe: Make, kind: str, steps: int, data: str,
        difference: str) -> None:
    start(tmp_path, make_recipe())
    with pytest.raises(TrainingError, match=difference):
        RunDirectory(tmp_path, make_recipe(steps=steps), kind, {'data': [data]})


def test_a_run_does_not_go_on_in_another_number_of_processes(tmp_path: Path,
                                                             make_recipe: Make) -> None:
    with RunDirectory(tmp_path, make_recipe(), 'train', {**DATA, 'processes': 1}):
        pass
    with pytest.raises(TrainingError, match='was begun by 1 process, not 2; go on with as many'):
        RunDirectory(tmp_path, make_recipe(), 'train', {**DATA, 'processes': 2})
    with RunDirectory(tmp_path, make_recipe(), 'train', {**DATA, 'processes': 1}):
        pass
    stored = yaml.safe_load((tmp_path / 'recipe.yaml').read_text())
    assert stored['identity'] == {**DATA, 'processes': 1}


@pytest.mark.parametrize('processes', [1, 2])
def test_a_run_of_unknown_processes_goes_on_in_any_number(
        tmp_path: Path, make_recipe: Make, caplog: pytest.LogCaptureFixture,
        processes: int) -> None:
    start(tmp_path, make_recipe())
    with RunDirectory(tmp_path, make_recipe(), 'train', {**DATA, 'processes': processes}) as run:
        assert run.resuming
    assert f'does not say by how many processes; goes on with {processes}' in caplog.text
    caplog.clear()
    with RunDirectory(tmp_path, make_recipe(), 'train', {**DATA, 'processes': processes}):
        pass
    assert not caplog.text


@pytest.mark.parametrize('text', ['7', '[1]', 'null', '{"half'])
def test_a_result_file_that_is_no_mapping_is_none(tmp_path: Path, make_recipe: Make,
                                                  text: str) -> None:
    with RunDirectory(tmp_path, make_recipe(), 'train', DATA) as run:
        (tmp_path / 'frames.json').write_text(text)
        assert run.read_json('frames.json') == {}


def test_finished_and_foreign_directories_are_refused(tmp_path: Path, make_recipe: Make) -> None:
    start(tmp_path / 'run', make_recipe())
    (tmp_path / 'run' / 'bundle').mkdir()
    with pytest.raises(TrainingError, match='is finished already'):
        RunDirectory(tmp_path / 'run', make_recipe(), 'train', DATA)
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'thesis.tex').touch()
    with pytest.raises(TrainingError, match='no run directory'):
        RunDirectory(tmp_path / 'other', make_recipe(), 'train', DATA, overwrite=True)
    assert (tmp_path / 'other' / 'thesis.tex').is_file()
    with pytest.raises(TrainingError, match='is a file'):
        RunDirectory(tmp_path / 'other' / 'thesis.tex', make_recipe(), 'train', DATA)


def test_overwrite_removes_the_run_and_nothing_else(tmp_path: Path, make_recipe: Make) -> None:
    start(tmp_path, make_recipe())
    (tmp_path / 'notes.txt').touch()
    with RunDirectory(tmp_path, make_recipe(steps=99), 'train', DATA, overwrite=True) as run:
        assert not run.resuming
    assert (tmp_path / 'notes.txt').is_file()


def test_two_processes_do_not_write_into_one_run(tmp_path: Path, make_recipe: Make) -> None:
    with (RunDirectory(tmp_path, make_recipe(), 'train', DATA),
          pytest.raises(TrainingError, match='another process')):
        RunDirectory(tmp_path, make_recipe(), 'train', DATA)
    with RunDirectory(tmp_path, make_recipe(), 'train', DATA) as run:
        assert not run.resuming


def test_a_damaged_checkpoint_is_told_before_data_is_read(tmp_path: Path,
                                                          make_recipe: Make) -> None:
    start(tmp_path, make_recipe())
    (tmp_path / 'checkpoints' / 'last.safetensors').write_bytes(b'nothing')
    with pytest.raises(TrainingError, match='is no checkpoint or is damaged'):
        RunDirectory(tmp_path, make_recipe(), 'train', DATA)


def test_events_go_to_a_log_and_to_tensorboard(tmp_path: Path, make_recipe: Make) -> None:
    with RunDirectory(tmp_path, make_recipe(), 'train', DATA) as run:
        run.event('train', 1, {'loss': 0.12345678}, note='x')
    line = json.loads((tmp_path / 'train.jsonl').read_text())
    assert line['event'] == 'train'
    assert line['loss'] == 0.123457
    assert line['note'] == 'x'
    assert list((tmp_path / 'tensorboard').iterdir())


def test_other_ranks_write_nothing(tmp_path: Path, make_recipe: Make) -> None:
    with RunDirectory(tmp_path / 'run', make_recipe(), 'train', DATA, main=False) as run:
        run.event('train', 1, {'loss': 1.0})
        run.write_json('metrics.json', {})
    assert not (tmp_path / 'run').exists()


def test_a_recipe_of_an_earlier_release_is_completed_by_defaults(tmp_path: Path,
                                                                 make_recipe: Make) -> None:
    start(tmp_path, make_recipe())
    stored = yaml.safe_load((tmp_path / 'recipe.yaml').read_text())
    del stored['recipe']['optimization']['poly_power']
    (tmp_path / 'recipe.yaml').write_text(yaml.safe_dump(stored))
    with RunDirectory(tmp_path, make_recipe(), 'train', DATA) as run:
        assert run.resuming
    (tmp_path / 'recipe.yaml').write_text('recipe: 3')
    with pytest.raises(TrainingError, match='not readable'):
        RunDirectory(tmp_path, make_recipe(), 'train', DATA)


def test_a_run_that_fails_before_its_first_step_leaves_nothing(tmp_path: Path,
                                                               make_recipe: Make) -> None:
    with pytest.raises(ValueError, match='bad data'), \
            RunDirectory(tmp_path / 'run', make_recipe(), 'train', DATA):
        raise ValueError('bad data')
    assert not (tmp_path / 'run').exists()
    with RunDirectory(tmp_path / 'run', make_recipe(), 'train', DATA) as run:
        run.event('train', 1)
    with pytest.raises(ValueError, match='bad data'), \
            RunDirectory(tmp_path / 'run', make_recipe(), 'train', DATA):
        raise ValueError('bad data')
    assert (tmp_path / 'run' / 'recipe.yaml').is_file()

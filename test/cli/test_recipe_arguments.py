"""Recipes with what the command line says."""

from __future__ import annotations

import pytest

from kd_perception.cli.parser import Parser
from kd_perception.cli.recipe_arguments import add_recipe_arguments, recipe_from_arguments
from kd_perception.distillation.recipe import Recipe
from kd_perception.errors import ConfigError


def recipe(*words: str) -> Recipe:
    parser = Parser()
    add_recipe_arguments(parser)
    return recipe_from_arguments(parser.parse_args(['--out', 'o', *words]))


@pytest.mark.parametrize(('name', 'words', 'expected'), [
    ('student_camvid', (), (0, 100)),
    ('student_camvid', ('--optimization.steps', '20'), (20, 0)),
    ('student_sim', (), (3000, 0)),
    ('student_sim', ('--optimization.epochs', '2'), (0, 2)),
    ('student_sim', ('--optimization.steps', '7'), (7, 0))])
def test_one_length_of_a_run_replaces_the_other(name, words, expected):
    made = recipe(name, *words).optimization
    assert (made.steps, made.epochs) == expected


def test_both_lengths_are_refused():
    with pytest.raises(ConfigError, match='exclude each other'):
        recipe('student_sim', '--optimization.steps', '7', '--optimization.epochs', '2')


def test_options_below_a_mapping_are_merged_into_it():
    made = recipe('student_camvid', '--distillation.losses.kl.temperature', '4',
                  '--distillation.losses.cross_entropy.weight=0.5',
                  '--network.arguments.width', '24')
    assert made.distillation.losses == {'kl': {'temperature': 4}, 'cross_entropy': {'weight': 0.5}}
    assert made.network.arguments == {'width': 24}


def test_recordings_can_have_keys_of_their_own(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '0.png').write_bytes(b'')
    a, b = tmp_path / 'a', tmp_path / 'b'
    made = recipe('student_camvid', '--data.train', f'[{{path: {a}, labels: false}}, {b}]',
                  '--validation', str(b)).data
    assert [(s.path, s.labels) for s in made.train] == [(str(a), False), (str(b), True)]
    assert [s.path for s in made.validation] == [str(b)]
    with pytest.raises(ConfigError, match='--data.train: --data names recordings, too; give one'):
        recipe('student_camvid', '--data', str(a), '--data.train', f'[{b}]')
    with pytest.raises(ConfigError, match='data.validation: must be a list of paths or mappings'):
        recipe('student_camvid', '--data.validation', str(b))


@pytest.mark.parametrize(('words', 'message'), [
    (('--distillation.losses.kl.weight',), 'expected one argument'),
    (('--distillation.loses.kl.weight', '1'), 'unrecognized arguments: --distillation.loses'),
    (('--distillation.loses.kl.weight', '1'), 'did you mean --distillation.losses? (see'),
    (('--optimization.learning', '1e-3'), 'unrecognized arguments: --optimization.learning 1e-3; '
     'did you mean --optimization.learning_rate'),
    (('--distillation.teachers', '{combine: mean}'), 'unrecognized arguments: '
     '--distillation.teachers {combine: mean}; did you mean --distillation.teachers.combine or '
     '--distillation.teachers.weights? (see'),
    (('--overw',), 'unrecognized arguments: --overw; did you mean --overwrite? (see'),
    (('--qqqq=1',), 'unrecognized arguments: --qqqq=1 (see')])
def test_what_is_no_option_below_a_mapping_is_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as left:
        recipe('student_camvid', *words)
    assert left.value.code == 2
    assert message in capsys.readouterr().err

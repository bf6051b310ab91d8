from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kd_perception.bags.writer import BagWriter
from kd_perception.classes import load_class_set
from kd_perception.distillation.frame_store import open_sources
from kd_perception.distillation.recipe import Recipe
from kd_perception.distillation.recipe_checks import idle_settings
from kd_perception.distillation.recipe_file import load_recipe, recipe_from_dict
from kd_perception.errors import BagError, ConfigError
from kd_perception.paths import share_directory

SHIPPED = sorted(p.stem for p in (share_directory() / 'config' / 'recipes').glob('*.yaml'))
SMALL = {'name': 'x', 'network': {'builder': 'compact'}, 'input': {'height': 32, 'width': 32},
         'optimization': {'steps': 1}}


def test_the_four_recipes_are_shipped() -> None:
    assert set(SHIPPED) >= {'student_camvid', 'student_sim', 'teacher_camvid', 'teacher_sim'}


@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_recipes_load_and_come_back_from_their_resolved_form(name: str) -> None:
    recipe = load_recipe(name, train=['somewhere'])
    assert recipe_from_dict(recipe.to_dict()) == recipe
    assert recipe.hash() == recipe_from_dict(recipe.to_dict()).hash()


def test_overrides_and_data_of_the_command_line_win() -> None:
    recipe = load_recipe('teacher_camvid', {'optimization.learning_rate': '2e-3',
                                            'network.arguments': '{encoder: resnet34}'},
                         train=['a'], validation=['/b'])
    assert recipe.optimization.learning_rate == 2e-3
    assert recipe.network.arguments['encoder'] == 'resnet34'
    assert recipe.network.arguments['architecture'] == 'Unet'
    assert recipe.data.train[0].path == str(Path('a').absolute())
    assert recipe.data.train[0].classes == 'camvid'  # from data.defaults
    assert recipe.data.validation[0].path == '/b'


def test_another_builder_takes_leave_of_the_arguments_of_the_recipe() -> None:
    other = load_recipe('teacher_camvid', {'network.arguments': '{width: 16}',
                                           'network.builder': 'compact'})
    assert other.network.arguments == {'width': 16}
    plain = load_recipe('teacher_camvid', {'network.builder': 'compact'})
    assert plain.network.arguments == {}
    whole = load_recipe('teacher_camvid', {'network': '{builder: compact}'})
    assert whole.network.arguments == {}
    same = load_recipe('teacher_camvid', {'network.builder': 'smp'})
    assert same.network == load_recipe('teacher_camvid').network


def test_entries_keep_their_own_settings_over_defaults() -> None:
    recipe = recipe_from_dict({**SMALL, 'data': {
        'defaults': {'classes': 'camvid', 'rate_hz': 2},
        'train': ['/a', {'path': '/b', 'classes': 'carla'}]}})
    assert [(s.path, s.classes, s.rate_hz) for s in recipe.data.train] == [
        ('/a', 'camvid', 2.0), ('/b', 'carla', 2.0)]


def test_any_change_changes_the_hash() -> None:
    assert recipe_from_dict(SMALL).hash() != recipe_from_dict({**SMALL, 'seed': 1}).hash()


@pytest.mark.parametrize(('change', 'message'), [
    ({'optimisation': {}}, "recipe.optimisation: unknown key; did you mean 'optimization'"),
    ({'optimization': {'steps': 1, 'optimizer': 'adam'}}, "optimization.optimizer: 'adam' is "
     'none of adamw, sgd, momentum, adagrad'),
    ({'optimization': {'steps': 1, 'optimizer': 'momentum', 'momentum': 0}}, 'is optimizer sgd'),
    ({'optimization': {'steps': 1, 'l1': -1}}, 'optimization.l1: -1 is not'),
    ({'optimization': {'steps': 1, 'l2': float('nan')}}, 'optimization.l2: nan is not'),
    ({'optimization': {}}, 'needs steps, epochs or budget_minutes'),
    ({'optimization': {'steps': 1, 'epochs': 1}}, 'exclude each other'),
    ({'optimization': {'steps': -1}}, 'optimization.steps: -1 is not within'),
    ({'optimization': {'steps': 1, 'learning_rate': float('nan')}}, 'learning_rate: nan'),
    ({'augment': {'crop': [8, 100]}}, r'augment.crop: \[8, 100\]'),
    ({'augment': {'crop': [100]}}, r'augment.crop: \[100\]'),
    ({'augment': {'scale': [2, 1]}}, 'augment.scale'),
    ({'data': {'train': 'folder'}}, 'recipe.data.train: must be a list'),
    ({'data': {'train': [3]}}, 'neither a path nor a mapping'),
    ({'data': {'train': [{'file': 'x'}]}}, 'unknown key'),
    ({'data': {'defaults': {'path': 'x'}}}, 'data.defaults'),
    ({'data': [1]}, 'recipe.data: must be a mapping'),
    ({'distillation': {'losses': []}}, 'distillation.losses: must be a mapping'),
    ({'distillation': {'view': 'sideways'}}, "distillation.view: 'sideways'"),
    ({'distillation': {'weighting': {'edges': 1}}}, 'distillation.weighting.edges: unknown key'),
    ({'distillation': {'weighting': {'boundary': -1}}}, 'weighting.boundary: -1 is not within'),
    ({'distillation': {'weighting': {'boundary_width': 0}}}, 'boundary_width: 0 is not within'),
    ({'distillation': {'weighting': {'class_balance': 3}}}, 'class_balance: 3 is not within'),
    ({'seed': -1}, 'seed: -1 is not within 0 to 4294967295'),
    ({'seed': 2 ** 32}, 'seed: 4294967296 is not'),
    ({'optimization': {'steps': 1, 'weight_decay': -0.1}}, 'weight_decay: -0.1 is not'),
    ({'optimization': {'steps': 1, 'momentum': 1}}, 'momentum: 1 is not within 0 to 0.9999'),
    ({'optimization': {'steps': 1, 'gradient_clip': -1}}, 'gradient_clip: -1 is not'),
    ({'optimization': {'steps': 1, 'gradient_clip': float('inf')}}, 'gradient_clip: inf is not'),
    ({'optimization': {'steps': 1, 'checkpoint_minutes': float('nan')}}, 'minutes: nan is not'),
    ({'optimization': {'steps': 1, 'poly_power': -2}}, 'poly_power: -2 is not'),
])
def test_what_makes_no_sense_is_refused_in_one_line(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        recipe_from_dict({**SMALL, **change})
    assert '\n' not in str(error.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    bad = tmp_path / 'bad.yaml'
    bad.write_text('a: [')
    with pytest.raises(ConfigError, match='not readable as YAML'):
        load_recipe(bad)
    bad.write_text('- a')
    with pytest.raises(ConfigError, match='must be a mapping'):
        load_recipe(bad)
    with pytest.raises(ConfigError, match='no recipes named'):
        load_recipe('nothing')


def test_crop_defaults_to_the_input() -> None:
    recipe: Recipe = recipe_from_dict(SMALL)
    assert recipe.crop == (32, 32)


def test_one_entry_may_stand_for_several_recordings(tmp_path: Path) -> None:
    for drive in ('drive_0', 'drive_1'):
        with BagWriter(tmp_path / drive) as writer:
            for n in range(3):
                for camera in ('front', 'rear'):
                    writer.write_image(f'{camera}/image', np.zeros((6, 8, 3), np.uint8),
                                       (n + 1) * 10 ** 9)
    (tmp_path / 'drive_2.unfinished').mkdir()
    wanted = [(f'{tmp_path}/drive_{n}', f'/{c}/image') for n in (0, 1) for c in ('front', 'rear')]
    for entry in ({'path': str(tmp_path), 'image_topic': '*'},
                  {'path': f'{tmp_path}/drive_?', 'image_topic': ['/front/image', '/rear/image']}):
        recipe = recipe_from_dict({**SMALL, 'data': {
            'train': [entry], 'defaults': {'motion': 2.4, 'count': 2, 'order': 'header'}}})
        assert [(s.path, s.image_topic) for s in recipe.data.train] == wanted
        assert {(s.motion, s.count, s.order) for s in recipe.data.train} == {(2.4, 2, 'header')}
        assert recipe_from_dict(recipe.to_dict()) == recipe
    opened = open_sources(recipe.data.train, load_class_set('driving'))
    # Every frame is the same picture: the first of each camera shows "motion", no other.
    assert [len(one.source) for one in opened] == [1] * 4
    assert len({one.source[0].key for one in opened}) == 4
    with pytest.raises(BagError, match='no recording has such a name'):
        recipe_from_dict({**SMALL, 'data': {'train': [f'{tmp_path}/ride_*']}})


@pytest.mark.parametrize(('key', 'value', 'with_it'), [
    ('optimization.momentum', '0.5', ('optimization.optimizer', 'momentum')),
    ('optimization.poly_power', '2.0', ('optimization.schedule', 'poly')),
    ('distillation.views', '3', ('distillation.view', 'views')),
    ('distillation.views_seed', '3', ('distillation.view', 'views')),
    ('distillation.weighting.boundary_width', '2', ('distillation.weighting.boundary', '1')),
    ('distillation.exits.weight', '0.3', ('network.builder', 'exits')),
    ('distillation.exits.weights', '[0.3]', ('network.builder', 'exits')),
    ('distillation.student.ratio', '0.25', ('distillation.student.from_teacher', 'architecture')),
    ('distillation.student.channels', 'even', ('distillation.student.from_teacher', 'weights')),
    ('distillation.student.blocks', 'last', ('distillation.student.from_teacher', 'both'))])
def test_settings_that_do_nothing_are_told(key: str, value: str,
                                           with_it: tuple[str, str]) -> None:
    lines = idle_settings(recipe_from_dict(SMALL, {key: value}))
    assert len(lines) == 1
    assert lines[0].startswith(f'{key}: {value} does nothing without {with_it[0]}')
    assert not idle_settings(recipe_from_dict(SMALL, dict([(key, value), with_it])))


@pytest.mark.parametrize('name', SHIPPED)
def test_all_settings_of_shipped_recipes_count(name: str) -> None:
    assert not idle_settings(load_recipe(name, train=['somewhere']))


@pytest.mark.parametrize('change', [
    {'optimization': {'steps': 1, 'momentum': 0.5},
     'distillation': {'assistants': [{'network': {'builder': 'compact'},
                                      'optimization': {'optimizer': 'momentum'}}]}},
    {'optimization': {'steps': 1, 'momentum': 0.5},
     'search': {'optimization.optimizer': {'choices': ['adamw', 'momentum']}}},
    {'distillation': {'exits': {'weight': 0.3}, 'student': {'from_teacher': 'architecture'}}},
    {'distillation': {'exits': {'weight': 0.3}, 'assistants': [{'network': {
        'builder': 'exits', 'arguments': {'base': 'compact', 'layers': ['a']}}}]}}])
def test_what_an_assistant_a_teacher_or_a_search_may_use_is_not_told(change: dict) -> None:
    assert not idle_settings(recipe_from_dict({**SMALL, **change}))


def test_settings_of_assistants_that_do_nothing_are_told() -> None:
    assistants = [{'network': {'builder': 'compact'}, 'student': {'ratio': 0.25}}]
    assert idle_settings(recipe_from_dict(
        {**SMALL, 'distillation': {'assistants': assistants}}))[0].startswith(
            'distillation.assistants[0].student.ratio: 0.25 does nothing without')

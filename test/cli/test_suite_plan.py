"""What a robustness suite consists of."""

from __future__ import annotations

import pytest
import yaml

from kd_perception.cli.suite_plan import load_suite
from kd_perception.errors import ConfigError
from kd_perception.paths import share_directory

SHIPPED = sorted(p.stem for p in (share_directory() / 'config' / 'suites').glob('*.yaml'))
GROUP = {'role': 'train', 'scenarios': ['clear'], 'worlds': ['street'], 'first_seed': 1,
         'drives': 2, 'frames': 3, 'rate_hz': 1.0}


def suite(tmp_path, **groups):
    path = tmp_path / 'suite.yaml'
    path.write_text(yaml.safe_dump({'name': 'mine', 'width': 64, 'height': 36, 'truth': [],
                                    'groups': groups}))
    return str(path)


@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_suites_share_no_drive_between_roles(name):
    plan = load_suite(name)
    seeds = {role: {p.seed for p in plan.parts if p.role == role}
             for role in ('train', 'validation', 'test')}
    assert all(seeds.values())
    assert not seeds['train'] & seeds['validation']
    assert not (seeds['train'] | seeds['validation']) & seeds['test']
    assert len({p.path for p in plan.parts}) == len(plan.parts)


def test_all_suites_are_looked_at():
    assert {'standard', 'small', 'domain_shift'} <= set(SHIPPED)


def test_the_standard_suite_tests_on_the_seen_and_the_unseen():
    parts = load_suite('standard').parts
    seen = {(p.scenario, p.world) for p in parts if p.role == 'train'}
    assert seen == {(p.scenario, p.world) for p in parts if p.role == 'validation'}
    test = {(p.scenario, p.world) for p in parts if p.role == 'test'}
    assert test & seen
    weathers, worlds = {s for s, _ in seen}, {w for _, w in seen}
    assert {'dense_fog', 'night', 'night_rain', 'glare', 'crowd', 'far_small'} <= {
        s for s, _ in test} - weathers
    assert {'intersection', 'highway'} <= {w for _, w in test} - worlds
    assert any('palette' in s for s, _ in test)
    paired = {p.seed for p in parts if p.group == 'test_weather'}
    assert len(paired) == 1


def test_drives_are_numbered_on_from_the_first_seed(tmp_path):
    plan = load_suite(suite(tmp_path, a=GROUP, b={**GROUP, 'role': 'test', 'first_seed': 9,
                                                  'worlds': ['street', 'highway'],
                                                  'drives': 1}))
    assert [(p.path, p.seed) for p in plan.parts] == [
        ('a/clear_street_0', 1), ('a/clear_street_1', 2), ('b/clear_street_0', 9),
        ('b/clear_highway_0', 10)]
    assert plan.frames == 12


@pytest.mark.parametrize(('change', 'told'), [
    ({'role': 'exam'}, "role 'exam' is none of train"),
    ({'scenarios': ['hail']}, 'hail'),
    ({'worlds': ['moon']}, 'moon'),
    ({'frames': 0}, 'a: frames: 0 must be a whole number'),
    ({'frames': 2.5}, 'frames: 2.5 must be a whole number'),
    ({'frames': float('inf')}, 'frames: inf must be a whole number'),
    ({'drives': float('nan')}, 'drives: nan must be a whole number'),
    ({'drives': 10**9}, 'drives: 1000000000 must be a whole number, 1 to 10000'),
    ({'first_seed': 1.5}, 'first_seed: 1.5 must'),
    ({'first_seed': 2**32 - 1}, 'first_seed: 4294967295 must be a whole number, 0 to 4294967293'),
    ({'rate_hz': 'fast'}, 'must be numbers'),
    ({'rate_hz': True}, 'must be numbers'),
    ({'rate_hz': 10**400}, 'must be numbers'),
    ({'rate_hz': 0}, 'a rate of 0 Hz'),
    ({'rate_hz': float('nan')}, 'a rate of nan Hz'),
    ({'start_s': float('nan')}, 'from nan to nan s'),
    ({'start_s': -1}, 'from -1 to'),
    ({'frames': 10**6, 'rate_hz': 1}, 'a: 1e.06 frames from 3 to 1e.06 s: the simulated time'),
    ({'same_seeds': 'no'}, "same_seeds must be true or false, found 'no'"),
    ({'scenarios': []}, 'scenarios needs at least one name'),
    ({'colour': 1}, 'a group has the keys role'),
    ({'scenarios': ['clear', 'clear']}, 'a name twice'),
    ({'scenarios': ['clear,fog=.1', 'clear,fog=1']}, 'same name'),
])
def test_a_wrong_group_is_refused(change, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        load_suite(suite(tmp_path, a={**GROUP, **change}))


def test_what_is_missing_shared_or_no_suite_is_refused(tmp_path):
    with pytest.raises(ConfigError, match='seed 2 is in train and in test'):
        load_suite(suite(tmp_path, a=GROUP, b={**GROUP, 'role': 'test', 'first_seed': 2}))
    short = {k: v for k, v in GROUP.items() if k != 'frames'}
    with pytest.raises(ConfigError, match='needs role, scenarios'):
        load_suite(suite(tmp_path, a=short))
    with pytest.raises(ConfigError, match='small letters'):
        load_suite(suite(tmp_path, **{'../a': GROUP}))
    with pytest.raises(ConfigError, match='at least one group'):
        load_suite(suite(tmp_path))
    path = tmp_path / 'other.yaml'
    path.write_text('name: x')
    with pytest.raises(ConfigError, match='exactly the keys'):
        load_suite(str(path))
    for broken in ('a: [', '[' * 1200, '2020-13-45'):
        path.write_text(broken)
        with pytest.raises(ConfigError, match='other.yaml: not readable'):
            load_suite(str(path))


@pytest.mark.parametrize(('key', 'value'), [
    ('width', 'abc'), ('height', 0), ('width', True), ('width', 8), ('height', 5000),
    ('truth', 5), ('truth', ['depth', 'depth']), ('name', {'a': 1})])
def test_a_value_of_another_type_is_refused(key, value, tmp_path):
    path = tmp_path / 'suite.yaml'
    path.write_text(yaml.safe_dump({'name': 'mine', 'width': 64, 'height': 36, 'truth': [],
                                    'groups': {'a': GROUP}, key: value}))
    with pytest.raises(ConfigError, match=key):
        load_suite(str(path))


@pytest.mark.parametrize('change', [{'scenarios': 5}, {'scenarios': [5]}, {'worlds': 'street'}])
def test_names_that_are_no_list_are_refused(change, tmp_path):
    with pytest.raises(ConfigError, match='is no list of names'):
        load_suite(suite(tmp_path, a={**GROUP, **change}))

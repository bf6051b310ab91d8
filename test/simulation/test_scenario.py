from __future__ import annotations

import dataclasses

import pytest
import yaml

from kd_perception.errors import ConfigError
from kd_perception.paths import share_directory
from kd_perception.simulation.scenario import load_scenario, Scenario


def shipped() -> list[str]:
    return sorted(p.stem for p in (share_directory() / 'config' / 'scenarios').glob('*.yaml'))


def test_the_promised_scenarios_are_shipped_and_named_as_their_files():
    assert {'clear', 'dense_fog', 'sunset', 'rain', 'night'} <= set(shipped())
    assert [load_scenario(name).name for name in shipped()] == shipped()


def test_fog_is_foggy_and_night_is_dark():
    clear, fog, night = (load_scenario(n) for n in ('clear', 'dense_fog', 'night'))
    assert fog.fog > 10 * clear.fog
    assert sum(night.ambient) < .3 * sum(clear.ambient)


def test_a_path_loads_a_scenario_of_ones_own(tmp_path):
    data = dataclasses.asdict(load_scenario('clear')) | {'name': 'mine', 'fog': 0.01}
    data = {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()}
    path = tmp_path / 'mine.yaml'
    path.write_text(yaml.safe_dump(data))
    assert load_scenario(str(path)) == dataclasses.replace(
        load_scenario('clear'), name='mine', fog=0.01)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match='dense_fog'):
        load_scenario('hail')


@pytest.mark.parametrize(('change', 'told'), [
    ({'fogg': 1}, 'fogg'),
    ({'fog': None}, 'fog'),
    ({'fog': True}, 'fog: needs a number'),
    ({'fog': 2.0}, 'fog is 2.0'),
    ({'fog': float('nan')}, 'out of range'),
    ({'sun': [0, 0, -1]}, 'above the horizon'),
    ({'sun': [0, 1]}, 'three numbers'),
    ({'ambient': [-1, 0, 0]}, 'not negative'),
])
def test_a_wrong_value_is_refused_by_its_key(change, told):
    data = dataclasses.asdict(load_scenario('clear')) | change
    with pytest.raises(ConfigError, match=told):
        Scenario.from_dict(data, 'mine.yaml')


def test_a_missing_key_and_a_list_are_refused(tmp_path):
    data = dataclasses.asdict(load_scenario('clear'))
    del data['wet']
    with pytest.raises(ConfigError, match="missing keys.*'wet'"):
        Scenario.from_dict(data)
    with pytest.raises(ConfigError, match='found list'):
        Scenario.from_dict([1])
    broken = tmp_path / 'broken.yaml'
    broken.write_text('a: [')
    with pytest.raises(ConfigError, match='not readable as YAML'):
        load_scenario(str(broken))

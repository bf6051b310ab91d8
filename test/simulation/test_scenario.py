from __future__ import annotations

import dataclasses

import pytest
import yaml

from kd_perception.errors import ConfigError
from kd_perception.paths import share_directory
from kd_perception.simulation.scenario import load_scenario, Scenario, scenario_name
from kd_perception.simulation.settings import CameraSettings, Content


def shipped() -> list[str]:
    return sorted(p.stem for p in (share_directory() / 'config' / 'scenarios').glob('*.yaml'))


def test_the_promised_scenarios_are_shipped_and_named_as_their_files():
    assert {'clear', 'sunset', 'overcast', 'dense_fog', 'rain', 'night', 'night_rain', 'crowd',
            'far_small', 'glare'} <= set(shipped())
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


def test_changes_stand_behind_commas():
    plain = load_scenario('night')
    changed = load_scenario('night,world=highway,camera.fov_deg=60,fog=0.01,balance=1/1/0.9')
    assert (changed.world, changed.camera.fov_deg, changed.fog) == ('highway', 60., .01)
    assert changed.balance == (1., 1., .9)
    assert changed == dataclasses.replace(
        plain, world='highway', fog=.01, balance=(1., 1., .9),
        camera=dataclasses.replace(plain.camera, fov_deg=60.))
    assert load_scenario(scenario_name('night', world='highway', changes=('fog=0.01',))) == \
        load_scenario('night,world=highway,fog=0.01')
    assert scenario_name('night') == 'night'


@pytest.mark.parametrize(('name', 'told'), [
    ('clear,fog', 'must read key=value'),
    ('clear,=1', 'must read key=value'),
    ('clear,fogg=1', 'fogg'),
    ('clear,fog=[', 'not readable'),
    ('clear,camera.fov=60', 'known: fov_deg'),
    ('clear,camera.fov_deg=500', 'must be 20 to 130'),
    ('clear,camera=3', 'found int'),
])
def test_a_wrong_change_is_refused(name, told):
    with pytest.raises(ConfigError, match=told):
        load_scenario(name)


def test_weathers_keep_the_camera_in_its_place_and_the_usual_content():
    """Else labels of one seed would differ between weathers."""
    for name in ('clear', 'sunset', 'overcast', 'dense_fog', 'rain', 'night', 'night_rain',
                 'glare'):
        scenario = load_scenario(name)
        for key in ('fov_deg', 'height_m', 'pitch_rad', 'jitter', 'roughness'):
            assert getattr(scenario.camera, key) == getattr(CameraSettings(), key), (name, key)
        assert scenario.content == Content()
        assert scenario.world == 'street'

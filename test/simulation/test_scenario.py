from __future__ import annotations

import dataclasses

import pytest
import yaml

from kd_perception.errors import ConfigError
from kd_perception.paths import share_directory
from kd_perception.simulation.scenario import load_scenario, Scenario, scenario_name
from kd_perception.simulation.settings import CameraSettings, Content
from kd_perception.simulation.worlds import load_world


def shipped() -> list[str]:
    return sorted(p.stem for p in (share_directory() / 'config' / 'scenarios').glob('*.yaml'))


def test_the_promised_scenarios_are_shipped_and_named_as_their_files():
    assert {'clear', 'sunset', 'overcast', 'dense_fog', 'rain', 'night', 'night_rain', 'crowd',
            'cyclists', 'far_small', 'glare'} <= set(shipped())
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
    ({'fog': 2.0}, 'mine.yaml: fog: 2 must be 0 to 1'),
    ({'fog': '1e-3'}, r'fog: needs a number, found .1e-3. \(text to YAML; write 0.001\)'),
    ({'fog': '1e-9'}, 'write 1.0e-09'),
    ({'grain': '-.5'}, 'write -0.5'),
    ({'fog': 10**400}, 'fog: 1000.*is out of range'),
    ({'grain': -.1}, 'grain: -0.1 must be 0 to 1'),
    ({'exposure': 0}, 'mine.yaml: exposure: 0 must be 0.01 to 20'),
    ({'exposure': -1.}, 'exposure: -1 must'),
    ({'balance': [1, 0, 1]}, r'mine.yaml: balance\[1\]: 0 must be 0.01 to 20'),
    ({'sun_color': [900, 1, 1]}, r'sun_color\[0\]: 900 must be 0 to 20'),
    ({'sun': [0, 0, 1e-200]}, 'sun .* too short'),
    ({'sun': [0, 0, 0]}, 'above the horizon'),
    ({'sun': [float('inf'), 0, 1]}, r'sun\[0\]: inf is out of range'),
    ({'zenith': [0, float('nan'), 0]}, r'zenith\[1\]: nan is out of range'),
    ({'camera': {'fov_deg': 0}}, 'mine.yaml: camera.fov_deg: 0 must be 20 to 130'),
    ({'camera': {'fov_deg': 180}}, 'fov_deg: 180 must'),
    ({'camera': {'shot_noise': -1}}, 'camera.shot_noise: -1 must'),
    ({'camera': {'shutter_s': float('nan')}}, 'camera.shutter_s: nan is out of range'),
    ({'content': {'people': float('inf')}}, 'content.people: inf is out of range'),
    ({'name': 5}, 'name: needs text'),
    ({'world': None}, 'world: needs text'),
    ({'fog': float('nan')}, 'out of range'),
    ({'sun': [0, 0, -1]}, 'above the horizon'),
    ({'sun': [0, 1]}, 'three numbers'),
    ({'ambient': [-1, 0, 0]}, r'ambient\[0\]: -1 must be 0 to 20'),
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


@pytest.mark.parametrize('content', [
    'a: [', '[' * 1200, 'fog: 2020-13-45', f'fog: {"9" * 5000}', 'name: "\\xff', '\x00'])
def test_what_is_no_yaml_is_refused_in_one_line(content, tmp_path):
    """Some of these leave the YAML library as errors of another kind."""
    broken = tmp_path / 'broken.yaml'
    broken.write_text(content)
    for load in (load_scenario, load_world):
        with pytest.raises(ConfigError, match='broken.yaml: not readable as YAML') as error:
            load(str(broken))
        assert len(str(error.value)) < 400


@pytest.mark.parametrize('key', ['fog', 'ambient', 'world', 'camera'])
def test_a_few_lines_that_stand_for_gigabytes_are_not_written_out(key, tmp_path):
    data = {k: list(v) if isinstance(v, tuple) else v
            for k, v in dataclasses.asdict(load_scenario('clear')).items() if k != key}
    tens = [f'- &{b} [{", ".join([f"*{a}"] * 10)}]' for a, b in zip('abcdefgh', 'bcdefghi')]
    path = tmp_path / 'bomb.yaml'
    path.write_text('\n'.join([yaml.safe_dump(data), f'{key}:', '- &a [1]', *tens]))
    with pytest.raises(ConfigError, match=f'bomb.yaml: {key}.* found ') as error:
        load_scenario(str(path))
    assert len(str(error.value)) < 400


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
    ('clear,sun=0/0/1e-9', r'sun\[2\]: needs a number'),
    ('clear,sun=0/0/0', "scenario 'clear,sun=0/0/0': sun must stand above"),
    ('clear,fog=2020-13-45', 'not readable'),
    ('clear,fog=.nan', 'fog: nan is out of range'),
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

"""Scenarios of this package and presets of CARLA become weather, lens and traffic."""

from __future__ import annotations

import sys

import pytest

from kd_perception.errors import ConfigError
from kd_perception.paths import share_directory
from kd_perception.simulation.carla.weather import load_scene, parameters, presets

SCENARIOS = sorted(p.stem for p in (share_directory() / 'config' / 'scenarios').glob('*.yaml'))


@pytest.fixture
def api(carla_server):
    return sys.modules['carla']


def weather(name, api):
    return parameters(load_scene(name, api), api)


@pytest.mark.parametrize('name', SCENARIOS)
def test_every_scenario_is_weather_within_the_ranges_of_carla(name, api):
    found = weather(name, api)
    for field in ('cloudiness', 'precipitation', 'precipitation_deposits', 'wind_intensity',
                  'fog_density', 'wetness'):
        assert 0 <= getattr(found, field) <= 100, field
    assert -90 <= found.sun_altitude_angle <= 90


def test_scenarios_keep_their_meaning(api):
    clear, fog, rain = (weather(n, api) for n in ('clear', 'dense_fog', 'rain'))
    night, wet_night, sunset = (weather(n, api) for n in ('night', 'night_rain', 'sunset'))
    assert clear.sun_altitude_angle > 45 > sunset.sun_altitude_angle > 0
    assert night.sun_altitude_angle == wet_night.sun_altitude_angle == -90
    assert fog.fog_density > 70 > rain.fog_density > 5 * clear.fog_density
    assert rain.precipitation == 100
    assert rain.precipitation_deposits == 100
    assert wet_night.precipitation == pytest.approx(80)
    assert clear.precipitation == clear.wetness == 0
    assert weather('clear,fog=0.028', api).fog_density == pytest.approx(fog.fog_density)


def test_presets_of_carla_go_by_their_names(api):
    assert {'ClearNoon', 'HardRainNight', 'Default'} <= set(presets(api))
    assert weather('HardRainNight', api) == api.WeatherParameters.HardRainNight
    scene = load_scene('ClearNoon,camera.fov_deg=60,content.people=3', api)
    assert (scene.preset, scene.camera.fov_deg, scene.content.people) == ('ClearNoon', 60, 3)


@pytest.mark.parametrize(('name', 'reason'), [
    ('hail', 'no scenarios named.*; or a preset of CARLA: .*ClearNoon'),
    ('ClearNoon,fog=0.1', "'fog=0.1' cannot change a preset"),
    ('clear,world=highway', 'CARLA has maps, no worlds'),
    ('clear,fog=much', 'needs a number')])
def test_what_is_no_scene_is_one_line(name, reason, api):
    with pytest.raises(ConfigError, match=reason):
        load_scene(name, api)

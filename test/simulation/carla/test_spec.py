"""Plain values are checked before anything is connected; the missing client is one line."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest

from kd_perception.classes import load_class_set
from kd_perception.errors import ConfigError, SimulationError
from kd_perception.simulation.carla import images
from kd_perception.simulation.carla.spec import CarlaSpec, LONGEST_STEP_S, parse_server
from kd_perception.simulation.carla.wheel import import_carla, release


@pytest.mark.parametrize('rate_hz', [0.5, 1.0, 5.0, 9.9, 10.0, 11.0, 11.2, 15.0, 30.0, 200.0])
def test_a_step_is_always_short_enough_for_the_physics(rate_hz):
    spec = CarlaSpec(rate_hz=rate_hz)
    assert spec.step_s < LONGEST_STEP_S
    assert spec.step_s * spec.ticks == pytest.approx(1 / rate_hz)
    assert spec.ticks == 1 or rate_hz < 11.2


@pytest.mark.parametrize(('more', 'reason'), [
    ({'port': 70000}, 'port 70000'), ({'host': ''}, 'host name'), ({'rate_hz': 0.0}, '0.0 Hz'),
    ({'rate_hz': float('nan')}, 'nan Hz'), ({'seed': -1}, 'seed -1'),
    ({'vehicles': -1}, '-1 vehicles'), ({'timeout_s': 0.0}, 'timeout_s 0.0')])
def test_impossible_values_are_one_line(more, reason):
    with pytest.raises(ConfigError, match=reason):
        CarlaSpec(**more)


def test_impossible_sizes_are_one_line():
    with pytest.raises(SimulationError, match='camera size 8x360'):
        CarlaSpec(width=8)


def test_servers_by_name_and_port():
    assert parse_server('') == parse_server('localhost:2000') == ('localhost', 2000)
    assert parse_server('sim') == ('sim', 2000)
    assert parse_server(':2002') == ('localhost', 2002)
    assert parse_server('10.0.0.7:2004') == ('10.0.0.7', 2004)
    for text in ('sim:', 'sim:two', 'sim:99999'):
        with pytest.raises(ConfigError, match='port'):
            parse_server(text)


def test_versions_compare_by_their_release():
    assert release('0.9.16') == release('0.9.16-dirty') == release('v0.9.16') == (0, 9, 16)
    assert release('0.9.15') != release('0.9.16')
    assert release('main') == ()


def test_a_missing_client_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, 'carla', None)
    monkeypatch.setattr(importlib, 'import_module', _missing)
    with pytest.raises(SimulationError, match=r'not installed.*kd_perception\[carla\].*3.10 to 3'):
        import_carla()


def _missing(name):
    raise ModuleNotFoundError(f'No module named {name!r}', name=name)


def test_a_folder_named_carla_is_no_client(monkeypatch):
    hiding = ModuleType('carla')
    hiding.__path__ = ['/home/me/CARLA/PythonAPI/carla']
    monkeypatch.setitem(sys.modules, 'carla', hiding)
    with pytest.raises(SimulationError, match='PythonAPI/carla: a folder named carla hides'):
        import_carla()


def test_an_image_that_is_cut_off_is_refused():
    class Image:
        height, width, raw_data = 2, 3, memoryview(bytes(20))
    with pytest.raises(SimulationError, match='3x2 carries 20 bytes, not 24'):
        images.rgb(Image)


def test_the_real_client_has_what_is_used():
    """Names, and what can be made without a server, of the wheel where it is installed."""
    carla = pytest.importorskip('carla')
    for kind, names in {
            'Client': ('set_timeout', 'get_client_version', 'get_server_version', 'get_world',
                       'get_available_maps', 'load_world', 'get_trafficmanager',
                       'apply_batch_sync'),
            'World': ('get_settings', 'apply_settings', 'get_weather', 'set_weather', 'get_map',
                      'get_actors', 'get_blueprint_library', 'spawn_actor', 'try_spawn_actor',
                      'set_pedestrians_seed', 'set_pedestrians_cross_factor', 'tick',
                      'reset_all_traffic_lights',
                      'get_random_location_from_navigation'),
            'TrafficManager': ('set_synchronous_mode', 'set_random_device_seed', 'get_port',
                               'update_vehicle_lights'),
            'ActorBlueprint': ('id', 'has_attribute', 'get_attribute', 'set_attribute'),
            'ActorAttribute': ('recommended_values',), 'BlueprintLibrary': ('filter', 'find'),
            'ServerSideSensor': ('listen', 'stop', 'destroy'), 'Vehicle': ('set_autopilot',),
            'WalkerAIController': ('start', 'stop', 'go_to_location', 'set_max_speed'),
            'Image': ('raw_data', 'width', 'height', 'frame', 'timestamp')}.items():
        assert [n for n in names if not hasattr(getattr(carla, kind), n)] == [], kind
    tags = {int(v): k for k, v in carla.CityObjectLabel.names.items() if k != 'Any'}
    ours = [name.replace('_', '') for name in load_class_set('carla').names]
    assert [tags[i].lower() for i in range(29)] == ['none', *ours[1:]]
    assert len(tags) == 29
    client = carla.Client('127.0.0.1', 1)
    client.set_timeout(0.2)
    with pytest.raises(RuntimeError, match='time-out'):
        client.get_server_version()


def test_ids_of_two_bytes():
    class Image:
        height, width = 1, 2
        raw_data = memoryview(np.array([[1, 2, 14, 255], [255, 255, 4, 255]], np.uint8).tobytes())
    assert images.instance_ids(Image).tolist() == [[258, 65535]]

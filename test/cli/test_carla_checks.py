"""The doctor explains CARLA: client, server, and the traps of its ROS topics."""

from __future__ import annotations

import json
import socket

import pytest

from kd_perception.cli import carla_checks as checks
from kd_perception.cli.checks import probe
from kd_perception.cli.main import main
from kd_perception.nodes.carla_topics import CarlaTopics


def by_name(found):
    return {c.name: c for c in found}


@pytest.fixture
def listening():
    """Return the port of somebody who listens and says nothing."""
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen()
        yield server.getsockname()[1]


def without_client(monkeypatch, *others):
    find = checks.installed
    monkeypatch.setattr(checks, 'installed', lambda m: m not in ('carla', *others) and find(m))


def test_nobody_needs_carla(monkeypatch):
    without_client(monkeypatch)
    monkeypatch.setattr(checks, 'answers', lambda host, port: False)
    found = by_name(checks.carla_checks())
    assert {c.state for c in found.values()} == {'ok'}
    assert found['server'].detail == 'none answers at localhost:2000'
    asked = by_name(checks.carla_checks('pc:2002'))
    assert asked['client'].fix == "pip install 'kd_perception[carla]'"
    assert asked['server'].detail == 'none answers at pc:2002'
    assert {c.state for c in asked.values()} == {'warn'}


def test_a_python_without_wheel(monkeypatch):
    without_client(monkeypatch)
    check = checks.client(wanted=True, python=(3, 13))
    assert 'built for Python 3.10 to 3.12, this is 3.13' in check.detail
    assert check.fix.startswith('make an environment of Python 3.10 to 3.12')


@pytest.mark.parametrize(('version', 'state', 'word'), [
    ('0.9.16', 'ok', '0.9.16'), ('0.9.15', 'ok', 'was written for 0.9.16'),
    (None, 'warn', 'PYTHONPATH')])
def test_the_client_that_is_there(monkeypatch, version, state, word):
    def told(name):
        if version is None:
            raise checks.metadata.PackageNotFoundError
        return version
    monkeypatch.setattr(checks, 'installed', lambda m: True)
    monkeypatch.setattr(checks.metadata, 'version', told)
    check = checks.client(wanted=True)
    assert check.state == state
    assert word in check.detail + check.fix


def test_a_server_is_knocked_at_and_then_asked(monkeypatch, listening):
    assert checks.answers('127.0.0.1', listening)
    without_client(monkeypatch, 'rclpy')
    found = by_name(checks.carla_checks(f'127.0.0.1:{listening}'))
    assert found['client'].state == 'warn'
    assert 'somebody listens' in found['server'].detail
    monkeypatch.setattr(checks, 'installed', lambda m: m == 'carla')
    for works, answer in ((True, '0.9.16, map Town03'), (False, 'is version 0.9.15')):
        monkeypatch.setattr(checks, 'probe', lambda *_, told=(works, answer): told)
        check = by_name(checks.carla_checks(f'127.0.0.1:{listening}'))['server']
        assert (check.state, check.detail) == ('ok' if works else 'warn', answer)


def test_what_the_child_says_of_a_server(fake_carla, tmp_path, monkeypatch):
    variables, log = fake_carla.install(tmp_path)
    monkeypatch.setenv('PYTHONPATH', variables['PYTHONPATH'])
    assert probe(checks._connecting('localhost', 2000)) == (
        True, '0.9.16, map Carla/Maps/Town10HD_Opt')
    with (tmp_path / 'carla.py').open('a') as stream:
        print("server.version = '0.9.15'", file=stream)
    works, answer = probe(checks._connecting('localhost', 2000))
    assert not works
    assert answer.startswith('CARLA at localhost:2000 is version 0.9.15, the client here is')
    assert 'apply_settings' not in log.read_text()


def test_a_place_that_is_none_is_said():
    (check,) = checks.carla_checks('pc:two')
    assert 'host:port' in check.detail


def test_doctor_asks_where_it_is_told(monkeypatch, capsys):
    for name in ('general_checks', 'ros_checks'):
        monkeypatch.setattr(f'kd_perception.cli.doctor.{name}', list)
    monkeypatch.setattr(checks, 'answers', lambda host, port: False)
    assert main(['doctor', '--json', '--carla', 'pc:2002']) == 0
    found = json.loads(capsys.readouterr().out)['checks']
    assert [c['detail'] for c in found if c['name'] == 'server'] == ['none answers at pc:2002']


def topics(*names, bridge=False, **sizes):
    return CarlaTopics(names, bridge, {f'/carla/ego_vehicle/{n}': s for n, s in sizes.items()})


@pytest.mark.parametrize(('found', 'distro', 'words'), [
    (topics(), 'jazzy', {}),
    (topics('/carla//actor107/image'), 'humble', {'ROS topics': "set_attribute('ros_name'"}),
    (topics('/carla/hero/rgb/image'), 'humble', {}),
    (topics('/carla/hero/rgb/image'), 'jazzy', {'native ROS 2': 'simulation.launch.py'}),
    (topics('/carla/hero/rgb/image'), '', {'native ROS 2': 'Fast DDS 2.11'}),
    (topics('/carla/x', bridge=True), 'jazzy', {}),
    (topics('/carla/x', bridge=True, rgb_front=(800, 600),
            semantic_segmentation_front=(400, 70)), 'jazzy', {'label camera': '400x70'}),
    (topics('/carla/x', bridge=True, rgb_front=(800, 600), rgb_view=(400, 70),
            semantic_segmentation_front=(400, 70), depth_front=(9, 9)), 'jazzy', {})])
def test_traps_of_the_topics(found, distro, words):
    told = by_name(checks.topic_checks(found, distro))
    assert {n for n, c in told.items() if c.state != 'ok'} == set(words)
    for name, word in words.items():
        assert word in told[name].detail + told[name].fix
        assert told[name].fix


def test_the_graph_is_looked_at(monkeypatch):
    answer = {'names': ['/carla/x/rgb/image'], 'bridge': True, 'sizes': {'/carla/x/rgb': [8, 4]}}
    monkeypatch.setattr(checks, 'probe', lambda *_: (True, json.dumps(answer)))
    (check,) = checks._topics({'ROS_DISTRO': 'jazzy'})
    assert check.detail == '1 below /carla, by the ROS bridge'
    monkeypatch.setattr(checks, 'probe', lambda *_: (False, 'no rclpy'))
    (check,) = checks._topics({})
    assert 'no rclpy' in check.detail

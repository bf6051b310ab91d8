"""Recording of the simulator."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kd_perception.bags.reader import BagReader
from kd_perception.bags.source import open_source
from kd_perception.cli.main import main
from kd_perception.errors import SimulationError

SIZE = ['--width', '96', '--height', '64']


@pytest.fixture(scope='module')
def simulator():
    """Skip, with the reason, where OpenGL is missing."""
    from kd_perception.simulation.street import StreetSimulator
    try:
        with StreetSimulator('clear', seed=3, width=96, height=64) as opened:
            yield [opened.render(n / 5.0) for n in range(4)]
    except SimulationError as error:
        pytest.skip(str(error))


def test_record(simulator, tmp_path, capsys):
    path = tmp_path / 'drive'
    arguments = ['bag', 'record', str(path), '--seed', '3', '--rate', '5', '--duration', '0.8',
                 '--encoding', 'png', *SIZE]
    assert main(arguments) == 0
    source = open_source(path)
    assert source.topic == '/camera/image/compressed'
    assert source.label_classes.name == 'carla'
    for recorded, drawn in zip(source, simulator, strict=True):
        np.testing.assert_array_equal(recorded.image, drawn.image)
        np.testing.assert_array_equal(recorded.labels, drawn.labels)
        assert (recorded.stamp_ns, recorded.frame_id) == (drawn.stamp_ns, drawn.frame_id)
    with BagReader(path) as reader:
        info = reader.index('camera/camera_info').message(0)
        assert (info.width, info.height) == (96, 64)
        assert info.k[0] == pytest.approx(48 / np.tan(np.radians(40)), rel=1e-6)
    # The same drive again is the same recording.
    again = tmp_path / 'again' / 'drive'
    assert main([*arguments[:2], str(again), *arguments[3:]]) == 0
    assert open_source(again).fingerprint == source.fingerprint
    capsys.readouterr()


def test_record_carla(carla_server, tmp_path, capsys):
    path = tmp_path / 'drive'
    carla_server.spawn_points = 3
    assert main(['bag', 'record', str(path), '--carla', 'pc:2002', '--seed', '3', '--rate', '5',
                 '--duration', '0.8', '--encoding', 'png', '--truth', 'instances',
                 '--scenario', 'rain', '--set', 'camera.fov_deg=90', *SIZE]) == 0
    assert carla_server.asked == ('pc', 2002)
    assert not carla_server.settings.synchronous_mode
    assert capsys.readouterr().out.splitlines() == [
        'There was place for 2 of 30 vehicles in the CARLA world.', str(path)]
    source = open_source(path)
    assert source.label_classes.name == 'carla'
    frames = list(source)
    assert np.diff([f.stamp_ns for f in frames]) == pytest.approx([2e8] * 3, abs=3)
    assert [tuple(f.image[0, 0, 1:]) for f in frames] == [(20, 10)] * 4
    assert list(frames[0].labels[0, :30]) == [*range(29), 255]
    with BagReader(path) as reader:
        assert reader.index('camera/camera_info').message(0).k[0] == pytest.approx(48)
        assert len(reader.index('camera/instances')) == 4


@pytest.mark.parametrize(('arguments', 'reason'), [
    (['--carla', '--world', 'highway'], '--world is for the simulator; --carla ignores it'),
    (['--carla', '--live'], 'different recordings'),
    (['--carla', '--truth', 'depth'], '--truth depth: of CARLA instances can be'),
    (['--carla', 'pc:x'], 'host:port'),
    (['--carla', '--duration', '0'], '--duration 0'),
    (['--carla-map', 'Town03'], '--carla-map is for bag record --carla')])
def test_bad_recordings_of_carla_are_one_line(carla_server, tmp_path, capsys, arguments, reason):
    assert main(['bag', 'record', str(tmp_path / 'drive'), *arguments]) == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert carla_server.calls == []


def test_record_pictures_only(simulator, tmp_path, capsys):
    path = tmp_path / 'drive'
    assert main(['bag', 'record', str(path), '--duration', '0.2', '--no-labels', '--start', '3',
                 '--encoding', 'rgb8', '--topic', 'front/image', *SIZE]) == 0
    capsys.readouterr()
    assert main(['bag', 'info', '--json', str(path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {t['name']: t['count'] for t in facts['topics']} == {
        '/front/image': 2, '/front/camera_info': 2}
    assert facts['start_ns'] == 3_000_000_000


def test_record_another_world_with_all_truth(simulator, tmp_path, capsys):
    path = tmp_path / 'drive'
    assert main(['bag', 'record', str(path), '--world', 'highway', '--set', 'camera.fov_deg=60',
                 '--truth', 'depth', '--truth', 'instances', '--truth', 'detections',
                 '--duration', '0.1', '--start', '5', *SIZE]) == 0
    source = open_source(path)
    assert 28 in source[0].labels                      # guard rails
    with BagReader(path) as reader:
        assert reader.index('camera/camera_info').message(0).k[0] == pytest.approx(
            48 / np.tan(np.radians(30)))
        depth = reader.index('camera/depth').message(0)
        ids = reader.index('camera/instances').message(0)
        found = reader.index('camera/detections').message(0).detections
        assert [t.name for t in reader.camera_topics] == ['/camera/image/compressed']
    assert (depth.encoding, ids.encoding) == ('32FC1', 'mono16')
    shown = set(np.unique(ids.data.view(np.uint16))) - {0}
    assert {int(d.id.split()[0]) for d in found} == shown


@pytest.mark.parametrize('wrong', [['--world', 'moon'], ['--set', 'fogg=1'],
                                   ['--set', 'fog'], ['--scenario', 'earthquake'], ['--rate', '0'],
                                   ['--rate', 'nan'], ['--rate', 'inf'], ['--duration', '-1'],
                                   ['--duration', 'nan'], ['--duration', 'inf'],
                                   ['--duration', '1e300'], ['--rate', '1e300'],
                                   ['--start', 'nan'], ['--start', '86400'],
                                   ['--set', 'exposure=0'],
                                   ['--seed', '-4'], ['--width', '0'], ['--topic', 'labels']])
def test_wrong_values_are_one_line_and_leave_nothing(wrong, simulator, tmp_path, capsys):
    assert main(['bag', 'record', str(tmp_path / 'drive'), *SIZE, *wrong]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert lines[-1].startswith('kd_perception bag: ')
    assert list(tmp_path.iterdir()) == []

"""The camera node on a CARLA server that is faked at its boundary."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from kd_perception.errors import ConfigError, SimulationError
from kd_perception.nodes.camera.carla_pictures import carla_spec, CarlaPictures
from kd_perception.nodes.camera.source import open_pictures
from kd_perception.nodes.parameters import TABLES

SMALL = {'source': 'carla', 'width': 64, 'height': 48, 'carla_vehicles': 2, 'carla_walkers': 1,
         'carla_timeout_s': 5.0}
RESTORED = ['apply_settings', 'traffic_manager.set_synchronous_mode', 'set_weather']


def values(**more):
    return {**{s.name: s.default for s in TABLES['camera']}, **SMALL, **more}


def test_parameters_become_a_drive():
    spec = carla_spec(values(carla_host='pc', carla_port=2002, carla_map='Town03', seed=4,
                             scenario='rain', rate_hz=20.0, carla_instances=True))
    assert (spec.server, spec.map, spec.seed, spec.scenario) == ('pc:2002', 'Town03', 4, 'rain')
    assert (spec.width, spec.vehicles, spec.walkers, spec.timeout_s) == (64, 2, 1, 5.0)
    assert spec.instances
    assert spec.step_s == pytest.approx(0.05)


def test_pictures_go_forward_only(carla_server):
    source = open_pictures(values(scenario='clear,camera.fov_deg=90', frame_id='front'))
    try:
        assert isinstance(source, CarlaPictures)
        assert source.name == 'carla:Town10HD_Opt:clear,camera.fov_deg=90:0'
        assert source.frames == 0
        assert source.classes.name == 'carla'
        assert source.intrinsics.fx == pytest.approx(32)
        first = source.picture(0)
        assert source.picture(0) is first
        assert first.known is None  # neither distances nor depth, as docs/carla.md says
        assert source.identity == {'scenario_sha256': ''}
        later = source.picture(3)
        assert later.stamp_ns - first.stamp_ns == pytest.approx(100_000_000, abs=5)
        assert later.frame_id == 'front'
        with pytest.raises(SimulationError, match='frame 2 was asked for after frame 3'):
            source.picture(2)
    finally:
        source.close()
    assert not carla_server.settings.synchronous_mode
    assert carla_server.actors == {}


def test_arms_cannot_be_isolated(carla_server):
    with pytest.raises(ConfigError, match='record the drive'):
        open_pictures(values(placement='isolated', arms=('a', 'b')))
    assert carla_server.calls == []
    open_pictures(values(placement='isolated', arms=('a',))).close()


@pytest.fixture
def node(carla_server, bench):
    """Return the camera node and what it publishes, in lockstep for two arms."""
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import CameraInfo, Image

    from kd_perception.nodes import qos
    from kd_perception.nodes.camera.node import CameraNode

    told = {name: bench.collect(kind, name, qos.stream(20)) for name, kind in (
        ('a/image', Image), ('b/image', Image), ('labels', Image), ('instances', Image),
        ('a/camera_info', CameraInfo), ('/clock', Clock))}
    return told, lambda **more: bench.running(
        CameraNode, **SMALL, pacing='lockstep', placement='turns', arms=('a', 'b'), **more)


def step(bench):
    from std_srvs.srv import Trigger

    found = {}

    def stepped():
        answer = bench.call(Trigger, '/camera/step', Trigger.Request())
        found.update(json.loads(answer.message))
        return 'waiting' not in found

    bench.spin_until(stepped)
    return found


def test_arms_get_the_same_frame_in_turns(bench, node, carla_server):
    from kd_perception.imaging import decode_image, decode_label_image
    from kd_perception.nodes.conversion import stamp_to_ns

    told, running = node
    with running(frames=2, carla_instances=True, publish_clock=True):
        served = [step(bench)['served'][0] for _ in range(4)]
        assert [s['index'] for s in served] == [0, 0, 1, 1]
        bench.spin_until(lambda: len(told['a/image']) == len(told['b/image']) == 2
                         and len(told['labels']) == 2 and told['instances'] and told['/clock']
                         and told['a/camera_info'])
        assert carla_server.settings.synchronous_mode
    assert [m.header for m in told['a/image']] == [m.header for m in told['b/image']]
    stamps = [stamp_to_ns(m.header.stamp) for m in told['labels']]
    assert stamps[1] - stamps[0] == pytest.approx(1e9 / 30, abs=2)
    assert list(decode_label_image(told['labels'][0])[0, :30]) == [*range(29), 255]
    assert decode_image(told['a/image'][0]).shape == (48, 64, 3)
    assert told['instances'][-1].encoding == 'mono16'
    assert told['a/camera_info'][0].k[0] == pytest.approx(32 / np.tan(np.radians(40)))
    assert not carla_server.settings.synchronous_mode
    assert carla_server.actors == {}


def test_a_server_that_fails_ends_the_node_in_one_line(bench, node, carla_server):
    _, running = node
    with running() as camera:
        step(bench)
        carla_server.stray_ticks = 1
        from std_srvs.srv import Trigger
        client = bench.node.create_client(Trigger, '/camera/step')
        bench.spin_until(client.service_is_ready)
        while not camera.failure:  # the second arm gets the frame that is there already
            future = client.call_async(Trigger.Request())
            bench.spin_until(lambda f=future: f.done() or camera.failure)
    assert isinstance(camera.failure[0], SimulationError)
    assert 'another client ticks' in str(camera.failure[0])
    assert not carla_server.settings.synchronous_mode


@pytest.mark.parametrize(('number', 'at'), [
    (signal.SIGINT, 'set_pedestrians_seed'), (signal.SIGTERM, 'listen'),
    (signal.SIGTERM, 'published')])
def test_a_signal_leaves_the_server_as_it_was(ros_environment, fake_carla, tmp_path, number, at):
    """In the middle of the set-up and while frames go out."""
    variables, log = fake_carla.install(tmp_path)
    if at != 'published':
        # The set-up stands still there until it is interrupted, or for a while.
        with (tmp_path / 'carla.py').open('a') as stream:
            print('import time', file=stream)
            print('def slow(number, name, record=server.fail):', file=stream)
            print('    record(number, name)', file=stream)
            print(f'    time.sleep(1.0 if name == {at!r} else 0.0)', file=stream)
            print('server.fail = slow', file=stream)
    process = subprocess.Popen(
        [sys.executable, '-m', 'kd_perception.nodes.camera.node', '--ros-args', *(
            part for name, value in SMALL.items() for part in ('-p', f'{name}:={value}'))],
        env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while (log.read_text() if log.exists() else '').count(
                'tick' if at == 'published' else at) < (40 if at == 'published' else 1):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert 'Traceback' not in errors
    assert process.returncode == 0, errors
    calls = log.read_text().split()
    assert calls[-3:] == RESTORED
    assert calls.count('apply_settings') == 2
    assert ('apply_batch_sync' in calls) == (at != 'set_pedestrians_seed')

"""Layouts of RViz and Foxglove show topics that exist, and RViz is led to them."""

from dataclasses import fields
import json
import re

import pytest

from kd_perception.nodes.bringup import viewer
from kd_perception.nodes.bringup.launch_arguments import FILES
from kd_perception.nodes.bringup.viewer import layout_topics, missing_rviz, rviz_command
from kd_perception.nodes.monitor.live_figures import LiveArm
from kd_perception.nodes.perception.timing import STAGES
from kd_perception.paths import share_directory

CONFIG = share_directory() / 'config'
LAYOUTS = ('perception', 'ab_comparison')


def strings(value):
    """Yield every text in a JSON value."""
    if isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)
    elif isinstance(value, str):
        yield value


def foxglove(name):
    return json.loads((CONFIG / 'foxglove' / f'{name}.json').read_text())


def foxglove_topics(name):
    return {s.partition('.')[0] for s in strings(foxglove(name)['configById'])
            if s.startswith('/')}


def topics_of(node):
    return {end.topic_name for end in (*node.publishers, *node.subscriptions)}


@pytest.fixture
def shown(bench, bundles):
    """Return what the nodes of each launch file have, made as the launch file makes them."""
    from kd_perception.nodes.camera.node import CameraNode
    from kd_perception.nodes.monitor.node import MonitorNode
    from kd_perception.nodes.perception.node import PerceptionNode

    options = {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime',
               'threads': 1, 'warmup_iterations': 0,
               'autostart': False}

    def configured(namespace):
        with bench.running(PerceptionNode, namespace=namespace, **options) as node:
            # Topics alone are asked for, so that no request has to go round.
            node.trigger_configure()
            return topics_of(node)

    with bench.running(CameraNode, arms=('a', 'b'), width=32, height=32,
                       pacing='lockstep') as camera:
        both = topics_of(camera)
    with bench.running(MonitorNode, arms=('a', 'b')) as monitor:
        both |= topics_of(monitor)
    return {'perception': configured(''), 'ab_comparison': both | configured('a')
            | configured('b')}


def test_layouts_show_topics_that_exist(shown):
    for name in LAYOUTS:
        assert layout_topics(name)
        assert set(layout_topics(name)) <= shown[name]
        assert foxglove_topics(name) >= {'/diagnostics'}
        assert foxglove_topics(name) <= shown[name]


@pytest.mark.parametrize('name', LAYOUTS)
def test_panels_are_laid_out_once_and_keys_exist(name):
    layout = foxglove(name)
    placed = [s for s in strings(layout['layout']) if '!' in s]
    assert sorted(placed) == sorted(layout['configById'])
    keys = set(re.findall(r'key=="(\w+)"', json.dumps(layout).replace('\\"', '"')))
    assert keys
    assert keys <= {*STAGES, 'frame_rate_node', *(f.name for f in fields(LiveArm))}


def values(name, **more):
    return {**{a.name: a.default for a in FILES[name].arguments}, **more}


def remappings(command):
    return dict(command[i + 1].split(':=') for i, word in enumerate(command) if word == '-r')


def test_rviz_is_led_to_the_topics():
    plain = rviz_command('perception', values('perception'))
    assert plain[:2] == ['rviz2', '-d']
    assert remappings(plain) == {}
    led = rviz_command('perception', values(
        'perception', namespace='/car/', image_topic='/sensing/camera0/image_raw',
        use_sim_time='true'), ('front', 'rear'))
    assert remappings(led) == {
        '/image': '/sensing/camera0/image_raw', '/overlay': '/car/front/overlay',
        '/segmentation/confidence': '/car/front/segmentation/confidence'}
    assert led[-2:] == ['-p', 'use_sim_time:=true']
    relative = rviz_command('perception', values('perception', namespace='car',
                                                 image_topic='left/image'))
    assert remappings(relative)['/image'] == '/car/left/image'
    assert remappings(rviz_command('ab_comparison', values('ab_comparison', namespace='x'))) == {
        '/a/image': '/x/a/image', '/a/overlay': '/x/a/overlay', '/b/overlay': '/x/b/overlay',
        '/monitor/disagreement': '/x/monitor/disagreement'}


def test_missing_rviz_is_one_line(monkeypatch):
    monkeypatch.setattr(viewer.shutil, 'which', lambda _: None)
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    assert 'apt install ros-jazzy-rviz2' in missing_rviz()
    monkeypatch.setattr(viewer.shutil, 'which', lambda _: '/opt/ros/jazzy/bin/rviz2')
    assert missing_rviz() == ''


@pytest.mark.parametrize(('rviz', 'drawn'), [('true', True), ('false', False)])
def test_overlays_of_a_comparison_are_drawn_for_rviz_alone(rviz, drawn):
    graph = FILES['ab_comparison'].make(values('ab_comparison', a='t', b='s', rviz=rviz))
    arms = [n for n in graph.nodes if n.executable == 'perception']
    assert [n.parameters['publish_overlay'] for n in arms] == [drawn, drawn]

"""ROS' standard parameters for quality of service, on every topic that has them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from kd_perception.errors import ConfigError
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import camera_info_message, header
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.qos_watch import subscription_problem

RESULTS = ('segmentation/mask', 'segmentation/confidence', 'segmentation/label_info',
           'segmentation/camera_info', 'overlay', 'perception/timing')


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 0}


def override(topic, end='publisher', **policies):
    return {f'qos_overrides./{topic}.{end}.{name}': value for name, value in policies.items()}


def test_results_and_intrinsics_take_overrides(bench, camera, options):
    given = override('camera_info', 'subscription', reliability='reliable', depth=7)
    for topic in RESULTS:
        given |= override(topic, reliability='best_effort', depth=3)
    with bench.running(PerceptionNode, **options, **given) as node:
        front = camera()
        bench.spin_until(lambda: node._state() == 'active')
        made = {p.topic_name: p.qos_profile for p in node.publishers}
        for topic in RESULTS:
            profile = made[f'/{topic}']
            assert (profile.depth, profile.reliability) == (3, ReliabilityPolicy.BEST_EFFORT)
        info, = (s for s in node.subscriptions if s.topic_name == '/camera_info')
        assert info.qos_profile.depth == 7
        assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        # The fixture's subscription asks for more, which the node sees by what it really offers.
        end, = node.get_subscriptions_info_by_topic('/segmentation/mask')
        assert 'reliability: best_effort' in subscription_problem(
            '/segmentation/mask', end, made['/segmentation/mask'])
        masks = bench.collect(Image, 'segmentation/mask', qos.image_subscription())
        infos = bench.collect(CameraInfo, 'segmentation/camera_info', qos.image_subscription())
        lens = bench.node.create_publisher(CameraInfo, 'camera_info', qos.stream())
        bench.spin_until(lens.get_subscription_count)

        def answered():
            lens.publish(camera_info_message(64, 48, 50., 50., 32., 24., header(0, 'c')))
            front.send(np.zeros((48, 64, 3), np.uint8))
            bench.spin_for(0.05)
            return masks and infos

        bench.spin_until(answered)


def test_the_node_can_be_configured_again_with_overrides(bench, camera, options):
    given = override('segmentation/mask', depth=3)
    with bench.running(PerceptionNode, **options, **given) as node:
        camera().ask()
        for _ in range(2):
            node._ros.post(node.trigger_deactivate)
            node._ros.post(node.trigger_cleanup)
            node._ros.post(node.trigger_configure)
            node._ros.post(node.trigger_activate)
            bench.spin_until(lambda: not node._ros._posted and node._state() == 'active')
        mask, = (p for p in node.publishers if p.topic_name == '/segmentation/mask')
        assert mask.qos_profile.depth == 3


@pytest.mark.parametrize(('topic', 'policies', 'words'), [
    ('segmentation/mask', {'reliability': 'sometimes'}, "'sometimes' is not one of"),
    ('perception/timing', {'history': 'keep_some'}, "'keep_some' is not one of"),
    ('overlay', {'depth': 'deep'}, "must be a whole number, not 'deep'"),
    ('overlay', {'depth': -1}, 'must be a whole number, not -1')])
def test_overrides_that_cannot_be_are_refused_at_the_start(bench, options, topic, policies, words):
    with pytest.raises(ConfigError, match=words), bench.running(
            PerceptionNode, **options, **override(topic, **policies)):
        pass


def test_a_process_with_such_an_override_ends_with_2_and_one_line(ros_environment):
    name, = override('segmentation/mask', reliability='sometimes')
    done = subprocess.run(
        [sys.executable, '-m', 'kd_perception.nodes.perception.node', '--ros-args', '-p',
         f'{name}:=sometimes'], capture_output=True, text=True, timeout=60,
        env=dict(os.environ), check=False)
    assert done.returncode == 2, json.dumps(done.stderr)
    line, = done.stderr.splitlines()
    assert name in line

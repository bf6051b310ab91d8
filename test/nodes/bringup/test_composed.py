"""Camera and perception node in one process."""

import os
import threading
import time

import numpy as np
import pytest

from kd_perception.bags.writer import BagWriter
from kd_perception.errors import ConfigError, GraphError
from kd_perception.nodes.bringup.composed import composed
from kd_perception.nodes.bringup.graph import camera_node, NodeSpec, perception_node, RunGraph


def wait_for(condition):
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def graph(bundles, tmp_path):
    with BagWriter(tmp_path / 'drive') as writer:
        for n in range(4):
            writer.write_image('camera/image', np.full((48, 64, 3), n, np.uint8), 1 + n, 'front')
    return RunGraph((
        camera_node(source='bag', bag=str(tmp_path / 'drive'), loop=True, rate_hz=50.0,
                    arms=('a',), stamps='clock'),
        NodeSpec('perception', 'eyes', 'a', {
            'model': 'one', 'models_dir': str(bundles), 'engine': 'onnxruntime', 'threads': 1,
            'cameras': ()}, (('segmentation/mask', 'mask'),))))


def test_frames_go_from_camera_to_node(graph, monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', '99')
    before = set(threading.enumerate())
    with composed(graph) as nodes:
        eyes = nodes['a/eyes']
        wait_for(lambda: eyes.counters()['published'] > 3)
        assert '/a/mask' in {p.topic_name for p in eyes.publishers}
        assert eyes.get_fully_qualified_name() == '/a/eyes'
        # Nobody else hears them.
        assert os.environ['ROS_DOMAIN_ID'] != '99'
        assert os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
    assert os.environ['ROS_DOMAIN_ID'] == '99'
    wait_for(lambda: not [t for t in set(threading.enumerate()) - before if t.name == 'inference'])
    assert not [t for t in set(threading.enumerate()) - before if t.name in nodes]


def test_what_a_node_cannot_do_is_told(graph, tmp_path):
    broken = RunGraph((graph.nodes[1], camera_node(source='bag', bag=str(tmp_path / 'none'))))
    with pytest.raises(Exception, match='no such file'), composed(broken):
        pytest.fail('it must not start')
    own = RunGraph((NodeSpec('camera', 'camera', environment={'A': 'b'}),))
    with pytest.raises(ConfigError, match='node camera: variables of its own'), composed(own):
        pytest.fail('it must not start')


def test_a_node_that_fails_while_it_runs_is_told_at_the_end(bundles, monkeypatch):
    def break_down(self):
        raise ZeroDivisionError('a defect')

    from kd_perception.nodes.perception.node import PerceptionNode

    monkeypatch.setattr(PerceptionNode, '_each_second', break_down)
    graph = RunGraph((perception_node(models_dir=str(bundles), autostart=False),))
    with pytest.raises(GraphError, match='node perception failed: a defect'), \
            composed(graph):
        wait_for(lambda: 'perception' not in [t.name for t in threading.enumerate()])

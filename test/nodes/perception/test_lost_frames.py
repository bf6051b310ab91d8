"""Images that never reach the node are told, whoever lost them."""

import os
import subprocess
import sys

from diagnostic_msgs.msg import DiagnosticArray
import pytest

from kd_perception.nodes.conversion import values_of
from kd_perception.nodes.perception.node import PerceptionNode

# Without our profile Fast DDS has half a megabyte of shared memory, in which no such image fits.
FEED = '''
import array, sys, time
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node('feed')
publisher = node.create_publisher(
    Image, 'image', QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT))
while not publisher.get_subscription_count():
    time.sleep(0.02)
message = Image(encoding='rgb8', height=720, width=1280, step=3840)
message.data = array.array('B', bytes(720 * 3840))
while True:
    message.header.stamp.sec += 1
    publisher.publish(message)
    time.sleep(0.01)
'''


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 0}


def status_of(found, name):
    entries = [s for s in found[-1].status if s.name == name] if found else []
    return values_of(entries[0]) if entries else {}


def test_what_the_middleware_loses_is_counted(bench, options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    small = {k: v for k, v in os.environ.items() if 'PROFILES' not in k}
    with bench.running(PerceptionNode, **options) as node:
        feed = subprocess.Popen([sys.executable, '-c', FEED], env=small)
        try:
            def told():
                return status_of(found, '/perception: perception')

            bench.spin_until(lambda: int(told().get('lost_in_middleware', 0)) > 20, 60.0)
            assert 'missing_share' in told()
            lost = int(told()['lost_in_middleware'])
        finally:
            feed.kill()
            feed.wait()
        # It is no part of the frames that came.
        counters = node.counters()
        assert counters['received'] == sum(v for k, v in counters.items() if k != 'received')
        bench.spin_until(lambda: int(told()['lost_in_middleware']) >= lost)


def test_losses_are_told_of_the_camera_that_has_them(bench, options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, cameras=('front', 'left'), **options) as node:
        bench.spin_until(lambda: 'left' in node._topics)
        for count in (2, 3):  # as the event says it
            node._topics['left']._on_lost(count)
        bench.spin_until(lambda: status_of(
            found, '/perception: camera left').get('lost_in_middleware') == '5')
        assert status_of(found, '/perception: camera front')['lost_in_middleware'] == '0'
        total = status_of(found, '/perception: perception')
        assert total['lost_in_middleware'] == '5'
        assert float(total['missing_share']) == 0.0

"""Several cameras on one perception node, over real DDS."""

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import pytest
from sensor_msgs.msg import Image

from kd_perception.nodes import qos
from kd_perception.nodes.conversion import header, image_message, values_of
from kd_perception.nodes.perception import PerceptionNode
from kd_perception.nodes.slots import COUNTERS

CAMERAS = ('front', 'left')


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 1, 'cameras': CAMERAS}


class Camera:
    """Publishes images of one camera and collects its masks."""

    def __init__(self, bench, name):
        self.bench, self.name = bench, name
        self.masks = bench.collect(Image, f'{name}/segmentation/mask', qos.stream(50))
        self.publisher = bench.node.create_publisher(Image, f'{name}/image', qos.stream(50))
        self.stamp = 0
        bench.spin_until(self.publisher.get_subscription_count)
        bench.spin_until(lambda: bench.node.count_publishers(f'{name}/segmentation/mask'))

    def send(self, encoding='rgb8'):
        self.stamp += 100_000_000
        picture = np.full((48, 64, 3), 90, np.uint8)
        message = image_message(picture, 'rgb8', header(self.stamp, self.name))
        message.encoding = encoding
        self.publisher.publish(message)

    def ask(self):
        before = len(self.masks)
        self.send()
        self.bench.spin_until(lambda: len(self.masks) > before)
        return self.masks[-1]


def cameras_of(message):
    return {values_of(s)['camera']: s for s in message.status if ': camera ' in s.name}


def test_each_camera_has_its_own_counters_and_rates(bench, options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, **options) as node:
        front, left = (Camera(bench, name) for name in CAMERAS)
        for _ in range(6):
            front.ask()
        left.ask()
        left.send('32FC1')
        bench.spin_until(lambda: node.counters()['failed'] == 1
                         and node.counters()['published'] == 7)

        def last():
            values = {c: values_of(s) for c, s in cameras_of(found[-1]).items()} if found else {}
            done = values and values['left']['failed'] == '1'
            return values if done and values['front']['published'] == '6' else None

        values = bench.spin_until(last)
        for camera, received in (('front', 6), ('left', 2)):
            said = {c: int(values[camera][c]) for c in COUNTERS}
            assert said['received'] == received
            assert said['received'] == sum(said[c] for c in COUNTERS[1:])
        assert float(values['front']['frame_rate_msg']) == pytest.approx(10.0)
        assert float(values['front']['frame_rate_node']) > 0.0
        # Stamps of 1970 are of another clock.
        assert values['front']['current_delay_from_realtime_ms'] == 'nan'
        front.stamp = node.get_clock().now().nanoseconds - 2_000_000_000
        front.ask()
        bench.spin_until(lambda: 1900.0 < float(values_of(
            cameras_of(found[-1])['front'])['current_delay_from_realtime_ms']) < 60_000.0)
        total = values_of(found[-1].status[0])
        assert found[-1].status[0].name == '/perception: perception'
        assert int(total['received']) == 9


def test_a_camera_that_stopped_is_named_while_others_go_on(bench, options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, **options):
        front, left = (Camera(bench, name) for name in CAMERAS)
        left.ask()

        def named():
            front.ask()
            if not found or found[-1].status[0].level != b'\x01':
                return False
            return found[-1].status[0].message.startswith('left: ')

        bench.spin_until(named)
        said = cameras_of(found[-1])
        assert said['front'].level == b'\x00'
        assert said['left'].level == b'\x01'
        assert '/left/image' in said['left'].message
        assert 'front' not in found[-1].status[0].message

        def well():
            front.ask()
            left.ask()
            return found[-1].status[0].level == b'\x00'

        bench.spin_until(well)


def test_the_camera_whose_frames_fail_is_named(bench, options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, **options):
        front, left = (Camera(bench, name) for name in CAMERAS)

        def named():
            front.ask()
            left.send('32FC1')
            return found and found[-1].status[0].message.startswith('frames fail: left: ')

        bench.spin_until(named)
        said = cameras_of(found[-1])
        assert said['left'].message.startswith('frames fail: encoding')
        assert not said['front'].message.startswith('frames fail')

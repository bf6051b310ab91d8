"""Several cameras on one perception node, over real DDS."""

from diagnostic_msgs.msg import DiagnosticArray
import pytest

from kd_perception.nodes.conversion import values_of
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.perception.slots import COUNTERS

CAMERAS = ('front', 'left')


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 1, 'cameras': CAMERAS}


def cameras_of(message):
    return {values_of(s)['camera']: s for s in message.status if ': camera ' in s.name}


def test_each_camera_has_its_own_counters_and_rates(bench, camera, options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, **options) as node:
        front, left = (camera(name) for name in CAMERAS)
        for _ in range(6):
            front.ask()
        left.ask()
        left.send(encoding='32FC1')
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


def test_a_camera_that_stopped_is_named_while_others_go_on(bench, camera, options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, **options):
        front, left = (camera(name) for name in CAMERAS)
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


def test_the_camera_whose_frames_fail_is_named(bench, camera, options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, **options):
        front, left = (camera(name) for name in CAMERAS)

        def named():
            front.ask()
            left.send(encoding='32FC1')
            return found and found[-1].status[0].message.startswith('frames fail: left: ')

        bench.spin_until(named)
        said = cameras_of(found[-1])
        assert said['left'].message.startswith('frames fail: encoding')
        assert not said['front'].message.startswith('frames fail')

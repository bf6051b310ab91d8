"""What goes wrong on vehicles, over real DDS: the node says it, counts it and goes on."""

import array
import json
import shutil
import threading

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import pytest
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from kd_perception.imaging import encode_jpeg
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import header, image_message, values_of
from kd_perception.nodes.perception import serving
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.perception.slots import COUNTERS

NAME = '/perception'


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 0}


@pytest.fixture
def engines(monkeypatch):
    """Return the list of all engines that the node loads."""
    made = []

    def load(*args, **more):
        made.append(load_engine(*args, **more))
        return made[-1]

    load_engine = serving.load_engine
    monkeypatch.setattr(serving, 'load_engine', load)
    return made


def adds_up(counters):
    return counters['received'] == sum(counters[c] for c in COUNTERS if c != 'received')


def settled(bench, node, **expected):
    """Wait until the counters are as expected."""
    bench.spin_until(lambda: {k: node.counters()[k] for k in expected} == expected)
    assert adds_up(node.counters())


def active(bench):
    found = bench.collect(String, 'perception/active_model', qos.latched())
    bench.spin_until(lambda: found)
    return lambda: json.loads(found[-1].data)['name']


def failure(bench, found, words):
    """Wait for a warning with ``words``; return its message."""
    def said():
        return next((m.status[0].message for m in found if words in m.status[0].message), None)
    return bench.spin_until(said)


def test_time_that_is_set_back_starves_nobody(bench, camera, options):
    with bench.running(PerceptionNode, max_age_ms=5000.0, **options) as node:
        front = camera()
        front.stamp = node.get_clock().now().nanoseconds - 1_000_000_000
        for _ in range(3):
            front.ask()
        front.stamp -= 30_000_000_000
        for stale in range(1, 5):
            front.send()
            settled(bench, node, stale=stale)
        for _ in range(3):
            front.ask()
        settled(bench, node, received=10, published=6, stale=4)


def test_size_and_encoding_change_in_the_stream(bench, camera, options):
    rng = np.random.default_rng(0)
    with bench.running(PerceptionNode, **options) as node:
        front = camera()
        for height, width, encoding in ((48, 64, 'rgb8'), (120, 160, 'bgr8'), (30, 50, 'rgb8'),
                                        (64, 96, 'bgr8')):
            mask = front.ask(rng.integers(0, 255, (height, width, 3), np.uint8), encoding)
            assert (mask.height, mask.width, mask.step) == (height, width, width)
            assert len(mask.data) == height * width
        grey = image_message(np.zeros((40, 60), np.uint8), 'mono8', header(9, 'c'))
        packed = Image(header=header(9, 'c'), encoding='yuv422_yuy2', height=20, width=30, step=60)
        packed.data = array.array('B', bytes(20 * 60))
        for message in (grey, packed):
            before = len(front.masks)
            front.publisher.publish(message)
            bench.spin_until(lambda n=before: len(front.masks) > n)
            assert (front.masks[-1].height, front.masks[-1].width) == (
                message.height, message.width)
        settled(bench, node, received=6, published=6)


def test_damaged_jpegs_are_counted_and_told_in_one_line(bench, camera, options):
    whole = encode_jpeg(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    cut, noise = whole[:len(whole) // 2], bytes(range(256)) * 4
    with bench.running(PerceptionNode, image_transport='compressed', **options) as node:
        front = camera(compressed=True)
        for number, data in enumerate((whole, cut, whole, noise, b'', whole)):
            front.publisher.publish(CompressedImage(header=header(number, 'c'), format='jpeg',
                                                    data=array.array('B', data)))
            bench.spin_until(lambda n=number: node.counters()['received'] == n + 1
                             and not node.counters()['in_flight'])
        settled(bench, node, published=3, failed=3)
        reason = node._health.recent_error()
        assert 'is empty' in reason
        assert '\n' not in reason


def test_float_images_are_refused_whatever_they_hold(bench, camera, options):
    values = np.array([np.nan, np.inf, -np.inf, 1.0] * 300, np.float32)
    with bench.running(PerceptionNode, **options) as node:
        front = camera()
        for number, (encoding, channels) in enumerate((('32FC1', 1), ('32FC3', 3), ('64FC1', 1))):
            kind = np.float64 if encoding == '64FC1' else np.float32
            data = values.astype(kind)
            message = Image(header=header(number, 'c'), encoding=encoding, height=10, width=40,
                            step=40 * channels * data.itemsize)
            message.data = array.array('B', data.tobytes()[:message.step * 10])
            front.publisher.publish(message)
            settled(bench, node, failed=number + 1)
            bench.spin_until(lambda e=encoding: e in node._health.recent_error())
        front.ask()


def test_a_model_that_is_deleted_while_it_serves(bench, camera, options, bundles, tmp_path):
    models = tmp_path / 'models'
    for name in ('one', 'two'):
        shutil.copytree(bundles / name, models / name)
    with bench.running(PerceptionNode, **{**options, 'models_dir': str(models)}) as node:
        front, serves = camera(), active(bench)
        front.ask()
        shutil.rmtree(models / 'one')
        for _ in range(3):
            front.ask()
        assert bench.set_parameters(NAME, model='two')[0].successful
        bench.spin_until(lambda: serves() == 'two')
        answer = bench.set_parameters(NAME, model='one')[0]
        assert not answer.successful
        assert "no model named 'one'" in answer.reason
        assert '\n' not in answer.reason
        front.ask()
        assert serves() == bench.get_parameter(NAME, 'model') == 'two'
        settled(bench, node, received=5, published=5)


def test_a_storm_of_parameters_ends_with_the_last(bench, camera, options, engines):
    with bench.running(PerceptionNode, **options) as node:
        front, serves = camera(), active(bench)
        front.ask()
        threads = threading.active_count()
        client = bench.node.create_client(SetParameters, f'{NAME}/set_parameters')
        bench.spin_until(client.service_is_ready)
        wanted = ['one', 'two'] * 49 + ['one', 'two']
        calls = [client.call_async(SetParameters.Request(parameters=[
            Parameter('model', value=name).to_parameter_msg()])) for name in wanted]
        bench.spin_until(lambda: all(c.done() for c in calls))
        assert all(c.result().results[0].successful for c in calls)
        bench.spin_until(lambda: serves() == 'two' and threading.active_count() <= threads)
        front.ask()
        assert bench.get_parameter(NAME, 'model') == 'two'
        # Those that were overtaken were not loaded, or were released again.
        assert len(engines) < len(wanted)
        bench.spin_until(lambda: sum(e._session is not None for e in engines) == 1)
        settled(bench, node, received=2, published=2)


def test_a_swap_during_a_swap(bench, camera, options, engines, monkeypatch):
    gate, entered = threading.Event(), threading.Event()
    load_engine = serving.load_engine

    def slow(*args, **more):
        entered.set()
        assert gate.wait(20.0)
        return load_engine(*args, **more)

    with bench.running(PerceptionNode, **options):
        front, serves = camera(), active(bench)
        monkeypatch.setattr(serving, 'load_engine', slow)
        assert bench.set_parameters(NAME, model='two')[0].successful
        assert entered.wait(20.0)
        assert bench.set_parameters(NAME, threads=2)[0].successful
        assert bench.set_parameters(NAME, model='one', precision='int8')[0].successful
        assert bench.set_parameters(NAME, precision='auto')[0].successful
        front.ask()  # the old model serves meanwhile
        gate.set()
        bench.spin_until(lambda: len(engines) == 3 and engines[0]._session is None)
        front.ask()
        assert serves() == bench.get_parameter(NAME, 'model') == 'one'
        assert bench.get_parameter(NAME, 'threads') == 2
        assert [e._session is not None for e in engines] == [False, False, True]


def test_bursts_and_stalls(bench, camera, options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    depth = {'qos_overrides./image.subscription.depth': 50}
    with bench.running(PerceptionNode, **options, **depth) as node:
        front = camera()
        for burst in (1, 2):
            for _ in range(50):
                front.send()
            bench.spin_until(lambda n=burst: node.counters()['received'] == 50 * n
                             and not node.counters()['in_flight'])
            counters = node.counters()
            assert adds_up(counters)
            assert counters['published'] + counters['overwritten'] == 50 * burst
            # The freshest is answered, whatever was dropped.
            bench.spin_until(lambda: front.masks and (
                front.masks[-1].header.stamp.sec * 10**9
                + front.masks[-1].header.stamp.nanosec) == front.stamp)
            if burst == 1:
                failure(bench, found, 'publisher(s) on /image but no image')
        bench.spin_until(lambda: front.ask() and found and found[-1].status[0].level == b'\x00')
        assert float(values_of(found[-1].status[0])['frame_rate_msg']) > 0

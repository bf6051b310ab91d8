import array
import json
import shutil

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from vision_msgs.msg import LabelInfo

from kd_perception.bundle import find_bundle
from kd_perception.engines.loader import load_engine
from kd_perception.imaging import encode_jpeg, encode_png, resize_image
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import (
    camera_info_message,
    header,
    image_message,
    label_info_names,
    stamp_to_ns,
    values_of,
)
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.perception.slots import COUNTERS
from kd_perception.nodes.perception.timing import parse_timing

NAME = '/perception'


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (120, 160, 3), np.uint8)


@pytest.fixture
def options(bundles):
    return {'models_dir': str(bundles), 'model': 'one', 'engine': 'onnxruntime', 'threads': 1,
            'warmup_iterations': 1}


def change(bench, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return bench.call(ChangeState, f'{NAME}/change_state', request).success


def state(bench):
    return bench.call(GetState, f'{NAME}/get_state', GetState.Request()).current_state.label


def await_state(bench, label):
    bench.spin_until(lambda: state(bench) == label)


class Feeder:
    """Publishes images in lockstep: the next when the last was answered."""

    def __init__(self, bench, topic='image', kind=Image, masks='segmentation/mask'):
        self.bench = bench
        self.topic = masks
        self.masks = bench.collect(Image, masks, qos.stream(50))
        self.publisher = bench.node.create_publisher(kind, topic, qos.stream(5))
        self.stamp = 1_000

    def connect(self):
        self.bench.spin_until(lambda: self.publisher.get_subscription_count())
        self.bench.spin_until(lambda: self.bench.node.count_publishers(self.topic))
        return self

    def send(self, picture, encoding='rgb8', frame_id='front'):
        self.stamp += 1_000_000_000
        self.publisher.publish(image_message(picture, encoding, header(self.stamp, frame_id)))
        return self.stamp

    def ask(self, picture, **more):
        before = len(self.masks)
        self.send(picture, **more)
        self.bench.spin_until(lambda: len(self.masks) > before)
        return self.masks[-1]


def expected_mask(bundles, name, picture):
    bundle = find_bundle(name, bundles)
    engine = load_engine(bundle, 'onnxruntime', threads=1)
    small = resize_image(picture, bundle.spec.input.height, bundle.spec.input.width)
    mask = engine.infer(np.ascontiguousarray(small)[None])['mask'][0]
    engine.close()
    return mask


def pixels(message):
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)


def adds_up(counters):
    return counters['received'] == sum(counters[c] for c in COUNTERS if c != 'received')


def test_every_transition(bench, options):
    with bench.running(PerceptionNode, autostart=False, **options):
        assert state(bench) == 'unconfigured'
        for _ in range(2):
            for transition, label in ((Transition.TRANSITION_CONFIGURE, 'inactive'),
                                      (Transition.TRANSITION_ACTIVATE, 'active'),
                                      (Transition.TRANSITION_DEACTIVATE, 'inactive'),
                                      (Transition.TRANSITION_CLEANUP, 'unconfigured')):
                assert change(bench, transition)
                assert state(bench) == label
        assert not bench.node.count_subscribers('/image')
        assert change(bench, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
        assert state(bench) == 'finalized'


@pytest.mark.parametrize('deepest', ['inactive', 'active'])
def test_shutdown_from_other_states(bench, options, deepest):
    with bench.running(PerceptionNode, autostart=False, **options):
        assert change(bench, Transition.TRANSITION_CONFIGURE)
        last = Transition.TRANSITION_INACTIVE_SHUTDOWN
        if deepest == 'active':
            assert change(bench, Transition.TRANSITION_ACTIVATE)
            last = Transition.TRANSITION_ACTIVE_SHUTDOWN
        assert change(bench, last)
        assert state(bench) == 'finalized'


def test_failed_configure_says_why_and_can_be_mended(bench, options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, **{**options, 'model': 'three'}):
        entry = bench.spin_until(lambda: next(
            (m.status[0] for m in found if m.status[0].level == b'\x02'), None))
        assert "no model named 'three'" in entry.message
        assert 'one, two' in entry.message
        assert state(bench) == 'unconfigured'
        assert bench.set_parameters(NAME, model='one')[0].successful
        assert change(bench, Transition.TRANSITION_CONFIGURE)
        assert change(bench, Transition.TRANSITION_ACTIVATE)
        bench.spin_until(lambda: found[-1].status[0].message != entry.message)
        assert values_of(found[-1].status[0])['model'] == 'one'


def test_mask_is_the_engines_and_keeps_the_header(bench, options, bundles, picture):
    confidences = bench.collect(Image, 'segmentation/confidence', qos.stream(10))
    timings = bench.collect(DiagnosticArray, 'perception/timing', qos.stream(10))
    infos = bench.collect(LabelInfo, 'segmentation/label_info', qos.latched())
    models = bench.collect(String, 'perception/active_model', qos.latched())
    with bench.running(PerceptionNode, **options):
        feeder = Feeder(bench).connect()
        message = feeder.ask(picture, frame_id='front_left')
        assert stamp_to_ns(message.header.stamp) == feeder.stamp
        assert message.header.frame_id == 'front_left'
        assert message.encoding == 'mono8'
        assert message.step == message.width == picture.shape[1]
        small = expected_mask(bundles, 'one', picture)
        rows = (np.arange(120) + 0.5) * small.shape[0] / 120
        columns = (np.arange(160) + 0.5) * small.shape[1] / 160
        nearest = small[rows.astype(int)][:, columns.astype(int)]
        assert np.array_equal(pixels(message), nearest)
        bench.spin_until(lambda: confidences and timings and infos and models)
        assert confidences[0].header == timings[0].header == message.header
        timing = parse_timing(timings[0])
        assert timing.model_hash == find_bundle('one', bundles).hash
        parts = (timing.wait_ms + timing.decode_ms + timing.preprocess_ms + timing.inference_ms
                 + timing.postprocess_ms + timing.publish_ms)
        assert 0 < parts <= timing.total_ms + 1e-3
        assert label_info_names(infos[0]) == find_bundle('one', bundles).spec.classes.names
        described = json.loads(models[0].data)
        assert described['engine'] == 'onnxruntime'
        assert described['precision'] == 'fp32'
        assert described['parameters'] > 1000


def test_colour_order_does_not_matter(bench, options, picture):
    with bench.running(PerceptionNode, **options):
        feeder = Feeder(bench).connect()
        rgb = feeder.ask(picture)
        bgr = feeder.ask(np.ascontiguousarray(picture[..., ::-1]), encoding='bgr8')
        assert rgb.data == bgr.data
        # As CARLA's ROS bridge and native ROS 2 publish, with best effort.
        bgra = image_message(np.ascontiguousarray(picture[..., ::-1]), 'bgr8',
                             header(5_000_000_000, 'ego_vehicle/rgb_front'))
        bgra.encoding, bgra.step = 'bgra8', 4 * picture.shape[1]
        opaque = np.full(picture.shape[:2], 255, np.uint8)
        bgra.data = array.array('B', np.dstack([picture[..., ::-1], opaque]).tobytes())
        before = len(feeder.masks)
        feeder.publisher.publish(bgra)
        bench.spin_until(lambda: len(feeder.masks) > before)
        assert feeder.masks[-1].data == rgb.data
        assert feeder.masks[-1].header == bgra.header


def test_compressed_images(bench, options, picture):
    with bench.running(PerceptionNode, image_transport='compressed', **options):
        feeder = Feeder(bench, 'image/compressed', CompressedImage).connect()
        for stamp, (data, kind) in enumerate(((encode_png(picture), 'png'),
                                              (encode_jpeg(picture), 'jpeg'))):
            feeder.publisher.publish(CompressedImage(header=header(stamp, 'c'), format=kind,
                                                     data=data))
            bench.spin_until(lambda n=stamp: len(feeder.masks) > n)
            assert feeder.masks[-1].header == header(stamp, 'c')
            assert (feeder.masks[-1].height, feeder.masks[-1].width) == picture.shape[:2]


def test_bad_images_count_as_failed_and_the_node_lives(bench, options, picture):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, **options) as node:
        feeder = Feeder(bench).connect()
        feeder.ask(picture)
        short = image_message(picture, 'rgb8', header(1, 'c'))
        short.height += 7
        strange = image_message(picture, 'rgb8', header(2, 'c'))
        strange.encoding = '32FC1'  # depth
        empty = Image(header=header(3, 'c'), encoding='rgb8')
        for n, broken in enumerate((short, strange, empty)):
            feeder.publisher.publish(broken)
            bench.spin_until(lambda n=n: node.counters()['failed'] == n + 1)
        feeder.ask(picture)
        assert len(feeder.masks) == 2
        bench.spin_until(lambda: node.counters()['in_flight'] == 0)
        counters = node.counters()
        assert counters['received'] == 5
        assert counters['published'] == 2
        assert adds_up(counters)
        entry = bench.spin_until(lambda: next(
            (m.status[0] for m in found if m.status[0].level == b'\x01'), None))
        assert 'frames fail' in entry.message


def test_counters_are_exact_when_flooded(bench, options, picture):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    large = np.ascontiguousarray(np.tile(picture, (4, 4, 1)))
    with bench.running(PerceptionNode, **options) as node:
        feeder = Feeder(bench).connect()
        for _ in range(40):
            feeder.send(large)
            assert adds_up(node.counters())
        bench.spin_until(lambda: node.counters()['in_flight'] == 0)
        bench.spin_for(0.3)
        counters = node.counters()
        assert adds_up(counters)
        assert counters['published'] == len(feeder.masks)
        last = feeder.stamp
        bench.spin_until(lambda: stamp_to_ns(feeder.masks[-1].header.stamp) == last, 5.0)
        # The node says the same of itself, in numbers that add up.
        bench.spin_until(lambda: found and int(
            values_of(found[-1].status[0])['received']) == counters['received'])
        said = {c: int(values_of(found[-1].status[0])[c]) for c in COUNTERS}
        assert said == counters


def test_inactive_frames_are_counted(bench, options, picture):
    with bench.running(PerceptionNode, autostart=False, **options) as node:
        assert change(bench, Transition.TRANSITION_CONFIGURE)
        feeder = Feeder(bench).connect()
        feeder.send(picture)
        bench.spin_until(lambda: node.counters()['inactive'] == 1)
        assert change(bench, Transition.TRANSITION_ACTIVATE)
        feeder.ask(picture)
        assert change(bench, Transition.TRANSITION_DEACTIVATE)
        feeder.send(picture)
        bench.spin_until(lambda: node.counters()['inactive'] == 2)
        assert adds_up(node.counters())
        assert len(feeder.masks) == 1


def test_old_frames_are_stale(bench, options, picture):
    with bench.running(PerceptionNode, max_age_ms=3000.0, **options) as node:
        feeder = Feeder(bench).connect()
        # A stamp from another clock says nothing about the age: the frame is fresh.
        feeder.ask(picture)
        feeder.stamp = node.get_clock().now().nanoseconds - 6_000_000_000
        feeder.send(picture)
        bench.spin_until(lambda: node.counters()['stale'] == 1)
        # Nor is a frame fresh because it is very late.
        for number, seconds in enumerate((13, 1800)):
            feeder.stamp = node.get_clock().now().nanoseconds - seconds * 1_000_000_000
            feeder.send(picture)
            bench.spin_until(lambda n=number: node.counters()['stale'] == n + 2)
        feeder.stamp = node.get_clock().now().nanoseconds - 1_000_000_000
        feeder.ask(picture)
        bench.spin_until(lambda: node.counters()['published'] == 2)
        assert bench.set_parameters(NAME, max_age_ms=0.0)[0].successful
        feeder.stamp = node.get_clock().now().nanoseconds - 6_000_000_000
        feeder.ask(picture)


@pytest.mark.parametrize(('name', 'value', 'reason'), [
    ('confidence_threshold', 1.5, 'confidence_threshold'),
    ('engine', 'magic', "engine: 'magic' is not one of"),
    ('precision', 'fp8', "precision: 'fp8' is not one of"),
    ('threads', -1, 'threads'),
    ('cameras', ['x'], 'only while the node is unconfigured'),
    ('image_transport', 'compressed', 'only while the node is unconfigured'),
    ('model', 'three', "no model named 'three'"),
    ('model', '', 'no model is set'),
    ('threads', 'many', 'Wrong parameter type'),
])
def test_bad_parameters_are_refused_with_the_reason(bench, options, name, value, reason):
    with bench.running(PerceptionNode, **options):
        await_state(bench, 'active')
        before = bench.get_parameter(NAME, name)
        result = bench.set_parameters(NAME, **{name: value})[0]
        assert not result.successful
        assert reason in result.reason
        assert bench.get_parameter(NAME, name) == before


def test_threshold_and_sizes_change_between_frames(bench, options, picture):
    with bench.running(PerceptionNode, **options):
        feeder = Feeder(bench).connect()
        infos = bench.collect(CameraInfo, 'segmentation/camera_info', qos.stream())
        lens = bench.node.create_publisher(CameraInfo, 'camera_info', qos.stream())
        bench.spin_until(lambda: lens.get_subscription_count())
        lens.publish(camera_info_message(160, 120, 100., 100., 80., 60., header(0, 'c')))
        assert 255 not in pixels(feeder.ask(picture))
        assert bench.set_parameters(NAME, confidence_threshold=1.0)[0].successful
        assert (pixels(feeder.ask(picture)) == 255).mean() > 0.9
        bench.spin_until(lambda: infos and infos[-1].header == feeder.masks[-1].header)
        assert (infos[-1].width, infos[-1].k[0]) == (160, 100.)
        assert bench.set_parameters(NAME, output_size='network')[0].successful
        small = feeder.ask(picture)
        assert (small.height, small.width) == (64, 96)
        bench.spin_until(lambda: infos[-1].header == small.header)
        assert (infos[-1].height, infos[-1].width) == (64, 96)
        assert infos[-1].k[0] == pytest.approx(100 * 96 / 160)


def test_overlay_only_while_somebody_looks(bench, options, picture):
    with bench.running(PerceptionNode, **options):
        feeder = Feeder(bench).connect()
        feeder.ask(picture)
        overlays = bench.collect(Image, 'overlay', qos.stream())
        bench.spin_until(lambda: bench.node.count_publishers('overlay'))
        bench.spin_until(lambda: feeder.ask(picture) and overlays)
        assert overlays[-1].encoding == 'rgb8'
        assert (overlays[-1].height, overlays[-1].width) == picture.shape[:2]
        shown = np.frombuffer(overlays[-1].data, np.uint8)
        assert not np.array_equal(shown, picture.ravel())


def test_nothing_is_made_for_nobody(bench, options, picture, monkeypatch):
    with bench.running(PerceptionNode, **options) as node:
        feeder = Feeder(bench).connect()
        made = []
        for name, publisher in (('confidence', node._topics['']._confidence),
                                ('timing', node._timing)):
            monkeypatch.setattr(publisher, 'publish', lambda message, n=name: made.append(n))
        feeder.ask(picture)
        feeder.ask(picture)
        assert made == []
        bench.collect(Image, 'segmentation/confidence', 10)
        bench.collect(DiagnosticArray, 'perception/timing', 10)
        bench.spin_until(lambda: feeder.ask(picture) and {'confidence', 'timing'} <= set(made))


def test_cameras_have_their_own_topics(bench, options, picture):
    with bench.running(PerceptionNode, cameras=('front', 'left'), **options) as node:
        feeders = {c: Feeder(bench, f'{c}/image', masks=f'{c}/segmentation/mask')
                   for c in ('front', 'left')}
        for camera, feeder in feeders.items():
            feeder.connect()
            assert feeder.ask(picture, frame_id=camera).header.frame_id == camera
        # A frame counts when its publishing has returned, which the mask may overtake.
        bench.spin_until(lambda: node.counters()['published'] == 2)


def test_silence_is_explained(bench, options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, reliability='reliable', **options):
        def said(words):
            return lambda: any(words in m.status[0].message for m in found)

        bench.spin_until(said('no publisher on /image'))
        loose = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        bench.node.create_publisher(Image, 'image', loose)
        bench.spin_until(said('QoS mismatch on /image: /observer'))


def test_wrong_type_is_explained(bench, other_bench, options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    # A participant knows one type per topic, so the publisher must live in another one.
    other_bench.node.create_publisher(String, 'image', 1)
    with bench.running(PerceptionNode, **options):
        bench.spin_until(lambda: any('carries std_msgs/msg/String' in m.status[0].message
                                     for m in found))


def test_paused_publisher_is_explained(bench, options):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    with bench.running(PerceptionNode, **options):
        bench.node.create_publisher(Image, 'image', 1)
        bench.spin_until(lambda: any('FASTRTPS_DEFAULT_PROFILES_FILE' in m.status[0].message
                                     for m in found))


def lose_some(feeder, picture):
    for step in [1, 1, 2, 1, 1, 3, 1, 1, 1, 2, 1, 1, 1]:
        feeder.stamp += (step - 1) * 1_000_000_000
        feeder.ask(picture)


def image_subscription(node):
    return next(s for s in node.subscriptions if s.topic_name == '/image')


def test_reliable_when_frames_get_lost_and_back(bench, options, picture):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    depth = {'qos_overrides./image.subscription.depth': 3}
    with bench.running(PerceptionNode, **options, **depth) as node:
        def said(kind):
            return lambda: found and values_of(found[-1].status[0]).get('reliability') == kind

        def answered():
            before = len(feeder.masks)
            feeder.send(picture)  # the new subscription may not be matched at first
            bench.spin_for(0.2)
            return len(feeder.masks) > before

        feeder = Feeder(bench).connect()
        lose_some(feeder, picture)
        bench.spin_until(said('reliable'))
        assert image_subscription(node).qos_profile.depth == 3
        bench.spin_until(answered)
        # The camera starts again and offers less: it must still be heard.
        bench.node.destroy_publisher(feeder.publisher)
        loose = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        feeder.publisher = bench.node.create_publisher(Image, 'image', loose)
        bench.spin_until(said('best_effort'))
        bench.spin_until(answered)
        assert image_subscription(node).qos_profile.depth == 3


@pytest.mark.parametrize('kind', ['reliable', 'best_effort'])
def test_quality_of_service_overrides_win(bench, options, picture, kind):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    override = {'qos_overrides./image.subscription.reliability': kind}
    with bench.running(PerceptionNode, **options, **override):
        feeder = Feeder(bench).connect()
        lose_some(feeder, picture)
        count = len(found)
        bench.spin_until(lambda: len(found) > count + 2)
        assert values_of(found[-1].status[0])['reliability'] == kind
        feeder.ask(picture)


def test_swap_under_load_loses_no_frame(bench, options, bundles, picture):
    models = bench.collect(String, 'perception/active_model', qos.latched())
    timings = bench.collect(DiagnosticArray, 'perception/timing', qos.stream(200))
    with bench.running(PerceptionNode, **options) as node:
        feeder = Feeder(bench).connect()
        bench.spin_until(lambda: models)
        sent = 0
        for wanted in ('two', 'one', 'two'):
            assert bench.set_parameters(NAME, model=wanted)[0].successful
            asked = 0
            while json.loads(models[-1].data)['name'] != wanted or asked < 5:
                feeder.ask(picture)
                asked += 1
                assert asked < 2000
            sent += asked
            small = expected_mask(bundles, wanted, picture)
            assert set(np.unique(pixels(feeder.ask(picture)))) <= set(np.unique(small))
            sent += 1
        assert len(feeder.masks) == sent
        # A mask may be here before its frame is counted.
        bench.spin_until(lambda: node.counters()['published'] == sent)
        counters = node.counters()
        assert counters['received'] == sent
        hashes = {n: find_bundle(n, bundles).hash for n in ('one', 'two')}
        bench.spin_until(lambda: len(timings) == sent)
        served = [parse_timing(t).model_hash for t in timings]
        changes = [a != b for a, b in zip(served, served[1:])]
        assert sum(changes) == 3
        assert served[0] == hashes['one']
        assert served[-1] == hashes['two']
        assert bench.get_parameter(NAME, 'model') == 'two'


def test_failed_swap_restores_the_parameter_and_says_why(bench, options, bundles, picture,
                                                         tmp_path):
    found = bench.collect(DiagnosticArray, '/diagnostics', 10)
    broken = tmp_path / 'broken'
    shutil.copytree(bundles / 'two', broken)
    with bench.running(PerceptionNode, **options):
        feeder = Feeder(bench).connect()
        feeder.ask(picture)
        # A file that is cut short is seen at once.
        content = bytearray((broken / 'deploy.onnx').read_bytes())
        (broken / 'deploy.onnx').write_bytes(bytes(content[:-1]))
        result = bench.set_parameters(NAME, model=str(broken))[0]
        assert not result.successful
        assert 'deploy.onnx' in result.reason
        assert bench.get_parameter(NAME, 'model') == 'one'
        # A flipped byte is seen when the engine's file is read, and taken back.
        content = bytearray((bundles / 'two' / 'deploy.onnx').read_bytes())
        content[len(content) // 2] ^= 1
        (broken / 'deploy.onnx').write_bytes(bytes(content))
        assert bench.set_parameters(NAME, model=str(broken))[0].successful
        bench.spin_until(lambda: bench.get_parameter(NAME, 'model') == 'one')
        bench.spin_until(lambda: any(
            'was not taken' in m.status[0].message and 'deploy.onnx' in m.status[0].message
            and 'content differs' in m.status[0].message for m in found))
        assert values_of(found[-1].status[0])['model'] == 'one'
        # It is told, but the model that serves is well.
        assert found[-1].status[0].level == b'\x01'
        # What can never be is refused at once.
        for name, value, words in (('engine', 'tensorrt', 'tensorrt is missing: pip install'),
                                   ('device', 'banana', 'no engine has a device')):
            result = bench.set_parameters(NAME, **{name: value})[0]
            assert not result.successful
            assert words in result.reason
        # What only the runtime can know comes later, and is taken back.
        assert bench.set_parameters(NAME, precision='fp16')[0].successful
        bench.spin_until(lambda: bench.get_parameter(NAME, 'precision') == 'auto')
        bench.spin_until(lambda: any('was not taken' in m.status[0].message
                                     and 'fp16' in m.status[0].message for m in found))
        feeder.ask(picture)
        # The next good model clears the complaint.
        assert bench.set_parameters(NAME, model='two')[0].successful
        bench.spin_until(lambda: feeder.ask(picture) and values_of(
            found[-1].status[0])['model'] == 'two' and found[-1].status[0].level == b'\x00')

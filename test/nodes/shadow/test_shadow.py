"""The shadow node over real DDS: against a student that the test plays, and against a real one."""

import json
import re
import signal
import threading

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import psutil
import pytest
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from vision_msgs.msg import LabelInfo, VisionClass

from kd_perception.bags.mined import read_scores
from kd_perception.bags.reader import BagReader
from kd_perception.bags.source import open_source
from kd_perception.bundle import load_bundle, STATISTICS, write_bundle
from kd_perception.classes import load_class_set
from kd_perception.engines.loader import load_engine
from kd_perception.errors import KdPerceptionError
from kd_perception.nodes import qos
from kd_perception.nodes.bringup.graph import camera_node, NodeSpec, perception_node, RunGraph
from kd_perception.nodes.bringup.runner import check, started
from kd_perception.nodes.conversion import (
    header,
    image_message,
    label_info_message,
    stamp_to_ns,
    status,
    statuses,
    values_of,
)
from kd_perception.nodes.shadow import frames as shadow_frames
from kd_perception.nodes.shadow import teacher as shadow_teacher
from kd_perception.nodes.shadow.frames import REASONS
from kd_perception.nodes.shadow.node import ShadowNode
from kd_perception.paths import share_directory
from kd_perception.tasks.familiarity import picture_features, summarize
from kd_perception.tasks.placement import fit, place
from kd_perception.tasks.segmentation import decode

CLASSES = load_class_set('driving')


@pytest.fixture
def options(bundles, tmp_path):
    return {'models_dir': str(bundles), 'model': 'two', 'engine': 'onnxruntime', 'nice': 0,
            'max_rate_hz': 200.0, 'cpu_budget': 100.0, 'load_limit': 1.0,
            'student_slowdown': 1e6, 'out_dir': str(tmp_path / 'kept')}


class Student:
    """A camera and a student that answers it, both played by the test."""

    def __init__(self, bench):
        self.bench, self.stamp = bench, 1_000_000_000
        make = bench.node.create_publisher
        self.images = make(Image, 'image', qos.stream(10))
        self.infos = make(CameraInfo, 'camera_info', qos.stream(10))
        self.masks = make(Image, 'segmentation/mask', qos.stream(10))
        self.confidences = make(Image, 'segmentation/confidence', qos.stream(10))
        self.label_info = make(LabelInfo, 'segmentation/label_info', qos.latched())
        self.diagnostics = make(DiagnosticArray, '/diagnostics', qos.stream(10))
        self.told = bench.collect(DiagnosticArray, 'shadow/disagreement', qos.stream(100))
        self._seen = bench.collect(DiagnosticArray, '/diagnostics', qos.stream(100))
        self.draws = np.random.default_rng(0)

    def status(self):
        """Return the newest status of the shadow, or nothing."""
        own = [m.status[0] for m in self._seen if m.status[0].name == '/shadow: shadow']
        return values_of(own[-1]) | {'message': own[-1].message} if own else {}

    def ready(self):
        """Wait until the shadow hears us and knows the classes and the confidence topic."""
        self.label_info.publish(label_info_message(CLASSES, header(0, '')))
        for end in (self.images, self.masks, self.confidences, self.diagnostics):
            self.bench.spin_until(end.get_subscription_count)
        self.bench.spin_until(lambda: self.status().get('classes') == 'driving')

    def picture(self):
        """Return a picture like no other."""
        blocks = self.draws.integers(0, 256, (6, 8, 3)).astype(np.uint8)
        return np.kron(blocks, np.ones((8, 8, 1), np.uint8))

    def frame(self, mask, confidence=200, *, answer=True, picture=None, encoding='rgb8'):
        """Publish a picture and the answer."""
        self.stamp += 50_000_000
        head = header(self.stamp, 'front')
        picture = self.picture() if picture is None else picture
        message = image_message(picture, 'rgb8', head)
        message.encoding = encoding
        self.images.publish(message)
        self.infos.publish(CameraInfo(header=head, width=64, height=48))
        if answer:
            plane = np.full((48, 64), mask, np.uint8) if np.isscalar(mask) else mask
            self.masks.publish(image_message(plane, 'mono8', head))
            self.confidences.publish(image_message(
                np.full((48, 64), confidence, np.uint8), 'mono8', head))

    def ask(self, mask, confidence=200, picture=None):
        """Publish, and return what the shadow says of it."""
        before = len(self.told)
        self.frame(mask, confidence, picture=picture)
        self.bench.spin_until(lambda: len(self.told) > before)
        return values_of(self.told[-1].status[0])


def settled(node):
    """Return the counters when nothing is in flight; they must add up."""
    counts = node.counters()
    assert counts['received'] == (counts['compared'] + counts['skipped'] + counts['failed']
                                  + counts['in_flight'])
    assert counts['skipped'] == sum(counts[f'skipped_{r}'] for r in REASONS)
    return counts if not counts['in_flight'] else {}


def test_scores_are_those_of_the_masks_and_the_worst_frames_are_kept(bench, bundles, options,
                                                                     tmp_path):
    options |= {'context': 1, 'share': 0.2, 'keep_for': ('disagreement',)}
    bundle = load_bundle(bundles / 'two')
    engine = load_engine(bundle, 'onnxruntime', threads=1)
    with bench.running(ShadowNode, **options) as node:
        student = Student(bench)
        student.ready()
        for number in range(60):
            picture = student.picture()
            where = place(picture.shape[:2], bundle.spec.input)
            mask = decode(engine.infer(fit(picture, bundle.spec.input)[None]), placement=where,
                          output_size=picture.shape[:2]).mask
            answer = mask.copy()                      # wrong on a half now and then
            wrong = 24 if number % 12 == 11 else number % 5
            answer[:wrong] = (mask[:wrong] + 1) % len(CLASSES)
            told = student.ask(answer, 100 if number == 3 else 200, picture)
            assert float(told['disagreement']) == pytest.approx(wrong / 48, abs=1e-5)
            assert told['low_confidence'] == ('1' if number == 3 else '0')
            assert told['teacher_hash'] == bundle.hash
        bench.spin_until(lambda: settled(node))
        counts = node.counters()
        assert (counts['received'], counts['compared']) == (60, 60)
    engine.close()
    told = [values_of(m.status[0]) for m in student.told]
    kept = {stamp_to_ns(m.header.stamp) for m, t in zip(student.told, told)
            if t['kept'] == 'True'}
    assert kept
    path, = (tmp_path / 'kept').iterdir()
    assert path.name.startswith('mined_')
    source = open_source(path)
    assert not source.has_labels
    stamps = [f.stamp_ns for f in source]
    assert len(stamps) <= 0.2 * 60
    assert stamps == sorted(set(stamps))
    assert kept <= set(stamps)
    with BagReader(path) as reader:
        topics = {t.name: t.count for t in reader.topics}
        assert topics['/image'] == topics['/shadow/disagreement'] == len(stamps)
        assert topics['/shadow/segmentation/mask'] == topics['/camera_info'] == len(stamps)
        reasons = [read_scores(reader.index('/shadow/disagreement').raw(i)[0])[1]['reason']
                   for i in range(len(stamps))]
        assert reader.metadata.custom['teacher'] == bundle.hash
    assert reasons.count('disagreement') == len(kept)
    assert set(reasons) == {'disagreement', 'context'}


def test_frames_that_cannot_be_compared_are_counted_with_their_reason(bench, options,
                                                                      monkeypatch):
    options |= {'out_dir': '', 'image_transport': 'raw'}
    with bench.running(ShadowNode, **options) as node:
        student = Student(bench)
        for end in (student.images, student.masks, student.confidences):
            bench.spin_until(end.get_subscription_count)
        student.frame(0)                              # before the classes are known
        bench.spin_until(lambda: node.counters()['skipped_unknown_classes'] == 1)
        assert bench.spin_until(lambda: 'no student' in student.status().get('message', ''))
        student.ready()
        student.frame(0, answer=False)
        student.ask(0)
        student.frame(0, encoding='secret')
        bench.spin_until(lambda: node.counters()['failed'] == 1)
        monkeypatch.setattr(shadow_frames, '_PATIENCE_NS', 0)
        bench.spin_until(lambda: settled(node))
        assert node.counters()['skipped_unanswered'] == 1
        assert node.counters()['compared'] == 1
        assert 'secret' in bench.spin_until(
            lambda: (m := student.status()['message']).startswith('frames fail') and m)


def active(bench, hash_):
    message = String(data=json.dumps({'name': hash_, 'hash': hash_, 'path': '/nowhere'}))
    publisher = bench.node.create_publisher(String, 'perception/active_model', qos.latched())
    publisher.publish(message)
    return publisher


def test_a_student_that_is_cleaned_up_is_no_student(bench, options):
    with bench.running(ShadowNode, **options | {'out_dir': ''}) as node:
        publisher = active(bench, 'one')
        bench.spin_until(lambda: node._student.get('hash') == 'one')
        publisher.publish(String(data=json.dumps(
            {'schema_version': 1, 'model': '', 'name': '', 'hash': '', 'exchange': 1})))
        bench.spin_until(lambda: not node._student)
        assert node._teacher.student_hash == ''


def test_answers_stay_with_the_student_that_gave_them(bench, options, monkeypatch):
    with bench.running(ShadowNode, **options | {'out_dir': ''}) as node:
        student = Student(bench)
        student.ready()
        publisher = active(bench, 'one')
        bench.spin_until(lambda: node._student.get('hash') == 'one')
        compare = node._teacher._compare

        def swapped_meanwhile(*arguments):
            done = compare(*arguments)
            student.label_info.publish(label_info_message(
                load_class_set('camvid'), header(0, '')))
            publisher.publish(String(data=json.dumps(
                {'name': 'two', 'hash': 'two', 'path': '/nowhere'})))
            waited.wait(10.0)
            return done

        waited = threading.Event()
        monkeypatch.setattr(node._teacher, '_compare', swapped_meanwhile)
        before = len(student.told)
        student.frame(0)
        bench.spin_until(lambda: node._student.get('hash') == 'two'
                         and node._student_classes.names[0] == 'sky')
        student.frame(0, answer=False)
        bench.spin_until(lambda: node.counters()['received'] == 2)
        publisher.publish(String(data=json.dumps(
            {'name': 'three', 'hash': 'three', 'path': '/nowhere'})))
        bench.spin_until(lambda: node.counters()['skipped_student_changed'] == 1)
        waited.set()
        bench.spin_until(lambda: len(student.told) > before)
        told = values_of(student.told[-1].status[0])
        assert told['student_hash'] == 'one'
        seen = {key.removeprefix('class/') for key in told if key.startswith('class/')}
        assert seen <= set(CLASSES.names)
        # Classes that cannot be used end the comparing: no scores in those of the one before.
        student.label_info.publish(label_info_message(CLASSES, header(0, '')))
        bench.spin_until(lambda: node._teacher.comparison is not None)
        wrong = LabelInfo(header=header(0, ''))
        for names in ((), ((0, 'road'), (7, 'sky')), ((0, 'road'), (1, 'road'))):
            wrong.class_map = [VisionClass(class_id=i, class_name=n) for i, n in names]
            student.label_info.publish(wrong)
            bench.spin_until(lambda: node._teacher.comparison is None)
            assert bench.spin_until(lambda: 'cannot be used' in student.status()['message'])
            student.label_info.publish(label_info_message(CLASSES, header(0, '')))
            bench.spin_until(lambda: node._teacher.comparison is not None)


def test_a_teacher_that_hangs_does_not_hold_up_the_end(bench, options, monkeypatch):
    monkeypatch.setattr(shadow_teacher, '_END_S', 0.1)
    hung, free = threading.Event(), threading.Event()
    with bench.running(ShadowNode, **options) as node:
        student = Student(bench)
        student.ready()

        def hang(*arguments):
            hung.set()
            free.wait(30.0)
            raise KdPerceptionError('late')

        monkeypatch.setattr(node._teacher, '_compare', hang)
        student.frame(0)
        bench.spin_until(hung.is_set)
        node.close()
        assert node.hangs
        free.set()
        bench.spin_until(lambda: not node.hangs)


def test_a_student_that_loses_frames_makes_the_shadow_back_off(bench, options):
    with bench.running(ShadowNode, **options):
        student = Student(bench)
        student.ready()
        said = {'received': 0, 'overwritten': 0, 'stale': 0}

        def tell(received, lost):
            said['received'] += received
            said['overwritten'] += lost
            student.diagnostics.publish(statuses(header(0, ''), status(
                '/perception: perception', '', said)))

        for _ in range(6):
            tell(30, 3)
        assert student.status()['slowdown'] == '1'
        tell(30, 20)
        seen = bench.spin_until(lambda: student.status()['slowdown'] != '1' and student.status())
        assert seen['slowed_by'].startswith('the student loses 67% of its frames')
        assert seen['slowdown'] == '2'


def test_the_layout_shows_topics_and_keys_that_exist(bench, options):
    text = (share_directory() / 'config' / 'foxglove' / 'shadow.json').read_text()
    layout = json.loads(text)
    with bench.running(ShadowNode, **options | {'out_dir': ''}) as node:
        there = {end.topic_name for end in (*node.publishers, *node.subscriptions)}
        student = Student(bench)
        student.ready()
        known = {*student.ask(0), *student.status()}
    assert set(re.findall(r'"(/[\w/]+)', text)) - {'/shadow'} <= there
    assert set(re.findall(r'key==.?"(\w+)', text.replace('\\"', '"'))) <= known
    placed = re.findall(r'"(\w+!\w+)"', json.dumps(layout['layout']))
    assert sorted(placed) == sorted(layout['configById'])


@pytest.mark.parametrize(('wrong', 'reason'), [
    ({'model': 'nobody'}, 'nobody'), ({'keep_for': ('luck',)}, 'not for luck'),
    ({'out_dir': '/dev/null/x'}, 'out_dir /dev/null/x')])
def test_what_cannot_be_is_one_line_before_anything_starts(bench, options, wrong, reason):
    with pytest.raises(KdPerceptionError, match=reason), \
            bench.running(ShadowNode, **options | wrong):
        pass


@pytest.fixture
def knowing(bundles, tmp_path):
    """Return a copy of the student "one" that knows noise, so that every street is novel to it."""
    draws = np.random.default_rng(0)
    noise = [draws.integers(60, 200, (36, 64, 3)).astype(np.uint8) for _ in range(60)]
    found = summarize(np.array([picture_features(p) for p in noise]), [0] * 60)
    bundle = load_bundle(bundles / 'one')
    return write_bundle(tmp_path / 'knowing', bundle.spec, {
        **{name: bundle.file(name) for name in bundle.files}, STATISTICS: found.to_bytes()})


def test_a_real_student_on_the_street_is_shadowed_and_mined(bench, knowing, options,
                                                            tmp_path):
    pytest.importorskip('moderngl')
    given = options | {'max_rate_hz': 30.0, 'share': 0.1, 'context': 0, 'nice': 3,
                       'near_percent': 0.0}
    graph = RunGraph((
        camera_node(width=96, height=64, rate_hz=20.0, seed=3),
        perception_node(model=str(knowing.path), engine='onnxruntime', threads=1),
        NodeSpec('shadow', 'shadow', '', given),
        # Any load at all is too much for this one.
        NodeSpec('shadow', 'shy', '', given | {'load_limit': 0.0, 'out_dir': ''})))
    told = bench.collect(DiagnosticArray, 'shadow/disagreement', qos.stream(200))
    health = bench.collect(DiagnosticArray, '/diagnostics', qos.stream(200))
    active = bench.collect(String, 'perception/active_model', qos.latched())

    def last(name):
        found = [m.status[0] for m in health if m.status[0].name == f'/{name}: shadow']
        return values_of(found[-1]) if found else {}

    with started(graph, tmp_path / 'log', isolated=False) as children:
        def well():
            check(children)
            return int(last('shadow').get('kept', 0)) >= 3 and float(
                last('shy').get('slowdown', 1)) >= 8

        bench.spin_until(well, 90.0)
        process = psutil.Process(children[2].process.pid)
        assert process.nice() == psutil.Process().nice() + 3
        for child in children[2:]:
            child.process.send_signal(signal.SIGINT)
        for child in children[2:]:
            assert child.process.wait(30.0) == 0
    final = last('shadow')
    assert int(final['received']) == sum(int(final[n]) for n in (
        'compared', 'skipped', 'failed', 'in_flight'))
    assert int(last('shy')['compared']) < int(final['compared'])
    values = values_of(told[-1].status[0])
    assert float(values['novelty']) > 1
    assert values['student_hash'] == knowing.hash == json.loads(active[-1].data)['hash']
    path, = (tmp_path / 'kept').iterdir()
    source = open_source(path)                        # as "distill" would
    assert not source.has_labels
    frames = list(source)
    assert 3 <= len(frames) <= 0.1 * (int(final['received']) + 40)
    assert frames[0].image.shape == (64, 96, 3)

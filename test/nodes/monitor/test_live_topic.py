"""Somebody else's topic as the source of a comparison: real nodes, and a player of its own."""

from array import array
from contextlib import contextmanager, ExitStack
from functools import partial
import itertools
import json
import threading
import time

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from kd_perception.bags.writer import BagWriter
from kd_perception.classes import load_class_set
from kd_perception.cli.live_source import check_topics, choose_topics, LiveTopics
from kd_perception.cli.main import main
from kd_perception.errors import ConfigError, GraphError
from kd_perception.evaluation.comparison_files import load_run, RECORDING
from kd_perception.imaging import encode_jpeg
from kd_perception.nodes import qos
from kd_perception.nodes.bringup.graph import camera_node, RunGraph
from kd_perception.nodes.bringup.runner import started
from kd_perception.nodes.camera.node import CameraNode
from kd_perception.nodes.conversion import header, image_message
from kd_perception.nodes.monitor.live_topic import header_key
from kd_perception.nodes.monitor.node import MonitorNode
from kd_perception.nodes.perception.node import PerceptionNode
from kd_perception.nodes.process import Finished

LIVE = {'source': 'topic', 'scenario': '/image', 'pacing': 'realtime', 'placement': 'concurrent',
        'samples': 2}


@pytest.fixture(scope='module')
def drive(tmp_path_factory):
    """Return a labelled bag of ten pictures."""
    path = tmp_path_factory.mktemp('bag') / 'drive'
    rng = np.random.default_rng(0)
    with BagWriter(path) as writer:
        for n in range(10):
            stamp = 1_000_000_000 + n * 100_000_000
            writer.write_image('camera/image', rng.integers(0, 255, (48, 64, 3), np.uint8), stamp,
                               'front')
            writer.write_labels('camera/labels', np.full((48, 64), n, np.uint8), stamp, 'front')
        writer.write_label_info('camera/labels_info', load_class_set('driving'), 1_000_000_000)
    return path


@contextmanager
def watching(bench, bundles, out, **monitor):
    """Run two arms and a monitor on ``/image``."""
    with ExitStack() as stack:
        remapped = ['--ros-args', '-r', 'image:=/image', '-r', 'image/compressed:=/jpeg']
        transport = monitor.get('image_transport', 'raw')
        for arm, model in zip('ab', ('one', 'two')):
            stack.enter_context(bench.running(
                partial(PerceptionNode, cli_args=remapped), arm, models_dir=str(bundles),
                model=model, threads=1, engine='onnxruntime', warmup_iterations=1,
                image_transport=transport))
        yield stack.enter_context(bench.running(
            partial(MonitorNode, cli_args=remapped), out=str(out), **{
            **LIVE, 'frames': 12, 'warmup': 2, **monitor}))


def finish(bench, monitor):
    bench.spin_until(lambda: not monitor.thread.is_alive(), 60.0)
    return monitor.failure[0]


def test_both_arms_are_held_against_the_truth_of_a_live_camera(bench, bundles, tmp_path, drive):
    out = tmp_path / 'out'
    with watching(bench, bundles, out, truth='required') as monitor, bench.running(
            CameraNode, source='bag', bag=str(drive), rate_hz=10.0, loop=True, stamps='clock'):
        assert isinstance(finish(bench, monitor), Finished)
    run = load_run(out / RECORDING)
    rows = [r for r in run.rows if r.status != 'unknown']
    assert len(run.rows) == len(rows) == 2 * 14
    # A busy machine may overwrite frames: they are lost, and no result is a stray.
    assert {r.status for r in rows} <= {'ok', 'lost'}
    answered = [r for r in rows if r.status == 'ok']
    assert len(answered) >= 8
    assert {r.turn for r in rows} == {-1}
    assert sorted({r.index for r in rows}) == list(range(14))
    # From one time of writing to two results: never before it, and the stages fit in.
    assert all(r.latency_ms > r.stages['inference'] for r in answered)
    measured = [r for r in answered if r.arm == 'a' and r.index >= 2]
    assert all(r.counts for r in measured)
    assert run.confusion['a'].sum() == len(measured) * 48 * 64
    assert all(p.truth is not None for p in run.pictures)
    assert any('wrote the image' in note for note in run.notes)
    assert not run.interrupted


def test_a_topic_that_falls_silent_ends_the_run(bench, bundles, tmp_path, drive):
    out = tmp_path / 'out'
    with watching(bench, bundles, out, frames=1000, timeout_s=1.0) as monitor, bench.running(
            CameraNode, source='bag', bag=str(drive), rate_hz=20.0, loop=True,
            stamps='clock', frames=40):
        assert isinstance(finish(bench, monitor), Finished)
    run = load_run(out / RECORDING)
    assert any('fell silent after' in note for note in run.notes)
    assert run.confusion == {}


def test_a_duration_ends_the_run(bench, bundles, tmp_path, drive):
    out = tmp_path / 'out'
    with watching(bench, bundles, out, frames=0, duration_s=0.7) as monitor, bench.running(
            CameraNode, source='bag', bag=str(drive), rate_hz=20.0, loop=True, stamps='clock'):
        assert isinstance(finish(bench, monitor), Finished)
    run = load_run(out / RECORDING)
    assert run.spec.duration_s == 0.7
    seen = [r.published_ns for r in run.arm_rows('a')]
    assert len(seen) >= 3
    # After the end no frame counts, whatever the arms went on to answer.
    assert {r.status for r in run.rows} <= {'ok', 'lost'}


def test_why_no_image_comes_is_told(bench, bundles, tmp_path):
    with watching(bench, bundles, tmp_path / 'out', start_timeout_s=2.0) as monitor:
        failure = finish(bench, monitor)
    assert isinstance(failure, GraphError)
    assert 'images (no publisher on /image' in str(failure)


def test_labels_that_nobody_publishes_are_told(bench, bundles, tmp_path):
    images = bench.node.create_publisher(Image, '/image', qos.stream())
    picture = image_message(np.full((48, 64, 3), 90, np.uint8), 'rgb8', header(0, ''))
    timer = bench.node.create_timer(0.1, lambda: images.publish(picture))
    with watching(bench, bundles, tmp_path / 'out', start_timeout_s=3.0, truth='required',
                  classes='driving') as monitor:
        failure = finish(bench, monitor)
    timer.cancel()
    assert 'ground truth (nobody publishes /labels)' in str(failure)


@pytest.mark.parametrize('kind', [Image, CompressedImage])
@pytest.mark.parametrize('frame_id', ['', 'camera_front'])
def test_the_header_is_read_without_the_picture(kind, frame_id):
    message = kind(header=header(12_000_000_345, frame_id))
    assert header_key(serialize_message(message)) == (12_000_000_345, frame_id)


def test_another_process_sees_what_this_one_publishes(bench):
    bench.node.create_publisher(CompressedImage, '/cam/image/compressed', qos.stream())
    assert check_topics('cam/image/compressed', '', classes='') == LiveTopics('compressed')


IMAGE, INFO = 'sensor_msgs/msg/Image', 'vision_msgs/msg/LabelInfo'
THERE = {'/cam/image': [IMAGE], '/cam/labels': [IMAGE], '/odom': ['nav_msgs/msg/Odometry']}


@pytest.mark.parametrize(('found', 'topic', 'labels', 'reason'), [
    ({}, '/cam/image', '', 'published: none'),
    (THERE, '/cam/left', '', 'nobody publishes /cam/left; image topics that are published: '
                             '/cam/image, /cam/labels'),
    (THERE, 'odom', '', '/odom carries nav_msgs/msg/Odometry, no images'),
    (THERE, '/cam/image', '/cam/truth', 'nobody publishes /cam/truth'),
    (THERE, '/cam/image', '/odom', 'no label images'),
    (THERE, '/cam/image', '/cam/labels', 'no vision_msgs/msg/LabelInfo on /cam/labels_info or '
                                         '/cam/label_info'),
    ({**THERE, '/ab_comparison/a/overlay': [IMAGE]}, '/cam/image', '', 'another comparison')])
def test_topics_that_do_not_do_are_one_line(found, topic, labels, reason):
    with pytest.raises(ConfigError, match=reason):
        choose_topics(found, topic, labels, classes='')


def test_classes_are_told_by_the_topic_or_by_name():
    known = {**THERE, '/cam/label_info': [INFO]}
    assert choose_topics(known, 'cam/image', 'cam/labels', classes='') == LiveTopics(
        'raw', '/cam/label_info')
    assert choose_topics(THERE, 'cam/image', 'cam/labels', classes='carla') == LiveTopics('raw')


def test_a_bag_that_another_process_plays(ros_environment, bundles, tmp_path, drive, capfd):
    out = tmp_path / 'out'
    # Stamps of the recording go on from round to round.
    player = camera_node(source='bag', bag=str(drive), rate_hz=15.0, loop=True)
    with started(RunGraph((player,)), tmp_path / 'player', isolated=False) as children:
        deadline = time.monotonic() + 60
        while 'frames for' not in children[0].log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert main(['compare', 'one', 'two', '--models-dir', str(bundles), '--engine',
                     'onnxruntime', '--threads', '1', '--topic', '/image', '--label-topic',
                     '/labels', '--frames', '15', '--warmup', '3', '--out', str(out)]) == 0
    report = json.loads((out / 'report.json').read_text())
    assert report['spec']['source'] == 'topic'
    assert report['spec']['scenario'] == '/image'
    for arm in report['arms'].values():
        assert arm['statistics']['published'] == 15
        assert arm['statistics']['status']['unknown'] == 0
        assert arm['accuracy']['n'] == arm['statistics']['status']['ok']
    assert any('the publisher wrote the image' in c for c in report['cautions'])
    assert 'one' in capfd.readouterr().out


@contextmanager
def player(bench, stamps_ns, *, compressed=False):
    """Publish images with these stamps again and again, as a player in a loop does."""
    pixels = np.full((48, 64, 3), 90, np.uint8)
    template = CompressedImage(format='jpeg', data=array('B', encode_jpeg(pixels))) \
        if compressed else image_message(pixels, 'rgb8', header(0, ''))
    images = bench.node.create_publisher(
        type(template), '/jpeg' if compressed else '/image', qos.stream(5))
    given = itertools.cycle(stamps_ns)

    def send():
        template.header = header(next(given), 'front')
        images.publish(template)

    timer = bench.node.create_timer(0.05, send)
    yield
    timer.cancel()


def test_a_recording_in_a_loop_ends_the_run(bench, bundles, tmp_path):
    """Compressed images, to see these too."""
    out = tmp_path / 'out'
    stamps = [(n + 1) * 100_000_000 for n in range(40)]
    with (watching(bench, bundles, out, frames=1000, image_transport='compressed') as monitor,
          player(bench, stamps, compressed=True)):
        assert isinstance(finish(bench, monitor), Finished)
    run = load_run(out / RECORDING)
    assert any('began again with old stamps' in note for note in run.notes)
    assert len({r.stamp_ns for r in run.rows if r.arm == 'a'}) <= 40
    assert all(r.status in ('ok', 'lost', 'duplicate') for r in run.rows)
    shown = [p.image for p in run.pictures if p.image is not None]
    assert all(image.shape == (48, 64, 3) for image in shown)


def test_images_of_one_stamp_are_refused(bench, bundles, tmp_path):
    with watching(bench, bundles, tmp_path / 'out') as monitor, player(bench, [0]):
        failure = finish(bench, monitor)
    assert 'bear the same stamp again and again' in str(failure)


def test_a_class_set_that_does_not_exist_leaves_no_thread(bench):
    with (pytest.raises(ConfigError, match="no classes named 'nowhere'"),
          bench.running(MonitorNode, **LIVE, truth='required', classes='nowhere')):
        pass
    assert 'count pixels' not in {t.name for t in threading.enumerate()}

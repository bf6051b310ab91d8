import json
import subprocess
import sys

import cv2
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import pytest
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger
from vision_msgs.msg import LabelInfo

from kd_perception.bags.source import open_source
from kd_perception.bags.writer import BagWriter
from kd_perception.classes import load_class_set
from kd_perception.errors import KdPerceptionError
from kd_perception.evaluation.joining import Published
from kd_perception.imaging import decode_image, decode_label_image
from kd_perception.nodes import qos
from kd_perception.nodes.camera.node import CameraNode
from kd_perception.nodes.camera.published import parse_published, Skipped
from kd_perception.nodes.camera.source import RecordedPictures
from kd_perception.nodes.conversion import label_info_names, stamp_to_ns

SIZE = {'width': 64, 'height': 48}


def step(bench):
    answer = bench.call(Trigger, '/camera/step', Trigger.Request())
    return json.loads(answer.message), answer.success


def connected_step(bench):
    """Step, waiting for the subscriptions to be matched."""
    found = {}

    def stepped():
        found['answer'], found['success'] = step(bench)
        return 'waiting' not in found['answer']

    bench.spin_until(stepped)
    return found['answer'], found['success']


@pytest.fixture
def bag(tmp_path):
    classes = load_class_set('driving')
    path = tmp_path / 'drive'
    with BagWriter(path) as writer:
        for n in range(6):
            stamp = 1_000_000_000 + n * 100_000_000
            writer.write_image('camera/image', np.full((48, 64, 3), 10 * n, np.uint8), stamp,
                               'front')
            writer.write_labels('camera/labels', np.full((48, 64), n, np.uint8), stamp, 'front')
        writer.write_label_info('camera/labels_info', classes, 1_000_000_000)
    return path


def test_a_bag_is_played_with_its_stamps_and_labels(bench, bag):
    images = bench.collect(Image, 'image', qos.stream(20))
    labels = bench.collect(Image, 'labels', qos.stream(20))
    infos = bench.collect(LabelInfo, 'label_info', qos.latched())
    records = bench.collect(DiagnosticArray, 'camera/published', qos.stream(20))
    with bench.running(CameraNode, source='bag', bag=str(bag), pacing='max', hold=True):
        answer, _ = connected_step(bench)
        assert answer == {'running': True, 'frames': 6, 'notes': [], 'identity': {
            'fingerprint': open_source(bag).fingerprint, 'image_topic': '/camera/image'}}
        bench.spin_until(lambda: len(records) == 7)
        bench.spin_until(lambda: len(images) == len(labels) == 6 and infos)
    assert [stamp_to_ns(m.header.stamp) for m in images] == [
        1_000_000_000 + n * 100_000_000 for n in range(6)]
    assert {m.header.frame_id for m in images} == {'front'}
    assert [int(decode_label_image(m)[0, 0]) for m in labels] == list(range(6))
    assert [m.header for m in labels] == [m.header for m in images]
    assert abs(int(decode_image(images[3]).mean()) - 30) <= 1
    assert label_info_names(infos[0]) == load_class_set('driving').names
    parsed = [parse_published(m) for m in records]
    assert parsed[-1] is None
    times = [r.published_ns for r in parsed[:-1]]
    assert times == sorted(times)
    assert [r.index for r in parsed[:-1]] == list(range(6))


def test_lockstep_serves_arms_in_turns(bench, bag):
    images = {arm: bench.collect(Image, f'{arm}/image', qos.stream(20)) for arm in 'ab'}
    records = bench.collect(DiagnosticArray, 'camera/published', qos.stream(20))
    with bench.running(CameraNode, source='bag', bag=str(bag), pacing='lockstep',
                       placement='turns', arms=('a', 'b'), frames=3):
        served = []
        for _ in range(6):
            answer, success = connected_step(bench)
            assert success
            assert answer['labelled']
            served += answer['served']
        assert [s['index'] for s in served] == [0, 0, 1, 1, 2, 2]
        assert [s['turn'] for s in served] == [0, 1] * 3
        assert all({s['arm'] for s in served[i:i + 2]} == {'a', 'b'} for i in (0, 2, 4))
        answer, success = step(bench)
        assert not success
        assert answer['end']
        bench.spin_until(lambda: len(records) == 7)
        bench.spin_until(lambda: len(images['a']) == len(images['b']) == 3)
    assert [m.header for m in images['a']] == [m.header for m in images['b']]
    assert [parse_published(m).arm for m in records[:-1]] == [s['arm'] for s in served]


def test_nothing_is_served_while_an_arm_does_not_listen(bench, bag):
    bench.collect(Image, 'a/image', qos.stream())
    with bench.running(CameraNode, source='bag', bag=str(bag), pacing='lockstep',
                       arms=('a', 'b')):
        answer, success = step(bench)
        assert not success
        assert 'nobody subscribes' in answer['waiting']


def test_the_street_has_truth_intrinsics_and_clock(bench):
    images = bench.collect(Image, 'image', qos.stream(20))
    labels = bench.collect(Image, 'labels', qos.stream(20))
    instances = bench.collect(Image, 'instances', qos.stream(20))
    samples = bench.collect(Image, 'sample', qos.stream(20))
    lenses = bench.collect(CameraInfo, 'camera_info', qos.stream(20))
    clocks = bench.collect(Clock, '/clock', qos.stream(20))
    with bench.running(CameraNode, pacing='lockstep', frames=3, rate_hz=10.0, samples=1,
                       encoding='bgr8', publish_clock=True, **SIZE):
        for _ in range(3):
            connected_step(bench)
        bench.spin_until(lambda: len(images) == len(labels) == len(lenses) == 3 and samples)
        bench.spin_until(lambda: len(clocks) >= 2 and len(instances) >= 2)
    assert [stamp_to_ns(m.header.stamp) for m in images] == [0, 100_000_000, 200_000_000]
    assert images[0].encoding == 'bgr8'
    assert instances[-1].encoding == 'mono16'
    assert len(np.unique(decode_label_image(labels[0]))) >= 4
    assert samples[0].header == images[1].header
    assert np.array_equal(decode_image(samples[0]), decode_image(images[1]))
    assert lenses[0].k[2] == 32.0


def test_realtime_runs_by_itself_and_stamps_by_the_clock(bench, bag):
    images = bench.collect(Image, 'image', qos.stream(50))
    with bench.running(CameraNode, source='bag', bag=str(bag), rate_hz=100.0, loop=True,
                       stamps='clock') as node:
        bench.spin_until(lambda: len(images) >= 8)
        now = node.get_clock().now().nanoseconds
    stamps = [stamp_to_ns(m.header.stamp) for m in images]
    assert stamps == sorted(set(stamps))
    assert 0 <= now - stamps[-1] < 10_000_000_000


def test_a_second_clock_is_refused(bench):
    bench.node.create_publisher(Clock, '/clock', 1)
    with (pytest.raises(KdPerceptionError, match='publishes /clock already'),
          bench.running(CameraNode, publish_clock=True, **SIZE)):
        pass


def test_a_clock_of_another_process_is_refused(bench, ros_environment):
    """A new participant sees an empty graph at first."""
    bench.node.create_publisher(Clock, '/clock', 1)
    done = subprocess.run(
        [sys.executable, '-m', 'kd_perception.nodes.camera.node', '--ros-args', '-p',
         'publish_clock:=true', '-p', 'width:=64', '-p', 'height:=48'], capture_output=True,
        text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert 'somebody else publishes /clock already' in done.stderr


def test_a_clock_that_comes_before_the_first_frame_is_refused(bench, bag):
    bench.collect(Image, 'image', qos.stream(20))
    with bench.running(CameraNode, source='bag', bag=str(bag), pacing='lockstep',
                       publish_clock=True) as node:
        bench.spin_until(lambda: bench.node.count_publishers('image'))
        bench.node.create_publisher(Clock, '/clock', 1)
        client = bench.node.create_client(Trigger, '/camera/step')
        bench.spin_until(client.service_is_ready)
        while not node.failure:
            future = client.call_async(Trigger.Request())
            bench.spin_until(lambda f=future: f.done() or node.failure)
            assert not future.done() or 'waiting' in future.result().message
    assert 'publishes /clock already' in str(node.failure[0])


def write_labelled(path, labels):
    with BagWriter(path) as writer:
        for n, ids in enumerate(labels):
            stamp = 1_000_000_000 + n * 100_000_000
            writer.write_image('camera/image', np.zeros((48, 64, 3), np.uint8), stamp, 'front')
            writer.write_labels('camera/labels', ids, stamp, 'front')
        writer.write_label_info('camera/labels_info', load_class_set('driving'), 1_000_000_000)
    return path


@pytest.mark.parametrize(('wrong', 'reason'), [
    (np.full((48, 64), 77, np.uint8), 'labels hold ids'),
    (np.zeros((24, 32), np.uint8), 'labels must have the size of their image')])
def test_labels_that_do_not_fit_end_the_camera(bench, tmp_path, wrong, reason):
    good = np.zeros((48, 64), np.uint8)
    path = write_labelled(tmp_path / 'bag', [good, wrong, good])
    images = bench.collect(Image, 'image', qos.stream(20))
    with bench.running(CameraNode, source='bag', bag=str(path), pacing='max') as node:
        bench.spin_until(lambda: not node.thread.is_alive())
    assert isinstance(node.failure[0], KdPerceptionError)
    assert reason in str(node.failure[0])
    assert len(images) <= 1


def test_frames_that_cannot_be_decoded_are_skipped_and_told(bench, tmp_path):
    clip = tmp_path / 'clip'
    clip.mkdir()
    for n in range(4):
        cv2.imwrite(str(clip / f'{n}.png'), np.zeros((48, 64, 3), np.uint8))
    (clip / '1.png').write_bytes(b'no picture')
    bench.collect(Image, 'image', qos.stream(20))
    records = bench.collect(DiagnosticArray, 'camera/published', qos.stream(20))
    with bench.running(CameraNode, source='bag', bag=str(clip), pacing='max', hold=True):
        connected_step(bench)
        bench.spin_until(lambda: records and parse_published(records[-1]) is None)
    parsed = [parse_published(m) for m in records]
    assert Skipped(1) in parsed
    assert [r.index for r in parsed if isinstance(r, Published)] == [0, 2, 3]


@pytest.mark.parametrize(('stamps', 'log_ns'), [
    ([0, 0, 0, 0], [10, 20, 30, 40]),      # a driver without a clock
    ([5, 6, 6, 7], [10, 20, 20, 30]),      # messages that were recorded at once
    ([5, 0, 6, 7], [10, 20, 30, 40])])
def test_frames_of_a_bag_without_good_stamps_are_told_apart(tmp_path, stamps, log_ns):
    with BagWriter(tmp_path / 'bag') as writer:
        for n, (stamp, log) in enumerate(zip(stamps, log_ns)):
            writer.write_image('camera/image', np.full((48, 64, 3), 10 * n, np.uint8), stamp,
                               'front', log_ns=log)
    source = RecordedPictures(str(tmp_path / 'bag'), frame_id='')
    order = [0, 1, 2, 3, 1, 3, 2, 0]
    given = [source.picture(i).stamp_ns for i in order]
    source.close()
    assert len(set(given)) == 4
    assert given == [given[i] for i in order]
    assert all(log <= stamp <= log + 1 for stamp, log in zip(given, log_ns))
    assert 'zero or repeat' in source.notes[0]


def test_good_stamps_are_kept(bag):
    source = RecordedPictures(str(bag), frame_id='')
    assert [source.picture(i).stamp_ns for i in range(6)] == [
        1_000_000_000 + n * 100_000_000 for n in range(6)]
    assert source.notes == ()
    source.close()


def test_a_recording_that_is_not_there_is_one_line(bench, tmp_path):
    for name, reason in ((str(tmp_path / 'none'), 'no such file'), ('', 'needs the parameter')):
        with (pytest.raises(KdPerceptionError, match=reason),
              bench.running(CameraNode, source='bag', bag=name)):
            pass


def test_a_recording_keeps_its_own_time(bench, tmp_path):
    """Played twice as fast, twice; the gaps between publish calls are those of the recording."""
    path = tmp_path / 'uneven'
    with BagWriter(path) as writer:
        for stamp in (0.0, 0.2, 0.3):
            writer.write_image('camera/image', np.zeros((48, 64, 3), np.uint8),
                               int(1e9 + stamp * 1e9), 'front')
    bench.collect(Image, 'image', qos.stream(20))
    records = bench.collect(DiagnosticArray, 'camera/published', qos.stream(20))
    with bench.running(CameraNode, source='bag', bag=str(path), speed=2.0, loop=True, frames=6,
                       hold=True):
        connected_step(bench)
        bench.spin_until(lambda: len(records) == 7)
    parsed = [parse_published(m) for m in records[:-1]]
    gaps = np.diff([r.published_ns for r in parsed]) / 1e9
    # Never early; on a busy machine late, but never for good.
    wanted = [0.1, 0.05, 0.075, 0.1, 0.05]
    assert np.all(np.cumsum(gaps) >= np.cumsum(wanted) - 0.002)
    assert [r.stamp_ns for r in parsed[:3]] == [1_000_000_000, 1_200_000_000, 1_300_000_000]
    assert [r.stamp_ns - p.stamp_ns for p, r in zip(parsed[:3], parsed[3:])] == [450_000_000] * 3


def test_its_own_time_needs_a_recording(bench):
    with (pytest.raises(KdPerceptionError, match='speed needs a recording'),
          bench.running(CameraNode, speed=1.0, **SIZE)):
        pass

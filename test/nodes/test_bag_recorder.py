"""Recording of live topics."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from kd_perception.bags.reader import BagReader
from kd_perception.bags.source import open_source
from kd_perception.classes import load_class_set
from kd_perception.cli.main import main


class Camera:
    """Publishes pictures best effort, labels reliable and their meaning latched."""

    def __init__(self, bench) -> None:
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import CameraInfo, Image
        from vision_msgs.msg import LabelInfo

        from kd_perception.nodes import qos
        from kd_perception.nodes.conversion import label_info_message

        self.image_type, self.info_type = Image, CameraInfo
        node = bench.node
        self.images = node.create_publisher(Image, '/front/image', qos_profile_sensor_data)
        self.labels = node.create_publisher(Image, '/front/labels', qos.stream(5))
        self.infos = node.create_publisher(CameraInfo, '/front/camera_info', qos.stream(5))
        self.meaning = node.create_publisher(LabelInfo, '/front/label_info', qos.latched())
        self.meaning.publish(label_info_message(load_class_set('driving'), self.header(0)))

    @staticmethod
    def header(number):
        from kd_perception.nodes.conversion import header
        return header(1_000_000_000 + number * 50_000_000, 'front')

    def publish(self, number) -> None:
        from kd_perception.nodes.conversion import image_message

        head = self.header(number)
        picture = np.full((24, 32, 3), number % 250, np.uint8)
        self.images.publish(image_message(picture, 'bgr8', head))
        self.labels.publish(image_message(picture[:, :, 0] % 12, 'mono8', head))
        self.infos.publish(self.info_type(header=head, width=32, height=24))


@pytest.fixture
def camera(bench):
    return Camera(bench)


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, '-m', 'kd_perception.cli.main', 'bag', 'record', *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def publish_until(camera, condition):
    deadline = time.monotonic() + 90
    for number in range(10 ** 6):
        camera.publish(number)
        time.sleep(0.02)
        if condition():
            return
        assert time.monotonic() < deadline


def recorded_bytes(folder):
    return sum(f.stat().st_size for f in folder.glob('*.mcap')) if folder.is_dir() else 0


def test_ctrl_c_ends_a_whole_recording(camera, tmp_path):
    out = tmp_path / 'drive'
    process = start(out, '--live', '--max-size', '40k')
    publish_until(camera, lambda: (tmp_path / 'drive.unfinished' / 'drive_2.mcap').exists()
                  or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert 'Traceback' not in err
    assert f'{out}: ' in said
    assert [p.name for p in tmp_path.iterdir()] == ['drive']
    source = open_source(out)
    assert source.label_classes.name == 'driving'
    frames = list(source)
    assert len(frames) > 20
    for frame in frames:
        number = (frame.stamp_ns - 1_000_000_000) // 50_000_000
        assert (frame.image == number % 250).all()
        assert frame.frame_id == 'front'
    # Topics are found one after the other.
    assert any(f.labels is not None for f in frames)
    with BagReader(out) as reader:
        assert reader.warnings == ()
        assert len(reader.files) >= 3
        qos = {t.name: dict(reader.index(t.name).channels[0][1].metadata)['offered_qos_profiles']
               for t in reader.topics}
        assert 'reliability: 2' in qos['/front/image']
        assert 'reliability: 1' in qos['/front/labels']
        assert 'durability: 1' in qos['/front/label_info']
        assert set(qos) >= {'/front/camera_info'}
        # Received, not stamped: the stamps above are of 1970.
        assert abs(reader.end_ns / 1e9 - time.time()) < 300


def test_a_killed_recorder_leaves_what_can_be_recovered(camera, tmp_path, capsys):
    process = start(tmp_path / 'drive', '--live', '/front/image')
    folder = tmp_path / 'drive.unfinished'
    # Chunks of a megabyte go to the disk one by one.
    publisher_rate = iter(range(10 ** 6))

    def enough():
        for _ in range(20):
            camera.publish(next(publisher_rate))
            time.sleep(0.001)
        return recorded_bytes(folder) > 1_500_000 or process.poll() is not None

    publish_until(camera, enough)
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        one.kill()
    process.communicate(timeout=30)
    assert [p.name for p in tmp_path.iterdir()] == ['drive.unfinished']
    assert main(['bag', 'info', str(folder)]) == 0
    said = capsys.readouterr().out
    assert 'UNFINISHED' in said
    assert main(['bag', 'cut', str(folder), str(tmp_path / 'saved')]) == 0
    with BagReader(tmp_path / 'saved') as reader:
        assert reader.warnings == ()
        assert len(reader.index('/front/image')) > 100
    capsys.readouterr()


def test_duration_and_silence(bench, tmp_path):
    process = start(tmp_path / 'drive', '--live', '/rear/image', '--duration', '1')
    said, err = process.communicate(timeout=90)
    assert process.returncode == 2
    assert 'no message of /rear/image came' in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_definitions_of_types_that_no_recording_library_ships():
    pytest.importorskip('rclpy')
    from rosbags.typesys import get_types_from_msg

    from kd_perception.nodes.message_types import definition_of

    text = definition_of('vision_msgs/msg/Detection2DArray')
    types = get_types_from_msg(text, 'vision_msgs/msg/Detection2DArray')
    assert 'vision_msgs/msg/BoundingBox2D' in types
    assert 'std_msgs/msg/Header' in types

"""Recordings made by others: the right answer or one line, never a traceback."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.bags.importer import import_recording
from kd_perception.bags.reader import BagReader
from kd_perception.bags.source import open_source
from kd_perception.errors import BagError

# Name: (camera topics with encoding, size and count; a warning must come with it).
READABLE = {
    'ros1_mono8.bag': ([('/dvs/image_raw', 'mono8', 346, 260, 4),
                        ('/dvs1/image_raw', 'mono8', 346, 260, 3)], False),
    'ros1_compressed_jpeg.bag': ([('/raspicam_node/image/compressed', 'jpeg', 1280, 960, 1)],
                                 False),
    'mcap_empty_profile_jpeg.mcap': (
        [(f'/camera/{n}', 'jpeg', 640, 480, 1)
         for n in ('cam_high', 'cam_left_wrist', 'cam_right_wrist', 'top_right')], False),
    'mcap_jpeg_zero_padded.mcap': (
        [(f'/camera_0{n}/color/image_raw/compressed', 'jpeg', 640, 480, 1) for n in (1, 2)],
        False),
    'zstd_message_mode_missing_splits': ([('/camera/image_raw', 'rgb8', 640, 480, 2)], True),
    'zstd_message_mode_missing_splits/soccer_goal_12.mcap': (
        [('/camera/image_raw', 'rgb8', 640, 480, 2)], False),
    'zstd_file_mode_no_images': ([], False),
    'no_messages': ([], False),
    'truncated.mcap': ([], True),
    'ros1_unindexed.bag': ([], True),
}


@pytest.mark.parametrize('name', READABLE)
def test_readable(name, test_data):
    cameras, warned = READABLE[name]
    with BagReader(test_data / 'bags' / name) as reader:
        assert [(t.name, t.encoding, t.width, t.height, t.count)
                for t in reader.camera_topics] == cameras
        assert bool(reader.warnings) == warned
        # Every message of every type deserialises.
        assert sum(1 for _ in reader.messages()) == sum(t.count for t in reader.topics)
    for topic, _, width, height, count in cameras:
        source = open_source(test_data / 'bags' / name, image_topic=topic)
        frames = list(source)
        assert [f.image.shape for f in frames] == [(height, width, 3)] * count
        assert source.bad_frames == 0
        assert all(f.image.std() > 5 for f in frames)


def test_camera_info_of_ros_1_is_named(test_data):
    with BagReader(test_data / 'bags' / 'ros1_compressed_jpeg.bag') as reader:
        assert '/raspicam_node/camera_info' in [t.name for t in reader.topics]


def test_short_image_is_one_bad_frame_each(test_data):
    source = open_source(test_data / 'bags' / 'all_types_bad_image_payload',
                         image_topic='/test/sensor_msgs/image')
    assert list(source) == []
    assert source.bad_frames == len(source) == 2


@pytest.mark.parametrize(('name', 'message'), [
    ('wrong_serialization', 'only cdr can be read'),
    ('empty_file.bag', 'is empty'),
])
def test_refused(name, message, test_data):
    with pytest.raises(BagError, match=message):
        BagReader(test_data / 'bags' / name)


@pytest.mark.parametrize('name', ['no_messages', 'zstd_file_mode_no_images', 'truncated.mcap'])
def test_no_camera(name, test_data):
    with pytest.raises(BagError, match='no camera topic'):
        open_source(test_data / 'bags' / name)


def test_camvid_clip_as_a_labelled_bag(test_data, tmp_path):
    folder = test_data / 'camvid' / 'val'
    path = import_recording(folder, tmp_path / 'val', classes='camvid')
    recorded, files = open_source(path), open_source(folder, classes='camvid')
    assert len(recorded) == len(files) == 101
    assert recorded.label_classes == files.label_classes
    for n in (0, 50, 100):
        np.testing.assert_array_equal(recorded[n].image, files[n].image)
        lookup = files.label_classes.lookup()
        np.testing.assert_array_equal(recorded[n].labels, lookup[files[n].labels])
    with BagReader(path) as reader:
        assert reader.duration_s == pytest.approx(100 / 15, abs=1e-6)


def test_video_as_an_unlabelled_bag(test_data, tmp_path):
    path = import_recording(test_data / 'video' / 'highway_960x540_25fps.mp4', tmp_path / 'drive',
                            rate_hz=5.0)
    source = open_source(path)
    assert len(source) in (44, 45)
    assert not source.has_labels
    steps = {round((b.stamp_ns - a.stamp_ns) / 1e6) for a, b in zip(source, list(source)[1:])}
    assert steps <= {200, 160, 240}
    assert source[0].image.shape == (540, 960, 3)

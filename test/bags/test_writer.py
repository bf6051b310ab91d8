"""Writing of recordings."""

from __future__ import annotations

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
import yaml

from kd_perception.bags import messages as msgs
from kd_perception.bags.reader import BagReader
from kd_perception.bags.writer import BagWriter
from kd_perception.classes import load_class_set
from kd_perception.errors import BagError
from kd_perception.imaging import decode_compressed, decode_image


def test_every_encoding_comes_back(tmp_path, picture):
    image = picture(1)
    grey = image[..., 0]
    deep = grey.astype(np.uint16) * 257
    with BagWriter(tmp_path / 'bag') as writer:
        for encoding in ('rgb8', 'bgr8', 'jpeg', 'png'):
            writer.write_image(f'{encoding}/image', image, 5, 'front', encoding)
        writer.write_image('mono8/image', grey, 5, 'front', 'mono8')
        writer.write_image('mono16/image', deep, 5, 'front', 'mono16')
    with BagReader(tmp_path / 'bag') as reader:
        found = {topic: message for topic, _, message in reader.messages()}
        encodings = {t.name: t.encoding for t in reader.topics}
    assert encodings == {f'/{e}/image': e
                         for e in ('rgb8', 'bgr8', 'jpeg', 'png', 'mono8', 'mono16')}
    for exact in ('rgb8', 'bgr8'):
        np.testing.assert_array_equal(decode_image(found[f'/{exact}/image']), image)
    np.testing.assert_array_equal(decode_compressed(found['/png/image'].data), image)
    assert decode_compressed(found['/jpeg/image'].data).shape == image.shape
    np.testing.assert_array_equal(found['/mono16/image'].data.view(np.uint16).reshape(24, 40),
                                  deep)


def test_other_readers_accept_it(labelled_bag):
    with AnyReader([labelled_bag]) as reader:
        assert {t: i.msgcount for t, i in reader.topics.items()} == {
            '/camera/image': 6, '/camera/labels': 6, '/camera/camera_info': 6,
            '/camera/label_info': 1}
        for connection, _, raw in reader.messages():
            reader.deserialize(raw, connection.msgtype)
    about = yaml.safe_load((labelled_bag / 'metadata.yaml').read_text())
    about = about['rosbag2_bagfile_information']
    assert about['version'] == 8
    assert about['relative_file_paths'] == ['labelled_0.mcap']
    assert about['message_count'] == 19
    assert sorted(p.name for p in labelled_bag.iterdir()) == ['labelled_0.mcap', 'metadata.yaml']


def test_log_times_never_go_back(tmp_path, picture):
    with BagWriter(tmp_path / 'bag') as writer:
        for stamp in (50, 20, 90):
            writer.write_image('image', picture(0), stamp)
        writer.write_image('image', picture(0), 95, log_ns=200)
    with BagReader(tmp_path / 'bag') as reader:
        rows = [(log, msgs.stamp_of(m)) for _, log, m in reader.messages()]
    assert rows == [(50, 50), (50, 20), (90, 90), (200, 95)]


def test_same_content_same_bytes(tmp_path, picture):
    """A repeated simulation gives a recording of the same fingerprint."""
    prints = []
    for name in ('a', 'b'):
        with BagWriter(tmp_path / name / 'bag') as writer:
            writer.write_image('image', picture(0), 1)
        with BagReader(tmp_path / name / 'bag') as reader:
            prints.append(reader.fingerprint)
    assert prints[0] == prints[1]


@pytest.mark.parametrize('problem', [KeyboardInterrupt, ValueError, SystemExit])
def test_nothing_is_left_when_the_block_fails(tmp_path, picture, problem):
    def record():
        with BagWriter(tmp_path / 'bag') as writer:
            writer.write_image('image', picture(0), 1)
            raise problem

    with pytest.raises(problem):
        record()
    assert list(tmp_path.iterdir()) == []


def test_existing_recording_is_kept_unless_told(tmp_path, picture, labelled_bag):
    path = tmp_path / 'bag'
    with BagWriter(path) as writer:
        writer.write_image('old', picture(0), 1)
    with pytest.raises(BagError, match='exists; choose another name or pass --overwrite'):
        BagWriter(path)

    def fail():
        with BagWriter(path, overwrite=True) as writer:
            writer.write_image('new', picture(0), 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with BagReader(path) as reader:
        assert [t.name for t in reader.topics] == ['/old']
    with BagWriter(path, overwrite=True) as writer:
        writer.write_image('new', picture(0), 1)
    with BagReader(path) as reader:
        assert [t.name for t in reader.topics] == ['/new']
    assert [p.name for p in tmp_path.iterdir()] == ['bag']


def test_what_is_no_recording_is_not_overwritten(tmp_path, picture):
    (tmp_path / 'home').mkdir()
    (tmp_path / 'home' / 'letter.txt').write_text('dear')
    (tmp_path / 'bag').mkdir()
    for path in (tmp_path / 'home', tmp_path / 'home' / 'letter.txt'):
        with pytest.raises(BagError, match='is not overwritten; choose another name'):
            BagWriter(path, overwrite=True)
    with BagWriter(tmp_path / 'bag', overwrite=True) as writer:
        writer.write_image('image', picture(0), 1)
    # A recording that somebody has put papers beside is more than a recording.
    (tmp_path / 'bag' / 'notes.md').write_text('rain')
    with pytest.raises(BagError, match='holds other files too'):
        BagWriter(tmp_path / 'bag', overwrite=True)


@pytest.mark.parametrize('topic', ['', '//', 'a b', 'cam/0', 'ä', 'a//b'])
def test_topics_are_ros_names(tmp_path, picture, topic):
    with pytest.raises(BagError, match='is no ROS topic name'), BagWriter(tmp_path / 'b') as bag:
        bag.write_image(topic, picture(0), 1)
    assert list(tmp_path.iterdir()) == []


def test_someone_else_made_the_folder_meanwhile(tmp_path):
    writer = BagWriter(tmp_path / 'bag')
    (tmp_path / 'bag').mkdir()
    with pytest.raises(BagError, match='exists'):
        writer.__enter__()


def test_name_with_a_suffix(tmp_path, picture):
    with BagWriter(tmp_path / 'drive.mcap') as writer:
        writer.write_image('image', picture(0), 1)
    assert (tmp_path / 'drive.mcap' / 'drive_0.mcap').is_file()
    with BagReader(tmp_path / 'drive.mcap') as reader:
        assert len(reader.topics) == 1


def test_wrong_use_is_one_line(tmp_path, picture):
    writer = BagWriter(tmp_path / 'bag')
    with pytest.raises(BagError, match='not open'):
        writer.write_image('image', picture(0), 1)
    with writer:
        writer.write_image('image', picture(0), 1)
        with pytest.raises(BagError, match='is recorded as sensor_msgs/msg/Image'):
            writer.write_image('image', picture(0), 1, encoding='png')
        with pytest.raises(BagError, match='shape'):
            writer.write_image('labels', picture(0), 1, encoding='mono8')
        with pytest.raises(BagError, match='yuv'):
            writer.write_image('image', picture(0), 1, encoding='yuv')


def test_unwritable_place(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(BagError, match='cannot be written'), BagWriter(tmp_path / 'file' / 'bag'):
        pass


def test_label_info_is_offered_to_late_joiners(labelled_bag):
    with AnyReader([labelled_bag]) as reader:
        qos = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
    assert qos['/camera/label_info'].durability.name == 'TRANSIENT_LOCAL'
    assert qos['/camera/image'].durability.name == 'VOLATILE'
    with BagReader(labelled_bag) as reader:
        info = reader.index('camera/label_info').message(0)
    assert tuple(c.class_name for c in info.class_map) == load_class_set('driving').names

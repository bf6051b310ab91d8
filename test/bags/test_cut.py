"""Parts of recordings: nothing of a message may change."""

from __future__ import annotations

import math
import shutil

from mcap.reader import make_reader
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import get_typestore, Stores

from kd_perception.bags import messages as msgs
from kd_perception.bags.cut import cut_bag, split_bag
from kd_perception.bags.reader import BagReader
from kd_perception.bags.source import open_source
from kd_perception.bags.writer import BagWriter
from kd_perception.classes import load_class_set
from kd_perception.errors import BagError, ConfigError

SECOND = 1_000_000_000


@pytest.fixture
def drive(tmp_path, picture, label_image):
    """Return ten seconds at 5 Hz with a pause of 20 s in the middle, labels, latched classes."""
    with BagWriter(tmp_path / 'drive') as writer:
        writer.write_label_info('cam/label_info', load_class_set('driving'), SECOND)
        for n in range(50):
            stamp = SECOND + n * SECOND // 5 + (20 * SECOND if n >= 30 else 0)
            writer.write_image('cam/image', picture(n), stamp, 'cam')
            writer.write_labels('cam/labels', label_image(n), stamp, 'cam')
    return tmp_path / 'drive'


def rows(path, topics=()):
    """Return everything that is kept of each message."""
    with BagReader(path) as reader:
        line = reader.timeline(topics)
        out = []
        for which, position, log_ns in zip(line.which, line.position, line.log_ns):
            index = reader.index(line.names[which])
            channel = index.channel(int(position))
            out.append((line.names[which], int(log_ns), index.raw(int(position)), channel.type,
                        channel.definition, channel.metadata))
        return out


def test_a_stretch_is_what_it_was(drive, tmp_path):
    part = cut_bag(drive, tmp_path / 'cut', start_s=2.0, end_s=4.0)
    first = SECOND * 3
    wanted = [r for r in rows(drive) if first <= r[1] < first + 2 * SECOND]
    found = rows(tmp_path / 'cut')
    assert part.messages == len(found) == len(wanted) + 1
    assert sorted(r for r in found if r[0] != '/cam/label_info') == sorted(wanted)
    # What the labels mean came long before; it begins the part.
    latched = next(r for r in found if r[0] == '/cam/label_info')
    assert latched[1] == first
    assert open_source(tmp_path / 'cut').label_classes.name == 'driving'
    assert part.duration_s == pytest.approx(1.8)
    with AnyReader([tmp_path / 'cut']) as reader:
        assert {t: i.msgcount for t, i in reader.topics.items()} == {
            '/cam/image': 10, '/cam/labels': 10, '/cam/label_info': 1}
        reader.connections[0].ext.offered_qos_profiles[0]  # readable for others


def test_topics_and_patterns(drive, tmp_path):
    cut_bag(drive, tmp_path / 'a', topics=['cam/image'])
    assert {r[0] for r in rows(tmp_path / 'a')} == {'/cam/image'}
    cut_bag(drive, tmp_path / 'b', topics=['cam/label*'])
    assert {r[0] for r in rows(tmp_path / 'b')} == {'/cam/labels', '/cam/label_info'}
    cut_bag(drive, tmp_path / 'c', start_s=5, latched=False)
    assert {r[0] for r in rows(tmp_path / 'c')} == {'/cam/image', '/cam/labels'}
    with pytest.raises(BagError, match=r"no topic matches '/rear/\*'; it has: /cam/image"):
        cut_bag(drive, tmp_path / 'd', topics=['/rear/*'])


@pytest.mark.parametrize('plugin', [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_each_storage_stays_itself(plugin, write_messages, picture, tmp_path):
    source = write_messages([
        ('/cam/image', msgs.IMAGE, msgs.make_image(picture(n), 'bgr8', n, 'c'), n * SECOND)
        for n in range(6)], plugin=plugin)
    cut_bag(source, tmp_path / 'cut', start_s=1, end_s=4)
    assert rows(tmp_path / 'cut') == rows(source)[1:4]
    with AnyReader([tmp_path / 'cut']) as reader:
        assert sum(1 for _ in reader.messages()) == 3
        for connection, _, raw in reader.messages():
            assert reader.deserialize(raw, connection.msgtype).encoding == 'bgr8'
    suffix = {StoragePlugin.SQLITE3: '.db3', StoragePlugin.MCAP: '.mcap'}[plugin]
    assert sorted(p.name for p in (tmp_path / 'cut').iterdir()) == sorted(
        [f'cut_0{suffix}', 'metadata.yaml'])


def test_publish_times_and_sequence_numbers_stay(tmp_path):
    from mcap.writer import Writer

    path = tmp_path / 'a.mcap'
    with path.open('wb') as stream:
        writer = Writer(stream)
        writer.start(profile='ros2')
        text, _ = msgs.standard_types().generate_msgdef(msgs.TIME, ros_version=2)
        schema = writer.register_schema(msgs.TIME, 'ros2msg', text.encode())
        channel = writer.register_channel('/t', 'cdr', schema, {'offered_qos_profiles': '[]',
                                                                'own': 'note'})
        for n in range(5):
            writer.add_message(channel, 100 + n, bytes(12), 90 + n, 7 + n)
        writer.finish()
    cut_bag(path, tmp_path / 'cut')
    with (tmp_path / 'cut' / 'cut_0.mcap').open('rb') as stream:
        found = [(m.log_time, m.publish_time, m.sequence, c.metadata['own'])
                 for _, c, m in make_reader(stream).iter_messages()]
    assert found == [(100 + n, 90 + n, 7 + n, 'note') for n in range(5)]


def test_a_ros_1_bag_stays_one(tmp_path):
    store = get_typestore(Stores.ROS1_NOETIC)
    kind = 'std_msgs/msg/String'
    path = tmp_path / 'a.bag'
    with Ros1Writer(path) as writer:
        connection = writer.add_connection('/say', kind, typestore=store, callerid='/me',
                                           latching=1)
        for n in range(5):
            text = store.serialize_ros1(store.types[kind](data=str(n)), kind)
            writer.write(connection, n * SECOND, text)
    with pytest.raises(ConfigError, match='a name that ends in .bag'):
        cut_bag(path, tmp_path / 'b')
    cut_bag(path, tmp_path / 'b.bag', start_s=3)
    found = rows(tmp_path / 'b.bag')
    assert [r[2][0] for r in found] == [r[2][0] for r in rows(path)[2:]]  # "2" is latched
    assert found[0][3:] == rows(path)[0][3:]
    with AnyReader([tmp_path / 'b.bag']) as reader:
        assert sum(1 for _ in reader.messages()) == 3


def test_split_by_gap_and_by_length(drive, tmp_path):
    parts = split_bag(drive, tmp_path / 'drives', gap_s=5)
    assert [p.path.name for p in parts] == ['drive_000', 'drive_001']
    frames = [len(open_source(p.path)) for p in parts]
    assert frames == [30, 20]
    assert all(open_source(p.path).label_classes.name == 'driving' for p in parts)
    # The folder is one source; keys stay unique.
    whole = open_source(tmp_path / 'drives')
    assert len({f.key for f in whole}) == len(whole) == 50
    np.testing.assert_array_equal(whole[49].image, open_source(drive)[49].image)
    by_length = split_bag(drive, tmp_path / 'lengths', length_s=2, latched=False)
    assert [p.messages for p in by_length] == [21, 20, 20, 20, 20]
    assert sum(p.messages for p in by_length) == len(rows(drive))
    done = []
    split_bag(drive, tmp_path / 'lengths', length_s=4, overwrite=True,
              progress=lambda *state: done.append(state[:2]))
    assert done[-1] == (101, 101)


def test_targets_are_not_overwritten(drive, tmp_path):
    (tmp_path / 'there').mkdir()
    (tmp_path / 'there' / 'letter.txt').write_text('dear')
    for overwrite in (False, True):
        with pytest.raises(BagError, match='choose another name'):
            cut_bag(drive, tmp_path / 'there', overwrite=overwrite)
        with pytest.raises(BagError, match='choose another name'):
            split_bag(drive, tmp_path / 'there', gap_s=5, overwrite=overwrite)
    assert (tmp_path / 'there' / 'letter.txt').read_text() == 'dear'


@pytest.mark.parametrize(('start', 'end'), [(-1, 2), (3, 3), (math.nan, 4), (2, 1)])
def test_impossible_stretches(start, end, drive, tmp_path):
    with pytest.raises(ConfigError, match='not possible'):
        cut_bag(drive, tmp_path / 'cut', start_s=start, end_s=end)


def test_nothing_in_the_stretch(drive, tmp_path):
    with pytest.raises(BagError, match='from 100 to 200 s; it is 29.8 s long'):
        cut_bag(drive, tmp_path / 'cut', start_s=100, end_s=200)
    with pytest.raises(ConfigError, match='one of them'):
        split_bag(drive, tmp_path / 'x', gap_s=1, length_s=1)
    assert cut_bag(drive, tmp_path / 'all', end_s=1e300).messages == 101
    shutil.rmtree(tmp_path / 'all')
    assert [p.name for p in tmp_path.iterdir()] == ['drive']


def test_real_recordings(test_data, tmp_path):
    """Message by message, of every storage and compression."""
    for name in ('ros1_mono8.bag', 'zstd_message_mode_missing_splits', 'zstd_file_mode_no_images',
                 'mcap_empty_profile_jpeg.mcap', 'all_types_bad_image_payload'):
        source = test_data / 'bags' / name
        out = tmp_path / (name if name.endswith('.bag') else name.partition('.')[0])
        cut_bag(source, out)
        assert [(r[0], r[1], r[2][0], r[3]) for r in rows(out)] == [
            (r[0], r[1], r[2][0], r[3]) for r in rows(source)]

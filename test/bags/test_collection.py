"""Several recordings and several cameras as one source."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest

from kd_perception.bags import messages as msgs
from kd_perception.bags.collection import find_recordings
from kd_perception.bags.source import open_source
from kd_perception.bags.writer import BagWriter
from kd_perception.classes import load_class_set
from kd_perception.errors import BagError, ConfigError
from kd_perception.imaging import encode_jpeg, encode_png

SECOND = 1_000_000_000


@pytest.fixture(scope='module')
def drives(tmp_path_factory):
    """Return a folder of three drives with two cameras each; the third has no labels."""
    folder = tmp_path_factory.mktemp('drives')
    for drive in range(3):
        with BagWriter(folder / f'drive_{drive}') as writer:
            writer.write_label_info('front/label_info', load_class_set('driving'), SECOND)
            for n in range(4):
                stamp = (drive * 100 + n + 1) * SECOND
                picture = np.full((6, 8, 3), drive * 10 + n, np.uint8)
                writer.write_image('front/image', picture, stamp)
                if drive < 2:
                    writer.write_labels('front/labels', picture[:, :, 0] % 12, stamp)
                writer.write_image('rear/image', picture + 100, stamp + SECOND // 2)
    (folder / 'drive_9.unfinished').mkdir()
    (folder / 'drive_9.unfinished' / 'drive_9_0.mcap').write_bytes(b'half')
    (folder / 'notes.txt').write_text('')
    return folder


def values(source):
    return [int(f.image[0, 0, 0]) for f in source]


def test_a_folder_a_pattern_and_a_list_are_the_same(drives, caplog):
    folder = open_source(drives, image_topic='front/image')
    assert 'drive_9.unfinished: is an unfinished recording and left out' in caplog.text
    assert values(folder) == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    assert folder.has_labels
    assert folder.label_classes.name == 'driving'
    assert [f.labels is not None for f in folder] == [True] * 8 + [False] * 4
    assert folder.name == 'drive_0 and 2 more'
    pattern = open_source(str(drives / 'drive_[0-2]'), image_topic='front/image')
    listed = open_source([drives / f'drive_{n}' for n in range(3)], image_topic='front/image')
    assert folder.fingerprint == pattern.fingerprint == listed.fingerprint
    assert [f.key for f in folder] == [f.key for f in listed]
    # Given twice, taken once.
    assert len(open_source([drives / 'drive_0', drives], image_topic='front/image')) == 12


def test_keys_are_those_of_the_single_recordings(drives):
    joined = open_source(drives, image_topic=['front/image', 'rear/image'])
    keys = [f.key for f in joined]
    assert len(set(keys)) == len(keys) == 24
    for drive in range(3):
        single = open_source(drives / f'drive_{drive}', image_topic='rear/image')
        assert {f.key for f in single} < set(keys)


@pytest.mark.parametrize('topic', [['front/image', '/rear/image'], '*'])
def test_cameras_of_a_recording_are_merged_by_time(drives, topic):
    joined = open_source(drives / 'drive_1', image_topic=topic)
    assert values(joined) == [10, 110, 11, 111, 12, 112, 13, 113]
    assert [f.key.topic for f in joined][:2] == ['/front/image', '/rear/image']
    assert (np.diff(joined.times_ns) > 0).all()
    # Only the front camera has labels; the rear one must not get them.
    assert [f.labels is not None for f in joined] == [True, False] * 4
    assert joined[-1].image[0, 0, 0] == 113
    with pytest.raises(IndexError):
        joined[8]


def test_several_cameras_must_be_chosen_from(drives):
    with pytest.raises(BagError, match='several camera topics, choose one: /front/image, /rear'):
        open_source(drives)


def test_sampling_is_by_recording_and_topic(drives):
    source = open_source(drives, image_topic='*', count=2)
    assert values(source) == [0, 100, 3, 103, 10, 110, 13, 113, 20, 120, 23, 123]
    assert values(open_source(drives, image_topic='rear/image', limit=1)) == [100, 110, 120]


def test_a_worker_opens_it_anew(drives):
    source = open_source(drives, image_topic='*', limit=1)
    other = pickle.loads(pickle.dumps(source))  # noqa: S301 (our own bytes)
    source.close()
    assert values(other) == [0, 100, 10, 110, 20, 120]
    assert other.fingerprint == source.fingerprint


def test_labels_that_mean_different_things_are_refused(drives, tmp_path):
    with BagWriter(tmp_path / 'other') as writer:
        writer.write_label_info('front/label_info', load_class_set('camvid'), SECOND)
        writer.write_image('front/image', np.zeros((6, 8, 3), np.uint8), SECOND)
        writer.write_labels('front/labels', np.zeros((6, 8), np.uint8), SECOND)
    with pytest.raises(ConfigError, match="other: its labels are of 'camvid', those before it"):
        open_source([drives / 'drive_0', tmp_path / 'other'], image_topic='front/image')


def test_what_finds_nothing_is_one_line(drives, tmp_path):
    with pytest.raises(BagError, match='no recording has such a name'):
        open_source(drives / 'ride_*')
    with pytest.raises(BagError, match='no such file or folder'):
        open_source(drives / 'ride')
    with pytest.raises(BagError, match='no recording is given'):
        open_source([])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(BagError, match='holds neither a rosbag nor images'):
        open_source(tmp_path / 'empty')


def test_loose_files_are_one_recording_only_when_numbered(tmp_path, picture):
    """Splits of one recording are one; files of other names are several."""
    for name in ('a', 'b'):
        with BagWriter(tmp_path / name) as writer:
            writer.write_image('image', picture(0), 1)
    splits, several = tmp_path / 'splits', tmp_path / 'several'
    for folder, names in ((splits, ('x_2.mcap', 'x_10.mcap')), (several, ('m.mcap', 'n.mcap'))):
        folder.mkdir()
        for source, name in zip(('a', 'b'), names):
            (folder / name).write_bytes((tmp_path / source / f'{source}_0.mcap').read_bytes())
    assert [r.path for r in find_recordings(splits)] == [splits]
    assert [r.path.name for r in find_recordings(several)] == ['m.mcap', 'n.mcap']
    assert len(open_source(splits)) == len(open_source(several)) == 2


def test_image_folders_join_too(tmp_path, picture):
    (tmp_path / 'images').mkdir()
    for n in range(2):
        (tmp_path / 'images' / f'{n}.jpg').write_bytes(
            encode_jpeg(np.full((16, 16, 3), 50 + n, np.uint8)))
    with BagWriter(tmp_path / 'bag') as writer:
        writer.write_image('image', picture(0), 1)
    source = open_source([tmp_path / 'images', tmp_path / 'bag'])
    assert [f.image.shape for f in source] == [(16, 16, 3)] * 2 + [(24, 40, 3)]


def stamped(write_messages, picture, stamps):
    """Write frames with these header stamps, logged every second."""
    return write_messages([
        ('/cam/image', msgs.IMAGE, msgs.make_image(picture(n), 'rgb8', stamp, 'c'),
         (n + 1) * SECOND) for n, stamp in enumerate(stamps)])


@pytest.mark.parametrize(('stamps', 'expected', 'told'), [
    ([10, 20, 30, 40], [0, 1, 2, 3], None),
    ([40, 30, 20, 10], [3, 2, 1, 0], None),
    ([10, 30, 20, 20], [0, 2, 3, 1], '1 header stamps repeat'),
    ([0, 0, 0, 0], [0, 1, 2, 3], '4 of 4 header stamps are zero'),
    ([7 * SECOND, 0, SECOND, 0], [2, 1, 3, 0], '2 of 4 header stamps are zero')])
def test_order_by_header(stamps, expected, told, write_messages, picture, caplog):
    path = stamped(write_messages, picture, stamps)
    with caplog.at_level(logging.WARNING):
        source = open_source(path, order='header')
    assert [f.key.index for f in source] == expected
    assert (told in caplog.text) if told else not caplog.text
    assert [f.key.index for f in open_source(path)] == [0, 1, 2, 3]


def test_stamps_of_the_chosen_frames(write_messages, picture, tmp_path):
    path = stamped(write_messages, picture, [0, 30, 20, 20])
    source = open_source(path, order='header')
    assert source.stamps_ns.tolist() == [f.stamp_ns for f in source] == [20, 20, 30, 0]
    other = stamped(write_messages, picture, [7, 8, 9])
    joined = open_source([path, other], count=2)
    assert joined.stamps_ns.tolist() == [f.stamp_ns for f in joined] == [0, 20, 7, 9]
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / '0.png').write_bytes(encode_png(picture(0)))
    files = open_source(tmp_path / 'images')
    assert files.stamps_ns.tolist() == [files[0].stamp_ns]


def test_rate_goes_by_the_chosen_time(write_messages, picture):
    """In simulated time the drive took four seconds, whatever the recorder's clock says."""
    path = stamped(write_messages, picture, [SECOND + n * SECOND // 10 for n in range(40)])
    assert len(open_source(path, rate_hz=1)) == 40
    assert len(open_source(path, rate_hz=1, order='header')) in (4, 5)
    assert len(open_source(path, rate_hz=2, order='header')) in (8, 9)

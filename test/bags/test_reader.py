"""Reading of rosbags, whatever they are stored in."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionMode, StoragePlugin
import zstandard

from kd_perception.bags import messages as msgs
from kd_perception.bags.reader import BagReader
from kd_perception.errors import BagError

KINDS = [
    (StoragePlugin.SQLITE3, CompressionMode.NONE),
    (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
    (StoragePlugin.SQLITE3, CompressionMode.FILE),
    (StoragePlugin.MCAP, CompressionMode.NONE),
    (StoragePlugin.MCAP, CompressionMode.MESSAGE),
    (StoragePlugin.MCAP, CompressionMode.FILE),
    (StoragePlugin.MCAP, CompressionMode.STORAGE),
]


def rows(picture, stamp, count=5):
    out = []
    for n in range(count):
        image = msgs.make_image(picture(n), 'rgb8', stamp(n), 'front')
        out.append(('/front/image', msgs.IMAGE, image, stamp(n) + 7))
        info = msgs.make_camera_info(40, 24, 30, 30, 20, 12, stamp(n), 'front')
        out.append(('/front/camera_info', msgs.CAMERA_INFO, info, stamp(n) + 9))
    return out


@pytest.mark.parametrize('name', ['a.mcap', 'a.db3', 'a.bag'])
def test_a_pipe_is_not_waited_for(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(BagError, match='is no regular file'):
        BagReader(tmp_path / name)
    with pytest.raises(BagError, match='has no metadata.yaml and no .mcap or .db3 file'):
        BagReader(tmp_path)


@pytest.mark.parametrize(('plugin', 'compression'), KINDS)
def test_every_storage_gives_the_same_messages(plugin, compression, write_messages, picture,
                                               stamp):
    path = write_messages(rows(picture, stamp), plugin=plugin, compression=compression)
    with BagReader(path) as reader:
        assert [(t.name, t.count) for t in reader.topics] == [
            ('/front/camera_info', 5), ('/front/image', 5)]
        image = reader.camera_topics[0]
        assert (image.type, image.encoding, image.width, image.height) == (
            msgs.IMAGE, 'rgb8', 40, 24)
        assert image.rate_hz == pytest.approx(20.0)
        assert (reader.start_ns, reader.end_ns) == (stamp(0) + 7, stamp(4) + 9)
        assert reader.duration_s == pytest.approx(0.2, abs=1e-6)
        seen = list(reader.messages())
        assert [s[1] for s in seen] == sorted(s[1] for s in seen)
        images = [m for topic, _, m in seen if topic == '/front/image']
        for n, message in enumerate(images):
            assert msgs.stamp_of(message) == stamp(n)
            np.testing.assert_array_equal(message.data.reshape(24, 40, 3), picture(n))
        # At random, and the header alone.
        index = reader.index('front/image')
        for n in (3, 0, 4, 0):
            np.testing.assert_array_equal(index.message(n).data, images[n].data)
            assert index.header(n) == (stamp(n), 'front')


def test_agrees_with_rosbags_itself(labelled_bag):
    with AnyReader([labelled_bag]) as other:
        expected = [(c.topic, t, bytes(raw), c.msgtype) for c, t, raw in other.messages()]
    with BagReader(labelled_bag) as reader:
        line = reader.timeline()
        found = []
        for which, position in zip(line.which, line.position.tolist()):
            index = reader.index(line.names[which])
            found.append((line.names[which], int(index.log_ns[position]), index.read(position),
                          index.channel(position).type))
    key = lambda row: (row[1], row[0])  # noqa: E731
    assert sorted(found, key=key) == sorted(expected, key=key)


def test_topics_can_be_named_with_and_without_slash(labelled_bag):
    with BagReader(labelled_bag) as reader:
        assert reader.resolve('camera/image') == reader.resolve('/camera/image') == '/camera/image'
        assert {t for t, _, _ in reader.messages(['camera/labels'])} == {'/camera/labels'}
        with pytest.raises(BagError, match='has no topic .*it has: /camera/camera_info'):
            reader.resolve('camera/left')


def test_labels_are_no_camera(labelled_bag):
    with BagReader(labelled_bag) as reader:
        assert [t.name for t in reader.camera_topics] == ['/camera/image']
        assert [t.name for t in reader.label_topics] == ['/camera/labels']


def test_fingerprint_follows_content_and_not_the_name(labelled_bag, tmp_path):
    copy = tmp_path / 'other_name'
    shutil.copytree(labelled_bag, copy)
    with BagReader(labelled_bag) as first, BagReader(copy) as second:
        assert first.fingerprint == second.fingerprint
    file = next(copy.glob('*.mcap'))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with BagReader(copy) as second:
        assert first.fingerprint != second.fingerprint


def test_missing_splits_are_named_and_the_rest_is_read(labelled_bag, tmp_path):
    bag = tmp_path / 'bag'
    shutil.copytree(labelled_bag, bag)
    metadata = bag / 'metadata.yaml'
    name = next(bag.glob('*.mcap')).name
    text = metadata.read_text()
    listed = f'relative_file_paths:\n  - {name}'
    assert listed in text
    metadata.write_text(text.replace(listed, f'{listed}\n  - lost_1.mcap'))
    with BagReader(bag) as reader:
        assert len(reader.index('camera/image')) == 6
        assert len(reader.warnings) == 1
        assert 'lost_1.mcap' in reader.warnings[0]
    (bag / name).unlink()
    with pytest.raises(BagError, match=f'missing: {name}, lost_1.mcap'):
        BagReader(bag)


def test_folder_without_metadata_is_read_with_a_warning(labelled_bag, tmp_path):
    bag = tmp_path / 'bag'
    shutil.copytree(labelled_bag, bag)
    (bag / 'metadata.yaml').unlink()
    with BagReader(bag) as reader:
        assert len(reader.index('camera/image')) == 6
        assert 'metadata.yaml' in reader.warnings[0]


@pytest.mark.parametrize(('name', 'content', 'message'), [
    ('missing.mcap', None, 'no such file'),
    ('empty.mcap', b'', 'is empty'),
    ('empty.db3', b'', 'is empty'),
    ('empty.bag', b'', 'is empty'),
    ('noise.mcap', b'\x00' * 300, 'is no MCAP file'),
    ('noise.db3', b'\x01' * 5000, 'is damaged or no rosbag2 database'),
    ('noise.bag', b'\x01' * 5000, 'noise.bag: '),
    ('half.bag', b'#ROSBAG V2.0\n\x01\x00', 'half.bag: '),
    ('photo.jpg', b'\xff\xd8', 'is no rosbag'),
])
def test_what_is_no_bag_gets_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BagError, match=message) as caught:
        BagReader(path)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('content', ['', 'a: 1', '[1, 2', 'rosbag2_bagfile_information: {}',
                                     'rosbag2_bagfile_information: {relative_file_paths: []}'])
def test_broken_metadata_gets_one_line(tmp_path, content):
    (tmp_path / 'metadata.yaml').write_text(content)
    with pytest.raises(BagError) as caught:
        BagReader(tmp_path)
    assert '\n' not in str(caught.value)


def test_empty_folder_is_no_bag(tmp_path):
    with pytest.raises(BagError, match='is no rosbag2 folder'):
        BagReader(tmp_path)


def test_closed_reader_says_so_in_one_line(labelled_bag):
    reader = BagReader(labelled_bag)
    index = reader.index('camera/image')
    reader.close()
    reader.close()
    with pytest.raises(BagError):
        index.message(0)


@pytest.mark.parametrize('plugin', [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_reads_after_a_fork(plugin, write_messages, picture, stamp):
    """Data loaders fork with the recording open."""
    path = write_messages(rows(picture, stamp), plugin=plugin)
    with BagReader(path) as reader:
        index = reader.index('front/image')
        index.message(0)
        child = os.fork()
        if child == 0:
            same = all((index.message(n).data.reshape(24, 40, 3) == picture(n)).all()
                       for n in range(5))
            os._exit(0 if same else 1)
        for n in range(5):
            assert (index.message(n).data.reshape(24, 40, 3) == picture(n)).all()
        assert os.waitpid(child, 0)[1] == 0


def test_truncated_at_any_byte_ends_in_a_line_or_a_warning(labelled_bag, tmp_path):
    whole = next(labelled_bag.glob('*.mcap')).read_bytes()
    path = tmp_path / 'cut.mcap'
    counts, problems = set(), []
    (summary_at,) = struct.unpack_from('<Q', whole, len(whole) - 28)
    data_end = summary_at - 13
    for size in [*np.linspace(0, len(whole) - 1, 60).astype(int), data_end]:
        path.write_bytes(whole[:size])
        try:
            with BagReader(path) as reader:
                counts.add((sum(1 for _ in reader.messages()), bool(reader.warnings)))
        except BagError as error:
            problems.append(str(error))
    # All messages lie in one chunk; behind its end nothing but the index can be lost.
    assert counts == {(19, True), (19, False)}
    assert len(problems) > 10
    assert all('cut.mcap' in line and '\n' not in line for line in problems)


def test_no_room_to_unpack_a_file_is_one_line(write_messages, picture, stamp):
    path = write_messages(rows(picture, stamp, 80), compression=CompressionMode.FILE)
    code = ('import resource, sys; from kd_perception.bags.reader import BagReader; '
            'from kd_perception.errors import BagError\n'
            'resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n'
            'try: BagReader(sys.argv[1])\n'
            'except BagError as error: print(error)')
    done = subprocess.run([sys.executable, '-c', code, str(path)], capture_output=True, text=True)
    assert 'db3.zstd: cannot be unpacked into' in done.stdout, done.stderr
    assert done.stdout.endswith('File too large; set TMPDIR to a folder with room\n')


@pytest.mark.parametrize('plugin', [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_a_damaged_file_that_was_packed_goes_by_its_own_name(plugin, write_messages, picture,
                                                             stamp):
    path = write_messages(rows(picture, stamp), plugin=plugin, compression=CompressionMode.FILE)
    packed, = path.glob('*.zstd')
    plain = zstandard.decompress(packed.read_bytes(), 1 << 24)
    packed.write_bytes(zstandard.compress(plain[:40] + bytes(len(plain) - 40)))
    with pytest.raises(BagError) as told, BagReader(path) as reader:
        list(reader.messages())
    assert str(told.value).startswith(f'{packed}: ')
    assert 'kd_perception_bag_' not in str(told.value)

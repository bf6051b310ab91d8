"""MCAP files as other writers make them."""

from __future__ import annotations

from contextlib import suppress
import tracemalloc

from mcap.writer import CompressionType, IndexType, Writer
import numpy as np
import pytest

from kd_perception.bags import messages as msgs
from kd_perception.bags.reader import BagReader
from kd_perception.errors import BagError

VARIANTS = {
    'plain': {'compression': CompressionType.NONE},
    'zstd': {'compression': CompressionType.ZSTD},
    'lz4': {'compression': CompressionType.LZ4},
    'no chunks': {'use_chunking': False},
    'no index': {'index_types': IndexType.NONE},
    'no message index': {'index_types': IndexType.CHUNK},
    'no summary': {'use_summary_offsets': False, 'use_statistics': False,
                   'index_types': IndexType.NONE, 'repeat_schemas': False,
                   'repeat_channels': False},
    'no statistics': {'use_statistics': False},
}


def write(path, picture, *, profile='', count=8, order=None, type_name='sensor_msgs/msg/Image',
          **options):
    definition, _ = msgs.standard_types().generate_msgdef(msgs.IMAGE, ros_version=2)
    with path.open('wb') as stream:
        writer = Writer(stream, chunk_size=10_000, **options)
        writer.start(profile=profile, library='another writer')
        schema = writer.register_schema(type_name, 'ros2msg', definition.encode())
        channels = [writer.register_channel(f'/cam{c}/image', 'cdr', schema) for c in (0, 1)]
        for n in order or range(count):
            data = msgs.to_cdr(msgs.make_image(picture(n), 'bgr8', n * 1000, 'c'), msgs.IMAGE)
            writer.add_message(channels[n % 2], n * 1000, data, n * 1000)
        writer.finish()
    return path


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('profile', ['', 'ros2'])
def test_every_layout_reads_in_order_and_at_random(variant, profile, tmp_path, picture):
    path = write(tmp_path / 'a.mcap', picture, profile=profile, **VARIANTS[variant])
    with BagReader(path) as reader:
        assert not reader.warnings
        seen = list(reader.messages())
        assert [(topic, log) for topic, log, _ in seen] == [
            (f'/cam{n % 2}/image', n * 1000) for n in range(8)]
        for n in (7, 2, 5):
            message = reader.index(f'/cam{n % 2}/image').message(n // 2)
            np.testing.assert_array_equal(message.data.reshape(24, 40, 3), picture(n))


def test_messages_out_of_order_come_in_log_order(tmp_path, picture):
    path = write(tmp_path / 'a.mcap', picture, order=[4, 0, 6, 2, 5, 1, 7, 3])
    with BagReader(path) as reader:
        assert [log for _, log, _ in reader.messages()] == [n * 1000 for n in range(8)]


def test_type_names_without_msg_are_understood(tmp_path, picture):
    path = write(tmp_path / 'a.mcap', picture, type_name='sensor_msgs/Image')
    with BagReader(path) as reader:
        assert {t.type for t in reader.topics} == {msgs.IMAGE}
        assert len(list(reader.messages())) == 8


@pytest.mark.parametrize('compression', [CompressionType.ZSTD, CompressionType.LZ4])
def test_a_damaged_chunk_costs_its_messages_only(compression, tmp_path, picture):
    path = write(tmp_path / 'a.mcap', picture, compression=compression)
    data = bytearray(path.read_bytes())
    # Each chunk holds four of these incompressible pictures; spoil the first.
    data[2000:2400] = bytes(400)
    path.write_bytes(data)
    with BagReader(path) as reader:
        good = bad = 0
        for topic in ('/cam0/image', '/cam1/image'):
            for n in range(4):
                try:
                    reader.index(topic).message(n)
                    good += 1
                except BagError as error:
                    bad += 1
                    line = str(error)
        assert (good > 0, bad > 0) == (True, True)
        assert 'damaged' in line


def test_an_index_that_lies_is_noticed(tmp_path, picture):
    path = write(tmp_path / 'a.mcap', picture, compression=CompressionType.NONE)
    with BagReader(path) as reader:
        index = reader.index('/cam0/image')
        index.entries['offset'][1] += 3
        with pytest.raises(BagError, match='index points at no message'):
            index.message(1)


def test_unknown_definitions_stop_only_who_asks(tmp_path):
    path = tmp_path / 'a.mcap'
    with path.open('wb') as stream:
        writer = Writer(stream)
        writer.start(profile='ros2', library='')
        schema = writer.register_schema('team_msgs/msg/Odd', 'ros2msg', b'this is ? no definition')
        odd = writer.register_channel('/odd', 'cdr', schema)
        none = writer.register_schema('team_msgs/msg/None', '', b'')
        writer.add_message(odd, 1, b'\x00\x01\x00\x00', 1)
        writer.add_message(writer.register_channel('/none', 'cdr', none), 2, b'\x00\x01', 2)
        writer.finish()
    with BagReader(path) as reader:
        assert [(t.name, t.type, t.count) for t in reader.topics] == [
            ('/none', 'team_msgs/msg/None', 1), ('/odd', 'team_msgs/msg/Odd', 1)]
        for topic, reason in (('/odd', 'cannot be read'), ('/none', 'no definition')):
            with pytest.raises(BagError, match=reason):
                next(reader.messages([topic]))


@pytest.mark.parametrize('compression', [CompressionType.NONE, CompressionType.ZSTD,
                                         CompressionType.LZ4])
@pytest.mark.parametrize('value', [1 << 60, (1 << 33) + 5])
def test_absurd_lengths_allocate_nothing(tmp_path, compression, value):
    """Every length field of the file in turn claims more than any memory holds."""
    path = tmp_path / 'a.mcap'
    with path.open('wb') as stream:
        writer = Writer(stream, chunk_size=200, compression=compression)
        writer.start(profile='', library='')
        text, _ = msgs.standard_types().generate_msgdef(msgs.TIME, ros_version=2)
        schema = writer.register_schema(msgs.TIME, 'ros2msg', text.encode())
        channel = writer.register_channel('/t', 'cdr', schema)
        for n in range(20):
            writer.add_message(channel, n, bytes(12), n)
        writer.finish()
    sound = path.read_bytes()
    places = [n for n in range(8, len(sound) - 8) if n < 300 or n > len(sound) - 700][::5]
    tracemalloc.start()
    for place in places:
        path.write_bytes(sound[:place] + value.to_bytes(8, 'little') + sound[place + 8:])
        with suppress(BagError), BagReader(path) as reader:
            assert all(len(reader.index(t.name)) <= 20 for t in reader.topics)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()

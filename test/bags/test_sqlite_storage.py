"""SQLite recordings of older and of damaged kinds."""

from __future__ import annotations

import sqlite3

import pytest

from kd_perception.bags import messages as msgs
from kd_perception.bags.reader import BagReader
from kd_perception.errors import BagError


def foxy_file(path, data, serialization='cdr'):
    """Write the tables as ROS 2 Foxy did: no definitions, no hashes."""
    with sqlite3.connect(path) as base:
        base.execute('CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, '
                     'serialization_format TEXT, offered_qos_profiles TEXT)')
        base.execute('CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, '
                     'timestamp INTEGER, data BLOB)')
        base.execute('INSERT INTO topics VALUES (1, "/cam", "sensor_msgs/msg/Image", ?, "")',
                     [serialization])
        base.executemany('INSERT INTO messages(topic_id, timestamp, data) VALUES (1, ?, ?)',
                         enumerate(data))
    base.close()
    return path


def test_definitions_of_jazzy_serve_where_there_are_none(tmp_path, picture):
    data = [msgs.to_cdr(msgs.make_image(picture(n), 'rgb8', n, 'c'), msgs.IMAGE)
            for n in range(3)]
    with BagReader(foxy_file(tmp_path / 'old #1.db3', data)) as reader:
        assert [msgs.stamp_of(m) for _, _, m in reader.messages()] == [0, 1, 2]


def test_other_serialisation_is_refused(tmp_path):
    with pytest.raises(BagError, match="'protobuf'.*only cdr"):
        BagReader(foxy_file(tmp_path / 'a.db3', [], 'protobuf'))


def test_spoilt_compressed_message_is_damaged(tmp_path):
    path = foxy_file(tmp_path / 'a.db3', [b'\x28\xb5\x2f\xfd' + b'spoilt'])
    with BagReader(path) as reader, pytest.raises(BagError, match='message 1 is damaged'):
        reader.index('/cam').message(0)


def test_message_that_vanished_is_named(tmp_path):
    path = foxy_file(tmp_path / 'a.db3', [b'\x00\x01\x00\x00'])
    with BagReader(path) as reader:
        index = reader.index('/cam')
        index.entries['offset'][0] = 77
        with pytest.raises(BagError, match='message 77 is gone'):
            index.message(0)


def test_unmerged_log_is_read(tmp_path):
    """A recorder that died leaves its last messages in the write-ahead log."""
    path = tmp_path / 'a.db3'
    foxy_file(path, [b'\x00\x01\x00\x00'] * 2)
    base = sqlite3.connect(path)
    base.execute('PRAGMA journal_mode=WAL')
    base.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES (1, 9, x'00010000')")
    base.commit()
    with BagReader(path) as reader:
        assert len(reader.index('/cam')) == 3
    base.close()

"""Recordings with wrong bytes anywhere: frames or one line, nothing else."""

from __future__ import annotations

from pathlib import Path

from mcap.writer import CompressionType, Writer
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from kd_perception.bags import messages as msgs
from kd_perception.bags.reader import BagReader
from kd_perception.bags.source import open_source
from kd_perception.errors import KdPerceptionError


def compressed_mcap(folder, rows):
    path = folder / 'a.mcap'
    with path.open('wb') as stream:
        writer = Writer(stream, chunk_size=4000, compression=CompressionType.ZSTD)
        writer.start(profile='', library='')
        channels = {}
        for topic, kind, message, log_ns in rows:
            if topic not in channels:
                text, _ = msgs.standard_types().generate_msgdef(kind, ros_version=2)
                schema = writer.register_schema(kind, 'ros2msg', text.encode())
                channels[topic] = writer.register_channel(topic, 'cdr', schema)
            writer.add_message(channels[topic], log_ns, msgs.to_cdr(message, kind), log_ns)
        writer.finish()
    return path


@pytest.fixture(params=['sqlite', 'mcap', 'compressed mcap', 'real ros1'])
def whole(request, tmp_path, write_messages, picture, label_image):
    """Return a sound file of each storage."""
    if request.param == 'real ros1':
        return request.getfixturevalue('test_data') / 'bags' / 'ros1_mono8.bag'
    rows = [('/cam/label_info', msgs.LABEL_INFO, msgs.make_label_info(('a', 'b'), 0), 0)]
    for n in range(4):
        image = picture(n)[:8, :8]
        rows.append(('/cam/image', msgs.IMAGE, msgs.make_image(image, 'bgr8', n, 'c'), n))
        rows.append(('/cam/labels', msgs.IMAGE,
                     msgs.make_image(label_image(n)[:8, :8] % 2, 'mono8', n, 'c'), n))
    if request.param == 'compressed mcap':
        return compressed_mcap(tmp_path, rows)
    plugin = StoragePlugin.SQLITE3 if request.param == 'sqlite' else StoragePlugin.MCAP
    folder = write_messages(rows, plugin=plugin)
    return next(p for p in folder.iterdir() if p.suffix in ('.db3', '.mcap'))


def read_all(path: Path) -> int:
    """Read a recording in every way and return how many lines of complaint came."""
    complaints = 0
    with BagReader(path) as reader:
        cameras = [t.name for t in reader.camera_topics]
        for topic in reader.topics:
            index = reader.index(topic.name)
            for position in range(len(index)):
                try:
                    index.message(position)
                except KdPerceptionError as error:
                    complaints += 1 + str(error).count('\n')
    for name in cameras:
        try:
            source = open_source(path, image_topic=name)
            complaints += len(source) - len(list(source))
        except KdPerceptionError as error:
            complaints += 1 + str(error).count('\n')
    return complaints


def test_wrong_bytes(whole, tmp_path):
    sound = whole.read_bytes()
    generator = np.random.default_rng(1)
    path = tmp_path / f'spoilt{whole.suffix}'
    refused = complaints = 0
    for _ in range(60):
        data = np.frombuffer(sound, np.uint8).copy()
        # Heads, tails and middles alike: the structure sits at both ends.
        for _ in range(generator.choice([1, 3, 20])):
            reach = int(generator.choice([len(data), min(len(data), 3000)]))
            place = int(generator.integers(reach))
            data[place if generator.random() < 0.5 else -1 - place] = generator.integers(256)
        if generator.random() < 0.2:
            data = data[:generator.integers(len(data))]
        path.write_bytes(data.tobytes())
        try:
            complaints += read_all(path)
        except KdPerceptionError as error:
            refused += 1 + str(error).count('\n')
    assert read_all(whole) == 0
    assert refused > 3
    assert refused + complaints > 10

"""Small recordings of every kind, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from kd_perception.bags import messages as msgs
from kd_perception.bags.writer import BagWriter
from kd_perception.classes import load_class_set

HEIGHT, WIDTH = 24, 40
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 50_000_000


def make_picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_labels(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    labels = np.random.default_rng(number).integers(0, 12, (height, width), dtype=np.uint8)
    labels[0] = 255
    return labels


@pytest.fixture(scope='session')
def picture() -> Callable[..., np.ndarray]:
    """Return the function that makes the picture of a number."""
    return make_picture


@pytest.fixture(scope='session')
def label_image() -> Callable[..., np.ndarray]:
    """Return the function that makes the label image of a number."""
    return make_labels


@pytest.fixture(scope='session')
def stamp() -> Callable[[int], int]:
    """Return the function that gives the stamp of a number in nanoseconds."""
    return lambda number: START_NS + number * PERIOD_NS


@pytest.fixture(scope='session')
def labelled_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bag of six frames at 20 Hz with labels of the set ``driving``."""
    path = tmp_path_factory.mktemp('bags') / 'labelled'
    with BagWriter(path) as writer:
        for number in range(6):
            time = START_NS + number * PERIOD_NS
            if number == 0:
                writer.write_label_info('camera/label_info', load_class_set('driving'), time)
            writer.write_image('camera/image', make_picture(number), time)
            writer.write_labels('camera/labels', make_labels(number), time)
            writer.write_camera_info('camera/camera_info', WIDTH, HEIGHT, 30., 31., 20., 12.,
                                     time)
    return path


@pytest.fixture(scope='session')
def write_messages(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes (topic, type, message, log time) rows with rosbags itself."""

    def write(rows: list[tuple], *, plugin: StoragePlugin = StoragePlugin.SQLITE3,
              compression: CompressionMode = CompressionMode.NONE) -> Path:
        path = tmp_path_factory.mktemp('written') / 'bag'
        writer = Writer(path, version=9, storage_plugin=plugin)
        if compression is not CompressionMode.NONE:
            writer.set_compression(compression, CompressionFormat.ZSTD)
        connections: dict[str, object] = {}
        with writer:
            for topic, kind, message, log_ns in rows:
                if topic not in connections:
                    connections[topic] = writer.add_connection(
                        topic, kind, typestore=msgs.standard_types())
                writer.write(connections[topic], log_ns, msgs.to_cdr(message, kind))
        return path

    return write


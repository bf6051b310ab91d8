"""Depth and boxes of known instances in a recording."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.bags.reader import BagReader
from kd_perception.bags.truth import DETECTIONS, write_depth, write_detections
from kd_perception.bags.writer import BagWriter


def test_depth_comes_back_bit_by_bit_and_is_no_camera(tmp_path):
    depth = np.linspace(.5, 80., 12, dtype=np.float32).reshape(3, 4)
    depth[0, 0] = np.inf
    with BagWriter(tmp_path / 'bag') as writer:
        write_depth(writer, 'camera/depth', depth, 1_500_000_000, 'front')
    with BagReader(tmp_path / 'bag') as reader:
        message = reader.index('camera/depth').message(0)
        assert not reader.camera_topics
    assert (message.encoding, message.step, message.header.frame_id) == ('32FC1', 16, 'front')
    assert np.array_equal(message.data.view(np.float32).reshape(3, 4), depth)


def test_detections_are_the_standard_message(tmp_path):
    with BagWriter(tmp_path / 'bag') as writer:
        for stamp in (1, 2):
            write_detections(
                writer, 'camera/detections', stamp, 'front', ids=['7', '9 step_out'],
                tags=np.array([14, 12], np.uint8), scores=np.array([1., .25]),
                boxes=np.array([[10, 20, 30, 60], [0, 0, 5, 9]]),
                positions=np.array([[1., 2., 20.], [-3., 0., 9.]]))
    with BagReader(tmp_path / 'bag') as reader:
        index = reader.index('camera/detections')
        assert len(index) == 2
        assert reader.topics[0].type == DETECTIONS
        message = index.message(1)
    first, second = message.detections
    assert (first.id, second.id) == ('7', '9 step_out')
    assert first.bbox.center.position.x == 20.
    assert first.bbox.center.position.y == 40.
    assert (first.bbox.size_x, first.bbox.size_y) == (20., 40.)
    assert [d.results[0].hypothesis.class_id for d in (first, second)] == ['14', '12']
    assert second.results[0].hypothesis.score == pytest.approx(.25)
    assert second.results[0].pose.pose.position.z == 9.


def test_nothing_in_a_picture_is_an_empty_array(tmp_path):
    with BagWriter(tmp_path / 'bag') as writer:
        write_detections(writer, 'detections', 1, 'front', ids=[], tags=np.zeros(0),
                         scores=np.zeros(0), boxes=np.zeros((0, 4)), positions=np.zeros((0, 3)))
    with BagReader(tmp_path / 'bag') as reader:
        assert list(reader.index('detections').message(0).detections) == []

"""Ground truth beside labels: messages that say what they are made of, and who gets what."""

from geometry_msgs.msg import PoseStamped
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection2DArray

from kd_perception.bags.known import place_of, table_of
from kd_perception.bags.truth import quaternion
from kd_perception.evaluation.metrics.detail_counter import OBJECTS, VIEW
from kd_perception.frames import CameraPlace, InstanceTable, KnownTruth
from kd_perception.imaging import decode_depth
from kd_perception.nodes import qos
from kd_perception.nodes.camera.source import Picture
from kd_perception.nodes.conversion import camera_info_message, header, image_message
from kd_perception.nodes.truth_topics import (
    detections_message,
    lens_of,
    pose_message,
    TruthPublishers,
)
from kd_perception.simulation.camera import CameraPose

PLACE = CameraPlace(np.eye(3), np.zeros(3))
ROWS = InstanceTable(
    ids=np.array([17, 900], np.uint16), classes=np.array([12, 14], np.uint8),
    visible=np.array([0.25, 1.]), positions=np.array([[3., 0., 4.], [0., 0., 25.]]),
    boxes=np.array([[1, 2, 4, 8], [0, 0, 2, 2]]), roles=('step_out', ''))


def test_a_table_of_instances_survives():
    message = detections_message(ROWS, header(5, 'c'))
    assert [d.id for d in message.detections] == ['17 step_out', '900']
    assert message.detections[0].bbox.center.position.y == 5
    assert message.detections[0].bbox.size_x == 3
    table = table_of(message)
    assert table.ids.tolist() == [17, 900]
    assert table.classes.tolist() == [12, 14]
    assert table.distance_m.tolist() == [5., 25.]
    assert table.visible.tolist() == [0.25, 1.]
    assert table.boxes.tolist() == ROWS.boxes.tolist()
    assert table.names == ROWS.names


def test_detections_that_are_no_instances_are_left_out():
    message = detections_message(ROWS, header(5, 'c'))
    message.detections[0].id = 'person'
    message.detections[1].results = []
    assert len(table_of(message).ids) == len(table_of(message).positions) == 0
    other = detections_message(ROWS, header(5, 'c'))
    other.detections[0].results[0].hypothesis.class_id = 'car'
    assert table_of(other).ids.tolist() == [900]


@pytest.mark.parametrize('seed', range(12))
def test_any_rotation_survives(seed):
    rng = np.random.default_rng(seed)
    matrix = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    matrix *= np.linalg.det(matrix)
    if seed < 3:  # half turns, where a formula by the trace divides by nothing
        matrix = -np.eye(3)
        matrix[seed, seed] = 1
    assert np.linalg.norm(quaternion(matrix)) == pytest.approx(1)
    place = CameraPlace(matrix, np.array([1., 2., 3.]))
    found = place_of(pose_message(place, header(0, 'c')))
    np.testing.assert_allclose(found.rotation, matrix, atol=1e-12)
    assert found.eye.tolist() == [1, 2, 3]


def test_the_optical_frame_looks_ahead():
    place = CameraPose(0., np.array([5., 6., 1.5]), 0., 0.).place()
    rotation = place.rotation
    ahead, left, up = np.eye(3)
    np.testing.assert_allclose(rotation @ ahead, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(rotation @ left, [-1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(rotation @ up, [0, -1, 0], atol=1e-12)
    assert place.eye.tolist() == [5, 6, 1.5]


def test_depth_and_lens_survive():
    depth = np.array([[1.5, np.inf]], np.float32)
    found = decode_depth(image_message(depth, '32FC1', header(0, 'c')))
    assert found[0, 0] == 1.5
    assert not np.isfinite(found[0, 1])
    assert lens_of(camera_info_message(8, 4, 3., 5., 4., 2., header(0, 'c'))) == (3, 5, 4, 2)
    assert isinstance(camera_info_message(8, 4, 3., 5., 4., 2., header(0, 'c')), CameraInfo)


def test_only_what_is_wanted_and_there_is_published(bench):
    asked = []

    def known():
        asked.append(1)
        return KnownTruth(np.ones(size, np.uint16), ROWS, np.ones(size, np.float32), PLACE,
                          (1., 1., 3., 2.))

    size = (4, 6)
    full = Picture(np.zeros((*size, 3), np.uint8), 5, 'c', None, np.ones(size, np.uint16), known)
    truth = TruthPublishers(bench.node)
    assert truth.publish(full, header(5, 'c')) == ()
    assert not asked
    assert not truth.depth_wanted
    instances = bench.collect(Image, 'instances', qos.stream(5))
    tables = bench.collect(Detection2DArray, 'detections', qos.stream(5))
    bench.collect(Image, 'depth', qos.stream(5))
    bench.collect(PoseStamped, 'pose', qos.stream(5))
    bench.spin_until(lambda: set(truth.publish(full, header(5, 'c'))) == {OBJECTS, VIEW})
    bench.spin_until(lambda: instances and tables)
    assert truth.depth_wanted
    assert truth.publish(Picture(full.image, 5, 'c'), header(5, 'c')) == ()

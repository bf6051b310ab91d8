"""
Ground truth beside labels as topics: instances with their table, depth with the camera's pose.

``instances`` (``sensor_msgs/Image`` mono16), ``detections`` (``vision_msgs/Detection2DArray``, as
``bag record --truth detections`` writes it), ``depth`` (32FC1, REP 118) and ``pose``
(``geometry_msgs/PoseStamped`` of the optical frame in the world). The camera publishes what
somebody subscribes to, under the header of the image; the monitor joins by it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from geometry_msgs.msg import Pose, PoseStamped
import numpy as np
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import (
    BoundingBox2D,
    Detection2D,
    Detection2DArray,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
)

from kd_perception.evaluation.objects import InstanceTable
from kd_perception.imaging import decode_depth, raw_view
from kd_perception.nodes import qos
from kd_perception.nodes.camera_source import KnownInstances, Picture
from kd_perception.nodes.conversion import image_message, stamp_to_ns
from kd_perception.nodes.frame_truth import OBJECTS, VIEW
from kd_perception.nodes.recorder import Key, Recorder

_DEPTH = 10


class TruthPublishers:
    """
    The camera's side.

    :param node: the camera node.
    """

    def __init__(self, node: Any) -> None:
        self._instances = node.create_publisher(Image, 'instances', qos.stream(_DEPTH))
        self._detections = node.create_publisher(Detection2DArray, 'detections',
                                                 qos.stream(_DEPTH))
        self._depth = node.create_publisher(Image, 'depth', qos.stream(_DEPTH))
        self._pose = node.create_publisher(PoseStamped, 'pose', qos.stream(_DEPTH))

    @property
    def depth_wanted(self) -> bool:
        """Return whether anybody subscribes to depth."""
        return bool(self._depth.get_subscription_count())

    def publish(self, picture: Picture, head: Any) -> tuple[str, ...]:
        """Publish what is wanted and there; return which parts of the truth that is."""
        parts = []
        if picture.instances is not None and self._instances.get_subscription_count():
            self._instances.publish(image_message(picture.instances, 'mono16', head))
            if picture.table is not None and self._detections.get_subscription_count():
                self._detections.publish(detections_message(picture.table(), head))
                parts.append(OBJECTS)
        if picture.depth is not None and self.depth_wanted:
            self._depth.publish(image_message(picture.depth, '32FC1', head))
            if picture.pose is not None and self._pose.get_subscription_count():
                self._pose.publish(pose_message(*picture.pose, head))
                parts.append(VIEW)
        return tuple(parts)


class TruthSubscriptions:
    """
    The monitor's side; what comes is handed to the recorder in the counting thread.

    :param node: the monitor.
    :param measures: what is to be measured.
    :param arms: namespaces.
    :param hand: takes a call for the counting thread, which gets the recorder.
    """

    def __init__(self, node: Any, measures: Collection[str], arms: Collection[str],
                 hand: Callable[[Callable[[Recorder], None]], None]) -> None:
        def subscribe(kind: Any, topic: str, call: Callable[[Recorder, Any], None]) -> None:
            node.create_subscription(kind, topic, lambda m: hand(lambda r: call(r, m)),
                                     qos.stream(_DEPTH))

        if 'objects' in measures:
            subscribe(Image, 'instances', lambda r, m: r.on_instances(_key(m), raw_view(m)))
            subscribe(Detection2DArray, 'detections',
                      lambda r, m: r.on_table(_key(m), table_of(m)))
        if 'flicker' in measures:
            subscribe(Image, 'depth', lambda r, m: r.on_depth(_key(m), decode_depth(m)))
            subscribe(PoseStamped, 'pose', lambda r, m: r.on_pose(_key(m), *pose_of(m)))
            for arm in arms:
                subscribe(CameraInfo, f'{arm}/camera_info', lambda r, m: r.on_lens(lens_of(m)))
        if 'calibration' in measures:
            for arm in arms:
                subscribe(Image, f'{arm}/segmentation/confidence',
                          lambda r, m, a=arm: r.on_confidence(  # type: ignore[misc]
                              a, _key(m), raw_view(m)))


def detections_message(table: KnownInstances, head: Any) -> Detection2DArray:
    """Return a table of instances: id, class, visible share, box and position of each."""
    out = Detection2DArray(header=head)
    for n in range(len(table)):
        left, top, right, bottom = (float(v) for v in table.boxes[n])
        pose = Pose()
        pose.position.x, pose.position.y, pose.position.z = (float(v) for v in table.positions[n])
        result = ObjectHypothesisWithPose(hypothesis=ObjectHypothesis(
            class_id=str(int(table.tags[n])), score=float(table.visible[n])))
        result.pose.pose = pose
        box = BoundingBox2D(size_x=right - left, size_y=bottom - top)
        box.center.position.x, box.center.position.y = (left + right) / 2, (top + bottom) / 2
        out.detections.append(Detection2D(header=head, id=table.names[n], results=[result],
                                          bbox=box))
    return out


def table_of(message: Any) -> InstanceTable:
    """
    Return what a ``Detection2DArray`` of ground truth says of instances.

    An instance whose id does not begin with a number is left out.
    """
    rows = []
    for one in message.detections:
        number = one.id.partition(' ')[0]
        if not number.isdecimal() or not one.results:
            continue
        said = one.results[0]
        at = said.pose.pose.position
        rows.append((int(number), int(said.hypothesis.class_id),
                     float(np.sqrt(at.x ** 2 + at.y ** 2 + at.z ** 2)), said.hypothesis.score))
    columns = np.array(rows, float).reshape(-1, 4).T
    return InstanceTable(columns[0].astype(np.uint16), columns[1].astype(np.uint8), columns[2],
                         columns[3])


def pose_message(rotation: np.ndarray, eye: np.ndarray, head: Any) -> PoseStamped:
    """
    Return the pose of the optical frame in the world.

    :param rotation: ``[3, 3]`` from the world to the optical frame; ``eye``: ``[3]`` metres.
    """
    out = PoseStamped(header=head)
    at, turn = out.pose.position, out.pose.orientation
    at.x, at.y, at.z = (float(v) for v in eye)
    turn.x, turn.y, turn.z, turn.w = (float(v) for v in quaternion(rotation.T))
    return out


def pose_of(message: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return rotation from the world to the optical frame and position, of a ``PoseStamped``."""
    at, turn = message.pose.position, message.pose.orientation
    x, y, z, w = np.array([turn.x, turn.y, turn.z, turn.w]) / np.linalg.norm(
        [turn.x, turn.y, turn.z, turn.w])
    to_world = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
    return to_world.T, np.array([at.x, at.y, at.z])


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """Return x, y, z, w of a rotation matrix ``[3, 3]``, by the largest of them."""
    trace = np.trace(matrix)
    # Four times the square of each, so that nothing small is divided by.
    squares = np.array([*(1 + 2 * np.diag(matrix) - trace), 1 + trace])
    largest = int(np.argmax(squares))
    root = np.sqrt(squares[largest])
    a, b, c = (matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0],
               matrix[1, 0] - matrix[0, 1])
    if largest == 3:
        out = np.array([a, b, c, squares[3]])
    else:
        symmetric = matrix + matrix.T
        out = np.append(symmetric[largest], (a, b, c)[largest])
        out[largest] = squares[largest]
    return np.asarray(out / (2 * root))


def lens_of(message: Any) -> tuple[float, float, float, float]:
    """Return fx, fy, cx, cy of a ``CameraInfo``."""
    k = message.k
    return float(k[0]), float(k[4]), float(k[2]), float(k[5])


def _key(message: Any) -> Key:
    return stamp_to_ns(message.header.stamp), message.header.frame_id

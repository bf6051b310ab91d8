"""
Ground truth beside labels: depth, 2-D boxes of known instances, where the camera was.

Comes in: arrays. Goes out: ``sensor_msgs/Image`` 32FC1 (REP 118), ``vision_msgs/Detection2DArray``
and ``geometry_msgs/PoseStamped`` in a recording; ``known.py`` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rosbags.typesys import get_types_from_msg
from rosbags.typesys.store import Typestore

from kd_perception.bags import messages as msgs
from kd_perception.bags.writer import BagWriter
from kd_perception.frames import CameraPlace

DETECTIONS = 'vision_msgs/msg/Detection2DArray'
POSE = 'geometry_msgs/msg/PoseStamped'
_TYPES = {
    'vision_msgs/msg/Point2D': 'float64 x\nfloat64 y\n',
    'vision_msgs/msg/Pose2D': 'vision_msgs/Point2D position\nfloat64 theta\n',
    'vision_msgs/msg/BoundingBox2D': 'vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n',
    'vision_msgs/msg/ObjectHypothesis': 'string class_id\nfloat64 score\n',
    'vision_msgs/msg/ObjectHypothesisWithPose':
        'vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n',
    'vision_msgs/msg/Detection2D':
        'std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n'
        'vision_msgs/BoundingBox2D bbox\nstring id\n',
    DETECTIONS: 'std_msgs/Header header\nvision_msgs/Detection2D[] detections\n',
}


def write_depth(writer: BagWriter, topic: str, depth: np.ndarray, stamp_ns: int,
                frame_id: str = 'camera') -> None:
    """Write float32 ``[H, W]`` metres along the optical axis, infinite where nothing is."""
    image = msgs.make_image(depth.astype(np.float32, copy=False), '32FC1', stamp_ns, frame_id)
    writer.write_message(topic, msgs.IMAGE, image, stamp_ns)


def write_detections(writer: BagWriter, topic: str, stamp_ns: int, frame_id: str, *,
                     ids: Sequence[str], tags: np.ndarray, scores: np.ndarray,
                     boxes: np.ndarray, positions: np.ndarray) -> None:
    """
    Write what is in a picture, one detection per instance.

    :param ids: name of each instance; ``tags``: ``[N]`` class ids of the label images.
    :param scores: ``[N]`` 0 … 1; ground truth has no doubt, so the simulator gives the visible
        share.
    :param boxes: ``[N, 4]`` left, top, right, bottom in pixels, right and bottom exclusive.
    :param positions: ``[N, 3]`` metres in the camera's optical frame: right, down, ahead.
    """
    types = _types().types
    header = msgs.make_header(stamp_ns, frame_id)

    def detection(n: int) -> Any:
        left, top, right, bottom = (float(x) for x in boxes[n])
        pose = types['geometry_msgs/msg/Pose'](
            position=types['geometry_msgs/msg/Point'](*(float(x) for x in positions[n])),
            orientation=types['geometry_msgs/msg/Quaternion'](0., 0., 0., 1.))
        return types['vision_msgs/msg/Detection2D'](
            header=header, id=ids[n],
            results=[types['vision_msgs/msg/ObjectHypothesisWithPose'](
                hypothesis=types['vision_msgs/msg/ObjectHypothesis'](
                    class_id=str(int(tags[n])), score=float(scores[n])),
                pose=types['geometry_msgs/msg/PoseWithCovariance'](
                    pose=pose, covariance=np.zeros(36)))],
            bbox=types['vision_msgs/msg/BoundingBox2D'](
                center=types['vision_msgs/msg/Pose2D'](
                    position=types['vision_msgs/msg/Point2D']((left + right) / 2,
                                                              (top + bottom) / 2), theta=0.),
                size_x=right - left, size_y=bottom - top))

    message = types[DETECTIONS](header=header,
                                detections=[detection(n) for n in range(len(ids))])
    writer.write_message(topic, DETECTIONS, message, stamp_ns)


def write_pose(writer: BagWriter, topic: str, place: CameraPlace, stamp_ns: int,
               frame_id: str = 'camera') -> None:
    """Write where the camera is: the pose of its optical frame in the world."""
    types = msgs.standard_types().types
    pose = types['geometry_msgs/msg/Pose'](
        position=types['geometry_msgs/msg/Point'](*(float(v) for v in place.eye)),
        orientation=types['geometry_msgs/msg/Quaternion'](
            *(float(v) for v in quaternion(place.rotation.T))))
    writer.write_message(topic, POSE, types[POSE](
        header=msgs.make_header(stamp_ns, frame_id), pose=pose), stamp_ns)


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """Return x, y, z, w of a rotation matrix ``[3, 3]``, worked out from the largest of them."""
    trace = np.trace(matrix)
    # Four times the square of each, so that nothing small is divided by.
    squares = np.array([*(1 + 2 * np.diag(matrix) - trace), 1 + trace])
    largest = int(np.argmax(squares))
    root = np.sqrt(squares[largest])
    turns = (matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0],
             matrix[1, 0] - matrix[0, 1])
    if largest == 3:
        out = np.array([*turns, squares[3]])
    else:
        out = np.append((matrix + matrix.T)[largest], turns[largest])
        out[largest] = squares[largest]
    return np.asarray(out / (2 * root))


def _types() -> Typestore:
    store = msgs.standard_types()
    for name, text in _TYPES.items():
        if name not in store.fielddefs:
            store.register(get_types_from_msg(text, name))
    return store

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
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import (
    BoundingBox2D,
    Detection2D,
    Detection2DArray,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
)

from kd_perception.bags.known import place_of, table_of
from kd_perception.bags.truth import quaternion
from kd_perception.evaluation.metrics.detail_counter import OBJECTS, VIEW
from kd_perception.frames import CameraPlace, InstanceTable
from kd_perception.imaging import decode_depth, raw_view
from kd_perception.nodes import qos
from kd_perception.nodes.camera.source import Picture
from kd_perception.nodes.conversion import image_message, stamp_to_ns
from kd_perception.nodes.monitor.recorder import Key, Recorder

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
        ids = self._instances.get_subscription_count()
        if picture.instances is not None and ids:
            self._instances.publish(image_message(picture.instances, 'mono16', head))
        tables, poses = (p.get_subscription_count() for p in (self._detections, self._pose))
        if picture.known is None or not (ids or tables or poses or self.depth_wanted):
            return ()
        known = picture.known()
        if known is None:
            return ()
        if known.instances is not None and picture.instances is None and ids:
            self._instances.publish(image_message(known.instances, 'mono16', head))
        if known.table is not None and tables:
            self._detections.publish(detections_message(known.table, head))
        if known.depth is not None and self.depth_wanted:
            self._depth.publish(image_message(known.depth, '32FC1', head))
        if known.place is not None and poses:
            self._pose.publish(pose_message(known.place, head))
        objects = bool(known.instances is not None and known.table is not None and ids and tables)
        view = bool(known.depth is not None and known.place is not None and poses
                    and self.depth_wanted)
        return (OBJECTS,) * objects + (VIEW,) * view


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
            subscribe(PoseStamped, 'pose', lambda r, m: r.on_place(_key(m), place_of(m)))
            for arm in arms:
                subscribe(CameraInfo, f'{arm}/camera_info', lambda r, m: r.on_lens(lens_of(m)))
        if 'calibration' in measures:
            for arm in arms:
                subscribe(Image, f'{arm}/segmentation/confidence',
                          lambda r, m, a=arm: r.on_confidence(  # type: ignore[misc]
                              a, _key(m), raw_view(m)))


def detections_message(table: InstanceTable, head: Any) -> Detection2DArray:
    """Return a table of instances: id, class, visible share, box and position of each."""
    out = Detection2DArray(header=head)
    for n, name in enumerate(table.names):
        left, top, right, bottom = (float(v) for v in table.boxes[n])
        pose = Pose()
        pose.position.x, pose.position.y, pose.position.z = (float(v) for v in table.positions[n])
        result = ObjectHypothesisWithPose(hypothesis=ObjectHypothesis(
            class_id=str(int(table.classes[n])), score=float(table.visible[n])))
        result.pose.pose = pose
        box = BoundingBox2D(size_x=right - left, size_y=bottom - top)
        box.center.position.x, box.center.position.y = (left + right) / 2, (top + bottom) / 2
        out.detections.append(Detection2D(header=head, id=name, results=[result],
                                          bbox=box))
    return out


def pose_message(place: CameraPlace, head: Any) -> PoseStamped:
    """Return the pose of the optical frame in the world."""
    out = PoseStamped(header=head)
    at, turn = out.pose.position, out.pose.orientation
    at.x, at.y, at.z = (float(v) for v in place.eye)
    turn.x, turn.y, turn.z, turn.w = (float(v) for v in quaternion(place.rotation.T))
    return out


def lens_of(message: Any) -> tuple[float, float, float, float]:
    """Return fx, fy, cx, cy of a ``CameraInfo``."""
    k = message.k
    return float(k[0]), float(k[4]), float(k[2]), float(k[5])


def _key(message: Any) -> Key:
    return stamp_to_ns(message.header.stamp), message.header.frame_id

"""
The topics of one camera in the perception node: its image comes in, its results go out.

Publishers are lifecycle publishers; the subscription exists while the node is configured, so that
images which come while it is inactive are seen and counted.
"""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from vision_msgs.msg import LabelInfo

from kd_perception.classes import ClassSet
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import (
    image_message,
    label_info_message,
    scale_camera_info,
    stamp_to_ns,
)
from kd_perception.nodes.events import subscription_events
from kd_perception.nodes.slots import Arrival
from kd_perception.nodes.worker import FrameResult

# Older distributions (Humble) call back with the message alone.
_HAS_MESSAGE_INFO = hasattr(Subscription, 'CallbackType')
_TRUSTED_AGE_NS = 10_000_000_000
_LOST_BEFORE_RELIABLE = 3


class CameraTopics:
    """
    Subscription and publishers of one camera.

    :param node: the perception node.
    :param camera: name of the camera; empty for the only one.
    :param on_arrival: called in the ROS thread with every image.
    """

    def __init__(self, node: Any, camera: str, *, image_transport: str, reliability: str,
                 on_arrival: Callable[[Arrival, int], None]) -> None:
        self.camera = camera
        self.age_from_stamp = False
        self._node = node
        self._on_arrival = on_arrival
        self._reliability = reliability
        self._reliable = reliability == 'reliable'
        self._lost = 0
        self._camera_info: CameraInfo | None = None
        prefix = f'{camera}/' if camera else ''
        self._type = CompressedImage if image_transport == 'compressed' else Image
        self._name = prefix + ('image/compressed' if image_transport == 'compressed' else 'image')
        create = node.create_lifecycle_publisher
        # A few deep: a result that was paid for should not be lost to a reader that blinks.
        self._mask = create(Image, f'{prefix}segmentation/mask', qos.stream(5))
        self._confidence = create(Image, f'{prefix}segmentation/confidence', qos.stream(5))
        self.overlay = create(Image, f'{prefix}overlay', qos.stream())
        self._scaled_info = create(CameraInfo, f'{prefix}segmentation/camera_info', qos.stream())
        # Not managed: a latched message must not get lost because it was published on configure.
        self._label_info = node.create_publisher(
            LabelInfo, f'{prefix}segmentation/label_info', qos.latched())
        self._info_subscription = node.create_subscription(
            CameraInfo, f'{prefix}camera_info', self._on_camera_info, qos.image_subscription())
        self._subscription = self._subscribe(overridable=True)
        actual = self._subscription.qos_profile.reliability
        self._overridden = (actual != qos.image_subscription(self._reliable).reliability)
        if self._overridden:
            self._reliable = not self._reliable

    @property
    def topic(self) -> str:
        """Return the resolved name of the image topic."""
        return self._subscription.topic_name

    @property
    def reliable(self) -> bool:
        """Return whether the image subscription is reliable now."""
        return self._reliable

    def publish_classes(self, classes: ClassSet, threshold: float) -> None:
        """Publish the latched label info."""
        stamp = self._node.get_clock().now().to_msg()
        head = Image().header
        head.stamp = stamp
        self._label_info.publish(label_info_message(classes, head, threshold))

    def publish(self, frame: FrameResult, *, confidence: bool) -> None:
        """Publish mask and confidence with the header of their image."""
        result = frame.processed.result
        head = frame.arrival.message.header
        self._mask.publish(image_message(result.mask, 'mono8', head))
        if confidence:
            self._confidence.publish(image_message(result.confidence, 'mono8', head))
        info = self._camera_info
        if info is not None and result.mask.shape != (info.height, info.width):
            height, width = result.mask.shape
            info.header = head
            self._scaled_info.publish(scale_camera_info(info, width, height))

    def silence_reason(self) -> str:
        """Say why no image comes."""
        kind = 'CompressedImage' if self._type is CompressedImage else 'Image'
        return qos.silence_reason(self._node, self.topic, f'sensor_msgs/msg/{kind}',
                                  self._reliable)

    def heal(self, missing_share: float) -> bool:
        """
        Subscribe reliably if that is allowed, possible and frames are seen missing.

        :returns: whether it was done.
        """
        lost = self._lost >= _LOST_BEFORE_RELIABLE or missing_share > 0.05
        if (self._reliability != 'auto' or self._reliable or self._overridden or not lost
                or not qos.all_reliable(self._node, self.topic)):
            return False
        self._reliable = True
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe(overridable=False)
        return True

    def destroy(self) -> None:
        """Take all topics away."""
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_subscription(self._info_subscription)
        for publisher in (self._mask, self._confidence, self.overlay, self._scaled_info):
            self._node.destroy_lifecycle_publisher(publisher)
        self._node.destroy_publisher(self._label_info)

    def _subscribe(self, *, overridable: bool) -> Subscription:
        options = QoSOverridingOptions.with_default_policies() if overridable else None
        return self._node.create_subscription(
            self._type, self._name, self._with_info if _HAS_MESSAGE_INFO else self._without_info,
            qos.image_subscription(self._reliable), qos_overriding_options=options,
            event_callbacks=subscription_events(self._on_lost, self._on_incompatible))

    def _with_info(self, message: Any, info: dict[str, int]) -> None:
        now = time.monotonic_ns()
        source, received = info['source_timestamp'], info['received_timestamp']
        # A clock that jumped, or another host's: no number is better than a wrong one.
        transport = received - source if 0 < source <= received else None
        self._arrive(message, now, transport)

    def _without_info(self, message: Any) -> None:
        self._arrive(message, time.monotonic_ns(), None)

    def _arrive(self, message: Any, now: int, transport: int | None) -> None:
        stamp = stamp_to_ns(message.header.stamp)
        age = self._node.get_clock().now().nanoseconds - stamp
        self.age_from_stamp = 0 <= age < _TRUSTED_AGE_NS
        self._on_arrival(Arrival(self.camera, message, now, transport,
                                 age if self.age_from_stamp else 0), stamp)

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message

    def _on_lost(self, total: int) -> None:
        self._lost = total

    def _on_incompatible(self, policy: str) -> None:
        self._node.get_logger().warning(
            f'{self.topic}: a publisher offers an incompatible {policy}; set the parameter '
            'reliability to best_effort or auto')


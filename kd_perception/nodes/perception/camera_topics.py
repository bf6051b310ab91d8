"""
The topics of one camera in the perception node: its image comes in, its results go out.

Publishers are lifecycle publishers; the subscription exists while the node is configured, so that
images which come while it is inactive are seen and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import time
from typing import Any

from rclpy.qos import ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from vision_msgs.msg import LabelInfo

from kd_perception.classes import ClassSet
from kd_perception.nodes import qos
from kd_perception.nodes.conversion import image_message, label_info_message, stamp_to_ns
from kd_perception.nodes.events import subscription_events
from kd_perception.nodes.perception.camera_info import mask_camera_info
from kd_perception.nodes.perception.slots import Arrival
from kd_perception.nodes.perception.worker import FrameResult
from kd_perception.nodes.qos_overrides import overridable, reliability_override
from kd_perception.nodes.qos_watch import publisher_problem, QosWatch
from kd_perception.nodes.stamps import StampAge

# Older distributions (Humble) call back with the message alone.
_HAS_MESSAGE_INFO = hasattr(Subscription, 'CallbackType')
# So many messages lost within the window make a subscription reliable where it may be.
_LOST_BEFORE_RELIABLE = 3
_LOST_WINDOW_S = 10.0


class CameraTopics:
    """
    Subscription and publishers of one camera.

    :param node: the perception node.
    :param camera: name of the camera; empty for the only one.
    :param on_arrival: called in the ROS thread with every image.
    :param on_lost: called there with the number of images that the middleware has lost.
    :param watch: is told of ends whose quality of service does not fit.
    """

    def __init__(self, node: Any, camera: str, *, image_transport: str, reliability: str,
                 on_arrival: Callable[[Arrival, int], None],
                 on_lost: Callable[[str, int], None], watch: QosWatch) -> None:
        self.camera = camera
        self.age_from_stamp = False
        self._age = StampAge()
        self._node = node
        self._on_arrival = on_arrival
        self._tell_lost = on_lost
        self._watch = watch
        self._reliability = reliability
        self._reliable = reliability == 'reliable'
        self._lost: deque[float] = deque(maxlen=_LOST_BEFORE_RELIABLE)
        self._camera_info: CameraInfo | None = None
        prefix = f'{camera}/' if camera else ''
        self._type = CompressedImage if image_transport == 'compressed' else Image
        self._name = prefix + ('image/compressed' if image_transport == 'compressed' else 'image')
        self._override = reliability_override(node, node.resolve_topic_name(self._name))
        self._made: list[Callable[[], Any]] = []
        try:
            self._create(prefix)
        except Exception:
            self.destroy()  # half a camera would go on to receive
            raise

    def _create(self, prefix: str) -> None:
        # A few deep: a result that was paid for should not be lost to a reader that blinks.
        self._mask = self._publisher(Image, f'{prefix}segmentation/mask', 5)
        self._confidence = self._publisher(Image, f'{prefix}segmentation/confidence', 5)
        self.overlay = self._publisher(Image, f'{prefix}overlay', 1)
        self._mask_info = self._publisher(CameraInfo, f'{prefix}segmentation/camera_info', 1)
        node = self._node
        # Not managed: a latched message must not get lost because it was published on configure.
        self._label_info = self._watch.publisher(
            node.create_publisher, LabelInfo, f'{prefix}segmentation/label_info', qos.latched())
        self._made.append(lambda: node.destroy_publisher(self._label_info))
        info = node.create_subscription(
            CameraInfo, f'{prefix}camera_info', self._on_camera_info, qos.image_subscription(),
            qos_overriding_options=overridable())
        self._made.append(lambda: node.destroy_subscription(info))
        self._subscription = self._subscribe(self._reliable)
        self._made.append(lambda: node.destroy_subscription(self._subscription))
        self._made.append(lambda: self._watch.forget(self.topic))
        self._reliable = (self._subscription.qos_profile.reliability
                          == ReliabilityPolicy.RELIABLE)

    def _publisher(self, kind: Any, name: str, depth: int) -> Any:
        made = self._watch.publisher(self._node.create_lifecycle_publisher, kind, name,
                                     qos.stream(depth))
        self._made.append(lambda: self._node.destroy_lifecycle_publisher(made))
        self._made.append(lambda: self._watch.forget(made.topic_name))
        return made

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
        """Publish mask, and confidence where somebody subscribes, under their image's header."""
        result = frame.processed.result
        head = frame.arrival.message.header
        self._mask.publish(image_message(result.mask, 'mono8', head))
        # As large as the mask: to copy and serialize it for nobody takes half a millisecond.
        if confidence and self._confidence.get_subscription_count():
            self._confidence.publish(image_message(result.confidence, 'mono8', head))
        info = self._camera_info
        if info is not None and self._mask_info.get_subscription_count():
            processed = frame.processed
            height, width = result.mask.shape
            self._mask_info.publish(mask_camera_info(
                info, head, (processed.image.shape[0], processed.image.shape[1]),
                (height, width), processed.shown))

    def silence_reason(self) -> str:
        """Say why no image comes."""
        kind = 'CompressedImage' if self._type is CompressedImage else 'Image'
        return qos.silence_reason(self._node, self.topic, f'sensor_msgs/msg/{kind}',
                                  self._reliable, self._advice())

    def heal(self, missing_share: float) -> str:
        """
        Follow the publishers, where that is allowed: reliable when frames are seen missing and
        every publisher is, best effort again as soon as one is not.

        :returns: what was done and why, or an empty string.
        """
        if not self._follows:
            return ''
        since = time.monotonic() - _LOST_WINDOW_S
        lost = len(self._lost) == self._lost.maxlen and self._lost[0] > since
        if not self._reliable and not (lost or missing_share > 0.05):
            return ''
        offered = qos.publisher_reliability(self._node, self.topic)
        if not self._reliable and offered == 'reliable':
            self._subscribe_again(reliable=True)
            return 'frames get lost; subscribing reliably from now on'
        if self._reliable and offered in ('best_effort', 'mixed'):
            self._subscribe_again(reliable=False)
            return 'a publisher is best effort; subscribing best effort again'
        return ''

    def destroy(self) -> None:
        """Take all topics away."""
        while self._made:
            self._made.pop()()

    @property
    def _follows(self) -> bool:
        return self._reliability == 'auto' and not self._override

    def _subscribe_again(self, *, reliable: bool) -> None:
        made = self._subscribe(reliable)  # first: where it cannot be made, the old one goes on
        self._node.destroy_subscription(self._subscription)
        self._subscription, self._reliable = made, reliable
        self._lost.clear()

    def _subscribe(self, reliable: bool) -> Subscription:
        return self._node.create_subscription(
            self._type, self._name, self._with_info if _HAS_MESSAGE_INFO else self._without_info,
            qos.image_subscription(reliable),
            qos_overriding_options=overridable(reliability=bool(self._override)),
            event_callbacks=subscription_events(self._on_lost, self._on_incompatible))

    def _advice(self) -> str:
        """Say how the subscription becomes best effort."""
        if self._override:
            return f'start the node without the parameter {self._override}'
        if self._follows:
            return 'the subscription becomes best effort again'
        return ('set reliability to best_effort or auto while the node is unconfigured, or start '
                'it so')

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
        age = self._age.age_ns(stamp, self._node.get_clock().now().nanoseconds)
        self.age_from_stamp = age is not None
        self._on_arrival(Arrival(self.camera, message, now, transport, age or 0), stamp)

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message

    def _on_lost(self, count: int) -> None:
        self._tell_lost(self.camera, count)
        self._lost.extend([time.monotonic()] * min(count, _LOST_BEFORE_RELIABLE))

    def _on_incompatible(self) -> None:
        self._watch.mark(self.topic, lambda topic: [
            publisher_problem(topic, end, self._subscription.qos_profile, self._advice())
            for end in self._node.get_publishers_info_by_topic(topic)])

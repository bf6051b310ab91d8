"""
Somebody else's image topic as the source of a comparison: all arms and the monitor subscribe.

The monitor takes images undecoded, for their header and for the time at which they were published;
only a few that the report shows are decoded. Frames count from the moment all arms are ready.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
import struct
import time
from typing import Any

import rclpy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from kd_perception.errors import GraphError
from kd_perception.evaluation.joining import Published
from kd_perception.nodes import qos
from kd_perception.nodes.events import subscription_events
from kd_perception.nodes.monitor.pending import Pending
from kd_perception.nodes.monitor.source_control import Events, Key
from kd_perception.nodes.sampling import SampleIndices
from kd_perception.nodes.stamps import SET_BACK_NS

# Older distributions (Humble) call back with the message alone.
_HAS_MESSAGE_INFO = hasattr(Subscription, 'CallbackType')
_DEPTH = 10
_LOOK_EVERY_S = 1.0
# Results that were under way when the run began answer one of these.
_KEPT_BEFORE = 300
_SAME_STAMPS = 5
# No image lies longer in a middleware that works.
_LONGEST_TRANSPORT_NS = 10_000_000_000
# In Fast DDS vendor and host fill the first four bytes of an end's identifier.
_HOST_BYTES = 4


@dataclass(frozen=True)
class SeenImage:
    """
    One image as the monitor saw it.

    :param received_ns: steady clock in the monitor's callback.
    :param source_ns: the publisher's time of writing, brought from the system clock to the steady
        one; None where it cannot be right.
    """

    received_ns: int
    source_ns: int | None


class LiveTopic:
    """
    A ``SourceControl`` without control: frames come when they come.

    :param node: the monitor.
    :param values: its parameters.
    """

    def __init__(self, node: Any, values: Mapping[str, Any], events: Events) -> None:
        self.notes: list[str] = []
        self.identity: dict[str, Any] = {}  # nobody can tell what a topic will show
        self.total = values['frames'] + values['warmup'] if values['frames'] else 0
        self.ended_ns: int | None = None
        self.stopped_ns: int | None = None
        self.pending: Pending | None = None
        self.before: deque[Key] = deque(maxlen=_KEPT_BEFORE)
        self.frame_id = ''  # of the last image
        self._node, self._values, self._events = node, values, events
        self._compressed = values['image_transport'] == 'compressed'
        self._type = CompressedImage if self._compressed else Image
        self._samples = SampleIndices(values['samples'], self.total)
        self._images: dict[Key, SeenImage] = {}
        self._counting = False
        self._one_host = False
        self._last_at = self._look_at = 0.0
        self._count = self._lost = self._repeated = 0
        self._newest_ns = 0
        self._reliable = False
        self._subscription = self._subscribe()

    @property
    def topic(self) -> str:
        """Return the resolved name of the topic."""
        return str(self._subscription.topic_name)

    def missing(self) -> str:
        """Return why no image comes; empty when images do."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            self._follow_publishers()
        if self._last_at and now - self._last_at < self._values['timeout_s']:
            return ''
        kind = 'CompressedImage' if self._compressed else 'Image'
        reason = qos.silence_reason(self._node, self.topic, f'sensor_msgs/msg/{kind}',
                                    self._reliable, 'the monitor follows its publishers')
        return f'images ({reason})'

    def begin(self) -> None:
        """Let frames count from now on."""
        self._counting = True
        ends = self._node.get_publishers_info_by_topic(self.topic)
        self._one_host = bool(ends) and all(self._is_here(end) for end in ends)
        if len(ends) > 1:
            self.notes.append(f'{len(ends)} publishers write {self.topic}: its frames are those '
                              'of all of them.')

    def advance(self) -> None:
        """
        Notice the end of the frames.

        :raises GraphError: when no image came since the arms were ready, or all are alike.
        """
        if self._repeated > _SAME_STAMPS and self._repeated * 2 > self._count:
            raise GraphError(f'images on {self.topic} bear the same stamp again and again: '
                             'nobody can tell which one a result answers')
        silent = time.monotonic() - self._last_at
        if self.ended_ns is not None or silent <= self._values['timeout_s']:
            return
        if not self._count:
            raise GraphError(f'no image came on {self.topic} for {silent:.0f} s')
        self._stop()
        if self.total or self._values['duration_s']:
            self.notes.append(f'{self.topic} fell silent after {self._count} frames, warm-up '
                              'included, before the run was done.')

    def stop(self) -> None:
        """End the run now."""
        self._stop()

    def finish(self) -> dict[Key, int]:
        """
        Return when each frame was published, on the steady clock; adds what to say of that.

        The publisher's own time of writing where it can be trusted for every frame, else the
        moment at which the monitor had the image.
        """
        if self._lost:
            self.notes.append(f'The monitor itself lost {self._lost} images of {self.topic}; what '
                              'arms answered to those counts as unknown.')
        if self._repeated:
            self.notes.append(f'{self._repeated} images of {self.topic} bore the stamp of an '
                              'earlier one; results for them cannot be told apart.')
        bad = sum(image.source_ns is None for image in self._images.values())
        if self._one_host and not bad:
            self.notes.append(
                'Live topic: latency runs from the time at which the publisher wrote the image '
                "(the middleware's source timestamp, system clock of this host) to the result "
                'in the monitor; what happened to the frame before it was written is not in it.')
            return {key: image.source_ns or image.received_ns
                    for key, image in self._images.items()}
        why = (f'{bad} of {len(self._images)} source timestamps of the images cannot be right'
               if self._one_host else
               "it is not known that the publisher shares this host's clock")
        self.notes.append(
            f"Live topic: latency runs from the monitor's own reception of the image, because "
            f'{why}; the transport of the image is not in it.')
        return {key: image.received_ns for key, image in self._images.items()}

    def _played_again(self, key: Key) -> None:
        """A recording runs in a loop: stop where frames come that were counted already."""
        self._repeated -= 1
        if key in self._images:
            self._stop()
            self.notes.append(f'{self.topic} began again with old stamps (a recording in a loop): '
                              f'the run was ended after {self._count} frames.')

    def _stop(self) -> None:
        self.ended_ns = self.stopped_ns = time.monotonic_ns()

    def _is_here(self, end: Any) -> bool:
        """Return whether a publisher is known to run on this host."""
        if not rclpy.get_rmw_implementation_identifier().startswith('rmw_fastrtps'):
            return False
        own = self._node.get_publishers_info_by_topic(
            self._node.resolve_topic_name('/parameter_events'))
        here = {bytes(e.endpoint_gid[:_HOST_BYTES]) for e in own
                if (e.node_name, e.node_namespace) == (self._node.get_name(),
                                                       self._node.get_namespace())}
        return bytes(end.endpoint_gid[:_HOST_BYTES]) in here

    def _follow_publishers(self) -> None:
        """Subscribe reliably where every publisher allows it, before frames count."""
        reliable = qos.publisher_reliability(self._node, self.topic) == 'reliable'
        if reliable != self._reliable:
            self._node.destroy_subscription(self._subscription)
            self._reliable = reliable
            self._subscription = self._subscribe()

    def _subscribe(self) -> Any:
        profile = qos.image_subscription(self._reliable)
        profile.depth = _DEPTH
        name = 'image/compressed' if self._compressed else 'image'
        return self._node.create_subscription(
            self._type, name, self._with_info if _HAS_MESSAGE_INFO else self._without_info,
            profile, raw=True,
            event_callbacks=subscription_events(self._on_lost, lambda: None))

    def _on_lost(self, count: int) -> None:
        if self._counting and self.ended_ns is None:
            self._lost += count

    def _without_info(self, data: bytes) -> None:
        self._take(data, time.monotonic_ns(), None)

    def _with_info(self, data: bytes, info: Mapping[str, Any]) -> None:
        received_ns, now_ns = time.monotonic_ns(), time.time_ns()
        transport = now_ns - int(info['source_timestamp'])
        plausible = 0 <= transport <= _LONGEST_TRANSPORT_NS
        self._take(data, received_ns, received_ns - transport if plausible else None)

    def _take(self, data: bytes, received_ns: int, source_ns: int | None) -> None:
        self._last_at = time.monotonic()
        key = header_key(data)
        self.frame_id = key[1]
        if not self._counting:
            self.before.append(key)
            return
        if self.ended_ns is not None:
            return
        if key in self.before or key in self._images:
            self._repeated += 1
            if self._newest_ns - key[0] > SET_BACK_NS:
                self._played_again(key)
                return
        self._newest_ns = max(self._newest_ns, key[0])
        index, self._count = self._count, self._count + 1
        self._images[key] = SeenImage(received_ns, source_ns)
        for arm in self._values['arms']:
            self._events.published(Published(arm, *key, index, received_ns, -1))
        if index in self._samples:
            self._events.sample(key, deserialize_message(data, self._type))
        if self.total and self._count >= self.total:
            self._stop()


def header_key(data: bytes) -> Key:
    """
    Return stamp and frame id of a serialized message that begins with a header.

    :param data: CDR as it travels: four bytes that tell the byte order, then the fields.
    """
    order = '<' if data[1] & 1 else '>'
    seconds, nanoseconds, length = struct.unpack_from(f'{order}iII', data, 4)
    text = data[16:16 + max(0, length - 1)]  # the length counts the closing zero
    return seconds * 1_000_000_000 + nanoseconds, text.decode(errors='replace')

"""
The recorder of live topics: serialised messages as they come, into an MCAP recording.

Each subscription takes the quality of service that all its publishers offer: reliable where they
all are, latched where they all are, else best effort, which matches everybody. Topics are looked
for again and again, so a camera that starts late is recorded too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import fnmatch
from pathlib import Path
import signal
import time
from types import FrameType
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from kd_perception.bags import messages as msgs
from kd_perception.bags.metadata import qos_text
from kd_perception.bags.output import RawBagWriter
from kd_perception.bags.storage import Channel, QOS, TYPE_HASH
from kd_perception.errors import BagError, ConfigError
from kd_perception.frames import Progress
from kd_perception.nodes.message_types import definition_of, message_class
from kd_perception.nodes.process import end_with_parent
from kd_perception.nodes.qos import image_subscription

# What is recorded when no topic is named: pictures, what belongs to them, and the time.
CAMERA_TYPES = (*msgs.CAMERA_TYPES, msgs.CAMERA_INFO, msgs.LABEL_INFO)
ALWAYS = ('/clock', '/tf_static')

_DEPTH = 50
_LOOK_EVERY_S = 0.25
_TELL_EVERY_S = 0.5


@dataclass(frozen=True)
class LiveReport:
    """
    What was recorded.

    :param topics: messages by topic; 0 for one that was wanted and never came.
    """

    path: Path
    messages: int
    topics: dict[str, int]
    duration_s: float


class BagRecorder(Node):
    """
    Subscribes to topics and writes what comes; see the module.

    :param topics: names or patterns; none: cameras and what belongs to them.
    """

    def __init__(self, writer: RawBagWriter, topics: Sequence[str] = (),
                 **arguments: Any) -> None:
        super().__init__('bag_recorder', **arguments)
        self._writer = writer
        self._wanted = tuple(self._resolved(t) for t in topics)
        self._channels: dict[str, int] = {}
        self._profiles: dict[str, tuple[bool, bool]] = {}
        self._subscriptions_by_topic: dict[str, Any] = {}
        self._refused: set[str] = set()
        self.counts: dict[str, int] = {t: 0 for t in self._wanted if not _is_pattern(t)}
        self.failure: BagError | None = None
        self.look()
        self.create_timer(_LOOK_EVERY_S, self.look)

    def look(self) -> None:
        """Subscribe to what is wanted and new, and again where publishers changed."""
        for topic, types in self.get_topic_names_and_types():
            if topic in self._refused or not self._chosen(topic, types):
                continue
            ends = self.get_publishers_info_by_topic(topic)
            if not ends:
                continue
            if len(types) > 1:
                self._refuse(topic, f'carries several types: {", ".join(types)}')
                continue
            profile = _common(ends)
            if self._profiles.get(topic) == profile:
                continue
            if topic in self._subscriptions_by_topic:
                self.destroy_subscription(self._subscriptions_by_topic[topic])
            self._profiles[topic] = profile
            self._subscribe(topic, types[0], ends, profile)

    def _subscribe(self, topic: str, kind: str, ends: Sequence[Any],
                   profile: tuple[bool, bool]) -> None:
        try:
            cls = message_class(kind)
            if topic not in self._channels:
                self._channels[topic] = self._writer.add(_channel(topic, kind, ends))
        except ConfigError as error:
            self._refuse(topic, str(error))
            return
        number = self._channels[topic]
        self.counts.setdefault(topic, 0)

        def take(data: bytes, info: dict[str, Any]) -> None:
            received = int(info.get('received_timestamp') or 0) or time.time_ns()
            published = int(info.get('source_timestamp') or 0) or received
            try:
                self._writer.write(number, received, data, published)
            except BagError as error:
                self.failure = self.failure or error
                return
            self.counts[topic] += 1

        self._subscriptions_by_topic[topic] = self.create_subscription(
            cls, topic, take, _subscription(*profile), raw=True)  # type: ignore[arg-type]
        self.get_logger().info(f'recording {topic} ({kind})')

    def _chosen(self, topic: str, types: Sequence[str]) -> bool:
        if not self._wanted:
            return topic in ALWAYS or any(t in CAMERA_TYPES for t in types)
        return any(fnmatch.fnmatchcase(topic, wanted) for wanted in self._wanted)

    def _refuse(self, topic: str, reason: str) -> None:
        self._refused.add(topic)
        self.get_logger().warning(f'{topic} is not recorded: {reason}')

    def _resolved(self, topic: str) -> str:
        return '/' + topic.lstrip('/') if _is_pattern(topic) else self.resolve_topic_name(topic)


def record_live(out: Path | str, topics: Sequence[str] = (), *, duration_s: float = 0.0,
                max_bytes: int = 0, compression: str = '', overwrite: bool = False,
                progress: Progress | None = None) -> LiveReport:
    """
    Record until a signal (SIGINT, SIGTERM) or the end of ``duration_s``; both are a proper end.

    :param topics: names or patterns; none: cameras and what belongs to them.
    :param duration_s: 0: until a signal.
    :param max_bytes: begin another file when one holds so much; 0: one file.
    :param progress: called with (seconds, of how many, note).
    :raises BagError: when ``out`` exists or cannot be written (what was recorded stays, as an
        unfinished recording), or when no message came.
    """
    stop = _stop_on_signals()
    end_with_parent()
    # Our handlers only: one that raises would end a write half way.
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    node: BagRecorder | None = None
    try:
        with RawBagWriter(out, compression=compression, max_bytes=max_bytes, overwrite=overwrite,
                          keep=True) as writer:
            node = BagRecorder(writer, topics)
            executor.add_node(node)
            start = told = time.monotonic()
            while not stop and not (0 < duration_s <= time.monotonic() - start):
                executor.spin_once(timeout_sec=0.1)
                if node.failure is not None:
                    raise node.failure
                now = time.monotonic()
                if progress is not None and now - told >= _TELL_EVERY_S:
                    told = now
                    progress(int(now - start), int(duration_s), f'{writer.messages} messages')
            if not writer.messages:
                raise BagError(_silence(node, topics))
            return LiveReport(writer.path, writer.messages, dict(node.counts),
                              time.monotonic() - start)
    finally:
        executor.shutdown(timeout_sec=1.0)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def _stop_on_signals() -> list[int]:
    """Return a list that a signal puts itself into."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return seen


def _silence(node: BagRecorder, topics: Sequence[str]) -> str:
    there = sorted(n for n, _ in node.get_topic_names_and_types()
                   if node.get_publishers_info_by_topic(n))
    wanted = ', '.join(topics) or 'any camera'
    return (f'no message of {wanted} came, so nothing is recorded; published now: '
            f'{", ".join(there) or "nothing"} (ROS_DOMAIN_ID decides who is heard)')


def _common(ends: Sequence[Any]) -> tuple[bool, bool]:
    """Return (reliable, latched) as far as all publishers are."""
    return (all(e.qos_profile.reliability == ReliabilityPolicy.RELIABLE for e in ends),
            all(e.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for e in ends))


def _subscription(reliable: bool, latched: bool) -> QoSProfile:
    profile = image_subscription(reliable)
    profile.history, profile.depth = HistoryPolicy.KEEP_LAST, _DEPTH
    if latched:
        profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
    return profile


def _channel(topic: str, kind: str, ends: Sequence[Any]) -> Channel:
    profiles = '\n'.join(qos_text(
        depth=e.qos_profile.depth or 1,
        latched=e.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL,
        best_effort=e.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT) for e in ends)
    store_hash = getattr(ends[0], 'topic_type_hash', None)
    return Channel(
        id=0, topic=topic, type=kind, definition=definition_of(kind), definition_format='msg',
        serialization='cdr', metadata=((QOS, profiles), (TYPE_HASH, _hash_text(store_hash))))


def _hash_text(found: Any) -> str:
    """Return a type hash as REP 2016 writes it; empty where the middleware has none."""
    value = bytes(getattr(found, 'value', b'') or b'')
    return f'RIHS{found.version:02d}_{value.hex()}' if any(value) else ''


def _is_pattern(topic: str) -> bool:
    return any(c in topic for c in '*?[')

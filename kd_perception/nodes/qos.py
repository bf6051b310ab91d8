"""
Quality of service of every topic, and why two ends do not talk.

Sensor images are subscribed best effort with depth 1, which matches every publisher and keeps the
freshest. Results are published reliable, which matches every subscriber.
"""

from __future__ import annotations

from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from kd_perception.nodes.qos_watch import publisher_problem


def image_subscription(reliable: bool = False) -> QoSProfile:
    """Return the profile of an image subscription."""
    kind = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=kind,
                      durability=DurabilityPolicy.VOLATILE)


def stream(depth: int = 1) -> QoSProfile:
    """Return a reliable profile for results and records."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth,
                      reliability=ReliabilityPolicy.RELIABLE,
                      durability=DurabilityPolicy.VOLATILE)


def latched() -> QoSProfile:
    """Return a profile whose last message late subscribers still get."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1,
                      reliability=ReliabilityPolicy.RELIABLE,
                      durability=DurabilityPolicy.TRANSIENT_LOCAL)


def publisher_reliability(node: Any, topic: str) -> str:
    """Return ``reliable`` or ``best_effort`` if all publishers are, ``mixed``, or ``none``."""
    kinds = {e.qos_profile.reliability == ReliabilityPolicy.RELIABLE
             for e in node.get_publishers_info_by_topic(topic)}
    if len(kinds) != 1:
        return 'mixed' if kinds else 'none'
    return 'reliable' if kinds == {True} else 'best_effort'


def silence_reason(node: Any, topic: str, type_name: str, reliable: bool,
                   advice: str) -> str:
    """
    Say why no message comes on ``topic``, as far as the graph tells.

    :param topic: resolved name.
    :param type_name: type that is subscribed, e.g. ``sensor_msgs/msg/Image``.
    :param reliable: whether the subscription is reliable.
    :param advice: how it becomes best effort.
    """
    ends = node.get_publishers_info_by_topic(topic)
    if not ends:
        return f'no publisher on {topic}: start the camera, or remap the topic to its name'
    others = sorted({e.topic_type for e in ends} - {type_name})
    if others and all(e.topic_type != type_name for e in ends):
        hint = ' (set image_transport)' if 'Image' in others[0] else ''
        if 'Video' in others[0] or 'FFMPEG' in others[0]:
            hint = ' (video is read from recordings only: republish it as images)'
        return f'{topic} carries {", ".join(others)}, not {type_name}{hint}'
    for end in ends:
        if told := publisher_problem(topic, end, image_subscription(reliable), advice):
            return told
    return (f'{len(ends)} publisher(s) on {topic} but no image: it is paused, or large images are '
            'lost in a small shared-memory segment; start the publisher with '
            'FASTRTPS_DEFAULT_PROFILES_FILE set to config/fastdds.xml of this package')

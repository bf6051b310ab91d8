"""
Quality of service of every topic, and why two ends do not talk.

Sensor images are subscribed best effort with depth 1, which matches every publisher and keeps the
freshest. Results are published reliable, which matches every subscriber.
"""

from __future__ import annotations

from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


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


def all_reliable(node: Any, topic: str) -> bool:
    """Return whether ``topic`` has publishers and every one of them is reliable."""
    ends = node.get_publishers_info_by_topic(topic)
    return bool(ends) and all(
        e.qos_profile.reliability == ReliabilityPolicy.RELIABLE for e in ends)


def silence_reason(node: Any, topic: str, type_name: str, reliable: bool) -> str:
    """
    Say why no message comes on ``topic``, as far as the graph tells.

    :param topic: resolved name.
    :param type_name: type that is subscribed, e.g. ``sensor_msgs/msg/Image``.
    :param reliable: whether the subscription is reliable.
    """
    ends = node.get_publishers_info_by_topic(topic)
    if not ends:
        return f'no publisher on {topic}: start the camera, or remap the topic to its name'
    others = sorted({e.topic_type for e in ends} - {type_name})
    if others and all(e.topic_type != type_name for e in ends):
        hint = ' (set image_transport)' if 'Image' in others[0] else ''
        return f'{topic} carries {", ".join(others)}, not {type_name}{hint}'
    if reliable and any(e.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for e in ends):
        names = ', '.join(sorted({_name(e) for e in ends}))
        return (f'QoS mismatch on {topic}: {names} publishes best effort, this subscription is '
                'reliable; set reliability to best_effort or auto')
    return (f'{len(ends)} publisher(s) on {topic} but no image: it is paused, or large images are '
            'lost in a small shared-memory segment; start the publisher with '
            'FASTRTPS_DEFAULT_PROFILES_FILE set to config/fastdds.xml of this package')


def _name(end: Any) -> str:
    namespace = end.node_namespace.rstrip('/')
    return f'{namespace}/{end.node_name}'

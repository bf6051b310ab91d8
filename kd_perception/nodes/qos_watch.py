"""
Other ends of the node's topics that get nothing because of their quality of service, in words.

The middleware tells with an event that some end does not fit, but not which. Events mark a topic
here; once a second its ends are compared by the graph, until all fit or are gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

from kd_perception.nodes.events import publisher_events
from kd_perception.nodes.qos_overrides import overridable

_INFINITE_NS = 2**63 - 1
# Looks after which an end that the graph does not show is taken for gone.
_PATIENCE = 5


@dataclass(frozen=True)
class Mismatch:
    """One policy of which less is offered than requested."""

    policy: str
    offered: str
    requested: str


def mismatches(offered: QoSProfile, requested: QoSProfile) -> list[Mismatch]:
    """Return the policies that keep a publisher from a subscription, by the rules of DDS."""
    out = []
    if (offered.reliability == ReliabilityPolicy.BEST_EFFORT
            and requested.reliability == ReliabilityPolicy.RELIABLE):
        out.append(Mismatch('reliability', 'best_effort', 'reliable'))
    if (offered.durability == DurabilityPolicy.VOLATILE
            and requested.durability == DurabilityPolicy.TRANSIENT_LOCAL):
        out.append(Mismatch('durability', 'volatile', 'transient_local'))
    for name in ('deadline', 'liveliness_lease_duration'):
        ours, theirs = _span_ns(getattr(offered, name)), _span_ns(getattr(requested, name))
        if ours > theirs:
            out.append(Mismatch(name, _span_text(ours), _span_text(theirs)))
    if (offered.liveliness != LivelinessPolicy.MANUAL_BY_TOPIC
            and requested.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC):
        out.append(Mismatch('liveliness', 'automatic', 'manual_by_topic'))
    return out


def end_name(end: Any) -> str:
    """Return the full name of the node behind a ``TopicEndpointInfo``."""
    if 'UNKNOWN' in end.node_name:
        return 'a participant without a node name'
    return f'{end.node_namespace.rstrip("/")}/{end.node_name}'


def publisher_problem(topic: str, end: Any, subscription: QoSProfile, advice: str) -> str:
    """
    Say why a publisher does not reach our subscription; empty when it does.

    :param advice: how the subscription comes to ask for less reliability.
    """
    found = mismatches(end.qos_profile, subscription)
    if not found:
        return ''
    told = ', '.join(f'{m.policy} {m.offered} where this subscription requests {m.requested}'
                     for m in found)
    fixes = [advice] if any(m.policy == 'reliability' for m in found) else []
    if others := [f'{m.policy}: {m.requested}' for m in found if m.policy != 'reliability']:
        fixes.append(f'let it publish with {", ".join(others)}')
    return f'QoS mismatch on {topic}: {end_name(end)} publishes {told}; {"; ".join(fixes)}'


def subscription_problem(topic: str, end: Any, publisher: QoSProfile) -> str:
    """Say why a subscription gets nothing from our publisher; empty when it does."""
    found = mismatches(publisher, end.qos_profile)
    if not found:
        return ''
    told = ', '.join(f'{m.policy} {m.requested}' for m in found)
    fix = ', '.join(f'{m.policy}: {m.offered}' for m in found)
    return (f'QoS mismatch on {topic}: {end_name(end)} requests {told} and gets nothing; let it '
            f'subscribe with {fix}')


class QosWatch:
    """Topics of one node that an event has marked; everything happens in the ROS thread."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._marked: dict[str, tuple[Callable[[str], list[str]], int]] = {}
        self._told: frozenset[str] = frozenset()

    def publisher(self, make: Callable[..., Any], kind: Any, name: str,
                  profile: QoSProfile) -> Any:
        """
        Create a publisher whose unfitting subscriptions are seen.

        :param make: ``create_publisher`` or ``create_lifecycle_publisher`` of the node.
        :param profile: which ROS' standard parameters may override.
        """
        topic = self._node.resolve_topic_name(name)

        def look(topic: str) -> list[str]:
            return [subscription_problem(topic, end, profile)
                    for end in self._node.get_subscriptions_info_by_topic(topic)]

        # rclpy writes overrides into the profile, which is what unfitting ends are held against.
        return make(kind, name, profile, event_callbacks=publisher_events(
            lambda: self.mark(topic, look)), qos_overriding_options=overridable())

    def mark(self, topic: str, look: Callable[[str], list[str]]) -> None:
        """
        Look at a topic from now on.

        :param topic: resolved name.
        :param look: returns what is wrong with each of its other ends, empty where nothing is.
        """
        self._marked[topic] = (look, 0)

    def forget(self, topic: str) -> None:
        """Look at a topic no more."""
        self._marked.pop(topic, None)

    def amend(self, entry: DiagnosticStatus, *, active: bool) -> None:
        """
        Put what does not fit now into the node's status, which is a warning while it is active.

        :param entry: as the rest of the node made it; a worse level and its message stay.
        """
        told = '; '.join(self.problems())
        entry.values = [*entry.values, KeyValue(key='qos_mismatch', value=told)]
        if told and active and entry.level == DiagnosticStatus.OK:
            entry.level, entry.message = DiagnosticStatus.WARN, told

    def problems(self) -> list[str]:
        """Return what does not fit now, and log what is new."""
        out: list[str] = []
        for topic, (look, misses) in list(self._marked.items()):
            found = sorted({told for told in look(topic) if told})
            if not found and misses >= _PATIENCE:
                del self._marked[topic]
                continue
            self._marked[topic] = (look, 0 if found else misses + 1)
            out += found
        for told in out:
            if told not in self._told:
                self._node.get_logger().warning(told)
        self._told = frozenset(out)
        return out


def _span_ns(duration: Any) -> int:
    return int(duration.nanoseconds) or _INFINITE_NS  # 0 is "not said"


def _span_text(nanoseconds: int) -> str:
    return 'infinite' if nanoseconds >= _INFINITE_NS else f'{nanoseconds / 1e9:g} s'

"""
ROS' standard parameters for quality of service: ``qos_overrides.<topic>.<end>.<policy>``.

``<end>`` is ``publisher`` or ``subscription``; ``<policy>`` history, depth or reliability.
"""

from __future__ import annotations

from typing import Any

from rclpy.qos import HistoryPolicy, QoSPolicyKind, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from kd_perception.errors import ConfigError

PREFIX = 'qos_overrides.'
_KINDS = {'history': HistoryPolicy, 'reliability': ReliabilityPolicy}


def overridable(*, reliability: bool = True) -> QoSOverridingOptions:
    """
    Return the policies of a topic that may be overridden.

    :param reliability: whether it is one of them. Its parameter keeps the value of the first
        subscription for good, so it must not exist where the node itself may change its mind.
    """
    kinds = [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH]
    return QoSOverridingOptions(kinds + [QoSPolicyKind.RELIABILITY] if reliability else kinds)


def reliability_override(node: Any, topic: str) -> str:
    """
    Return the name of the parameter that overrides the reliability of a subscription, if given.

    :param topic: resolved name.
    """
    name = f'{PREFIX}{topic}.subscription.reliability'
    # rclpy declares the parameter with the default where none was given; whether one was is known
    # only by what the node was started with.
    return name if name in node._parameter_overrides else ''


def check_overrides(node: Any) -> None:
    """
    Refuse values that rclpy would fail on when it makes the topic.

    :raises ConfigError: for the first one.
    """
    for name, parameter in node._parameter_overrides.items():
        policy, value = name.rpartition('.')[2], parameter.value
        if not name.startswith(PREFIX):
            continue
        if policy == 'depth' and (not isinstance(value, int) or value < 0):
            raise ConfigError(f'parameter {name}: must be a whole number, not {value!r}')
        known = [kind.lower() for kind in _KINDS[policy].__members__] if policy in _KINDS else []
        if known and value not in known:
            raise ConfigError(f'parameter {name}: {value!r} is not one of {", ".join(known)}')

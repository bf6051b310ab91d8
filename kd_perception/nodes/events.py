"""Event callbacks of subscriptions, under the names that the distributions have had for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks  # type: ignore[no-redef]


def subscription_events(on_lost: Callable[[int], None],
                        on_incompatible: Callable[[str], None]) -> SubscriptionEventCallbacks:
    """
    Return event callbacks for lost messages and incompatible publishers.

    :param on_lost: called with the number of messages lost since the last call.
    :param on_incompatible: called with the name of the policy that does not fit.
    """
    def lost(info: Any) -> None:
        on_lost(int(info.total_count_change))

    def incompatible(info: Any) -> None:
        kind = info.last_policy_kind
        on_incompatible(str(getattr(kind, 'name', kind)).lower())

    return SubscriptionEventCallbacks(message_lost=lost, incompatible_qos=incompatible)

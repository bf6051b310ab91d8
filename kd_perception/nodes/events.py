"""Event callbacks and handlers, under the names that the distributions have had for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from rclpy.event_handler import (
        EventHandler,
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
    )
except ImportError:  # Humble
    from rclpy.qos_event import (  # type: ignore[no-redef]
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
    )
    from rclpy.qos_event import QoSEventHandler as EventHandler

__all__ = ['EventHandler', 'publisher_events', 'subscription_events']


def subscription_events(on_lost: Callable[[int], None],
                        on_incompatible: Callable[[], None]) -> SubscriptionEventCallbacks:
    """
    Return event callbacks for lost messages and incompatible publishers.

    :param on_lost: called with the number of messages lost since the last call.
    :param on_incompatible: called when a publisher is found that does not fit.
    """
    def lost(info: Any) -> None:
        on_lost(int(info.total_count_change))

    return SubscriptionEventCallbacks(message_lost=lost,
                                      incompatible_qos=lambda info: on_incompatible())


def publisher_events(on_incompatible: Callable[[], None]) -> PublisherEventCallbacks:
    """
    Return event callbacks for incompatible subscriptions.

    :param on_incompatible: called when a subscription is found that does not fit.
    """
    return PublisherEventCallbacks(incompatible_qos=lambda info: on_incompatible())

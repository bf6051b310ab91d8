"""
An executor for a node that is called for every image.

rclpy builds its wait set anew before every callback, and looks at all of it behind the wait, in
Python. Each publisher and subscription brings event handlers (quality of service that does not
fit, lost messages) that are ready a few times in a node's life and cost more than everything else
there, with the square of their number. Here they are looked at once a second.
"""

from __future__ import annotations

import time
from typing import Any

from rclpy.executors import SingleThreadedExecutor

from kd_perception.nodes.events import EventHandler

_LOOK_S = 1.0
# One wait set is built within this; what was begun with handlers goes on with them.
_BUILD_S = 0.01


class ImageExecutor(SingleThreadedExecutor):
    """
    A single-threaded executor that looks at event handlers once a second.

    An event is kept until it is looked at. The node must have something that wakes the executor,
    such as a timer: one that is never woken never looks.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._look_at = self._look_until = 0.0

    def can_execute(self, entity: Any) -> bool:
        """Return whether the callback of an entity may run now; called for each wait set."""
        if isinstance(entity, EventHandler) and not self._looking():
            return False
        return bool(super().can_execute(entity))

    def _looking(self) -> bool:
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at, self._look_until = now + _LOOK_S, now + _BUILD_S
        return now < self._look_until

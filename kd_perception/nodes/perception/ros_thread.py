"""
Work in the ROS thread that must not end it: what other threads hand over, what timers do.

rclpy lets an exception of a callback end the executor, and the node with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import traceback
from typing import Any

Act = Callable[[], Any]


class RosThread:
    """
    Runs acts in the ROS thread; one that raises is logged, and those behind it are done.

    :param node: whose executor is woken.
    """

    def __init__(self, node: Any) -> None:
        self._node = node
        self._posted: deque[Act] = deque()
        self._told = dict[str, str]()  # by name of the act, until it succeeds
        self._wake = node.create_guard_condition(self._run_posted)

    def post(self, act: Act) -> None:
        """Let ``act`` run in the ROS thread soon; from any thread."""
        self._posted.append(act)
        self._wake.trigger()

    def guarded(self, act: Act) -> None:
        """Run ``act`` now; log the traceback where it raises, once until it succeeds again."""
        name = getattr(act, '__qualname__', '')
        try:
            act()
            self._told.pop(name, None)
        except Exception:
            # Without a context a signal came meanwhile: nothing in ROS works after that.
            told = traceback.format_exc()
            if told != self._told.get(name) and self._node.context.ok():
                self._told[name] = told
                self._node.get_logger().error(told)

    def _run_posted(self) -> None:
        while self._posted:
            self.guarded(self._posted.popleft())

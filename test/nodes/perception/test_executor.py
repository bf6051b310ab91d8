"""Event handlers cost nothing between two looks, and are seen at the next one."""

from __future__ import annotations

import pytest
import rclpy
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

from kd_perception.nodes.events import EventHandler, publisher_events
from kd_perception.nodes.perception import executor as executor_module
from kd_perception.nodes.perception.executor import ImageExecutor


class Counting(ImageExecutor):
    """Counts in how many wait sets event handlers were."""

    looks = 0

    def can_execute(self, entity):
        can = super().can_execute(entity)
        self.looks += isinstance(entity, EventHandler) and can
        return can


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(executor_module.time, 'monotonic', lambda: now[0])
    return now


def test_handlers_are_looked_at_once_a_second(ros_environment, clock):
    context = Context()
    rclpy.init(context=context, args=['--ros-args', '--log-level', 'fatal'])
    executor = Counting(context=context)
    found = []
    node = rclpy.create_node('talker', context=context, enable_rosout=False)
    node.create_publisher(String, 'words', QoSProfile(depth=1),
                          event_callbacks=publisher_events(lambda: found.append(1)))
    executor.add_node(node)
    executor.spin_once(timeout_sec=0)
    first = executor.looks
    assert first >= 2  # an unfitting quality of service, an unfitting type
    clock[0] += 0.1
    # Who subscribes wants more than is offered.
    node.create_subscription(String, 'words', lambda m: None, QoSProfile(
        depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    for _ in range(20):
        executor.spin_once(timeout_sec=0.01)
    assert (executor.looks, found) == (first, [])
    for _ in range(200):
        clock[0] += 1.0
        executor.spin_once(timeout_sec=0.01)
        if found:
            break
    assert found
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown(context=context)

"""
Which topics of CARLA's own ROS interfaces are published, by whom, and how large the cameras are.

Run as a module it prints JSON: ``doctor`` asks a child, since ROS from wheels replaces the process
that imports it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
import json
import sys
import time
from typing import Any

ROOT = '/carla/'
_INFO = '/camera_info'
_LOOKING_S = 2.5


@dataclass(frozen=True)
class CarlaTopics:
    """
    What is seen of CARLA in the ROS graph.

    :param names: topics below ``/carla``.
    :param bridge: a node of CARLA's ROS bridge publishes some of them; else they are native.
    :param sizes: columns and rows by sensor (``/carla/ego_vehicle/rgb_front``), from camera_info.
    """

    names: tuple[str, ...] = ()
    bridge: bool = False
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)


def seen(node: Any, spin: Any, seconds: float = _LOOKING_S) -> CarlaTopics:
    """
    Look at the graph for a while, and into camera infos.

    :param node: of rclpy; gets subscriptions.
    :param spin: handles what has come, within a short time.
    """
    from sensor_msgs.msg import CameraInfo

    from kd_perception.nodes import qos

    sizes: dict[str, tuple[int, int]] = {}
    listened: set[str] = set()
    names: set[str] = set()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for name, types in node.get_topic_names_and_types():
            if not name.startswith(ROOT):
                continue
            names.add(name)
            # Others cannot be subscribed to; that is the trap to be told of.
            if name.endswith(_INFO) and '//' not in name and name not in listened and \
                    'sensor_msgs/msg/CameraInfo' in types:
                listened.add(name)
                node.create_subscription(CameraInfo, name, _keep(sizes, name), qos.stream())
        spin()
    publishers = (info.node_name for name in names if '//' not in name
                  for info in node.get_publishers_info_by_topic(name))
    return CarlaTopics(tuple(sorted(names)), any('bridge' in p for p in publishers), sizes)


def _keep(sizes: dict[str, tuple[int, int]], name: str) -> Any:
    def on_info(message: Any) -> None:
        sizes[name.removesuffix(_INFO)] = int(message.width), int(message.height)
    return on_info


def main() -> int:
    """Print what is seen as JSON."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from kd_perception.nodes.process import hear_no_more_signals

    rclpy.init()
    node = rclpy.create_node('kd_perception_doctor')
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        found = seen(node, lambda: executor.spin_once(timeout_sec=0.1))
    finally:
        hear_no_more_signals()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    print(json.dumps(asdict(found)))
    return 0


if __name__ == '__main__':
    sys.exit(main())

"""Topics below /carla are seen with their sizes and who publishes them."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo, Image

from kd_perception.nodes import qos
from kd_perception.nodes.carla_topics import seen


def test_topics_and_sizes_of_a_bridge(bench, other_bench):
    node = other_bench.node  # its name holds no "bridge": native, for all one can tell
    info = node.create_publisher(CameraInfo, '/carla/ego_vehicle/rgb_front/camera_info',
                                 qos.stream())
    node.create_publisher(Image, '/carla/ego_vehicle/rgb_front/image', qos.stream())
    node.create_publisher(Image, '/other/image', qos.stream())
    found = None

    def spin():
        info.publish(CameraInfo(width=800, height=600))
        bench.spin_for(0.02)

    def complete():
        nonlocal found
        found = seen(bench.node, spin, 0.2)
        return found.sizes

    bench.spin_until(complete)
    assert found.names == ('/carla/ego_vehicle/rgb_front/camera_info',
                           '/carla/ego_vehicle/rgb_front/image')
    assert found.sizes == {'/carla/ego_vehicle/rgb_front': (800, 600)}
    assert not found.bridge
    import rclpy
    bridge = rclpy.create_node('carla_ros_bridge', context=other_bench.context)
    bridge.create_publisher(Image, '/carla/ego_vehicle/depth_front/image', qos.stream())
    bench.spin_until(lambda: seen(bench.node, spin, 0.1).bridge)
    bridge.destroy_node()

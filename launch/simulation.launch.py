"""
Publish the embedded street as a camera.

``ros2 launch kd_perception simulation.launch.py scenario:=dense_fog``
All arguments: ``ros2 launch kd_perception simulation.launch.py --show-args``
"""

from kd_perception.nodes.launch_actions import launch_description
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    return launch_description('simulation')

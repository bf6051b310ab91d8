"""
Publish the embedded street, or a CARLA server, as a camera.

``ros2 launch kd_perception simulation.launch.py scenario:=dense_fog``
``ros2 launch kd_perception simulation.launch.py source:=carla carla_host:=sim-pc``
All arguments: ``ros2 launch kd_perception simulation.launch.py --show-args``
"""

from kd_perception.nodes.bringup.launch_actions import launch_description
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    return launch_description('simulation')

"""
Play a recording as a camera.

``ros2 launch kd_perception replay.launch.py bag:=drive.mcap``
All arguments: ``ros2 launch kd_perception replay.launch.py --show-args``
"""

from kd_perception.nodes.bringup.launch_actions import launch_description
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    return launch_description('replay')

"""
Let a teacher shadow a perception node that serves.

``ros2 launch kd_perception shadow.launch.py model:=teacher out_dir:=mined``
All arguments: ``ros2 launch kd_perception shadow.launch.py --show-args``
"""

from kd_perception.nodes.bringup.launch_actions import launch_description
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    return launch_description('shadow')

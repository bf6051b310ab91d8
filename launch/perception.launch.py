"""
Serve a model on a camera topic.

``ros2 launch kd_perception perception.launch.py model:=student image_topic:=/camera/image``
All arguments: ``ros2 launch kd_perception perception.launch.py --show-args``
"""

from kd_perception.nodes.bringup.launch_actions import launch_description
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    return launch_description('perception')

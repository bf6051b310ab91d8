"""
Compare two models on the same frames, and report.

``ros2 launch kd_perception ab_comparison.launch.py a:=teacher b:=student``
All arguments: ``ros2 launch kd_perception ab_comparison.launch.py --show-args``
"""

from kd_perception.nodes.bringup.launch_actions import launch_description
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    return launch_description('ab_comparison')

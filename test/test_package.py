"""What ``package.xml`` declares is what the package imports."""

from __future__ import annotations

import ast
from pathlib import Path
import xml.etree.ElementTree as ElementTree

ROOT = Path(__file__).resolve().parents[1]


def imported() -> set[str]:
    """Return the ROS packages that the nodes and launch files import."""
    found: set[str] = set()
    for file in [*(ROOT / 'kd_perception').rglob('*.py'), *(ROOT / 'launch').glob('*.py')]:
        for node in ast.walk(ast.parse(file.read_text())):
            names = ([node.module] if isinstance(node, ast.ImportFrom) and node.module
                     else [a.name for a in node.names] if isinstance(node, ast.Import) else [])
            found |= {n.partition('.')[0] for n in names
                      if n.partition('.')[2].partition('.')[0] in ('msg', 'srv')
                      or n.partition('.')[0] in ('rclpy', 'launch', 'launch_ros', 'cv_bridge')}
    return found


def test_every_ros_package_that_is_imported_is_declared() -> None:
    declared = {e.text for e in ElementTree.parse(ROOT / 'package.xml').getroot().iter(
        'exec_depend')}
    assert imported() >= {'rclpy', 'sensor_msgs', 'rcl_interfaces'}
    assert imported() <= declared

"""
RViz beside a run: the command that opens a layout of ``config/rviz`` on the topics that exist.

Layouts name topics of the root namespace; namespaces, the image's own topic and the first of
several cameras are given to RViz as remappings, so that one layout serves all.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
import shutil

import yaml

from kd_perception.paths import share_directory

# Of all nodes in all namespaces.
_GLOBAL = ('/diagnostics',)


def layout_topics(name: str) -> tuple[str, ...]:
    """Return the topics that ``config/rviz/<name>.rviz`` shows."""
    layout = yaml.safe_load((share_directory() / 'config' / 'rviz' / f'{name}.rviz').read_text())
    return tuple(d['Topic']['Value'] for d in layout['Visualization Manager']['Displays'])


def rviz_command(name: str, values: Mapping[str, str], cameras: tuple[str, ...] = ()) -> list[str]:
    """
    Return the command that opens the layout of a launch file.

    :param name: of the launch file and of the layout.
    :param values: texts of the launch arguments.
    :param cameras: names of the node's cameras; the first is shown.
    """
    space = values['namespace'].strip('/')
    prefix = f'/{space}' if space else ''
    camera = f'/{cameras[0]}' if cameras else ''
    image = values.get('image_topic', '') if name == 'perception' else ''
    command = ['rviz2', '-d', str(share_directory() / 'config' / 'rviz' / f'{name}.rviz'),
               '--ros-args']
    for topic in layout_topics(name):
        there = f'{prefix}{camera}{topic}'
        if topic == '/image' and image:
            there = image if image.startswith('/') else f'{prefix}/{image}'
        if there != topic and topic not in _GLOBAL:
            command += ['-r', f'{topic}:={there}']
    if values['use_sim_time']:
        command += ['-p', f'use_sim_time:={values["use_sim_time"]}']
    return command


def missing_rviz() -> str:
    """Say what to do where RViz is not installed; empty where it is."""
    if shutil.which('rviz2'):
        return ''
    distribution = os.environ.get('ROS_DISTRO', '<distribution>')
    return ('rviz:=true, but rviz2 is not installed here: apt install '
            f'ros-{distribution}-rviz2, or leave rviz:=true away; the nodes run without it')

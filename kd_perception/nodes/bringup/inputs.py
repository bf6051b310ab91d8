"""
What a launched comparison needs, looked at before anything starts.

``ros2 launch`` would otherwise bring up all nodes for one of them to find that a model is missing.
Only what the arguments say for sure is looked at: a parameter file may say the rest, and the nodes
answer for it. The verb ``compare`` looks at more (``cli/comparison.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_perception.bundle import find_bundle
from kd_perception.errors import BagError
from kd_perception.nodes.bringup.graph import RunGraph
from kd_perception.simulation.scenario import load_scenario


def check_inputs(graph: RunGraph) -> None:
    """
    Look for the models and the source of a comparison.

    :raises KdPerceptionError: when one is missing.
    """
    for node in graph.nodes:
        if node.executable == 'perception':
            _check_model(node.parameters)
        elif node.executable == 'camera':
            _check_source(node.parameters)


def _check_model(parameters: Mapping[str, Any]) -> None:
    model, folder = str(parameters.get('model', '')), str(parameters.get('models_dir', ''))
    if model and (folder or model.startswith(('/', '~'))):
        find_bundle(model, folder or None, verify=False).check_complete()


def _check_source(parameters: Mapping[str, Any]) -> None:
    if parameters.get('source') == 'sim':
        load_scenario(str(parameters.get('scenario', 'clear')))
    elif parameters.get('source') == 'bag':
        bag = str(parameters.get('bag', ''))
        if not Path(bag).expanduser().exists():
            raise BagError(f'{bag}: no such rosbag, video or image folder')

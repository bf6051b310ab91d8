"""
What a comparison needs, looked at before anything starts.

``ros2 launch`` would otherwise bring up all nodes for one of them to find that a model is missing.
The verb ``compare`` looks at more (``cli/comparison.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
import os
from typing import Any

from kd_perception.bags.source import open_source
from kd_perception.bundle import find_bundle
from kd_perception.errors import ConfigError
from kd_perception.nodes.bringup.graph import RunGraph
from kd_perception.simulation.scenario import load_scenario


def check_inputs(graph: RunGraph) -> None:
    """
    Look for the models and the source of a comparison.

    :raises KdPerceptionError: when one is missing or cannot be read.
    """
    truth = ''
    for node in graph.nodes:
        if node.executable == 'monitor':
            truth = str(node.parameters.get('truth', ''))
    for node in graph.nodes:
        if node.executable == 'perception':
            _check_model(node.parameters)
        elif node.executable == 'camera':
            _check_source(node.parameters, required=truth == 'required')


def _check_model(parameters: Mapping[str, Any]) -> None:
    model, folder = str(parameters.get('model', '')), str(parameters.get('models_dir', ''))
    # Where the parameter file may say in which folder names are looked up, the node finds them.
    if model and (folder or os.sep in model):
        find_bundle(model, folder or None, verify=False).check_complete()


def _check_source(parameters: Mapping[str, Any], *, required: bool) -> None:
    if parameters.get('source') == 'sim':
        load_scenario(str(parameters.get('scenario', 'clear')))
    elif parameters.get('source') == 'bag':
        options: dict[str, Any] = {
            name: str(parameters.get(name, ''))
            for name in ('image_topic', 'label_topic', 'label_dir', 'classes')}
        bag = str(parameters.get('bag', ''))
        with closing(open_source(bag, **options)) as source:
            if required and not source.has_labels:
                raise ConfigError(f'{bag}: has no labels, and ground truth is required')

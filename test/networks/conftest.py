"""A small network with its spec."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from kd_perception.bundle import BundleSpec, InputSpec, NetworkSpec
from kd_perception.classes import ClassSet
from kd_perception.networks.registry import build

Made = tuple[nn.Module, BundleSpec]


@pytest.fixture
def make() -> Callable[..., Made]:
    """Return a function that builds a seeded network and the spec that rebuilds it."""
    def build_one(builder: str = 'compact', size: tuple[int, int] = (45, 80), classes: int = 5,
                  **arguments: object) -> Made:
        arguments = arguments or {'width': 8}
        torch.manual_seed(0)
        spec = BundleSpec(
            name='small', task='segmentation', role='student',
            classes=ClassSet.from_names('five', [f'class{i}' for i in range(classes)]),
            input=InputSpec(*size), network=NetworkSpec(builder, dict(arguments)))
        module = build(spec.network, classes)
        with torch.no_grad():
            for parameter in module.parameters():
                # Away from the start's identities and near ties.
                parameter.add_(torch.randn_like(parameter) * 0.3)
        return module.eval(), spec

    return build_one

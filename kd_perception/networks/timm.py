"""
Classifiers of timm by name.

Weights are never downloaded: they come from a bundle or through ``bundle import-torch``.
"""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from kd_perception.errors import ConfigError
from kd_perception.networks.registry import register


@register('timm')
def timm_network(num_classes: int, architecture: str, **arguments: Any) -> nn.Module:
    """
    Build a classifier of timm.

    :param architecture: model name of timm, e.g. ``mobilenetv3_small_100``; a tag behind a dot
        names weights and is of no meaning here.
    :raises ConfigError: when the library is missing or has no such network.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"network builder timm needs timm ({error}); "
                          "pip install 'kd_perception[train]'") from None
    refused = [a for a in arguments if a.startswith(('pretrained', 'checkpoint'))]
    if refused:
        raise ConfigError(f'argument {refused[0]!r}: weights are never downloaded or loaded here; '
                          'leave it out')
    # "hf-hub:name" would ask the network for the architecture.
    name = str(architecture).partition('.')[0]
    if ':' in name or not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models())
        raise ConfigError(f'timm has no model {architecture!r}; ' + (
            f'did you mean {" or ".join(near)}?' if near else 'see timm.list_models()'))
    return timm.create_model(name, pretrained=False, num_classes=num_classes, **arguments)

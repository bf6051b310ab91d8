"""
Networks of torchvision by name: its segmentation models at their own stride, its classifiers.

Weights are never downloaded: they come from a bundle or through ``bundle import-torch``.
"""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import nn

from kd_perception.errors import ConfigError
from kd_perception.networks.registry import register


class TorchvisionSegmentation(nn.Module):
    """Backbone and head of a torchvision model, without its upsampling and auxiliary head."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Return logits.

        :param x: float32 ``[N, 3, H, W]``, normalised.
        :returns: float32 ``[N, K, h, w]`` at the head's stride (8).
        """
        features = self.net.backbone(x)  # type: ignore[operator]
        # LR-ASPP's head wants the fine features too.
        head = features.get('out', features)
        return self.net.classifier(head)  # type: ignore[operator]


@register('torchvision')
def torchvision_network(num_classes: int, architecture: str, **arguments: Any) -> nn.Module:
    """
    Build a network of torchvision.

    :param architecture: e.g. ``deeplabv3_resnet50``, ``lraspp_mobilenet_v3_large``, ``resnet18``.
    :raises ConfigError: when the library is missing, or has no such network for pictures.
    """
    try:
        from torchvision import models
    except ImportError as error:
        raise ConfigError(f'network builder torchvision needs torchvision ({error}); '
                          "pip install 'kd_perception[train]'") from None
    segmentation = models.list_models(module=models.segmentation)
    known = [*segmentation, *models.list_models(module=models)]
    if architecture not in known:
        near = difflib.get_close_matches(str(architecture), known)
        raise ConfigError(f'torchvision has no segmentation or classification {architecture!r}; '
                          + (f'did you mean {" or ".join(near)}?' if near else
                             f'it has {", ".join(segmentation)} and classifiers'))
    refused = [a for a in arguments if a in ('weights', 'weights_backbone', 'aux_loss')]
    if refused:
        raise ConfigError(f'argument {refused[0]!r}: weights are never downloaded and auxiliary '
                          'heads never built; leave it out')
    if architecture not in segmentation:
        return models.get_model(architecture, weights=None, num_classes=num_classes, **arguments)
    return TorchvisionSegmentation(models.get_model(
        architecture, weights=None, weights_backbone=None, num_classes=num_classes, **arguments))

"""
Channel specs: how many channels each layer of a slimmed network has, and layers of that size.

A network is rebuilt as its builder makes it and is then cut to the widths that the spec names, so
that nothing but plain numbers and safetensors describes a pruned network. Widths of a layer are
``(inputs, outputs)``, ``(inputs, outputs, groups)`` of a grouped convolution, or ``(channels,)``
of a normalisation; 0 is as the builder makes it, which outputs of the network are: so a spec holds
for any number of classes.
"""

from __future__ import annotations

from collections.abc import Mapping
import difflib
import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from kd_perception.errors import ConfigError

Widths = tuple[int, ...]


def widths(layer: nn.Module) -> Widths | None:
    """Return the widths of a layer; None where it has none that could be changed."""
    if isinstance(layer, _ConvNd):
        sides = (layer.in_channels, layer.out_channels)
        return sides if layer.groups == 1 else (*sides, layer.groups)
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, _BatchNorm):
        return (layer.num_features,)
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
        return (layer.normalized_shape[0],)
    return None


def is_depthwise(layer: nn.Module) -> bool:
    """Return whether each channel of a convolution is filtered alone, one in and one out."""
    return (isinstance(layer, _ConvNd) and layer.groups > 1
            and layer.groups == layer.in_channels == layer.out_channels)


def outputs_dimension(layer: nn.Module) -> int:
    """Return which dimension of the weight counts outputs; the other of 0 and 1 counts inputs."""
    return 1 if isinstance(layer, _ConvTransposeNd) and not is_depthwise(layer) else 0


def cut(module: nn.Module, channels: Mapping[str, Widths]) -> None:
    """
    Cut layers of a module to the given widths, in place; each keeps its first channels.

    Weights that are left are scaled by the root of the inputs lost, so that fresh ones are
    distributed as the builder meant it for fewer inputs.

    :param channels: widths by layer name.
    :raises ConfigError: for a layer that does not exist (with the nearest names), or widths that
        it cannot have.
    """
    layers = dict(module.named_modules())
    for name, wanted in channels.items():
        own = widths(layers[name]) if name in layers else None
        if own is None:
            known = [n for n, layer in layers.items() if widths(layer)]
            near = difflib.get_close_matches(name, known)
            raise ConfigError(f'channels: the network has no layer {name!r} with channels' + (
                f'; did you mean {" or ".join(near)}?' if near else ''))
        full = tuple(w or o for w, o in zip(wanted, own))
        if len(wanted) != len(own) or any(not 1 <= w <= o for w, o in zip(full, own)) or (
                len(full) == 3 and (full[0] % full[2] or full[1] % full[2])):
            raise ConfigError(f'channels: layer {name!r} of widths {list(own)} cannot be cut to '
                              f'{list(wanted)}')
        if full != own:
            _cut(layers[name], full)


def _cut(layer: nn.Module, wanted: Widths) -> None:
    if len(wanted) == 1:
        _cut_norm(layer, wanted[0])
        return
    inputs, outputs, groups = (*wanted, 1)[:3]
    at = outputs_dimension(layer)
    shape = list(layer.weight.shape)  # type: ignore[arg-type]
    # A grouped weight counts one side per group.
    shape[at] = outputs // groups if at else outputs
    shape[1 - at] = inputs if at else inputs // groups
    weight = layer.weight.detach()  # type: ignore[union-attr, operator]
    loss = weight.shape[1 - at] / shape[1 - at]
    layer.weight = _parameter(weight[:shape[0], :shape[1]] * math.sqrt(loss))
    if layer.bias is not None:
        layer.bias = _parameter(layer.bias.detach()[:outputs])  # type: ignore[operator, union-attr]
    if isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = inputs, outputs
    elif isinstance(layer, _ConvNd):
        layer.in_channels, layer.out_channels, layer.groups = inputs, outputs, groups


def _cut_norm(layer: nn.Module, channels: int) -> None:
    for name in ('weight', 'bias'):
        value = getattr(layer, name)
        if value is not None:
            setattr(layer, name, _parameter(value.detach()[:channels]))
    for name in ('running_mean', 'running_var'):
        value = getattr(layer, name, None)
        if value is not None:
            setattr(layer, name, value[:channels].clone())
    if isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = (channels,)
    elif isinstance(layer, _BatchNorm):
        layer.num_features = channels


def _parameter(value: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(value.clone().contiguous())

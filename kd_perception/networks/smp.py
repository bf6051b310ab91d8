"""
Networks of segmentation-models-pytorch, with its own or any timm encoder, by spec.

Weights are never downloaded: a network starts from random weights or from those of a bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
import difflib
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from kd_perception.errors import ConfigError
from kd_perception.networks.registry import register

_PROBE = 64  # pixels; large enough for encoders of stride 32


class SmpNet(nn.Module):
    """
    A network of segmentation-models-pytorch that takes images of any size.

    :param net: the library's model.
    :param multiple: the input is padded to multiples of it, the logits are cropped again.
    :param stride: pixels of the input per cell of the logits.
    """

    def __init__(self, net: nn.Module, multiple: int, stride: int) -> None:
        super().__init__()
        self.net = net
        self.multiple = multiple
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Return logits.

        :param x: float32 ``[N, 3, H, W]``, normalised.
        :returns: float32 ``[N, K, ceil(H / stride), ceil(W / stride)]``.
        """
        # Plain ints: exported graphs then hold constant sizes, which runtimes fold.
        height, width = int(x.shape[2]), int(x.shape[3])
        below, right = -height % self.multiple, -width % self.multiple
        if not below and not right:
            return self.net(x)
        x = functional.pad(x, (0, right, 0, below))
        return self.net(x)[:, :, :-(-height // self.stride), :-(-width // self.stride)]


@register('smp')
def smp(num_classes: int, architecture: str = 'Unet', encoder: str = 'resnet18',
        **arguments: Any) -> SmpNet:
    """
    Build a network of segmentation-models-pytorch.

    :param architecture: name of the model class, e.g. ``Unet``, ``FPN``, ``DeepLabV3Plus``.
    :param encoder: encoder name; ``tu-<name>`` for one of timm.
    :param arguments: further arguments of the class, e.g. ``encoder_depth``.
    :raises ConfigError: when the library is missing or knows no such architecture.
    """
    try:
        import segmentation_models_pytorch as library
    except ImportError as error:
        raise ConfigError(f'network builder smp needs segmentation-models-pytorch ({error}); '
                          "pip install 'kd_perception[train]'") from None
    known = {n for n in dir(library) if isinstance(getattr(library, n), type)
             and issubclass(getattr(library, n), nn.Module)}
    if architecture not in known:
        raise ConfigError(f'smp has no architecture {architecture!r}; it has '
                          f'{", ".join(sorted(known))}')
    if arguments.get('encoder_weights'):
        raise ConfigError('encoder_weights: weights are never downloaded; leave it out, or train '
                          'from a bundle')
    arguments['encoder_weights'] = None
    try:
        net = getattr(library, architecture)(encoder_name=encoder, in_channels=3,
                                             classes=num_classes, **arguments)
    except (KeyError, RuntimeError, AttributeError):
        _refuse_unknown(encoder, library.encoders.get_encoder_names())
        raise
    size = _drop_unused(net)
    if size > _PROBE:
        raise ConfigError(f'smp {architecture} of this encoder_depth gives logits '
                          f'{size // _PROBE} times as large as its input; set the argument '
                          'upsampling lower')
    return SmpNet(net, _multiple(net), _PROBE // size)


def _refuse_unknown(encoder: object, own: Sequence[str]) -> None:
    """
    Name the nearest encoders where there is none of this name; the library lists all of them.

    :param own: names of the library's own encoders.
    :raises ConfigError: when neither it nor timm knows the encoder.
    """
    known = list(own)
    if str(encoder).startswith('tu-'):
        import timm
        known = [f'tu-{name}' for name in timm.list_models()]
        encoder = str(encoder).partition('.')[0]  # behind the dot: which weights
    if encoder in known:
        return
    near = difflib.get_close_matches(str(encoder), known)
    hint = f'did you mean {" or ".join(near)}?' if near else (
        'e.g. resnet18, mobilenet_v2, or tu-<name> for an encoder of timm')
    raise ConfigError(f'smp has no encoder {encoder!r}; {hint}') from None


def _drop_unused(net: nn.Module) -> int:
    """
    Replace children of the encoder that never run by identities.

    Returns the height of the logits for a picture of ``_PROBE`` rows.

    With ``encoder_depth=4`` a ResNet-18 still carries its last stage: 8 of 11 million parameters
    that would be saved, sent and optimised for nothing.
    """
    encoder = net.encoder
    assert isinstance(encoder, nn.Module)
    ran: set[str] = set()
    # Of containers whose children are called one by one only these run.
    hooks = [part.register_forward_hook(lambda *_, name=name: ran.add(name))
             for name, child in encoder.named_children() for part in child.modules()]
    training = net.training
    net.eval()
    with torch.no_grad():
        rows = int(net(torch.zeros(1, 3, _PROBE, _PROBE)).shape[2])
    net.train(training)
    for hook in hooks:
        hook.remove()
    for name, child in list(encoder.named_children()):
        if name not in ran and any(True for _ in child.parameters()) and not isinstance(
                child, (nn.ModuleList, nn.ModuleDict)):
            setattr(encoder, name, nn.Identity())
    return rows


def _multiple(net: nn.Module) -> int:
    """Return the multiple that input sizes must be of; 1 where the model takes any."""
    if not getattr(net, 'requires_divisible_input_shape', True):
        return 1
    stride = getattr(net.encoder, 'output_stride', 32)
    return int(stride)

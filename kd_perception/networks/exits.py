"""
A network with exits at several depths: heads that decide early, for deep supervision.

After Lee et al., "Deeply-Supervised Nets" (2015): every exit is taught like the network itself, so
that layers far from the output get a direct gradient. Where the exits are to speak on the vehicle
too, the distributions are averaged::

    logits = log(1 / E  sum_e softmax(z_e))

whose softmax is the mean distribution, so that graphs still give logits. Without averaging the
exits serve training alone: what is exported is the base network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from kd_perception.bundle import NetworkSpec
from kd_perception.errors import ConfigError
from kd_perception.networks.registry import build, register
from kd_perception.networks.taps import Taps

_PROBE = (64, 64)  # pixels; large enough for encoders of stride 32


class ExitNet(nn.Module):
    """
    A base network with a 1x1 head on each of some of its layers.

    :param base: segmentation network; its parameters are below ``base.`` here.
    :param layers: names in the base network, as in ``named_modules()``.
    :param average: outside of training, return the mean of all exits' distributions.
    :raises ConfigError: for layers that do not exist or give no map of features.
    """

    def __init__(self, base: nn.Module, num_classes: int, layers: Sequence[str],
                 average: bool) -> None:
        super().__init__()
        self._taps = Taps(base, layers, _PROBE)
        self.layers = self._taps.names
        self.average = average
        self.base = base
        self.heads = nn.ModuleList(
            nn.Conv2d(self._taps.shapes[name][0], num_classes, 1) for name in self.layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Return logits ``[N, K, h, w]`` of float32 ``[N, 3, H, W]``, at the base network's stride.

        In training, and without averaging, these are the base network's.
        """
        if self.training or not self.average:
            return self.base(x)
        return mean_distribution(self.all_logits(x))

    def all_logits(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the base network's logits and those of every exit, each at its own stride."""
        with self._taps.open(self.base, (int(x.shape[2]), int(x.shape[3]))) as seen:
            logits = self.base(x)
        return [logits, *(head(seen[name])
                          for name, head in zip(self.layers, self.heads, strict=True))]


def mean_distribution(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """
    Return float32 logits whose softmax is the mean of the softmax of all of ``logits``.

    :param logits: float ``[N, K, h, w]`` each; brought to the size of the first bilinearly.
    """
    # Plain ints: exported graphs then hold constant sizes, which runtimes fold.
    size = (int(logits[0].shape[2]), int(logits[0].shape[3]))
    planes = []
    for one in logits:
        one = one.float()
        if (int(one.shape[2]), int(one.shape[3])) != size:
            one = functional.interpolate(one, size=size, mode='bilinear', align_corners=False)
        planes.append(functional.log_softmax(one, dim=1))
    # In log space: where all exits are sure, a mean of softmax values would underflow.
    return torch.stack(planes).logsumexp(0) - math.log(len(planes))


@register('exits')
def exits(num_classes: int, base: str = '', arguments: Mapping[str, Any] | None = None,
          layers: Sequence[str] = (), average: bool = False) -> ExitNet:
    """
    Build a network with exits.

    :param base: builder of the base network.
    :param arguments: for that builder.
    :param layers: where the exits are, by names in the base network.
    :param average: whether the exits speak outside of training too.
    :raises ConfigError: one line, for arguments that make no network.
    """
    if not isinstance(base, str) or base in ('', 'exits'):
        raise ConfigError(f'network exits: base: {base!r} is not the name of another builder, '
                          'e.g. compact')
    if not isinstance(arguments or {}, Mapping):
        raise ConfigError('network exits: arguments: must be a mapping')
    if (not isinstance(layers, (list, tuple)) or not layers
            or not all(isinstance(name, str) for name in layers)):
        raise ConfigError('network exits: layers: must be a list of names of layers of the base '
                          f'network, not {layers!r}')
    if not isinstance(average, bool):
        raise ConfigError(f'network exits: average: must be true or false, not {average!r}')
    module = build(NetworkSpec(base, dict(arguments or {})), num_classes)
    return ExitNet(module, num_classes, layers, average)


def without_unused_exits(module: nn.Module, spec: NetworkSpec) -> tuple[nn.Module, NetworkSpec]:
    """Return what to export: the base network where its exits served training alone."""
    if not isinstance(module, ExitNet) or module.average:
        return module, spec
    return module.base, exported_spec(spec)


def exported_spec(spec: NetworkSpec) -> NetworkSpec:
    """Return the spec of what is exported of a network."""
    if spec.builder != 'exits' or spec.arguments.get('average'):
        return spec
    channels = {name.removeprefix('base.'): widths for name, widths in spec.channels.items()
                if name.startswith('base.')}
    return NetworkSpec(spec.arguments['base'], dict(spec.arguments.get('arguments') or {}),
                       channels)

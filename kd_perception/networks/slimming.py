"""
Slimmed networks: from the spec of a network that of a narrower one of the same form.

Every group of coupled channels keeps a share of them (``ratio``). Builders that have their width
as an argument get a smaller one; all others get a channel spec (``channels.py``), for whatever
network torch-pruning can follow. How many channels stay depends on the spec alone; which ones, on
the weights (``transplant.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import inspect

import torch
from torch import nn

from kd_perception.bundle import NetworkSpec
from kd_perception.errors import ConfigError, first_line
from kd_perception.networks.channels import is_depthwise, Widths, widths
from kd_perception.networks.coupling import couple, Coupling, IN, OUT
from kd_perception.networks.registry import build, find_builder

MULTIPLE = 8  # of channels: what matrix units of processors and GPUs divide them into

# Builders whose networks keep their form when this argument alone is made smaller.
_WIDTH_ARGUMENTS = {'compact': 'width'}


def kept(channels: int, ratio: float) -> int:
    """Return how many of a group's channels stay: a multiple of 8, at least 8 (or all)."""
    if ratio >= 1:
        return channels
    return min(channels, max(MULTIPLE, int(channels * ratio / MULTIPLE + 0.5) * MULTIPLE))


def slim(spec: NetworkSpec, num_classes: int, ratio: float, size: tuple[int, int]) -> NetworkSpec:
    """
    Return the spec of a network that has ``ratio`` of the channels of another.

    Groups of fewer than 8 channels, the classes, and groups with layers that cannot be cut
    (grouped convolutions, parameters outside of layers) stay whole.

    :param spec: the wide network.
    :param ratio: above 0, at most 1.
    :param size: height and width of its input.
    :raises ConfigError: when the network cannot be followed, has nothing to leave out, or does
        not run when cut.
    """
    if not 0 < ratio <= 1:
        raise ConfigError(f'ratio {ratio:g}: above 0, at most 1')
    if ratio == 1:
        return spec
    argument = _WIDTH_ARGUMENTS.get(spec.builder)
    if argument is not None and not spec.channels:
        default = inspect.signature(find_builder(spec.builder)).parameters[argument].default
        width = spec.arguments.get(argument, default)
        slimmed = replace(spec, arguments={**spec.arguments, argument: kept(width, ratio)})
    else:
        slimmed = _cut_spec(spec, num_classes, ratio, size)
    if slimmed == spec:
        raise ConfigError(f'network {spec.builder!r}: has no channels to leave out at ratio '
                          f'{ratio:g}')
    return slimmed


def _cut_spec(spec: NetworkSpec, num_classes: int, ratio: float,
              size: tuple[int, int]) -> NetworkSpec:
    # Weights do not matter here, and nobody's random numbers are to change.
    with torch.random.fork_rng(devices=[]):
        module = build(spec, num_classes)
        coupling = couple(module, size)
        counts = [n if number in coupling.fixed else kept(n, ratio)
                  for number, n in enumerate(coupling.sizes)]
        cut_widths = {name: found for name, layer in module.named_modules()
                      if (found := _widths_after(name, layer, coupling, counts)) != widths(layer)
                      and found is not None}
        slimmed = replace(spec, channels={**spec.channels, **cut_widths})
        _check_runs(build(slimmed, num_classes), num_classes, size, spec.builder)
    return slimmed


def _widths_after(name: str, layer: nn.Module, coupling: Coupling,
                  counts: Sequence[int]) -> Widths | None:
    """Return the widths of a layer when each group keeps so many channels."""
    def count(side: str) -> int:
        return sum(group < 0 or channel < counts[group]
                   for group, channel in coupling.sides[name, side].tolist())

    now = widths(layer)
    if now is None:
        return None
    outputs = count(OUT)
    if len(now) == 1:
        return (outputs,)
    if set(coupling.sides[name, OUT][:, 0].tolist()) <= coupling.outputs:
        return now if count(IN) == now[0] else (count(IN), 0, *now[2:])
    if is_depthwise(layer):
        return outputs, outputs, outputs
    return (count(IN), outputs, *now[2:])


def _check_runs(module: nn.Module, num_classes: int, size: tuple[int, int], name: str) -> None:
    try:
        with torch.no_grad():
            shape = module.eval()(torch.zeros(1, 3, *size)).shape
    except Exception as error:  # code of others that counts channels itself
        raise ConfigError(f'network {name!r}: does not run with fewer channels, its code counts '
                          f'them: {first_line(error)}') from None
    if shape[1] != num_classes:
        raise ConfigError(f'network {name!r}: loses classes when it is cut; train it as it is')

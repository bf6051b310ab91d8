"""
Which channels of a network belong together: a torch module goes in, coupled groups come out.

The sum of a residual block has as many channels as both of its terms, a concatenation those of
its parts one behind the other, a normalisation those of the convolution before it. Channels that
can only be left out together are one group. torch-pruning finds them by following the graph of
autograd; nothing of it is needed to rebuild a slimmed network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from kd_perception.errors import ConfigError, first_line
from kd_perception.networks.channels import is_depthwise, widths

IN, OUT = 'in', 'out'
Side = tuple[str, str]  # layer name, IN or OUT; normalisations and depthwise layers have OUT only
_PROBE = (64, 64)  # pixels; enough for strides of 32


@dataclass(frozen=True)
class Coupling:
    """
    The channels of a network by group.

    :param sides: int64 ``[C, 2]`` by side of a layer: group and channel within it; group -1 where
        a channel belongs to none, as the colours of the picture.
    :param sizes: channels by group.
    :param fixed: groups that keep all channels: the outputs, and layers that cannot be cut.
    :param outputs: groups that leave the network: the classes.
    """

    sides: dict[Side, np.ndarray]
    sizes: tuple[int, ...]
    fixed: frozenset[int]
    outputs: frozenset[int]


def couple(module: nn.Module, size: tuple[int, int]) -> Coupling:
    """
    Find the coupled channels of a module.

    :param size: height and width of its input, taken where it does not run on small pictures.
    :raises ConfigError: when torch-pruning is missing or cannot follow the network.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise ConfigError(f'following channels through a network needs torch-pruning ({error}); '
                          "pip install 'kd_perception[compress]'") from None
    training = module.training
    try:
        graph = _trace(torch_pruning, module, size)
        return _Collector(module, graph).collect()
    finally:
        module.train(training)


def _trace(library: Any, module: nn.Module, size: tuple[int, int]) -> Any:
    reason = ''
    like = next(module.parameters(), torch.zeros(0))
    for height, width in dict.fromkeys((_PROBE, size)):
        try:
            with torch.enable_grad():
                return library.DependencyGraph().build_dependency(
                    module, example_inputs=like.new_zeros(1, 3, height, width),
                    verbose=False)
        except Exception as error:  # a network of others, traced by a library of others
            reason = first_line(error)
    raise ConfigError(f'the channels of this network cannot be followed: {reason}')


class _Collector:
    """Turns the groups of torch-pruning into plain arrays."""

    def __init__(self, module: nn.Module, graph: Any) -> None:
        self._graph = graph
        self._names = {layer: name for name, layer in module.named_modules()}
        self._sides = {side: np.stack([np.full(count, -1), np.arange(count)], 1)
                       for name, layer in module.named_modules()
                       for side, count in _own_sides(name, layer)}

    def collect(self) -> Coupling:
        """Go through all groups."""
        sizes: list[int] = []
        fixed: set[int] = set()
        outputs: set[int] = set()
        for found in self._graph.get_all_groups(root_module_types=(_ConvNd, nn.Linear)):
            number = len(sizes)
            sizes.append(len(found[0].idxs))
            for item in found.items:
                fixed |= self._take(item, number)
                if self._leaves(item):
                    outputs.add(number)
        # Where a layer sees but a part of a group, as behind a split, its code counts channels.
        for labels in self._sides.values():
            groups, counts = np.unique(labels[labels[:, 0] >= 0, 0], return_counts=True)
            fixed |= {int(g) for g, count in zip(groups, counts) if count % sizes[g]}
        return Coupling(self._sides, tuple(sizes), frozenset(fixed | outputs), frozenset(outputs))

    def _leaves(self, item: Any) -> bool:
        """Return whether an item of a group is what nobody takes up: an output."""
        node = item.dep.target
        return not node.outputs and (
            node.module not in self._names or not _own_sides('', node.module)
            or self._outwards(item))

    def _outwards(self, item: Any) -> bool:
        return bool(self._graph.is_out_channel_pruning_fn(item.dep.handler))

    def _take(self, item: Any, number: int) -> set[int]:
        """Label what one item of a group covers; return groups that must stay whole for it."""
        layer = item.dep.target.module
        if layer not in self._names:
            # Operations without weights follow; a bare parameter has a meaning of its own.
            return {number} if isinstance(layer, nn.Parameter) else set()
        own = _own_sides('', layer)
        if not own:
            return {number} if any(True for _ in layer.parameters()) else set()
        side = OUT if len(own) == 1 or self._outwards(item) else IN
        labels = self._sides[self._names[layer], side]
        positions, channels = np.asarray(item.idxs), np.asarray(item.root_idxs)
        if len(positions) != len(channels) or positions.max(initial=0) >= len(labels):
            return {number}
        others = set(labels[positions, 0].tolist()) - {-1, number}
        labels[positions] = np.stack([np.full(len(positions), number), channels], 1)
        return {number} | others if others or _in_groups(layer) else set()


def _own_sides(name: str, layer: nn.Module) -> list[tuple[Side, int]]:
    """Return the sides of a layer whose channels can be counted, with their numbers."""
    found = widths(layer)
    if found is None:
        return []
    if len(found) == 1 or is_depthwise(layer):
        return [((name, OUT), found[0])]
    return [((name, IN), found[0]), ((name, OUT), found[1])]


def _in_groups(layer: nn.Module) -> bool:
    """Return whether channels cannot be left out alone, since each group must keep as many."""
    return isinstance(layer, _ConvNd) and layer.groups > 1 and not is_depthwise(layer)

"""A moving average of a network's weights: steadier than the last step, and what is shipped."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """
    Exponential moving average of parameters and of batch-norm statistics.

    Early on the average follows faster (``(1 + n) / (10 + n)``), so that it does not remember the
    random start of a short run.

    :param decay: weight of the past per step.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval()
        self._decay = decay
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after ``step`` (from 1)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        own, other = self.network.state_dict(), network.state_dict()
        floats = [n for n, t in own.items() if t.is_floating_point()]
        torch._foreach_lerp_([own[n] for n in floats], [other[n] for n in floats], 1 - decay)
        for name, tensor in own.items():
            if not tensor.is_floating_point():
                tensor.copy_(other[name])

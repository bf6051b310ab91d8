"""All that is trained, as one module: batches go in, the terms of the loss come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import nn

from kd_perception.distillation.dataset import Batch
from kd_perception.distillation.optimizer import decayed_parameters, penalties
from kd_perception.distillation.recipe import OptimizationRecipe


class Target(Protocol):
    """
    What is learned: weighted loss terms by name.

    ``adapters`` are trained along, kept in checkpoints and left behind in the end.
    """

    adapters: nn.ModuleDict

    @property
    def partial(self) -> bool:
        """Whether there are steps in which some parameters take no part."""
        ...

    def losses(self, network: nn.Module, batch: Batch, at: float) -> Mapping[str, torch.Tensor]:
        """Return terms whose sum is minimised when the share ``at`` of the run is done."""
        ...


class Learner(nn.Module):
    """
    The network and what losses train besides it.

    Several processes bring their gradients together on this module. Since its output is the terms
    of the loss, they see which parameters take part in a step, also where losses look at layers,
    through adapters or at exits.
    """

    def __init__(self, network: nn.Module, target: Target, recipe: OptimizationRecipe) -> None:
        super().__init__()
        self.network = network
        self.adapters = target.adapters
        self._target = target
        self._recipe = recipe

    def forward(self, batch: Batch, at: float) -> dict[str, torch.Tensor]:
        """Return the weighted terms and penalties when the share ``at`` of the run is done."""
        terms = dict(self._target.losses(self.network, batch, at))
        weights = decayed_parameters(self.network)
        if self._target.partial and (self._recipe.l1 or self._recipe.l2):
            # What learns nothing in a phase is not to be shrunk in it either.
            part = taking_part(terms.values())
            weights = [w for w in weights if w in part]
        return {**terms, **(penalties(weights, self._recipe) if weights else {})}


def taking_part(terms: Iterable[torch.Tensor]) -> set[torch.Tensor]:
    """Return the parameters that ``terms`` have a gradient for; tensors compare by identity."""
    waiting = [term.grad_fn for term in terms]
    seen, found = set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, 'variable', None)
        if variable is not None:
            found.add(variable)
        waiting.extend(further for further, _ in node.next_functions)
    return found

"""The optimiser that a recipe names, with the groups of parameters that it treats differently."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from kd_perception.distillation.recipe import OptimizationRecipe


def make_optimizer(network: nn.Module, recipe: OptimizationRecipe) -> Optimizer:
    """Return the optimiser; norms and biases are not decayed, which would only shrink them."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{'params': decayed, 'weight_decay': recipe.weight_decay},
              {'params': others, 'weight_decay': 0.0}]
    if recipe.optimizer == 'sgd':
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum,
                               nesterov=recipe.momentum > 0)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)

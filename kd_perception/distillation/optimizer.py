"""The optimiser that a recipe names, and the penalties on weights that are terms of the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from kd_perception.distillation.recipe import OptimizationRecipe


def decayed_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights that are kept small; norms and biases are not, it would only hurt."""
    return [p for p in network.parameters() if p.requires_grad and p.ndim > 1]


def make_optimizer(network: nn.Module, recipe: OptimizationRecipe) -> Optimizer:
    """
    Return the optimiser.

    ``sgd`` is without, ``momentum`` with Nesterov's momentum (Sutskever et al. 2013); ``adamw`` is
    Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019); ``adagrad`` slows
    each weight by all its past gradients (Duchi et al. 2011). In all but ``adamw`` weight decay is
    part of the gradient.
    """
    others = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{'params': decayed_parameters(network), 'weight_decay': recipe.weight_decay},
              {'params': others, 'weight_decay': 0.0}]
    if recipe.optimizer == 'sgd':
        return torch.optim.SGD(groups, lr=recipe.learning_rate)
    if recipe.optimizer == 'momentum':
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum,
                               nesterov=True)
    if recipe.optimizer == 'adagrad':
        return torch.optim.Adagrad(groups, lr=recipe.learning_rate)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def penalties(weights: Sequence[torch.Tensor], recipe: OptimizationRecipe,
              ) -> dict[str, torch.Tensor]:
    """
    Return the terms that keep ``weights`` small, by name: nothing, ``l1``, ``l2`` or both.

        l1 sum |w|,  l2 / 2 sum w^2

    Both together are the elastic net (Zou and Hastie 2005). Unlike the weight decay of ``adamw``
    they pass through the optimiser as part of the gradient. ``l1`` draws unneeded weights to 0.
    """
    terms = {}
    if recipe.l1:
        terms['l1'] = recipe.l1 * torch.stack([w.float().abs().sum() for w in weights]).sum()
    if recipe.l2:
        squares = torch.stack([w.float().square().sum() for w in weights]).sum()
        terms['l2'] = recipe.l2 / 2 * squares
    return terms

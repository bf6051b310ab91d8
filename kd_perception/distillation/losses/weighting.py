"""
What each pixel counts in losses that are a mean over pixels, beyond being valid or not.

    w_i = v_i (1 + boundary b_i) c_i^confidence h_i^(-class_balance) g_i

and then scaled so that sum_i w_i = sum_i v_i.

- ``b_i`` is 1 within ``boundary_width`` cells of a boundary between classes, else 0: that is where
  small students fail, and there are few such pixels.
- ``c_i`` is the teacher's largest probability. Positive exponents trust sure pixels more,
  negative ones dwell on those of which it is unsure.
- ``h_i`` is how often the class of the pixel occurs in the training data. An exponent of 1 gives
  every class the same say, 0.5 is halfway; no class counts more than 50 times another.
- ``g_i`` is ``labelled`` where its frame has ground truth, else 1: all over a frame with any
  label, for else the few void pixels in it would carry all that the teacher says. With 0 a teacher
  that is worse there than the labels does not draw the student away from them.

The class of a pixel is its ground truth where it is labelled, elsewhere the teacher's decision.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from kd_perception.classes import UNLABELLED
from kd_perception.distillation.recipe import WeightingRecipe

_LARGEST_RATIO = 50.0


class PixelWeighting:
    """
    The weighting of a recipe.

    :param seen: pixels of each class in the training data, ``[K]``; for ``class_balance``.
    """

    def __init__(self, recipe: WeightingRecipe, seen: np.ndarray,
                 device: torch.device | None = None) -> None:
        self._recipe = recipe
        self._classes = None
        if recipe.class_balance and seen.sum() > 0:
            share = seen / seen.sum()
            factor = np.maximum(share, share.max() * 1e-9) ** -recipe.class_balance
            factor = np.minimum(factor, factor.min() * _LARGEST_RATIO)
            self._classes = torch.as_tensor(factor, dtype=torch.float32, device=device)

    def __call__(self, teacher: torch.Tensor, valid: torch.Tensor,
                 labels: torch.Tensor) -> torch.Tensor:
        """
        Return what each pixel counts, float32 ``[N, h, w]``; 1 on average over valid pixels.

        :param teacher: float logits ``[N, K, h, w]``.
        :param valid: ``[N, h, w]``, bool or weights: 0 stays 0.
        :param labels: uint8 ``[N, H, W]``, 255 where unlabelled.
        """
        recipe, weights = self._recipe, valid.float()
        total = weights.sum()
        if recipe.boundary or self._classes is not None:
            classes = decisions(teacher, labels)
            if recipe.boundary:
                near = near_boundary(classes, weights > 0, recipe.boundary_width)
                weights = weights * (1 + recipe.boundary * near)
            if self._classes is not None:
                weights = weights * self._classes[classes]
        if recipe.confidence:
            sure = functional.softmax(teacher.float(), dim=1).amax(dim=1)
            weights = weights * sure ** recipe.confidence
        if recipe.labelled != 1:
            known = (labels != UNLABELLED).flatten(1).any(dim=1)[:, None, None]
            weights = torch.where(known, recipe.labelled * weights, weights)
        return weights * (total / weights.sum().clamp(min=1e-6))


def decisions(teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Return int64 ``[N, h, w]``: ground truth where it is labelled, else the teacher's decision.

    :param teacher: float logits ``[N, K, h, w]``.
    :param labels: uint8 ``[N, H, W]``.
    """
    truth = ground_truth(labels, teacher)
    # Across classes torch's max is four times as fast as its argmax on a CPU.
    return torch.where(truth == UNLABELLED, teacher.max(dim=1).indices, truth)


def ground_truth(labels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """
    Return int64 ``[N, h, w]``: the nearest label of each cell.

    :param labels: uint8 ``[N, H, W]``.
    :param grid: ``[…, h, w]``.
    """
    size = (grid.shape[-2], grid.shape[-1])
    near = functional.interpolate(labels[:, None].float(), size=size, mode='nearest-exact')
    return near[:, 0].long()


def near_boundary(classes: torch.Tensor, valid: torch.Tensor, width: int) -> torch.Tensor:
    """
    Return float32 ``[N, h, w]``: 1 where another class is no more than ``width`` cells away.

    :param classes: int64 ``[N, h, w]``.
    :param valid: bool ``[N, h, w]``; other pixels make no boundary.
    """
    ids = classes[:, None].float()
    outside = ~valid[:, None]

    def largest(values: torch.Tensor) -> torch.Tensor:
        return functional.max_pool2d(values.masked_fill(outside, -torch.inf), 2 * width + 1,
                                     stride=1, padding=width)
    differ = largest(ids) > -largest(-ids)
    return (differ & valid[:, None])[:, 0].float()

"""
Cross-entropy against ground truth, for dense logits.

For labels ``y``, class weights ``w`` and smoothing ``e`` over the valid pixels ``V``::

    L = sum_V [(1 - e) w_y (-log p_y) + e / K sum_k w_k (-log p_k)] / sum_V w_y
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

from kd_perception.classes import UNLABELLED
from kd_perception.distillation.losses.loss import LABELS, Loss, register, Signals
from kd_perception.networks.upsample import upsample


@register('cross_entropy')
@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Loss):
    """Ground truth; class weights and smoothing are those of ``optimization``."""

    looks_at: ClassVar[str] = LABELS

    def __call__(self, signals: Signals) -> torch.Tensor:
        """Return the mean cross-entropy, a scalar."""
        return cross_entropy(signals.own, signals.labels, class_weights=signals.class_weights,
                             label_smoothing=signals.label_smoothing)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, *,
                  class_weights: torch.Tensor | None = None,
                  label_smoothing: float = 0.0) -> torch.Tensor:
    """
    Return the mean cross-entropy over labelled pixels; 0 where nothing is labelled.

    :param logits: float ``[N, K, h, w]``; brought to the size of ``labels`` bilinearly.
    :param labels: integers ``[N, H, W]``; 255 is left out.
    :param class_weights: float ``[K]``.
    """
    logits = upsample(logits.float(), (int(labels.shape[-2]), int(labels.shape[-1])))
    target = labels.long()
    if not bool((target != UNLABELLED).any()):
        return logits.sum() * 0.0  # a mean over nothing would be NaN
    return functional.cross_entropy(logits, target, weight=class_weights,
                                    ignore_index=UNLABELLED, label_smoothing=label_smoothing)


def class_weights_from_pixels(pixels: np.ndarray, kind: str) -> np.ndarray | None:
    """
    Return float32 ``[K]`` weights, mean 1 over the pixels, or None for ``none``.

    ``log`` is 1 / ln(1.02 + share) (ENet), ``median`` is median frequency balancing, bounded to a
    ratio of 50. A class without a pixel weighs as much as the heaviest that has some.
    """
    if kind == 'none' or pixels.sum() == 0:
        return None
    share = pixels / pixels.sum()
    there = share > 0
    weights = np.zeros(len(share))
    if kind == 'log':
        weights[there] = 1.0 / np.log(1.02 + share[there])
    else:
        weights[there] = np.median(share[there]) / share[there]
        weights[there] = np.minimum(weights[there], weights[there].min() * 50)
    weights[~there] = weights[there].max()
    return (weights / (weights * share).sum()).astype(np.float32)

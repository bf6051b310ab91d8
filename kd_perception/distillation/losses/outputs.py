"""
Forms in which losses compare outputs, and grids of few cells to relate each cell to every other.

``logits`` means logits whose mean over the classes of a pixel is taken out: softmax does not see
that mean, and soft labels do not keep it.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

FORMS = LOGITS_FORM, PROBABILITIES = ('logits', 'probabilities')


def as_form(logits: torch.Tensor, form: str) -> torch.Tensor:
    """
    Return float32 ``[N, K, h, w]``: centred logits or probabilities.

    :param logits: float ``[N, K, h, w]``.
    :param form: one of ``FORMS``.
    """
    values = logits.float()
    if form == PROBABILITIES:
        return functional.softmax(values, dim=1)
    return values - values.mean(dim=1, keepdim=True)


def pooled(values: torch.Tensor, valid: torch.Tensor, cells: int,
           ) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return the means of square patches, so that no more than ``cells`` of them remain per image.

    :param values: float ``[N, C, h, w]``.
    :param valid: bool ``[N, h, w]``; other pixels do not enter any mean.
    :param cells: at least 1.
    :returns: float ``[N, C, M]`` and the valid share of each cell, float ``[N, M]``.
    """
    rows, columns = values.shape[-2:]
    side = max(1, math.isqrt(rows * columns // cells))
    while -(-rows // side) * -(-columns // side) > cells:
        side += 1
    mask = valid[:, None].to(values.dtype)
    if side > 1:
        # Padded by hand: averages of a patch that reaches beyond the border divide by all of it,
        # and so does the share of it that is valid.
        edge = (0, -columns % side, 0, -rows % side)
        values = functional.avg_pool2d(functional.pad(values * mask, edge), side)
        mask = functional.avg_pool2d(functional.pad(mask, edge), side)
        values = values / mask.clamp(min=1e-6)
    return values.flatten(2), mask[:, 0].flatten(1)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """
    Return ``vectors`` (``[N, C, M]``) of length 1 along the second axis.

    Very short ones stay shorter than 1: their direction means nothing, and its gradient is huge.
    """
    return vectors * torch.rsqrt(vectors.square().sum(dim=1, keepdim=True) + 1e-6)

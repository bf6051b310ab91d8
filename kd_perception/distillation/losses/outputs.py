"""
Forms in which losses compare outputs, and grids of few cells to relate each cell to every other.

``logits`` means logits whose mean over the classes of a pixel is taken out: softmax does not see
that mean, and soft labels do not keep it.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import torch
from torch.nn import functional

from kd_perception.distillation.losses.loss import Loss, one_of, RELATIVE, SOFTMAX

FORMS = LOGITS_FORM, PROBABILITIES = ('logits', 'probabilities')


@dataclass(frozen=True, kw_only=True)
class OutputLoss(Loss):
    """
    A loss on outputs in either form.

    :param of: ``logits`` (their mean over classes taken out) or ``probabilities``.
    """

    of: str = LOGITS_FORM

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of('of', self.of, FORMS)

    @property
    def looks_at(self) -> str:  # type: ignore[override]
        """What it sees of the teacher depends on what is compared."""
        return RELATIVE if self.of == LOGITS_FORM else SOFTMAX


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

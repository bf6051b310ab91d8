"""
Pairwise affinity: which parts of a picture are alike is learned along with what they are.

    L = sum_n sum_ij v_ni v_nj (a_nij(s) - a_nij(t))^2 / sum_n sum_ij v_ni v_nj
    a_nij(z) = cosine of f(z)_ni and f(z)_nj

over all pairs of cells i, j of an image, after Liu et al., "Structured Knowledge Distillation for
Semantic Segmentation" (2019; the pair-wise term). A cell is the mean over a square patch of valid
pixels, ``v`` the share of these in it. The paper relates layers before the classifier; this one
relates outputs, so that cached soft labels serve it: ``f`` takes the mean over classes out of the
logits of a pixel, or is the softmax. Memory grows with ``cells`` squared times the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kd_perception.distillation.losses.loss import in_range, register, Signals
from kd_perception.distillation.losses.outputs import as_form, OutputLoss, pooled, unit


@register('pairwise')
@dataclass(frozen=True, kw_only=True)
class Pairwise(OutputLoss):
    """
    Likeness of every two parts of a picture.

    :param cells: parts of an image at most.
    """

    cells: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range('cells', self.cells, 4, 16384)

    def __call__(self, signals: Signals) -> torch.Tensor:
        """Return the mean squared difference of likenesses, a scalar."""
        teacher, weights = signals.taught()
        return pairwise(as_form(signals.student, self.of), as_form(teacher, self.of), self.cells,
                        valid=weights > 0)


def pairwise(student: torch.Tensor, teacher: torch.Tensor, cells: int = 512, *,
             valid: torch.Tensor) -> torch.Tensor:
    """
    Return the mean squared difference of likenesses, a scalar; 0 where no pixel is valid.

    :param student: float ``[N, C, h, w]``.
    :param teacher: float ``[N, C', h, w]``, of as many channels as it likes; no gradient flows
        into it.
    :param valid: bool ``[N, h, w]``.
    """
    own, share = pooled(student, valid, cells)
    other, _ = pooled(teacher.detach(), valid, cells)
    own, other = unit(own), unit(other)
    difference = (own.transpose(1, 2) @ own - other.transpose(1, 2) @ other).square()
    # v^T D v without a third matrix of all pairs.
    above = torch.einsum('ni,nij,nj->n', share, difference, share).sum()
    return above / share.sum(dim=1).square().sum().clamp(min=1e-6)

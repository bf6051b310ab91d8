"""
Cross-image relations: how the pixels of one picture relate to those of all others in the batch.

    L = sum_nm sum_i v_ni KL(g(t)_nmi || g(s)_nmi) / sum_nm sum_i v_ni
    g(z)_nmi = softmax over the cells j of image m of <u(z)_ni, u(z)_mj> / tau,  u = f(z) / |f(z)|

over all pairs n, m of images with valid pixels, each with itself too, after Yang et al.,
"Cross-Image Relational Knowledge Distillation for Semantic Segmentation" (CIRKD, 2022): the
mini-batch variant of its pixel-to-pixel term with the authors' tau = 0.1, without memory banks.
The paper relates layers; this one relates outputs, so that cached soft labels serve it: ``f``
takes the mean over classes out of the logits of a pixel, or is the softmax. A cell is the mean
over a square patch of valid pixels, ``v`` the share of these in it; cells without one count
nowhere, in no softmax either. Memory grows with ``cells`` squared, whatever the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from kd_perception.distillation.losses.loss import in_range, OUT, register, Signals
from kd_perception.distillation.losses.outputs import as_form, OutputLoss, pooled, unit


@register('cross_image')
@dataclass(frozen=True, kw_only=True)
class CrossImage(OutputLoss):
    """
    Likeness of the parts of each picture to those of all pictures of the batch.

    :param similarity_temperature: the lower, the more the most alike count.
    :param cells: parts of all images of a batch together at most.
    """

    similarity_temperature: float = 0.1
    cells: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range('similarity_temperature', self.similarity_temperature, 0.01, 100)
        in_range('cells', self.cells, 4, 16384)

    def __call__(self, signals: Signals) -> torch.Tensor:
        """Return the divergence of relations, a scalar."""
        teacher, weights = signals.taught()
        return cross_image(as_form(signals.student, self.of), as_form(teacher, self.of),
                           self.similarity_temperature, self.cells, valid=weights > 0)


def cross_image(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 0.1,
                cells: int = 1024, *, valid: torch.Tensor) -> torch.Tensor:
    """
    Return the divergence of relations, a scalar; 0 where no pixel is valid.

    :param student: float ``[N, C, h, w]``.
    :param teacher: float ``[N, C', h, w]``, of as many channels as it likes; no gradient flows
        into it.
    :param valid: bool ``[N, h, w]``.
    """
    images = len(student)
    own, share = pooled(student, valid, max(1, cells // images))
    other, _ = pooled(teacher.detach(), valid, max(1, cells // images))
    log_q = _relations(own, share, temperature)
    log_p = _relations(other, share, temperature)
    # An image without a valid cell has an even distribution over what does not count.
    there = share > 0
    pairs = (log_p.exp() * (log_p - log_q) * there[None, None]).sum(dim=3)
    count = share.sum() * there.any(dim=1).sum()
    return (pairs * share[:, :, None]).sum() / count.clamp(min=1e-6)


def _relations(vectors: torch.Tensor, share: torch.Tensor, temperature: float) -> torch.Tensor:
    """
    Return logs of distributions over the last axis, ``[N, M, N, M]``.

    :param vectors: float ``[N, C, M]``.
    :param share: float ``[N, M]``, 0 for cells that must not be in a distribution.
    """
    images, _, cells = vectors.shape
    flat = unit(vectors).transpose(1, 2).reshape(images * cells, -1)
    alike = (flat @ flat.T / temperature).view(images, cells, images, cells)
    return functional.log_softmax(alike.masked_fill((share == 0)[None, None], OUT), dim=3)

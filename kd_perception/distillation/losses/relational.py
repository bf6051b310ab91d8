"""
Relations: what the teacher finds alike or apart, the student finds alike or apart.

Embeddings ``e_i`` are layers averaged over the whole picture, or over each region of a grid. For
pairs and triplets of different embeddings of a batch, and with the Huber loss ``l``::

    d_ij  = ||e_i - e_j|| / mean_(i, j) ||e_i - e_j||,   L_D = mean_(i, j)    l(d_ij^S - d_ij^T)
    a_ijk = cos of the angle at e_j,                      L_A = mean_(i, j, k) l(a_ijk^S - a_ijk^T)
    L = distance * L_D + angle * L_A

after Park et al., "Relational Knowledge Distillation" (2019), equations 5 to 10; means stand where
the paper has sums, so that the loss does not depend on the size of the batch. Only relations are
compared, so channels may differ and nothing is adapted. Under several processes the relations are
those within each process's part of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from kd_perception.distillation.features import FeatureLoss
from kd_perception.distillation.losses.loss import in_range, register, Signals
from kd_perception.errors import ConfigError

# Triplets grow with the third power: 2 million here, 50 MB with what autograd keeps.
_MOST_EMBEDDINGS = 128


@register('relational')
@dataclass(frozen=True, kw_only=True)
class Relational(FeatureLoss):
    """
    Distances and angles between embeddings of the student imitate those of the teacher.

    :param distance: weight of distances of pairs.
    :param angle: weight of angles in triplets.
    :param regions: each picture gives ``regions`` x ``regions`` embeddings; 1: one for all of it.
    """

    distance: float = 1.0
    angle: float = 2.0
    regions: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range('distance', self.distance, 0, 1e6)
        in_range('angle', self.angle, 0, 1e6)
        in_range('regions', self.regions, 1, 11)
        if not self.distance and not self.angle:
            raise ConfigError('distance: leaves nothing to compare where angle is 0 too')

    def require_batch(self, views: int) -> None:
        """Check that there are embeddings to relate, and not too many."""
        count = views * self.regions ** 2
        if not 3 <= count <= _MOST_EMBEDDINGS:
            raise ConfigError(
                f'regions: with {self.regions} and batch_size {views} there are {count} '
                f'embeddings, not 3 to {_MOST_EMBEDDINGS}; change it or optimization.batch_size')

    def __call__(self, signals: Signals) -> torch.Tensor:
        """Return the weighted sum of both losses over the pairs of layers, a scalar."""
        terms = []
        for _, own, other in self.pairs(signals):
            one, two = (embeddings(x, self.regions) for x in (own, other))
            if self.distance:
                terms.append(self.distance * distance_loss(one, two))
            if self.angle:
                terms.append(self.angle * angle_loss(one, two))
        return torch.stack(terms).sum().float()


def embeddings(features: torch.Tensor, regions: int = 1) -> torch.Tensor:
    """Return float64 ``[N * regions^2, C]``: the means of ``[N, C, h, w]`` over a grid."""
    pooled = functional.adaptive_avg_pool2d(features.float(), regions)
    return pooled.permute(0, 2, 3, 1).flatten(0, 2).double()


def distance_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return L_D of float64 embeddings ``[M, C]`` and ``[M, C']``, a scalar."""
    apart = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    own, other = (_distances(_products(x))[apart] for x in (student, teacher))
    return functional.smooth_l1_loss(own / own.mean(), other / other.mean())


def angle_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return L_A of float64 embeddings ``[M, C]`` and ``[M, C']``, a scalar."""
    apart = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    different = apart[:, :, None] & apart[None, :, :] & apart[:, None, :]
    own, other = (_cosines(_products(x))[different] for x in (student, teacher))
    return functional.smooth_l1_loss(own, other)


def _products(points: torch.Tensor) -> torch.Tensor:
    """Return ``[M, M]``, inner products of centred points."""
    centred = points - points.mean(0)
    return centred @ centred.T  # differences of products cancel: they need float64


def _distances(products: torch.Tensor) -> torch.Tensor:
    squares = products.diagonal()
    # The root has no slope at 0: equal embeddings get no gradient.
    return (squares[:, None] + squares[None, :] - 2 * products).clamp(min=1e-12).sqrt()


def _cosines(products: torch.Tensor) -> torch.Tensor:
    """Return ``[M, M, M]``: at ``[i, j, k]`` the cosine of the angle at j."""
    distances = _distances(products)
    # (e_i - e_j)(e_k - e_j) = ik - ij - jk + jj
    across = (products[:, None, :] - products[:, :, None] - products[None, :, :]
              + products.diagonal()[None, :, None])
    return across / (distances[:, :, None] * distances[None, :, :])

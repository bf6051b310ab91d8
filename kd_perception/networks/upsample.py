"""Logits at the size of a picture: bilinear, the same in graphs, losses and validation."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn import functional

# Below, two matrix products are faster than resize operators: those of the runtimes, and of torch
# with its gradient.
_MATMUL_MAX_WORK = 2.0e7


def upsample(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """
    Return ``[N, K, H, W]`` from ``[N, K, h, w]``: bilinear, ``align_corners=False``.

    Equal to ``functional.interpolate``; written as matrix products where these are faster.
    """
    height, width = int(logits.shape[2]), int(logits.shape[3])
    if (height, width) == size:
        return logits
    work = height * size[1] * (width + size[0])
    if work > _MATMUL_MAX_WORK:
        return functional.interpolate(logits, size=size, mode='bilinear', align_corners=False)
    down = _bilinear_matrix(height, size[0], logits.dtype, logits.device)
    across = _bilinear_matrix(width, size[1], logits.dtype, logits.device).t().contiguous()
    # Autocast would multiply in half precision what it leaves alone in interpolate.
    with torch.autocast(logits.device.type, enabled=False):
        return down @ (logits @ across)


@lru_cache(maxsize=64)
def _bilinear_matrix(source: int, target: int, dtype: torch.dtype,
                     device: torch.device) -> torch.Tensor:
    """Return ``[target, source]``; row i holds the weights of output i."""
    # What inference mode makes could not be used in a training afterwards.
    with torch.inference_mode(False):
        eye = torch.eye(source)[None]
        columns = functional.interpolate(eye, size=target, mode='linear', align_corners=False)
        # Kept on its device: a copy from the processor cannot be recorded in a CUDA graph.
        return columns[0].t().contiguous().to(device, dtype)

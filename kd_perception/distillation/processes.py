"""
The processes of a run, where torchrun or accelerate has started several: what each does of a work
that is divided, and what comes out for all of them together.
"""

from __future__ import annotations

from dataclasses import dataclass
import os

import numpy as np
import torch
from torch import nn


class Stopped(KeyboardInterrupt):
    """Some process was asked to stop, and all of them know it."""


@dataclass(frozen=True)
class Processes:
    """
    Which process of a run this is; by default it is alone.

    :param rank: which of ``world`` it is.
    :param device: where its tensors are.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device('cpu')

    def own(self, count: int) -> range:
        """Return which of ``count`` things this process does."""
        return range(self.rank, count, self.world)

    def added_up(self, counts: np.ndarray) -> np.ndarray:
        """
        Return the sum of int64 arrays of one shape over all processes, each of which must ask.

        Whole numbers: the sum is the same whatever their order.
        """
        if self.world == 1:
            return counts
        both = torch.from_numpy(np.ascontiguousarray(counts, np.int64)).to(self.device)
        torch.distributed.all_reduce(both)
        return both.cpu().numpy()

    def take_statistics(self, module: nn.Module) -> None:
        """Set the statistics of ``module`` (batch normalisation) to those of the first process."""
        if self.world == 1:
            return
        buffers = [b for b in module.buffers() if b.is_floating_point()]
        if not buffers:
            return
        # In one go: what takes long is to begin.
        flat = torch.cat([b.detach().float().reshape(-1) for b in buffers])
        torch.distributed.broadcast(flat, 0)
        for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(part.view_as(buffer))


def world_size() -> int:
    """Return how many processes torchrun has started, before they know of each other."""
    return _number('WORLD_SIZE')


def processes_here() -> int:
    """Return how many of them run on this machine."""
    return _number('LOCAL_WORLD_SIZE')


def _number(name: str) -> int:
    value = os.environ.get(name, '')
    return max(1, int(value)) if value.isdecimal() else 1

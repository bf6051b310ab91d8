"""The learning rate and the progress of a run, as plain functions of how far it has come."""

from __future__ import annotations

import math


def progress_fraction(step: int, total_steps: int, elapsed_s: float, budget_s: float) -> float:
    """
    Return how far a run has come, 0 to 1: by steps or by time, whichever is further.

    A limit of 0 does not count.
    """
    by_steps = step / total_steps if total_steps else 0.0
    by_time = elapsed_s / budget_s if budget_s else 0.0
    return min(1.0, max(by_steps, by_time))


def rate_factor(kind: str, progress: float, warmup: float, power: float = 0.9) -> float:
    """
    Return the learning rate as a share of its peak.

    The rate rises over the first ``warmup`` share of the run (from 1/25 along a cosine in
    ``one_cycle``, linearly otherwise), then falls: along a cosine to 1/1000 (``one_cycle``,
    ``cosine``), as ``(1 - x) ** power`` (``poly``), or not at all (``constant``).
    """
    if progress < warmup:
        rise = progress / warmup
        if kind == 'one_cycle':
            return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * rise)) / 2
        return max(rise, 1e-3)
    fall = (progress - warmup) / (1 - warmup)
    if kind == 'poly':
        return max((1 - fall) ** power, 1e-3)
    if kind == 'constant':
        return 1.0
    return 1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * fall)) / 2

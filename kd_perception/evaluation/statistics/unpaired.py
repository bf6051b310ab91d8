"""
How much a figure changed between two runs, from the interval of each.

In: two intervals of independent measurements; out: the interval of their difference or relative
change. Each side's ends are combined as squares (MOVER: Zou and Donner 2008), so asymmetric
intervals stay asymmetric; an end that nobody knows (infinite) leaves that end of the change open.
"""

from __future__ import annotations

import math

from kd_perception.evaluation.statistics.bootstrap import Interval


def difference(old: Interval, new: Interval, widen: float = 1.0) -> Interval:
    """
    Return new minus old.

    :param widen: factor on both halves, for many changes that are looked at together.
    """
    estimate = new.estimate - old.estimate
    down = math.hypot(new.estimate - new.low, old.high - old.estimate)
    up = math.hypot(new.high - new.estimate, old.estimate - old.low)
    return Interval(estimate, estimate - widen * down, estimate + widen * up, new.confidence)


def relative_change(old: Interval, new: Interval) -> Interval:
    """Return new over old minus one; both must be positive."""
    change = difference(_log(old), _log(new))
    return Interval(math.expm1(change.estimate), math.expm1(change.low),
                    math.expm1(change.high) if math.isfinite(change.high) else math.inf,
                    change.confidence)


def mirrored(interval: Interval) -> Interval:
    """Return the interval of the negative."""
    return Interval(-interval.estimate, -interval.high, -interval.low, interval.confidence)


def _log(interval: Interval) -> Interval:
    low = math.log(interval.low) if interval.low > 0 else -math.inf
    return Interval(math.log(interval.estimate), low,
                    math.log(interval.high) if math.isfinite(interval.high) else math.inf,
                    interval.confidence)

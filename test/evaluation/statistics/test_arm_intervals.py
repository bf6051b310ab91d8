"""Intervals of one arm alone: they cover the truth, and say when they know nothing."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest

from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.statistics.arm_intervals import arm_intervals


def rows(latencies, *, lost=(), period_ms=50.0, counts=None):
    """Return rows whose answers come ``latencies`` ms after frames that are a period apart."""
    out = []
    for i, latency in enumerate(latencies):
        published = round(i * period_ms * 1e6)
        gone = i in lost
        out.append(FrameRow('a', i, 'c', i, published,
                            None if gone else published + round(latency * 1e6),
                            'lost' if gone else 'ok',
                            counts=None if counts is None else counts[i]))
    return out


def test_intervals_of_percentiles_cover_the_truth():
    """Of 120 arms with exponential latencies, about 95 in 100 intervals hold the percentile."""
    rng = np.random.default_rng(3)
    covered = np.zeros(3)
    for trial in range(120):
        found = arm_intervals(rows(10 + rng.exponential(5.0, 400)), resamples=200, seed=trial)
        for k, (q, name) in enumerate(((0.5, 'p50'), (0.95, 'p95'), (0.99, 'p99'))):
            truth = 10 - 5 * math.log(1 - q)
            interval = getattr(found, name)
            covered[k] += interval.low <= truth <= interval.high
    assert covered[0] / 120 == pytest.approx(0.95, abs=0.04)
    assert covered[1] / 120 == pytest.approx(0.95, abs=0.05)
    # Four values lie above the percentile: no interval of it is exact.
    assert covered[2] / 120 > 0.86


def test_few_frames_do_not_bound_a_percentile_from_above():
    rng = np.random.default_rng(0)
    for n, known in ((60, (True, False, False)), (80, (True, True, False)),
                     (400, (True, True, True))):
        found = arm_intervals(rows(rng.normal(20, 1, n)), resamples=100)
        assert tuple(math.isfinite(i.high) for i in (found.p50, found.p95, found.p99)) == known


def test_rate_counts_intervals_not_frames():
    found = arm_intervals(rows([5.0] * 30, period_ms=100.0), resamples=100)
    assert found.fps.estimate == pytest.approx(10.0)
    assert (found.fps.low, found.fps.high) == pytest.approx((10.0, 10.0))


def test_no_loss_seen_is_not_none_ever():
    none = arm_intervals(rows([5.0] * 100), resamples=100).lost
    assert (none.estimate, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.037, abs=0.001)  # Wilson, 0 of 100


def test_losses_in_a_burst_are_known_worse_than_single_ones():
    spread = arm_intervals(rows([5.0] * 400, lost=range(0, 400, 10)), resamples=400).lost
    burst = arm_intervals(rows([5.0] * 400, lost=range(100, 140)), resamples=400).lost
    assert spread.estimate == burst.estimate == 0.1
    assert burst.high - burst.low > 1.5 * (spread.high - spread.low)


def test_iou_by_class_and_a_class_that_is_nowhere():
    rng = np.random.default_rng(1)
    counts = []
    for _ in range(50):
        correct = int(rng.integers(70, 90))
        counts.append(((correct, 100, correct), (50, 50, 50), (0, 0, 0)))
    found = arm_intervals(rows([5.0] * 50, counts=counts), resamples=200).iou
    assert found[0].low < found[0].estimate < found[0].high
    assert found[0].estimate == pytest.approx(sum(c[0][0] for c in counts) / 5000)
    assert (found[1].estimate, found[1].low, found[1].high) == (1.0, 1.0, 1.0)
    assert math.isnan(found[2].estimate)


def test_nothing_answered_knows_nothing():
    found = arm_intervals(rows([5.0] * 3, lost=range(3)))
    assert (found.n, found.iou) == (0, ())
    assert math.isnan(found.p50.estimate)
    assert found.lost.estimate == 1.0


def test_what_an_exchange_touched_counts_for_no_interval_but_iou():
    frames = rows([10.0] * 40, lost=range(6), counts=[((1, 2, 2),)] * 40)
    near = [replace(r, swapping=i < 8) for i, r in enumerate(frames)]
    found = arm_intervals(near, resamples=100)
    assert (found.n, found.lost.estimate) == (32, 0.0)
    assert found.fps.estimate == pytest.approx(20.0)
    assert found.iou[0].estimate == pytest.approx(1 / 3)

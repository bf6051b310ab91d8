"""
What other tools of the field get wrong, each on a stream whose truth is known.

From events to statistics: the same way as frames go in the monitor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.joining import join_events, Published, Received
from kd_perception.evaluation.statistics.paired import arm_statistics, pair_rows, paired_latency

MS = 1_000_000
PERIOD_MS = 100


def stream(latency_a: np.ndarray, latency_b: np.ndarray, *,
           stamp: Callable[[int], int] = lambda i: 1000 + i) -> list[FrameRow]:
    """Return the rows of two arms at 10 Hz; latencies float ``[n]`` in ms, NaN for no answer."""
    published, received = [], []
    for arm, latencies in (('a', latency_a), ('b', latency_b)):
        for i, latency in enumerate(latencies):
            at = 7 * MS + i * PERIOD_MS * MS
            published.append(Published(arm, stamp(i), 'camera', i, at))
            if np.isfinite(latency):
                received.append(Received(arm, stamp(i), 'camera', at + round(latency * MS)))
    return join_events(published, received, patience_ms=1e4)


def test_latency_is_of_all_frames_not_of_one():
    latency = np.linspace(10, 60, 101)
    summary = arm_statistics('a', stream(latency, latency)).latency
    assert summary.n == 101
    assert (summary.min, summary.max) == (10.0, 60.0)
    assert summary.mean == pytest.approx(35.0)


def test_percentiles_are_those_of_the_distribution():
    latency = np.random.default_rng(0).permutation(np.arange(1.0, 1002.0)) / 100
    summary = arm_statistics('a', stream(latency, latency)).latency
    got = (summary.p50, summary.p90, summary.p95, summary.p99)
    np.testing.assert_allclose(got, (5.01, 9.01, 9.51, 9.91), atol=1e-6)


@pytest.mark.parametrize('lost', [0, 17, 49])
def test_a_drop_leaves_every_other_pair_as_it_was(lost):
    latency_a = np.arange(50.0) + 50
    latency_b = latency_a - 40
    latency_b[lost] = np.nan
    pairs, unpaired, _ = pair_rows(stream(latency_a, latency_b), 'a', 'b')
    assert [a.index for a, _ in pairs] == [i for i in range(50) if i != lost]
    assert {round(a.latency_ms - b.latency_ms, 6) for a, b in pairs} == {40.0}
    assert unpaired == 1


def test_the_clock_starts_at_the_publish_call():
    """What the publish call itself takes, 0.5 to 3 ms for an image, is part of the latency."""
    call_ms, rest_ms = 3, 20
    published = [Published('a', i, 'camera', i, i * PERIOD_MS * MS) for i in range(20)]
    received = [Received('a', p.stamp_ns, 'camera', p.published_ns + (call_ms + rest_ms) * MS)
                for p in published]
    rows = join_events(published, received, patience_ms=1e4)
    assert arm_statistics('a', rows).latency.p50 == call_ms + rest_ms


@pytest.mark.parametrize('n', [2, 50, 500])
def test_ten_hertz_is_ten_hertz_at_any_length(n):
    """N answers over N periods would be 10.204 for 50 of them."""
    latency = np.full(n, 20.0)
    assert arm_statistics('a', stream(latency, latency)).fps == pytest.approx(10.0)


@pytest.mark.parametrize('stamp', [
    lambda i: i * 33_333_333,  # simulation time, from zero
    lambda i: 1_800_000_000_000_000_000 + i * 100_000_000,  # wall time
    lambda i: 10**12 - i])  # set back again and again
def test_stamps_are_keys_and_never_times(stamp):
    rng = np.random.default_rng(1)
    latency_a, latency_b = rng.normal(50, 5, 60), rng.normal(40, 5, 60)
    known = stream(latency_a, latency_b)
    rows = stream(latency_a, latency_b, stamp=stamp)
    assert arm_statistics('a', rows) == arm_statistics('a', known)
    assert paired_latency(rows, 'a', 'b') == paired_latency(known, 'a', 'b')

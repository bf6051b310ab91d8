"""Paired statistics on streams whose truth is known, with every defect others shipped."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest

from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.statistics.paired import (
    arm_statistics,
    pair_rows,
    paired_latency,
    rate,
    summarize,
)

MS = 1_000_000


def row(arm: str, index: int, latency_ms: float | None, **changes: object) -> FrameRow:
    published = index * 100 * MS
    received = None if latency_ms is None else published + round(latency_ms * MS)
    base = FrameRow(arm, 1000 + index, 'camera', index, published, received,
                    'lost' if latency_ms is None else 'ok')
    return replace(base, **changes)


def test_a_drop_never_shifts_the_pairs():
    """A tool that pairs by order of arrival would blame every later frame on its neighbour."""
    rows = [row('a', i, 50.0 + i) for i in range(40)]
    rows += [row('b', i, None if i in (5, 20) else 10.0 + i) for i in range(40)]
    pairs, unpaired, ambiguous = pair_rows(rows, 'a', 'b')
    assert (len(pairs), unpaired, ambiguous) == (38, 2, 0)
    assert all(a.index == b.index for a, b in pairs)
    result = paired_latency(rows, 'a', 'b', resamples=200)
    assert result.mean_difference.estimate == pytest.approx(40.0)
    assert result.mean_difference.low == pytest.approx(40.0)
    assert result.mean_difference.high == pytest.approx(40.0)


def test_rows_out_of_order_pair_alike():
    rows = [row('a', i, 50.0 + i) for i in range(20)] + [row('b', i, 5.0) for i in range(20)]
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    assert pair_rows(shuffled, 'a', 'b') == pair_rows(rows, 'a', 'b')


def test_same_stamp_of_another_camera_is_another_frame():
    rows = [row('a', 0, 1.0, frame_id='front'), row('b', 0, 1.0, frame_id='left')]
    assert pair_rows(rows, 'a', 'b') == ([], 2, 0)


def test_duplicates_and_unknown_results_never_pair():
    rows = [row('a', 0, 1.0), row('a', 0, 9.0, status='duplicate'), row('b', 0, 2.0),
            row('b', -1, 3.0, status='unknown')]
    pairs, unpaired, ambiguous = pair_rows(rows, 'a', 'b')
    assert [(a.latency_ms, b.latency_ms) for a, b in pairs] == [(1.0, 2.0)]
    assert (unpaired, ambiguous) == (0, 0)


def test_repeated_stamps_are_ambiguous():
    rows = [row(arm, i, 1.0, stamp_ns=0) for arm in 'ab' for i in range(3)]
    rows += [row(arm, 9, 1.0) for arm in 'ab']
    pairs, unpaired, ambiguous = pair_rows(rows, 'a', 'b')
    assert [a.index for a, _ in pairs] == [9]
    assert (unpaired, ambiguous) == (0, 1)


def test_ten_hertz_is_ten_hertz():
    """N events span N - 1 intervals; counting N of them gives 10.204 at N = 50."""
    times = [i * 100 * MS for i in range(50)]
    assert rate(times) == pytest.approx(10.0)
    assert rate(times[::-1]) == pytest.approx(10.0)
    assert rate([0]) == 0.0
    assert rate([]) == 0.0
    assert rate([5, 5]) == 0.0


def test_arm_statistics_count_every_row_once():
    rows = [row('a', i, 10.0 + i % 2, turn=i % 2, stages={'inference': 5.0}) for i in range(10)]
    rows[3] = row('a', 3, None)
    rows[4] = replace(rows[4], status='late')
    rows += [replace(rows[7], status='duplicate'), row('a', -1, 1.0, status='unknown'),
             row('b', 0, 99.0)]
    stats = arm_statistics('a', rows)
    assert stats.published == 10
    assert stats.status == {'ok': 8, 'late': 1, 'lost': 1, 'ambiguous': 0, 'duplicate': 1,
                            'unknown': 1}
    assert stats.latency.n == 9
    assert stats.latency.max == 11.0
    assert stats.stages['inference'].n == 9
    assert stats.by_turn == {0: 10.0, 1: 11.0}
    # Frames 2 and 4 do not follow each other: their difference is not jitter.
    assert stats.jitter_ms == pytest.approx(1.0)
    assert stats.fps == pytest.approx(8 / 0.9, rel=0.2)


def test_late_results_stay_in_the_distribution():
    """Leaving out the slow ones would flatter the slow arm."""
    rows = [row('a', i, 10.0) for i in range(9)] + [row('a', 9, 900.0, status='late')]
    assert arm_statistics('a', rows).latency.max == 900.0


def test_summary_of_known_numbers():
    s = summarize(np.arange(1, 102))
    assert (s.n, s.mean, s.min, s.p50, s.p90, s.p95, s.p99, s.max) == (
        101, 51.0, 1.0, 51.0, 91.0, 96.0, 100.0, 101.0)
    assert s.std == pytest.approx(np.std(np.arange(1, 102), ddof=1))
    assert math.isnan(summarize([]).p50)
    assert summarize([3.0]).std == 0.0


def test_injected_difference_is_found_and_equal_arms_are_equal():
    rng = np.random.default_rng(1)
    common = 20 + 5 * np.sin(np.arange(200) / 9)  # load that both arms feel
    for injected, found in ((1.0, True), (0.0, False)):
        rows = []
        for i, base in enumerate(common):
            rows.append(row('a', i, base + injected + rng.normal(0, 1.0)))
            rows.append(row('b', i, base + rng.normal(0, 1.0)))
        result = paired_latency(rows, 'a', 'b', resamples=500, seed=2)
        assert result.n == 200
        assert result.mean_difference.excludes(0.0) is found
        assert result.median_difference.excludes(0.0) is found
        assert not result.mean_difference.excludes(injected)


def test_load_that_both_arms_feel_does_not_lengthen_the_blocks_of_a_difference():
    rng = np.random.default_rng(4)
    load = 40 + 15 * np.sin(np.arange(400) / 40)
    rows = [row(arm, i, load[i] + extra + rng.normal(0, 1.0))
            for arm, extra in (('a', 0.5), ('b', 0.0)) for i in range(400)]
    result = paired_latency(rows, 'a', 'b', resamples=300)
    assert result.block == 26
    for interval in (result.mean_difference, result.median_difference):
        assert interval.high - interval.low < 0.5


def test_ratio_of_known_streams():
    rows = [row('a', i, 80.0) for i in range(30)] + [row('b', i, 10.0) for i in range(30)]
    result = paired_latency(rows, 'a', 'b', resamples=100)
    for ratio in (result.mean_ratio, result.median_ratio):
        assert (ratio.estimate, ratio.low, ratio.high) == (8.0, 8.0, 8.0)


def test_too_few_pairs_give_no_interval():
    rows = [row(arm, i, 1.0) for arm in 'ab' for i in range(7)]
    assert paired_latency(rows, 'a', 'b') is None
    assert paired_latency([], 'a', 'b') is None

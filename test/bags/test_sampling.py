"""Choice of frames by time."""

from __future__ import annotations

import logging

from hypothesis import given, strategies
import numpy as np
import pytest

from kd_perception.bags.sampling import at_rate, BadFrames, LabelError, Sampling
from kd_perception.bags.sequence import FrameSequence
from kd_perception.errors import ConfigError, ImageError


def times(rate_hz: float, count: int) -> np.ndarray:
    return (np.arange(count) * 1e9 / rate_hz).astype(np.int64)


def test_all_frames_without_a_rate():
    assert at_rate(times(30, 5), 0.0).tolist() == [0, 1, 2, 3, 4]
    assert at_rate(np.zeros(0, np.int64), 10.0).tolist() == []
    assert at_rate(np.array([7]), 10.0).tolist() == [0]


@pytest.mark.parametrize(('rate', 'expected'), [
    (15.0, list(range(0, 30, 2))), (10.0, list(range(0, 30, 3))), (30.0, list(range(30))),
    (1000.0, list(range(30)))])
def test_regular_frames(rate, expected):
    assert at_rate(times(30, 30), rate).tolist() == expected


def test_jitter_shifts_frames_but_loses_none():
    jitter = np.random.default_rng(3).integers(-4_000_000, 4_000_000, 300)
    jitter[0] = 0
    chosen = at_rate(times(30, 300) + jitter, 10.0)
    assert chosen.tolist() == list(range(0, 300, 3))


def test_a_rate_that_does_not_divide():
    chosen = times(25, 250)[at_rate(times(25, 250), 10.0)]
    assert len(chosen) == 100
    assert set(np.diff(chosen)) <= {80_000_000, 120_000_000}


def test_a_gap_stays_one_gap():
    stamps = np.concatenate([times(30, 30), 5_016_000_000 + times(30, 30)])
    steps = np.diff(stamps[at_rate(stamps, 10.0)])
    assert (steps > 150_000_000).sum() == 1


def test_slow_stretches_are_kept_whole():
    stamps = np.concatenate([times(30, 60), 2_050_000_000 + times(5, 10)])
    chosen = at_rate(stamps, 10.0)
    assert (chosen >= 60).sum() >= 9


@given(strategies.lists(strategies.integers(0, 10**11), min_size=1, max_size=200),
       strategies.floats(0.01, 1000))
def test_never_more_than_the_rate_and_never_twice(stamps, rate):
    stamps = np.sort(np.array(stamps, np.int64))
    chosen = at_rate(stamps, rate)
    assert (np.diff(chosen) > 0).all()
    span = (stamps[-1] - stamps[0]) / 1e9
    assert len(chosen) <= span * rate + 1.5


@pytest.mark.parametrize(('count', 'limit', 'expected'), [
    (0, 0, list(range(10))), (0, 3, [0, 1, 2]), (1, 0, [0]), (2, 0, [0, 9]), (4, 0, [0, 3, 6, 9]),
    (10, 0, list(range(10))), (99, 0, list(range(10))), (4, 2, [0, 3])])
def test_by_number(count, limit, expected):
    assert Sampling(count=count, limit=limit).by_number(np.arange(10)).tolist() == expected


@pytest.mark.parametrize('wrong', [{'rate_hz': -1.0}, {'motion': float('nan')}, {'count': -1},
                                   {'limit': -2}, {'rate_hz': float('inf')}, {'order': 'name'}])
def test_impossible_values(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_bad_frames_are_told_twice_at_most(caplog):
    bad = BadFrames(logging.getLogger('x'), 'drive', 9)
    for position in (1, 2, 5):
        bad.add(position, ImageError('short'))
    bad.sum_up()
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        'drive: frame 1 left out: short', 'drive: 3 of 9 frames left out: they cannot be decoded']


def test_a_sequence_skips_bad_images_and_stops_at_bad_labels():
    class Source(FrameSequence):
        def __init__(self, count):
            self._choose(np.arange(count), Sampling())

        def _frame(self, position):
            if position in (1, 2):
                raise ImageError('short')
            if position == 5:
                raise LabelError('other size')
            return position

    source = Source(5)
    assert list(source) == [0, 3, 4]
    assert list(source) == [0, 3, 4]
    assert source.bad_frames == 2
    assert source[-1] == 4
    with pytest.raises(IndexError):
        source[5]
    with pytest.raises(LabelError):
        list(Source(6))

"""Intervals cover the truth as often as they claim, with and without memory in the series."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kd_perception.evaluation.statistics.bootstrap import (
    block_indices,
    block_length,
    bootstrap,
    Interval,
    small_sample_factor,
)


def _series(rng: np.random.Generator, n: int, memory: float) -> np.ndarray:
    noise = rng.standard_normal(n + 50)
    values = np.zeros(n + 50)
    for i in range(1, n + 50):
        values[i] = memory * values[i - 1] + noise[i]
    return values[50:]


def test_blocks_are_neighbours_and_seeded():
    drawn = np.concatenate(list(block_indices(100, 7, 50, seed=1)))
    assert drawn.shape == (50, 100)
    assert drawn.min() >= 0
    assert drawn.max() < 100
    inside = np.arange(100) % 7 != 0
    steps = (drawn[:, 1:] - drawn[:, :-1]) % 100
    assert (steps[:, inside[1:]] == 1).all()
    np.testing.assert_array_equal(drawn, np.concatenate(list(block_indices(100, 7, 50, seed=1))))
    assert (drawn != np.concatenate(list(block_indices(100, 7, 50, seed=2)))).any()


def test_long_series_come_in_chunks_that_fit_memory():
    sizes = [chunk.shape for chunk in block_indices(1_000_000, 10, 9, seed=0)]
    assert sizes == [(4, 1_000_000), (4, 1_000_000), (1, 1_000_000)]


@pytest.mark.parametrize('n', [8, 9, 50, 401])
@pytest.mark.parametrize('memory', [0.0, 0.9])
def test_block_length_is_what_the_sums_of_each_lag_give(monkeypatch, n, memory):
    values = _series(np.random.default_rng(n), n, memory)
    fast = block_length(values)
    centred = values - values.mean()

    def lag_by_lag(spectrum, size):
        lags = size - n
        return n * np.array([*(centred[:n - k] @ centred[k:] for k in range(lags + 1)),
                             *np.zeros(size - lags - 1)]) / n

    monkeypatch.setattr(np.fft, 'irfft', lag_by_lag)
    assert block_length(values) == fast


def test_block_length_grows_with_memory():
    rng = np.random.default_rng(0)
    lengths = [np.median([block_length(_series(rng, 400, m)) for _ in range(9)])
               for m in (0.0, 0.5, 0.9)]
    assert lengths[0] <= lengths[1] < lengths[2] <= 100
    assert block_length(np.ones(50)) >= 1
    assert block_length(np.array([1.0, 2.0])) == 1


def test_short_series_hide_their_memory():
    """Correlation that cannot be seen in so few values is there all the same."""
    x = np.random.default_rng(3).standard_normal(400)
    assert [block_length(x[:n]) for n in (60, 200, 400)] == [11, 19, 26]
    assert [block_length(x[:n]) for n in (8, 20)] == [2, 5]


@pytest.mark.parametrize('memory', [0.0, 0.5])
def test_intervals_cover_the_truth(memory):
    rng = np.random.default_rng(5)
    trials = 200
    covered = {'mean': 0, 'median': 0}
    for trial in range(trials):
        x = _series(rng, 200, memory)
        block = block_length(x)
        for name, reduce in (('mean', np.mean), ('median', np.median)):
            interval = bootstrap(lambda i, x=x, f=reduce: f(x[i], axis=1), x.size, block,
                                 resamples=400, seed=trial)
            covered[name] += not interval.excludes(0.0)
    # Binomial noise at 200 trials is 1.5 points: a plain bootstrap reaches 74 % at memory 0.5.
    for name, hits in covered.items():
        assert 0.89 <= hits / trials <= 0.99, name


def test_plain_bootstrap_would_fail_where_blocks_do_not():
    rng = np.random.default_rng(6)
    hits = 0
    for trial in range(100):
        x = _series(rng, 200, 0.6)
        interval = bootstrap(lambda i, x=x: x[i].mean(axis=1), 200, 1, resamples=300, seed=trial)
        hits += not interval.excludes(0.0)
    assert hits < 85


def test_few_blocks_widen_the_interval():
    assert small_sample_factor(10_000, 1) == pytest.approx(1.0, abs=1e-3)
    # Student's 97.5 % quantile with 9 degrees of freedom is 2.262; sqrt(10/9) is the variance.
    assert small_sample_factor(100, 10) == pytest.approx(2.262 / 1.95996 * math.sqrt(10 / 9),
                                                        rel=2e-3)
    assert small_sample_factor(10, 8) == math.inf


@pytest.mark.parametrize('values', [[3.0], [0.0]])
def test_a_single_frame_shows_nothing(values):
    x = np.array(values)
    interval = bootstrap(lambda i: x[i].mean(axis=1), 1, block_length(x))
    assert interval == Interval(values[0], -math.inf, math.inf)
    assert not interval.excludes(100.0)
    bounded = bootstrap(lambda i: x[i].mean(axis=1), 1, 1, bounds=(0.0, 1.0))
    assert (bounded.low, bounded.high) == (0.0, 1.0)


def test_intervals_stay_where_the_statistic_can_be():
    x = np.array([0.99, 1.0, 0.2, 1.0, 0.9, 1.0, 0.97, 1.0])
    free = bootstrap(lambda i: x[i].mean(axis=1), 8, 2)
    kept = bootstrap(lambda i: x[i].mean(axis=1), 8, 2, bounds=(0.0, 1.0))
    assert free.high > 1.0
    assert kept == Interval(free.estimate, free.low, 1.0)


def test_an_interval_that_does_not_exist_excludes_nothing():
    assert not Interval(math.nan, math.nan, math.nan).excludes(0.0)


def test_interval_excludes():
    assert Interval(2.0, 1.0, 3.0).excludes(0.0)
    assert not Interval(2.0, -1.0, 3.0).excludes(0.0)

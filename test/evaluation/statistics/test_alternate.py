"""Blocks of frames that two models served one after the other, with known truth."""

import numpy as np
import pytest

from kd_perception.classes import ClassSet
from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.comparison import (
    ArmInfo,
    ArmSpec,
    ComparisonRun,
    ComparisonSpec,
    FrameRow,
)
from kd_perception.evaluation.reports.report import report_dict
from kd_perception.evaluation.reports.report_html import render
from kd_perception.evaluation.statistics.alternate import (
    alternate_accuracy,
    alternate_latency,
    steady_rows,
    swap_costs,
)

K = 10
BASE = {'a': 30.0, 'b': 20.0}
SHARE = {'a': 900, 'b': 800}


def rows(rounds, *, drift_ms=0.0, seed=0, swapping=3, shift=None):
    """Return blocks a b, b a, …; latency drifts over the run, exchanges cost 50 ms."""
    rng = np.random.default_rng(seed)
    base = {**BASE, **(shift or {})}
    out, index = [], 0
    for block in range(2 * rounds):
        arm = ('ab' if (block // 2) % 2 == 0 else 'ba')[block % 2]
        for n in range(K + swapping):
            touched = n < swapping
            latency = (base[arm] + drift_ms * block / (2 * rounds) + rng.normal(0, 1.0)
                       + 50.0 * touched)
            right = SHARE[arm] + int(rng.integers(-20, 20))
            out.append(FrameRow(
                arm, index * 10**7, 'c', index, index * 10**8,
                index * 10**8 + int(latency * 1e6), turn=0, block=block, swapping=touched,
                counts=((right, 1000, 1000), (right, 1000, 1000))))
            index += 1
    return out


def test_the_difference_is_found_in_spite_of_drift_and_exchanges():
    found = alternate_latency(rows(20, drift_ms=100.0), 'a', 'b', 2)
    assert found.mean_difference.estimate == pytest.approx(10.0, abs=0.5)
    assert found.mean_difference.low > 8
    assert found.n == 200
    assert '200 and 200 frames in 20 rounds' in found.basis


def test_a_frame_of_its_own_says_nothing():
    assert alternate_latency(rows(3), 'a', 'b', 2) is None
    assert alternate_accuracy(rows(3), 'a', 'b', 2) is None
    # A round that only one arm has answered counts for none.
    lacking = [r for r in rows(4) if not (r.arm == 'b' and r.block < 2)]
    assert alternate_latency(lacking, 'a', 'b', 2) is None


def test_intervals_cover_the_truth():
    hits = 0
    for seed in range(24):
        found = alternate_latency(rows(12, drift_ms=20.0, seed=seed), 'a', 'b', 2, resamples=150)
        hits += found.mean_difference.low <= 10.0 <= found.mean_difference.high
    assert hits >= 19


def test_equal_models_are_not_called_different():
    wrong = 0
    for seed in range(24):
        found = alternate_latency(rows(12, seed=seed, shift={'b': 30.0}), 'a', 'b', 2,
                                  resamples=150)
        wrong += found.median_difference.excludes(0.0)
    assert wrong <= 4


def test_accuracy_is_compared_over_the_frames_of_each():
    found = alternate_accuracy(rows(20), 'a', 'b', 2)
    a, b = 900 / 1100, 800 / 1200
    assert found.difference.estimate == pytest.approx(b - a, abs=0.01)
    assert found.difference.high < 0


def run_of(frames):
    names = ('x', 'y')
    infos = tuple(ArmInfo(n, n, '0' * 64, 'onnxruntime', 'cpu', 'fp32', class_names=names)
                  for n in 'ab')
    return ComparisonRun(
        ComparisonSpec(tuple(ArmSpec(n, n, 'onnxruntime') for n in 'ab'), warmup=0,
                       placement='alternate', swap_every=K), infos, tuple(frames),
        ClassSet.from_names('two', names))


def test_the_report_tells_of_blocks_and_what_exchanges_cost():
    run = run_of(rows(12))
    analysis = analyse(run)
    assert analysis.statistics['a'].published == 120
    assert analysis.swaps['a'].frames == 36
    assert analysis.swaps['a'].latency.p50 == pytest.approx(80.0, abs=1.5)
    assert analysis.comparisons[0].verdict.latency == 'faster'
    sentences = ' '.join(analysis.comparisons[0].verdict.sentences)
    assert 'not the same frames' in sentences
    assert 'answered by both' not in sentences
    assert any('by rounds of blocks' in c for c in analysis.cautions)
    assert report_dict(analysis)['arms']['b']['swap']['frames'] == 36
    assert 'by rounds of blocks' in render(analysis)
    assert len(steady_rows(run.rows)) == 240
    assert swap_costs(ComparisonRun(ComparisonSpec(run.spec.arms), run.arms, run.rows,
                                    run.classes)) == {}


def test_too_few_rounds_are_called_by_their_name():
    told = analyse(run_of(rows(2))).cautions
    assert any('rounds of blocks were answered' in c for c in told)
    assert not any('could be paired' in c for c in told)

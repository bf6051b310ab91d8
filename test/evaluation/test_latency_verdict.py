"""Where the median is not the whole story, the verdict does not say that it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.latency_verdict import latency_tails, tail_caution
from kd_perception.evaluation.reports.report_summary import cards
from kd_perception.evaluation.statistics.bootstrap import Interval
from kd_perception.evaluation.statistics.paired import PairedLatency
from kd_perception.evaluation.verdict import judge

MIXED = (Interval(1.03, 0.9, 1.2), Interval(-1.24, -1.7, -0.8))


def latency(median: Interval, mean: Interval) -> PairedLatency:
    ratio = Interval(1.05, 1.02, 1.08)
    return PairedLatency('a', 'b', 100, 0, 0, 5, mean, median, ratio, ratio)


def test_a_mean_that_says_the_contrary_is_in_the_headline():
    found = latency(*MIXED)
    verdict = judge('T', 'S', found, None, 2.0)
    assert verdict.headline.startswith('S is faster by 1.03 ms [0.90, 1.20] in the median but '
                                       '1.24 ms [0.80, 1.70] slower in the mean')
    assert verdict.latency == 'mixed'
    assert 'mean difference −1.24 ms' in verdict.sentences[0]
    assert 'answers faster than T in the median, but is' in verdict.sentences[0]
    assert tail_caution('S', found, {})[0].startswith('S is faster in the median latency but '
                                                      'slower in the mean:')


def test_so_are_percentiles_and_an_arm_that_is_slower_in_the_median():
    agreeing = Interval(1.0, 0.5, 1.5)
    tails = {'p95': Interval(-7.0, -9.0, -5.0), 'p99': Interval(-20.0, -50.0, 3.0)}
    verdict = judge('T', 'S', latency(MIXED[0], agreeing), None, 2.0, tails=tails)
    assert 'in the median but 7.00 ms [5.00, 9.00] slower in p95,' in verdict.headline
    slower = judge('T', 'S', latency(Interval(-1.0, -1.2, -0.8), agreeing), None, 2.0)
    assert slower.latency == 'mixed'
    assert 'is slower by 1.00 ms [0.80, 1.20] in the median but 1.00 ms [0.50, 1.50] faster in ' \
        'the mean' in slower.headline


def test_what_agrees_with_the_median_must_be_within_the_margin_too():
    slower = latency(Interval(-0.3, -0.4, -0.2), Interval(-20.0, -22.0, -18.0))
    verdict = judge('T', 'S', slower, None, 2.0, margin_ms=2.0,
                    tails={'p99': Interval(-50.0, -60.0, -40.0)})
    assert verdict.latency_margin == 'beyond margin'
    assert 'beyond your margin of 2 ms for p99, 50.0 ms [40.0, 60.0] slower' in verdict.headline
    far = latency(Interval(-5.0, -6.0, -4.0), Interval(-20.0, -22.0, -18.0))
    verdict = judge('T', 'S', far, None, 2.0, margin_ms=2.0)
    assert verdict.latency_margin == 'beyond margin'
    assert 'beyond your margin of 2 ms,' in verdict.headline


@pytest.mark.parametrize('tails', [
    {}, {'p95': Interval(-3.0, -9.0, 3.0)}, {'p95': Interval(3.0, 1.0, 5.0)},
    {'p99': Interval(-3.0, -float('inf'), float('inf'))}])
def test_what_agrees_or_is_not_shown_changes_nothing(tails):
    found = latency(MIXED[0], Interval(-1.0, -2.5, 0.5))
    verdict = judge('T', 'S', found, None, 2.0, tails=tails)
    assert verdict.latency == 'faster'
    assert verdict.headline.startswith('S is faster by 1.03 ms [0.90, 1.20], 1.05×, ')
    assert not tail_caution('S', found, tails)


def test_no_difference_in_the_median_alone():
    found = latency(Interval(-0.1, -0.4, 0.3), MIXED[1])
    verdict = judge('T', 'S', found, None, 2.0)
    assert verdict.latency == 'no difference shown'
    assert 'in the median latency (slower by 0.10 ms [−0.30, 0.40]) but is 1.24 ms [0.80, 1.70] ' \
        'slower in the mean' in verdict.headline
    assert 'not shown to differ' in tail_caution('S', found, {})[0]


@pytest.mark.parametrize(('margin', 'word'), [(5.0, 'within margin'), (1.0, 'undecided'),
                                              (0.5, 'beyond margin'), (0.0, '')])
def test_a_margin_holds_for_all_that_is_shown(margin, word):
    verdict = judge('T', 'S', latency(*MIXED), None, 2.0, margin_ms=margin)
    assert verdict.latency_margin == word


def test_an_arm_with_rare_slow_frames(make_run):
    """Every tenth frame of b takes a second more: p95 is worse, the median is not."""
    run = make_run(frames=100, pictures=0)
    rows = tuple(replace(r, received_ns=r.received_ns + 1_000_000_000)
                 if r.arm == 'b' and r.index % 10 == 0 else r for r in run.rows)
    quick, tailed = analyse(run), analyse(replace(run, rows=rows))
    assert quick.comparisons[0].verdict.latency == 'faster'
    assert tailed.comparisons[0].verdict.latency == 'mixed'
    assert 'slower in p95' in tailed.headline
    assert any('in the median latency but slower' in c for c in tailed.cautions)
    assert 'is faster in the median only' in cards(tailed)[0]
    tails = latency_tails(*(tailed.intervals[arm] for arm in 'ab'))
    assert tails['p95'].estimate == pytest.approx(
        tailed.intervals['a'].p95.estimate - tailed.intervals['b'].p95.estimate)
    wider = latency_tails(*(tailed.intervals[arm] for arm in 'ab'), comparisons=4)['p95']
    assert wider.low < tails['p95'].low
    assert wider.high > tails['p95'].high
    assert (tails['p95'].confidence, wider.confidence) == (0.95, pytest.approx(0.9875))

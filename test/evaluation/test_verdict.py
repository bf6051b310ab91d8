"""Words follow the intervals, and every limit of a run is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kd_perception.evaluation.accuracy import PairedAccuracy
from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.statistics.bootstrap import Interval
from kd_perception.evaluation.statistics.paired import PairedLatency
from kd_perception.evaluation.verdict import judge
from kd_perception.evaluation.words import times


def latency(low: float, estimate: float, high: float, ratio: float) -> PairedLatency:
    difference, factor = Interval(estimate, low, high), Interval(ratio, ratio - 0.1, ratio + 0.1)
    return PairedLatency('a', 'b', 100, 0, 0, 5, difference, difference, factor, factor)


def quality(low: float, estimate: float, high: float) -> PairedAccuracy:
    return PairedAccuracy('a', 'b', 100, Interval(estimate / 100, low / 100, high / 100))


@pytest.mark.parametrize(('measured', 'word', 'phrase'), [
    (latency(37.9, 38.2, 38.6, 8.3), 'faster', 'is faster by 38.2 ms [37.9, 38.6], 8.3×'),
    (latency(-22, -20, -18, 0.5), 'slower', 'is slower by 20.0 ms [18.0, 22.0]'),
    (latency(-1, 0.2, 1.5, 1.01), 'no difference shown',
     'shows no difference in latency (faster by 0.20 ms [−1.00, 1.50])'),
    (latency(-1.5, -0.2, 1, 0.99), 'no difference shown',
     'shows no difference in latency (slower by 0.20 ms [−1.00, 1.50])'),
    (None, 'not measured', 'too few common frames')])
def test_latency_words(measured, word, phrase):
    verdict = judge('teacher', 'student', measured, None, 2.0)
    assert verdict.latency == word
    assert phrase in verdict.headline
    assert verdict.accuracy == 'not measured'


@pytest.mark.parametrize(('measured', 'word'), [
    (quality(0.5, 1.0, 1.5), 'better'),
    (quality(-1.5, -1.0, -0.5), 'within margin'),
    (quality(-1.5, 0.2, 1.5), 'within margin'),
    (quality(-6.0, -5.0, -4.0), 'worse'),
    (quality(-3.0, -2.0, -1.0), 'worse, margin undecided'),
    (quality(-3.0, -1.0, 1.0), 'undecided')])
def test_accuracy_words(measured, word):
    verdict = judge('teacher', 'student', None, measured, 2.0)
    assert verdict.accuracy == word
    assert '2.0 points' in verdict.sentences[1] or word == 'better'


def test_the_headline_has_both_intervals_and_the_margin():
    verdict = judge('teacher', 'B', latency(37.9, 38.2, 38.6, 8.3), quality(-1.9, -1.4, -0.9), 2.0)
    assert verdict.headline == ('B is faster by 38.2 ms [37.9, 38.6], 8.3×, '
                                'loses 1.4 mIoU [0.9, 1.9]: within your margin of 2.')


@pytest.mark.parametrize(('measured', 'phrase'), [
    (quality(-1.0, -0.2, 0.5), 'loses 0.2 mIoU [−0.5, 1.0]: within your margin of 2'),
    (quality(-0.3, 0.4, 0.9), 'gains 0.4 mIoU [−0.3, 0.9]: within your margin of 2'),
    (quality(0.1, 0.4, 0.9), 'gains 0.4 mIoU [0.1, 0.9].'),
    (quality(0, 0, 0), 'loses 0.0 mIoU [0.0, 0.0]: within your margin of 2'),
    (quality(-6.0, -5.0, -4.0), 'loses 5.0 mIoU [4.0, 6.0]: beyond your margin of 2'),
    (quality(-3.0, -1.0, 1.0),
     'loses 1.0 mIoU [−1.0, 3.0]: whether within your margin of 2 is not shown')])
def test_what_the_headline_says_of_accuracy(measured, phrase):
    assert phrase in judge('teacher', 'student', None, measured, 2.0).headline


@pytest.mark.parametrize(('measured', 'word', 'slack', 'phrase'), [
    (latency(-0.4, -0.3, -0.2, 0.99), 'slower', 'within margin', '0.40]: within your margin of'),
    (latency(-2.4, -2.3, -2.2, 0.9), 'slower', 'beyond margin', '2.40]: beyond your margin of'),
    (latency(-1.4, -1.0, -0.2, 0.9), 'slower', 'undecided', 'whether within your margin of 1 ms'),
    (latency(-0.4, 0.1, 0.3, 1.0), 'no difference shown', 'within margin',
     '), within your margin of 1 ms'),
    (latency(-2.0, 0.1, 2.3, 1.0), 'no difference shown', 'undecided',
     '), whether within your margin of 1 ms is not shown'),
    (latency(0.1, 0.2, 0.3, 1.0), 'faster', '', '1.00×, ')])
def test_a_margin_of_latency(measured, word, slack, phrase):
    verdict = judge('teacher', 'student', measured, None, 2.0, margin_ms=1.0)
    assert (verdict.latency, verdict.latency_margin) == (word, slack)
    assert phrase in verdict.headline
    assert judge('teacher', 'student', measured, None, 2.0).latency_margin == ''


def test_several_arms_have_intervals_that_hold_together(make_run):
    run = make_run(frames=60)
    rows = [*run.rows, *(replace(r, arm='c') for r in run.rows if r.arm == 'b')]
    third = replace(run.arms[1], name='c', bundle='third')
    two = analyse(run)
    three = analyse(replace(run, arms=(*run.arms, third), rows=tuple(rows)))
    alone, one_of_two = (a.comparisons[0].latency.median_difference for a in (two, three))
    assert one_of_two.confidence == 0.975
    assert one_of_two.low < alone.low < alone.high < one_of_two.high
    assert three.comparisons[1].accuracy.difference.confidence == 0.975
    assert 'hold together' in three.cautions[0]
    assert '97.5 % interval' in three.comparisons[0].verdict.sentences[0]


def test_times_has_sensible_digits():
    assert [times(r) for r in (1.034, 8.26, 33.4)] == ['1.03×', '8.3×', '33×']


def within(run):
    """Return ``run`` with a margin that no class goes beyond."""
    return replace(run, spec=replace(run.spec, margin_miou=50.0))


def test_quiet_run_has_no_cautions(make_run):
    run = make_run(frames=60)
    assert analyse(within(run)).cautions == ()
    analysis = analyse(run)
    (caution,) = analysis.cautions
    assert 'loses more IoU' in caution
    assert analysis.comparisons[0].verdict.latency == 'faster'
    assert analysis.comparisons[0].verdict.accuracy == 'worse'
    assert analysis.headline.startswith('street-student is faster by')


def test_every_limit_is_named(make_run):
    run = make_run(frames=40, lost_b=(9, 10, 11))
    arms = (run.arms[0], replace(run.arms[1], engine='openvino', precision='bf16', threads=2))
    rows = list(run.rows)
    answered = [i for i, r in enumerate(rows) if r.arm == 'a' and r.index >= 5]
    rows[answered[0]] = replace(rows[answered[0]], status='late')
    rows.append(replace(rows[answered[1]], status='duplicate'))
    rows = [replace(r, received_ns=r.received_ns + 40_000_000)
            if r.arm == 'b' and r.turn == 1 and r.received_ns else r for r in rows]
    run = replace(
        run, arms=arms, rows=tuple(rows), interrupted=True, notes=('the disk was full',),
        spec=replace(run.spec, placement='concurrent'),
        counters={'a': {**run.counters['a'], 'received': 99}})
    text = ' '.join(analyse(run).cautions)
    for phrase in ('interrupted', 'different engines', 'different precisions',
                   'numbers of threads', 'lost 3 of 40', 'after the monitor had given up',
                   '1 results for frames already', 'do not add up', 'shared load',
                   'serving order', 'the disk was full'):
        assert phrase in text, phrase


def test_overwritten_frames_explain_losses(make_run):
    run = make_run(frames=40, lost_b=(9, 10, 11))
    run = replace(run, counters={'b': {'received': 45, 'published': 42, 'overwritten': 3,
                                       'stale': 0, 'failed': 0, 'inactive': 0, 'in_flight': 0}})
    (caution,) = analyse(within(run)).cautions
    assert 'dropped 3 for fresher ones' in caution


def test_few_frames_and_ambiguous_stamps_are_named(make_run):
    run = make_run(frames=12, warmup=0)
    assert 'Only 12 frames' in ' '.join(analyse(run).cautions)
    same = tuple(replace(r, stamp_ns=0) for r in run.rows)
    text = ' '.join(analyse(replace(run, rows=same)).cautions)
    assert 'Fewer than 8 frames could be paired' in text


def test_labels_tell_equal_bundles_apart(make_run):
    run = make_run(frames=10)
    twin = replace(run.arms[0], name='b')
    labels = analyse(replace(run, arms=(run.arms[0], twin))).labels
    assert labels == {'a': 'street-teacher (a)', 'b': 'street-teacher (b)'}
    other = replace(twin, precision='bf16')
    labels = analyse(replace(run, arms=(run.arms[0], other))).labels
    assert labels['b'] == 'street-teacher (onnxruntime bf16)'

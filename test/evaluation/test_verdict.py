"""Words follow the intervals, and every limit of a run is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kd_perception.evaluation.accuracy import PairedAccuracy
from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.bootstrap import Interval
from kd_perception.evaluation.paired import PairedLatency
from kd_perception.evaluation.verdict import judge, times


def latency(low: float, estimate: float, high: float, ratio: float) -> PairedLatency:
    difference, factor = Interval(estimate, low, high), Interval(ratio, ratio - 0.1, ratio + 0.1)
    return PairedLatency('a', 'b', 100, 0, 0, 5, difference, difference, factor, factor)


def quality(low: float, estimate: float, high: float) -> PairedAccuracy:
    return PairedAccuracy('a', 'b', 100, Interval(estimate / 100, low / 100, high / 100))


@pytest.mark.parametrize(('measured', 'word', 'phrase'), [
    (latency(80, 90, 95, 8.3), 'faster', '8.3× faster'),
    (latency(-22, -20, -18, 0.5), 'slower', '2.0× slower'),
    (latency(-1, 0.2, 1.5, 1.01), 'no difference shown', 'no difference'),
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


def test_a_certain_loss_within_the_margin_is_still_called_a_loss():
    headline = judge('teacher', 'student', None, quality(-1.5, -1.0, -0.5), 2.0).headline
    assert 'loses 1.0 mIoU points, within the margin of 2.0' in headline
    headline = judge('teacher', 'student', None, quality(-1.0, -0.2, 0.5), 2.0).headline
    assert 'keeps its accuracy' in headline


def test_times_has_sensible_digits():
    assert [times(r) for r in (1.034, 8.26, 33.4)] == ['1.03×', '8.3×', '33×']


def test_quiet_run_has_no_cautions(make_run):
    analysis = analyse(make_run(frames=60))
    assert analysis.cautions == ()
    assert analysis.comparisons[0].verdict.latency == 'faster'
    assert analysis.comparisons[0].verdict.accuracy == 'worse'
    assert analysis.headline.startswith('street-student answers')


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
    (caution,) = analyse(run).cautions
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

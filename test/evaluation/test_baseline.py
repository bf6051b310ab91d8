"""A comparison against an older one: what is shown, what is not, and what does not compare."""

from __future__ import annotations

import copy
from dataclasses import replace
import json
import math

import numpy as np
import pytest

from kd_perception.errors import ConfigError
from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.baseline import compare_reports, judge_change, Limits
from kd_perception.evaluation.baseline_files import load_baseline
from kd_perception.evaluation.reports.baseline_tables import baseline_headline, baseline_tables
from kd_perception.evaluation.reports.report import report_dict
from kd_perception.evaluation.statistics.bootstrap import Interval
from kd_perception.evaluation.statistics.unpaired import difference, relative_change


@pytest.fixture(scope='module')
def run(make_run):
    return make_run(frames=80, pictures=0, seed=1)


@pytest.fixture(scope='module')
def report(run):
    return report_dict(analyse(run))


def slower(run, arm, factor):
    """Return ``run`` with an arm whose results come later."""
    return replace(run, rows=tuple(
        replace(r, received_ns=r.published_ns + round(factor * (r.received_ns - r.published_ns)))
        if r.arm == arm and r.received_ns else r for r in run.rows))


def blinder(run, arm, share):
    """Return ``run`` with an arm that gets a share of its right pixels wrong."""
    def worse(counts):
        return tuple((round(c * (1 - share)), t, p) for c, t, p in counts)
    return replace(run, rows=tuple(
        replace(r, counts=worse(r.counts)) if r.arm == arm and r.counts else r
        for r in run.rows))


def states(found, arm='b'):
    return {c.metric: c.state for c in found.changes if c.arm == arm}


def test_differences_of_independent_intervals_cover():
    """The interval of new over old holds the true ratio in about 95 of 100 trials."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        ends = []
        for mean in (20.0, 22.0):
            x = rng.normal(mean, 4.0, 60)
            half = 2.0 * x.std(ddof=1) / math.sqrt(60)
            ends.append(Interval(x.mean(), x.mean() - half, x.mean() + half))
        change = relative_change(*ends)
        held += change.low <= 0.1 <= change.high
    assert held / 400 == pytest.approx(0.95, abs=0.03)


def test_an_open_end_stays_open():
    known, open_end = Interval(10.0, 9.0, 11.0), Interval(12.0, 11.0, math.inf)
    assert relative_change(known, open_end).low == pytest.approx(0.053, abs=0.01)
    assert relative_change(known, open_end).high == math.inf
    assert difference(open_end, known).low == -math.inf


@pytest.mark.parametrize(('low', 'estimate', 'high', 'state'), [
    (0.06, 0.08, 0.10, 'regression'), (0.01, 0.06, 0.11, 'regression'),
    (-0.01, 0.06, 0.13, 'undecided'), (-0.01, 0.01, 0.03, 'within limit'),
    (0.01, 0.02, 0.03, 'within limit'), (0.01, 0.03, 0.06, 'undecided'),
    (-0.3, -0.2, -0.1, 'improved'), (-math.inf, 0.5, math.inf, 'undecided')])
def test_states(low, estimate, high, state):
    assert judge_change(Interval(estimate, low, high), 0.05, True) == state
    assert judge_change(Interval(estimate, low, high), 0.05, False) == 'not gated'


def test_the_same_run_has_no_regression(report, run):
    found = compare_reports(report, report, Limits(), old_run=run, new_run=run)
    assert not found.failed
    assert {c.state for c in found.changes} <= {'within limit', 'undecided', 'improved'}
    assert states(found)['p50'] == 'within limit'
    assert states(found)['miou'] == 'within limit'
    assert baseline_headline(found).startswith('No regression shown')


def test_a_slower_arm_is_found_and_the_other_is_not(report, run):
    new = report_dict(analyse(slower(run, 'b', 1.15)))
    found = compare_reports(report, new, Limits())
    assert found.failed
    assert states(found)['p50'] == 'regression'
    assert states(found, 'a')['p50'] == 'within limit'
    change = next(c for c in found.changes if (c.arm, c.metric) == ('b', 'p50'))
    assert change.worsening.low < 0.15 < change.worsening.high
    # 80 frames do not bound p99 from above, neither then nor now.
    assert states(found)['p99'] == 'undecided'
    # It is the same bundle as then, so it is not the model.
    assert any('not the model' in note for note in found.notes)
    assert not compare_reports(report, new, Limits(latency=0.3)).failed
    assert states(compare_reports(new, report, Limits()))['p50'] == 'improved'


def test_accuracy_is_paired_where_both_recordings_are_there(report, run):
    worse = blinder(run, 'b', 0.01)
    new = report_dict(analyse(worse))
    apart = compare_reports(report, new, Limits())
    paired = compare_reports(report, new, Limits(), old_run=run, new_run=worse)
    widths = []
    for found in (apart, paired):
        change = next(c for c in found.changes if (c.arm, c.metric) == ('b', 'miou'))
        widths.append(change.worsening.high - change.worsening.low)
        assert change.worsening.estimate == pytest.approx(
            report['arms']['b']['accuracy']['miou']['estimate']
            - new['arms']['b']['accuracy']['miou']['estimate'], abs=1e-9)
    assert widths[1] < 0.5 * widths[0]
    assert states(paired)['miou'] == 'regression'
    assert any('frame by frame' in note for note in apart.notes)
    assert all(c.paired for c in paired.changes if c.kind in ('accuracy', 'class'))


def test_a_class_that_is_lost_is_named(report, run):
    def without_road(counts):
        return ((0, *counts[0][1:]), *counts[1:])
    blind = replace(run, rows=tuple(
        replace(r, counts=without_road(r.counts)) if r.arm == 'b' and r.counts else r
        for r in run.rows))
    found = compare_reports(report, report_dict(analyse(blind)), Limits(), old_run=run,
                            new_run=blind)
    assert [c.metric for c in found.of_state('regression') if c.kind == 'class'] == ['road']
    tables = baseline_tables(found, {'a': 'teacher', 'b': 'student'}, all_classes=False)
    assert [t.title.split()[0] for t in tables] == ['teacher', 'student']
    assert not any('IoU' in row[0] for row in tables[0].rows if 'mIoU' not in row[0])
    row = next(row for row in tables[1].rows if row[0] == 'IoU road (paired)')
    assert row[-1] == 'regression'
    assert tables[1].rows.index(row) in tables[1].strong


def test_losses_and_memory_count(report, run, make_run):
    lossy = make_run(frames=80, pictures=0, seed=1, lost_b=tuple(range(6, 80, 3)))
    lossy = replace(lossy, resources={
        **lossy.resources, 'b': replace(lossy.resources['b'], rss_mb=400.0)})
    found = compare_reports(report, report_dict(analyse(lossy)), Limits())
    assert states(found)['lost'] == 'regression'
    assert states(found)['memory'] == 'regression'
    assert states(found, 'a')['memory'] == states(found, 'a')['lost'] == 'within limit'


def test_another_machine_is_said_and_not_judged_unless_asked(report, run):
    new = copy.deepcopy(report_dict(analyse(slower(run, 'b', 2.0))))
    new['host']['cpu'] = 'another'
    found = compare_reports(report, new, Limits())
    assert states(found)['p50'] == 'not gated'
    assert states(found)['miou'] != 'not gated'
    assert not found.failed
    assert any('Another machine (cpu' in note for note in found.notes)
    assert compare_reports(report, new, Limits(strict=True)).failed
    assert states(compare_reports(report, new, Limits(other_machine=True)))['p50'] == 'regression'


def test_another_course_or_other_frames_do_not_compare(report):
    new = copy.deepcopy(report)
    new['spec']['placement'] = 'concurrent'
    assert states(compare_reports(report, new, Limits(other_machine=True)))['p50'] == 'not gated'
    new = copy.deepcopy(report)
    new['spec']['swap_every'] = 7
    assert states(compare_reports(report, new, Limits(other_machine=True)))['p50'] == 'not gated'
    del new['spec']['swap_every']  # an older report, which did not know of it
    assert states(compare_reports(new, report, Limits()))['p50'] == 'within limit'
    new['spec']['scenario'] = 'night'
    found = compare_reports(report, new, Limits())
    assert states(found)['miou'] == 'not gated'
    assert states(found)['p50'] == 'within limit'
    new['spec']['width'] = 1
    nothing = compare_reports(report, new, Limits())
    assert not nothing.failed
    assert 'Nothing could be judged' in baseline_headline(nothing)


def test_recordings_of_one_name_are_told_apart(report, run):
    """Two bags called drive.mcap are not the same frames, and one bag under two names is."""
    old, new = copy.deepcopy(report), copy.deepcopy(report)
    for side in (old, new):
        side['spec'].update(source='bag', scenario='/data/drive.mcap', fingerprint='a1' * 16)
    same = compare_reports(old, new, Limits(), old_run=run, new_run=run)
    assert states(same)['miou'] == 'within limit'
    new['spec']['scenario'] = '/data/copy.mcap'
    assert states(compare_reports(old, new, Limits()))['miou'] != 'not gated'
    new['spec'].update(scenario='/data/drive.mcap', fingerprint='b2' * 16)
    other = compare_reports(old, new, Limits(), old_run=run, new_run=run)
    assert states(other)['miou'] == states(other)['road'] == 'not gated'
    assert any('Other frames (fingerprint a1a1a1a1a1a1 → b2b2b2b2b2b2: another content'
               in note for note in other.notes)
    new['spec'].update(fingerprint='a1' * 16, image_topic='/front')
    old['spec']['image_topic'] = '/rear'
    assert states(compare_reports(old, new, Limits()))['miou'] == 'not gated'


def test_scenario_files_of_one_name_are_told_apart(report):
    old, new = copy.deepcopy(report), copy.deepcopy(report)
    for side, digest in ((old, 'c3' * 32), (new, 'd4' * 32)):
        side['spec'].update(source='carla', scenario='/data/own.yaml', scenario_sha256=digest)
    assert states(compare_reports(old, new, Limits()))['miou'] == 'not gated'


def test_a_report_without_a_fingerprint_still_compares(report):
    old, new = copy.deepcopy(report), copy.deepcopy(report)
    for key in ('fingerprint', 'image_topic', 'scenario_sha256'):
        del old['spec'][key]
    assert not compare_reports(old, old, Limits()).notes[1:]
    new['spec']['fingerprint'] = 'a1' * 16
    found = compare_reports(old, new, Limits())
    assert states(found)['miou'] != 'not gated'
    assert any('The older report has no fingerprint' in note for note in found.notes)


def test_an_interrupted_run_is_said(report):
    assert any('older run was interrupted' in note
               for note in compare_reports({**report, 'interrupted': True}, report,
                                           Limits()).notes)
    assert not any('interrupted' in note for note in compare_reports(report, report,
                                                                     Limits()).notes)


def test_arms_are_matched_by_what_they_are_not_by_their_letter(report):
    new = copy.deepcopy(report)
    new['arms'] = {'a': new['arms']['b'], 'b': new['arms']['a'], 'c': copy.deepcopy(
        new['arms']['b'])}
    for name, arm in new['arms'].items():
        arm['info']['name'] = name
    new['arms']['a']['info'].update(bundle='student-2', role='student')
    new['arms']['c']['info'].update(bundle='pruned', role='other', engine='openvino')
    new['arms']['c']['label'] = 'pruned'
    found = compare_reports(report, new, Limits())
    assert states(found, 'a')['p50'] == states(found, 'b')['p50'] == 'within limit'
    assert states(found, 'c') == {}
    assert any(note.startswith('pruned has no counterpart') for note in found.notes)


def judged(old, new):
    """Return what came of it, and whether only a strict gate fails on it."""
    found = compare_reports(old, new, Limits())
    strict = compare_reports(old, new, Limits(strict=True, latency=9, loss=9, miou=9, class_iou=9,
                                              memory=9))
    assert not found.failed
    assert strict.failed
    return found


def gone(found):
    return {(c.arm, c.metric) for c in found.changes if c.missing and c.state == 'not gated'}


@pytest.fixture(scope='module')
def bounded(report):
    """Return a report of which a strict gate with wide limits finds nothing open."""
    out = copy.deepcopy(report)
    for arm in out['arms'].values():  # 80 frames do not bound it
        arm['intervals']['p99']['high'] = arm['statistics']['latency']['max']
    assert not compare_reports(out, out, Limits(strict=True, latency=9, loss=9, miou=9,
                                                class_iou=9, memory=9)).failed
    return out


def test_ground_truth_that_is_gone_is_not_silence(bounded, run):
    new = copy.deepcopy(bounded)
    new['arms']['b']['accuracy'] = None
    found = judged(bounded, new)
    assert gone(found) == {('b', 'miou')}
    (change,) = [c for c in found.changes if c.missing]
    assert change.old == bounded['arms']['b']['accuracy']['miou']['estimate']
    assert any(n.startswith('street-student: the older report has what this one has not')
               and 'miou' in n for n in found.notes)
    assert baseline_headline(found).endswith('1 missing that the baseline has.')
    # Both without it is nothing that is missing.
    assert not gone(compare_reports(new, new, Limits()))


def test_an_arm_that_is_gone_is_not_silence(bounded):
    new = copy.deepcopy(bounded)
    del new['arms']['b']
    found = judged(bounded, new)
    assert gone(found) == {('street-student (not measured now)', 'arm')}
    assert sum('was not measured now' in note for note in found.notes) == 1
    tables = baseline_tables(found, {'a': 'teacher'})
    assert tables[1].title.startswith('street-student (not measured now)')
    assert tables[1].rows == (('all figures', '–', '–', '–', '–', 'not gated'),)


def test_classes_that_are_gone_are_named(bounded):
    new = copy.deepcopy(bounded)
    place = new['classes'].index('vehicle')
    new['arms']['b']['accuracy']['share'][place] = 0.0001  # too few pixels to be judged by
    found = judged(bounded, new)
    assert gone(found) == {('b', 'vehicle')}
    assert any('IoU of vehicle' in note for note in found.notes)
    row = baseline_tables(found, {'a': 'teacher', 'b': 'student'}, all_classes=False)[1].rows[-1]
    assert (row[0], row[2], row[-1]) == ('IoU vehicle', '–', 'not gated')

    new = copy.deepcopy(bounded)
    new['arms']['b']['accuracy']['iou'][place] = None
    new['arms']['b']['intervals']['iou'][place]['estimate'] = None
    assert gone(judged(bounded, new)) == {('b', 'vehicle')}

    new = copy.deepcopy(bounded)
    new['classes'][place] = 'car'  # another set of classes
    assert gone(judged(bounded, new)) == {('a', 'vehicle'), ('b', 'vehicle')}


def test_times_losses_and_memory_that_are_gone_are_named(bounded):
    new = copy.deepcopy(bounded)
    new['arms']['a']['resources'] = None
    for figure in ('p50', 'p95', 'p99', 'lost'):
        new['arms']['b']['intervals'][figure]['estimate'] = None
    found = judged(bounded, new)
    assert gone(found) == {('a', 'memory'), ('b', 'p50'), ('b', 'p95'), ('b', 'p99'),
                           ('b', 'lost')}
    row = baseline_tables(found, {'a': 'teacher', 'b': 'student'})[0].rows
    assert ('memory (RSS)', '612 MiB', '–', '–', '10 %', 'not gated') in row
    old = copy.deepcopy(bounded)
    old['arms']['b']['resources']['gpu_mb'] = 100.0
    assert gone(judged(old, bounded)) == {('b', 'gpu_memory')}


def test_files_that_are_no_baseline_are_refused_in_a_line(report, tmp_path):
    file = tmp_path / 'report.json'
    with pytest.raises(ConfigError, match='no such report'):
        load_baseline(tmp_path)
    for text, words in (('{', 'not readable'), ('[]', 'no report of a comparison'),
                        ('{"kind": "comparison", "schema_version": 9}', 'schema_version 9')):
        file.write_text(text)
        with pytest.raises(ConfigError, match=words):
            load_baseline(file)
    early = copy.deepcopy(report)
    del early['arms']['a']['intervals']
    file.write_text(json.dumps(early))
    with pytest.raises(ConfigError, match='make it anew'):
        load_baseline(file)
    file.write_text(json.dumps(report))
    assert load_baseline(tmp_path).run is None
    # What went through JSON is judged like what did not.
    assert not compare_reports(load_baseline(file).data, report, Limits()).failed

"""An analysis holds what was counted beside the matrices, and None where nothing was."""

from __future__ import annotations

import csv
from dataclasses import replace
import io
import json

import numpy as np
import pytest

from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.comparison import ArmInfo, ArmSpec, FrameRow
from kd_perception.evaluation.metrics.boundary import f_scores
from kd_perception.evaluation.metrics.flicker import SAME_PIXEL
from kd_perception.evaluation.reports.report import frames_csv, report_dict


def test_details_become_figures_of_arms_and_differences(make_run):
    analysis = analyse(make_run(frames=30, detailed=True))
    for figures in (analysis.boundary, analysis.objects, analysis.flicker, analysis.calibration):
        assert list(figures) == ['a', 'b']
    # Arm b errs on three times as many pixels.
    assert analysis.boundary['a'].score.estimate > analysis.boundary['b'].score.estimate
    assert analysis.objects['a'].cell('vehicle', '10-20 m').n == 30
    assert analysis.flicker['a'].share.estimate < analysis.flicker['b'].share.estimate
    assert analysis.flicker['a'].method == SAME_PIXEL
    assert analysis.calibration['a'].confidence == pytest.approx(230 / 255)
    assert analysis.calibration['a'].accuracy > analysis.calibration['b'].accuracy
    found = analysis.comparisons[0]
    assert found.boundary.difference.high < 0
    assert found.flicker.difference.low > 0
    assert found.objects.n == 30
    report = report_dict(analysis)
    json.dumps(report, allow_nan=False)
    assert report['arms']['b']['objects']['cells'][0]['n'] == 30
    assert report['comparisons'][0]['boundary']['difference']['high'] < 0


def test_what_was_not_measured_is_none(make_run):
    analysis = analyse(make_run(frames=12))
    assert analysis.boundary is analysis.objects is None
    assert analysis.flicker is analysis.calibration is None
    assert analysis.comparisons[0].boundary is None
    assert report_dict(analysis)['arms']['a']['flicker'] is None


def test_every_frame_has_its_own_figures(make_run):
    run = make_run(frames=12, warmup=1, detailed=True)
    lines = list(csv.DictReader(io.StringIO(frames_csv(run))))
    assert lines[0]['flicker'] == ''  # nothing came before it
    for line, row in zip(lines, run.rows, strict=True):
        f = f_scores(row.detail.boundary)
        assert float(line['boundary']) == pytest.approx(np.nanmean(f), abs=1e-6)
        assert float(line['objects']) == 1
        assert float(line['found']) == (2 * row.detail.objects[0, 5] >= row.detail.objects[0, 4])
    plain = next(csv.DictReader(io.StringIO(frames_csv(make_run(frames=12)))))
    assert plain['boundary'] == plain['objects'] == plain['found'] == plain['flicker'] == ''


def confidences(data):
    """Return the confidence of every interval in a part of a report."""
    if isinstance(data, dict):
        own = {data['confidence']} if 'estimate' in data else set()
        return own.union(*map(confidences, data.values()))
    return set().union(*map(confidences, data)) if isinstance(data, list) else set()


def test_every_difference_of_several_arms_has_the_confidence_that_holds_together(make_run):
    run = make_run(frames=30, detailed=True)
    third = [replace(r, arm='c') for r in run.rows if r.arm == 'b']
    run = replace(run, rows=(*run.rows, *third), arms=(*run.arms, replace(run.arms[1], name='c')),
                  spec=replace(run.spec, arms=(*run.spec.arms,
                                               replace(run.spec.arms[1], name='c'))))
    found = report_dict(analyse(run))['comparisons']
    assert all(found[1][part] for part in ('latency', 'accuracy', 'classes', 'boundary', 'objects',
                                           'flicker'))
    assert confidences(found) == {0.975}


def test_so_it_has_where_models_alternate(make_run):
    run = make_run(frames=1)
    rows = tuple(FrameRow('abc'[n // 5 % 3], n, 'c', n, n * 10**8, n * 10**8 + 10**6 + n % 7,
                          block=n // 5, counts=((900 + n % 11, 1000, 1000),) * 12)
                 for n in range(120))
    arms = tuple(ArmInfo(n, 'm', 'ab' * 32, 'torch', 'cpu', 'fp32') for n in 'abc')
    spec = replace(run.spec, arms=tuple(ArmSpec(n, 'm', 'torch') for n in 'abc'), warmup=0,
                   placement='alternate', swap_every=5)
    found = report_dict(analyse(replace(run, rows=rows, arms=arms, spec=spec, pictures=(),
                                        confusion={}, agreement={}, confidences={})))
    last = found['comparisons'][1]
    assert (last['latency']['n'], last['accuracy']['n']) == (40, 40)
    assert confidences(found['comparisons']) == {0.975}


def test_the_rate_of_isolated_arms_has_no_pauses_of_others_in_it(make_run):
    """Arm a has the first and the last of four stretches, b both in between: 10 ms a frame."""
    order = [*[('a', i) for i in range(10)], *[('b', i) for i in range(20)],
             *[('a', i) for i in range(10, 20)]]
    rows = tuple(FrameRow(arm, i, 'c', i, n * 10**7, n * 10**7 + 8 * 10**6)
                 for n, (arm, i) in enumerate(order))
    run = make_run(frames=1)
    run = replace(run, rows=rows, spec=replace(run.spec, placement='isolated', warmup=0),
                  pictures=(), confusion={}, agreement={})
    analysis = analyse(run)
    for arm in 'ab':
        assert analysis.statistics[arm].fps == pytest.approx(100.0)
        assert analysis.intervals[arm].fps.estimate == pytest.approx(100.0)

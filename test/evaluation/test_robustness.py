"""One table over conditions: paired losses, another scene, and what is missing."""

from __future__ import annotations

from dataclasses import replace
import json

import numpy as np
import pytest

from kd_perception.errors import ConfigError
from kd_perception.evaluation.analysis import analyse
from kd_perception.evaluation.comparison import FrameRow
from kd_perception.evaluation.reports.robustness_report import (
    cautions_of,
    HTML_FILE,
    JSON_FILE,
    robustness_halves,
    robustness_table,
    write_robustness,
)
from kd_perception.evaluation.robustness import change_of, robustness


def rows(right: float, *, frames: int = 40, arm: str = 'a', noise: float = 0.0, seed: int = 0,
         truth: int = 1000) -> tuple[FrameRow, ...]:
    """Return rows of two classes; frames differ a lot from each other, conditions little."""
    rng = np.random.default_rng(seed)
    hard = np.random.default_rng(99).uniform(-0.2, 0.2, frames)
    out = []
    for i in range(frames):
        share = right + hard[i] + rng.uniform(-noise, noise)
        hit = round(truth * share)
        counts = ((hit, truth, truth), (hit, truth, truth))
        out.append(FrameRow(arm, 7 * i + seed, 'c', i, 0, 1_000_000, counts=counts))
    return tuple(out)


def test_the_loss_of_twins_is_much_narrower_than_the_spread_of_frames():
    calm, fog = rows(0.7, noise=0.01), rows(0.6, noise=0.01, seed=1)
    found = change_of(calm, fog)
    iou = [c[0][0] / (c[0][1] + c[0][2] - c[0][0]) for c in (r.counts for r in calm)]
    assert found.low < found.estimate < found.high < 0
    assert found.high - found.low < 0.2 * np.std(iou)


def test_frames_join_by_index_whatever_their_stamps_and_statuses():
    calm, fog = rows(0.7), list(rows(0.6, seed=5))
    fog[3] = replace(fog[3], status='lost', received_ns=None, counts=None)
    fog.append(replace(fog[4], status='duplicate'))
    assert change_of(calm, tuple(fog)).estimate < 0
    assert change_of(calm, calm).estimate == 0


def test_another_scene_is_seen_and_has_no_loss():
    assert change_of(rows(0.7), rows(0.6, truth=1100)) is None
    assert change_of(rows(0.7), rows(0.6, truth=1001)) is not None  # last bits of a renderer
    assert change_of(rows(0.7), rows(0.6, frames=4)) is None
    assert change_of((), ()) is None


@pytest.fixture(scope='module')
def conditions(make_run):
    clear = make_run(frames=30, detailed=True)
    fog = make_run(frames=30, detailed=True, seed=4)
    other = make_run(frames=30, height=80, lost_b=(9,))
    return {name: analyse(run) for name, run in
            (('clear', clear), ('fog', fog), ('other', other))}


def test_one_row_per_scenario_and_arm(conditions):
    found = robustness(conditions, wanted=('clear', 'fog', 'other', 'night'))
    assert [(r.scenario, r.arm) for r in found.rows] == [
        (s, a) for s in ('clear', 'fog', 'other') for a in 'ab']
    clear_a, clear_b, fog_a, _, other_a, other_b = found.rows
    assert clear_a.change is clear_a.difference is None
    assert clear_b.difference.high < 0
    assert abs(fog_a.change.estimate) < 0.02  # only the noise differs
    assert fog_a.boundary.estimate == pytest.approx(
        conditions['fog'].boundary['a'].score.estimate)
    assert fog_a.found.estimate <= 1
    assert other_a.change is other_a.boundary is other_a.found is None
    assert other_b.lost == 1
    assert found.missing == ('night',)
    assert 'in 0 of 3 scenarios' in found.headline
    assert [c.split(':')[0] for c in cautions_of(found)][0] == 'Not run yet'
    assert 'other showed another scene' in cautions_of(found)[1]


def test_one_model_alone_says_where_it_is_worst(make_run):
    alone = {}
    for name, seed in (('clear', 0), ('fog', 4)):
        run = make_run(frames=12, seed=seed)
        alone[name] = analyse(replace(run, arms=run.arms[:1], agreement={}, rows=tuple(
            r for r in run.rows if r.arm == 'a')))
    found = robustness(alone)
    assert [r.arm for r in found.rows] == ['a', 'a']
    assert 'in fog, its worst of 2 scenarios, against clear' in found.headline
    assert 'against street-teacher' not in robustness_table(found).header


def test_without_the_baseline_there_is_no_loss(conditions):
    found = robustness({'fog': conditions['fog']})
    assert found.baseline == ''
    assert all(r.change is None for r in found.rows)
    assert 'against clear' not in robustness_table(found).header


def test_files_say_the_same(conditions, tmp_path):
    found = robustness(conditions, wanted=('clear', 'fog', 'other'))
    html = write_robustness(found, tmp_path, {'clear': 'clear/report.html'})
    data = json.loads((tmp_path / JSON_FILE).read_text())
    assert data['kind'] == 'robustness'
    assert data['complete'] is True
    assert data['rows'][3]['difference']['low'] == pytest.approx(found.rows[3].difference.low)
    page = html.read_text()
    assert html.name == HTML_FILE
    assert 'href="clear/report.html"' in page
    for cell in ('street-student', '(−', 'against clear'):
        assert cell in page
    table = robustness_table(found)
    assert all(len(row) == len(table.header) for row in table.rows)
    halves = robustness_halves(found)
    assert sum(len(h.header) for h in halves) == len(table.header) + 2
    assert halves[0].rows[2][:2] == ('fog', 'street-teacher')
    assert halves[0].rows[3][0] == ''


def test_runs_of_other_models_are_no_table(conditions):
    run = conditions['fog'].run
    other = replace(run, arms=(replace(run.arms[0], bundle_hash='ee' * 32), run.arms[1]))
    with pytest.raises(ConfigError, match='other models or engines'):
        robustness({'clear': conditions['clear'], 'fog': analyse(other)})
    with pytest.raises(ConfigError, match='nothing to compare'):
        robustness({})
